"""environment.json: what a run was made with, and whose commit it names."""

import dataclasses
import json
import platform
import re
import shutil
import subprocess

import torch

import needs
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.train import SilentProgress
from bitbayes.lab.train import environment as environment_module


def test_it_is_written_down_without_names_of_places(tmp_path, monkeypatch):
    config = make_config("digits", "ste", out=str(tmp_path / "run"), epochs=2)
    path = tmp_path / "run/environment.json"
    run_recipe(dataclasses.replace(config, stop_after=1), progress=SilentProgress())
    found = json.loads(path.read_text())
    assert (found["torch"], found["python"]) == (torch.__version__, platform.python_version())
    assert found["threads"] == 1 and found["system"].split()[-1] == platform.machine()
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found.get("commit", "0" * 40))
    values = " ".join(map(str, found.values()))
    assert "/" not in values and "\\" not in values and platform.node() not in values.split()
    monkeypatch.setattr(platform, "python_version", lambda: "4.0")  # it is continued elsewhere
    run_recipe(config, resume=True, progress=SilentProgress())
    assert json.loads(path.read_text())["python"] == "4.0"


@needs.GIT.unless(shutil.which("git"))
def test_the_commit_is_that_of_this_package_or_none(tmp_path, monkeypatch):
    """Not that of a project whose checkout holds the environment that the package is installed in."""

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit():
        environment_module._commit.cache_clear()
        return environment_module._commit()

    package = tmp_path / "site" / "bitbayes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(environment_module, "__file__", str(package / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    try:
        assert commit() is None
        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", "another project")
        assert commit() is None
        git("add", ".")
        git("commit", "-q", "-m", "its own")
        assert commit() == git("rev-parse", "HEAD")
        (package / "__init__.py").write_text("changed = True\n")
        assert commit() == git("rev-parse", "HEAD") + "-dirty"
        monkeypatch.setenv("PATH", "")
        assert commit() is None
    finally:
        environment_module._commit.cache_clear()
