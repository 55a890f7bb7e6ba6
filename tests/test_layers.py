"""The layers of the package, and what `import bitbayes` may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "bitbayes"

# A module imports from its own layer or from one above it in this list, never from one below.
LAYERS = [
    {"functional", "noise", "options", "kernels"},
    {"rules", "posterior"},
    {"parameters", "nn", "batchnorm", "predict", "calibration", "packed"},
    {"continual", "data", "training"},
    {"recipes", "report"},
    {"commands", "commands_continual", "commands_packed", "commands_report", "commands_tune", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# `import bitbayes` works with these and the standard library alone.
CORE = {"bitbayes", "torch", "numpy", "safetensors"} | set(sys.stdlib_module_names)

FILES = {
    ".".join(("bitbayes", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def nearest_module(name):
    """`bitbayes.rules.STE` is a name in `bitbayes.rules`: the longest prefix that is a file."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name


def imports(module, *, top_level_only=False):
    """Dotted names that a module imports: (line, name)."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []

    def visit(node, deferred):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = True  # read by the type checker alone
            else:
                inner = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if not (top_level_only and deferred):
                if isinstance(child, ast.Import):
                    found.extend((child.lineno, alias.name) for alias in child.names)
                elif isinstance(child, ast.ImportFrom):
                    base = child.module or ""
                    if child.level:
                        parts = package.split(".")
                        parts = parts[: len(parts) - child.level + 1]
                        base = ".".join([*parts, *([child.module] if child.module else [])])
                    found.extend((child.lineno, f"{base}.{alias.name}") for alias in child.names)
            visit(child, inner)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def part(module):
    """`bitbayes.rules.ste` belongs to the part `rules`."""
    return module.split(".")[1]


@pytest.mark.parametrize("module", [m for m in FILES if m != "bitbayes"])
def test_module_imports_only_from_its_left(module):
    assert part(module) in LEVEL, f"{module}: give it a layer in LAYERS"
    level = LEVEL[part(module)]
    for line, name in imports(module):
        if name.split(".")[0] != "bitbayes":
            continue
        target = nearest_module(name)
        where = f"{FILES[module].name}:{line} imports {name}"
        assert target != "bitbayes", f"{where}: import the module that defines it"
        assert LEVEL[part(target)] <= level, f"{where}: an arrow to the right"


def reachable():
    """Modules that `import bitbayes` loads, by their top-level imports."""
    todo, seen = ["bitbayes"], set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        parents = [module.rpartition(".")[0]] if "." in module else []
        names = [name for _, name in imports(module, top_level_only=True)]
        inner = [nearest_module(n) for n in names if n.split(".")[0] == "bitbayes"]
        todo.extend(parents + inner)
    return sorted(seen)


@pytest.mark.parametrize("module", reachable())
def test_import_needs_only_the_core(module):
    for line, name in imports(module, top_level_only=True):
        root = name.split(".")[0]
        assert root in CORE, f"{FILES[module].name}:{line} imports {root}: use functional.require"


def test_import_works_without_the_extras():
    """The same in a real process where the extras cannot be found."""
    extras = "datasets sklearn tyro rich scipy matplotlib PIL pandas".split()
    code = f"import sys; sys.modules.update(dict.fromkeys({extras!r})); import bitbayes"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_files_are_short():
    long = {n: len(p.read_text("utf-8").splitlines()) for n, p in FILES.items()}
    assert not {n: lines for n, lines in long.items() if lines >= 300}
