"""The page "Add a rule", followed word for word in a copy of the project: the rule passes and trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitbayes.lab import cli
from bitbayes.lab.recipes import file
from bitbayes.lab.train import RULES

ROOT = Path(__file__).resolve().parent.parent

# Digits, with the rule of the page in a file beside the recipe.
RECIPE = """
from average import SignAverage
from bitbayes.lab.recipes import Recipe, STARTING_RULES, open_recipe
from bitbayes.lab.train import RULES, RuleSpec

RULES["average"] = SignAverage
DIGITS = open_recipe("digits")
rules = {**STARTING_RULES, "average": RuleSpec(1e-2)}
recipe = Recipe(load=DIGITS.load, network=DIGITS.network, epochs=2, rules=rules)
"""


def of_page(pattern):
    found = re.search(pattern, (ROOT / "docs" / "add-a-rule.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"the page has no {pattern}"
    return found[1]


def insert(path, after, line):
    text = path.read_text(encoding="utf-8")
    at = re.search(after, text, re.DOTALL | re.MULTILINE)
    assert at, f"{path} has no {after}"
    path.write_text(text[: at.end()] + line + text[at.end() :], encoding="utf-8")


@pytest.mark.slow
def test_a_reader_ends_with_a_rule_that_passes(tmp_path):
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "folders"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    package, laws = tmp_path / "src" / "bitbayes", tmp_path / "tests" / "laws.py"
    (package / "rules" / "average.py").write_text(of_page(r'```python\n("""Sign of .*?)```'), encoding="utf-8")
    insert(package / "rules" / "__init__.py", r'""".*?"""\n', "from bitbayes.rules.average import SignAverage\n")
    insert(package / "__init__.py", r"from bitbayes\.rules import \(\n", "        SignAverage,\n")
    for path in (package / "rules" / "__init__.py", package / "__init__.py"):
        insert(path, r"^__all__ = \[\n", '    "SignAverage",\n')
    insert(laws, r"^RULES.*?\{\n", of_page(r'^ +("sign-average": lambda.*?\n)'))
    insert(laws, r"^HARD = .*?\{\n", '    "sign-average",\n')
    insert(laws, r"^MOVED = \(", '"evidence", ')
    insert(package / "lab" / "train" / "rules.py", r"^RULES.*?\{\n", f"{of_page('`(.sign-average.: rules[^`]*)`')}\n")
    spec = f"{of_page('`(.sign-average.: RuleSpec[^`]*)`')}\n"
    short = f'"sign-average": {of_page("`(RuleSpec[^`]*schedule[^`]*)`")},\n'
    insert(package / "lab" / "recipes" / "ours.py", r"^DIGITS.*?rules=\{\n", spec)
    insert(package / "lab" / "recipes" / "bayesbinn.py", r"^MNIST = .*?rules=\{\n", spec)
    insert(package / "lab" / "recipes" / "bayesbinn.py", r"^MNIST = .*?quick=\{\n", short)

    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    tests = of_page(r"`python -m (pytest tests/test_laws[^`]*)`").split()
    others = "pytest src/bitbayes/rules/average.py tests/test_house.py tests/test_recipes.py -k average".split()
    train = [*of_page(r"`(bitbayes train [^`]*)`").split(), "--epochs", "1", "--out", str(tmp_path / "run")]
    for words in (tests, others, train):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


def test_the_commands_take_a_rule_that_a_recipe_file_names(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("average.py").write_text(of_page(r'```python\n("""Sign of .*?)```'))
    Path("mine.py").write_text(RECIPE)
    monkeypatch.setitem(RULES, "average", None)  # which is removed after this test
    commands = [
        ["reproduce", "small", "--dataset", "mine.py", "--rules", "ste", "average", "--seeds", "2", "--out", "runs"],
        ["evaluate", "runs/average-seed1"],
        ["train", "mine.py", "--rule", "average", "--out", "run"],
        ["train", "run/recipe/mine.py", "--rule", "average", "--out", "run", "--resume"],
        ["pack", "runs/average-seed1", "-o", "net.safetensors"],
        ["report", "runs", "-o", "page.html"],
    ]
    for words in commands:
        # As in a process that has not seen the file.
        RULES.pop("average")
        monkeypatch.setattr(file, "_OPENED", {})
        assert cli.main(words) == 0, words
    assert "average" not in RULES  # as "report" runs no recipe file
    assert "average" in Path("page.html").read_text()
