"""The house: two floors, stairs that lead one way, no circles, nothing private across modules, what an import loads."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "bitbayes"

# A module imports from its own level or from one above it in these lists, never from one below.
LIBRARY = [
    {"errors", "files", "table", "hub", "bits", "functional", "noise", "kernels"},
    {"posterior", "rules"},
    {"parameters", "batchnorm", "nn", "prediction", "draws", "conformal"},
    {"packed"},
    {"predict", "calibration", "continual", "gibbs", "zoo", "integrations"},
    {"ensemble"},
    {"lab"},
]
LABORATORY = [{"choices", "data"}, {"train"}, {"continual"}, {"recipes"}, {"studies", "bench"}, {"report"}, {"cli"}]
# `import bitbayes` works with these and the standard library alone.
CORE = {"bitbayes", "torch", "numpy", "safetensors", "typing_extensions"} | set(sys.stdlib_module_names)
MOST_LINES = 500

FILES = {
    ".".join(("bitbayes", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
every_module = pytest.mark.parametrize("module", [name for name in FILES if name != "bitbayes"])


def imports(module, *, top_level_only=False):
    """What a module imports of the package and of others: (line, module or package, name or None)."""
    found = []

    def visit(node, deferred):
        for child in ast.iter_child_nodes(node):
            inner = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            inner |= isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not (top_level_only and deferred):
                if isinstance(child, ast.Import):
                    found.extend((child.lineno, alias.name, None) for alias in child.names)
                elif isinstance(child, ast.ImportFrom):
                    assert not child.level, f"{module}:{child.lineno}: imports are absolute"
                    found.extend((child.lineno, child.module, alias.name) for alias in child.names)
            visit(child, inner)

    visit(TREES[module], False)
    return found


def inner_imports(module, **options):
    """The same for modules of the package alone: (line, module, name or None)."""
    for line, source, name in imports(module, **options):
        if source.split(".")[0] == "bitbayes":
            if f"{source}.{name}" in FILES:
                source, name = f"{source}.{name}", None
            assert source in FILES, f"{module}:{line} imports {source}, which is no module"
            yield line, source, name


def definitions(module):
    """Names that a module defines itself, or exports by `__all__`; of a package, `__all__` alone."""
    tree, names = TREES[module], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            todo += [*node.body, *getattr(node, "orelse", [])]
    return names


def level_of(module):
    """Level on the two lists, the laboratory's after the library's."""
    _, part, *rest = module.split(".")
    if part == "__main__":
        return len(LIBRARY) + len(LABORATORY)
    floor, name = (LABORATORY, rest[0]) if part == "lab" and rest else (LIBRARY, part)
    found = [level for level, names in enumerate(floor) if name in names]
    assert found, f"{module}: give {name!r} a level in tests/test_house.py"
    return found[0] + (len(LIBRARY) if floor is LABORATORY else 0)


@every_module
def test_stairs_lead_one_way(module):
    """So the library never imports the laboratory."""
    for line, source, name in inner_imports(module):
        where = f"{module}:{line} imports {name or ''} from {source}"
        if source == "bitbayes":
            assert name == "__version__", f"{where}: import the module that defines it"
            continue
        assert level_of(source) <= level_of(module), f"{where}: from a level below its own"


def test_no_circle_of_modules():
    graph = {module: {source for _, source, _ in inner_imports(module)} - {module} for module in FILES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_no_circle_of_packages():
    """Wherever a package has parts, their imports of each other have no circle."""
    for package in {name.rpartition(".")[0] for name in FILES} - {""}:
        depth, graph = package.count(".") + 2, {}
        for module in FILES:
            if module.startswith(f"{package}."):
                part = ".".join(module.split(".")[:depth])
                sources = {".".join(s.split(".")[:depth]) for _, s, _ in inner_imports(module)}
                graph.setdefault(part, set()).update(s for s in sources - {part} if s.startswith(f"{package}."))
        list(graphlib.TopologicalSorter(graph).static_order())


@every_module
def test_names_are_imported_from_where_they_are_exported(module):
    for line, source, name in inner_imports(module):
        where = f"{module}:{line} imports {name} from {source}"
        assert not source.rpartition(".")[2].startswith("_") or source.endswith("__main__"), where
        if name not in (None, "__version__"):
            assert not name.startswith("_"), f"{where}: a private name"
            assert name in definitions(source), f"{where}, which does not export it"


def test_no_class_is_found_by_a_string():
    for module, tree in TREES.items():
        texts = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
                owner, _, name = node.value.rpartition(".")
                found = owner in FILES and node.value not in FILES and name in definitions(owner)
                assert not found, f"{module}:{node.lineno}: {node.value!r}"


@every_module
def test_files_are_of_one_idea(module):
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{module} has {lines} lines"


def reachable():
    """Modules that `import bitbayes` loads, by their top-level imports."""
    todo, seen = ["bitbayes"], set()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [module.rpartition(".")[0]] if "." in module else []
            todo += [source for _, source, _ in inner_imports(module, top_level_only=True)]
    return sorted(seen)


@pytest.mark.parametrize("module", reachable())
def test_import_needs_only_the_core(module):
    assert not module.startswith("bitbayes.lab")
    for line, source, _ in imports(module, top_level_only=True):
        root = source.split(".")[0]
        assert root in CORE, f"{module}:{line} imports {root}: use bitbayes.errors.require"


def test_import_works_without_the_extras():
    """The same in a real process where the extras cannot be found."""
    extras = "datasets sklearn scipy tyro rich jinja2 matplotlib PIL pandas".split()
    code = f"import sys; sys.modules.update(dict.fromkeys({extras!r})); import bitbayes"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
