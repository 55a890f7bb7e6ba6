"""The hints of missing packages: they name extras that exist, and commands that work for this installation."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bitbayes import errors
from bitbayes.errors import install_command

ROOT = Path(__file__).resolve().parent.parent
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
DEVELOPERS = {"dev", "docs"}
TRAINERS = {"lightning", "transformers"}  # other people's, which no command of ours needs
PACKAGES = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "arviz_stats": "arviz-stats",
    "torch": "tensorboard",
    "markupsafe": "jinja2",
    "ivon": "ivon-opt",
}


def packages(extra: str) -> set[str]:
    """The packages of an extra, with those of the extras inside it."""
    found: set[str] = set()
    for requirement in EXTRAS[extra]:
        name, inside = re.fullmatch(r"([\w-]+)(?:\[([^]]*)\])?.*", requirement).groups()
        found |= set().union(*map(packages, inside.split(","))) if name == "bitbayes" else {name}
    return found


def required() -> set[tuple[str, str]]:
    """Every (module, extra) that the package asks for by `require`, or by `openvino`, which is that for one extra."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", "")
            if name == "openvino" or (name == "require" and path.name != "quiet.py"):
                found.add((*map(ast.literal_eval, node.args), *(["openvino"] if name == "openvino" else [])))
    return found


def test_every_hint_names_an_extra_that_brings_the_module() -> None:
    assert len(required()) > 20
    for module, extra in required():
        top = module.split(".")[0]
        assert PACKAGES.get(top, top) in packages(extra), (module, extra)


def test_all_is_the_union_of_the_extras_for_users() -> None:
    others = EXTRAS.keys() - DEVELOPERS - TRAINERS - {"all"}
    assert packages("all") == set().union(*map(packages, others))


def test_no_text_of_the_package_words_a_hint_of_its_own() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "src").rglob("*.py")}
    assert {name for name, text in texts.items() if "pip install" in text} == {"errors.py"}


def test_the_hint_in_a_checkout_names_the_checkout() -> None:
    assert shlex.split(install_command("train")) == ["pip", "install", "-e", f"{ROOT}[train]"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"url": "{folder}", "dir_info": {}}, "{path}[train]"),
        ({"url": "{folder}/net.whl", "archive_info": {}}, "{path}/net.whl[train]"),
        ({"url": "{folder}/gone", "dir_info": {}}, "bitbayes[train]"),
        (
            {"url": "https://host/bitbayes", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            "bitbayes[train] @ git+https://host/bitbayes",
        ),
        (None, "bitbayes[train]"),
    ],
    ids=["folder", "wheel", "gone", "git", "index"],
)
def test_the_hint_names_what_was_installed(tmp_path: Path, record: dict[str, object] | None, expected: str) -> None:
    """In a process that imports a copy of the module as pip would have installed it."""
    origin, site = tmp_path / "the origin", tmp_path / "site"
    about = site / "bitbayes-0.1.0.dist-info"
    for folder in (origin, site / "bitbayes", about):
        folder.mkdir(parents=True)
    (origin / "net.whl").touch()
    shutil.copy(errors.__file__, site / "bitbayes")
    (site / "bitbayes" / "__init__.py").touch()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bitbayes\nVersion: 0.1.0\n")
    if record is not None:
        (about / "direct_url.json").write_text(json.dumps(record).replace("{folder}", origin.as_uri()))
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import bitbayes.errors as e; e.require('absent', 'train')"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    hint = last.removeprefix("ImportError: absent is not installed; run: ")
    assert shlex.split(hint) == ["pip", "install", expected.replace("{path}", str(origin))]


@pytest.mark.slow  # pip fetches hatchling, which knows the extras
def test_pip_understands_the_hint() -> None:
    words = [sys.executable, "-m", *shlex.split(install_command("all"))]
    words[4:4] = ["--dry-run", "--no-deps"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "does not provide the extra" not in result.stdout + result.stderr
