"""Workflows, forms and the files of a release: each job calls a make target, and the numbers are the project's."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import needs
from bitbayes.lab.train.rules import RULES
from bitbayes.packed.format import check, file, images, program

yaml = needs.YAML.module("yaml")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOWS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}
every_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))
COMMAND = re.compile(r"make ([a-z-]+)( [A-Z]+=\"\$[A-Z]+\")*")  # values come from `env`, not from an expression


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load(WORKFLOWS[name])


def jobs(name: str) -> dict[str, dict[str, Any]]:
    return workflow(name)["jobs"]


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in jobs(name).values() for step in job.get("steps", [])]


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    phony = re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    return set(" ".join(phony).split()) & set(re.findall(r"^([a-z-]+):(?!=)", text, re.MULTILINE))


def version_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_there_are_the_four_workflows() -> None:
    assert set(WORKFLOWS) == {"check", "docs", "release", "wheels"}


@every_workflow
def test_every_command_is_a_target_of_the_makefile(name: str) -> None:
    for step in steps(name):
        if "run" in step:
            command = COMMAND.fullmatch(step["run"])
            assert command is not None and command[1] in targets(), step["run"]


@every_workflow
def test_a_workflow_may_do_no_more_than_it_must(name: str) -> None:
    """Nothing by default, reading for a checkout, and the identity of the workflow where something is published."""
    assert workflow(name)["permissions"] == {} and "secrets" not in WORKFLOWS[name]
    allowed = {("docs", "deploy"): {"pages", "id-token"}, ("release", "publish"): {"id-token"}}
    for job, what in jobs(name).items():
        may = allowed.get((name, job), set())
        assert what["permissions"] == (dict.fromkeys(may, "write") if may else {"contents": "read"}), job
        assert "uses" in what or 0 < what["timeout-minutes"] <= 90, job
    assert all(not step["with"]["persist-credentials"] for step in steps(name) if "checkout" in step.get("uses", ""))
    assert "cancel-in-progress" in workflow(name)["concurrency"]


@every_workflow
def test_actions_are_pinned_by_commit(name: str) -> None:
    found = re.findall(r"uses: (\S+)(.*)", WORKFLOWS[name])
    for action, comment in found:
        if not action.startswith("./"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action} does not say of which release it is"


def test_an_action_has_one_version_everywhere() -> None:
    found = set(re.findall(r"uses: ([\w/-]+)@(\w+)", "".join(WORKFLOWS.values())))
    assert len(dict(found)) == len(found) > 5


def test_checks_run_on_the_pythons_and_torches_of_the_metadata() -> None:
    check = jobs("check")
    pythons, torches = check["torch"]["strategy"]["matrix"]["python"], check["torch"]["strategy"]["matrix"]["torch"]
    assert check["check"]["strategy"]["matrix"]["python"] == pythons and len(pythons) == 2
    stated = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    least = re.findall(r'^requires-python = ">=(.+)"$', PROJECT, re.MULTILINE)
    assert stated[:1] == least and set(pythons) <= set(stated) and pythons[-1] == stated[-1]
    (floor,) = re.findall(r'"torch>=([0-9.]+)"', PROJECT)
    (pinned,) = re.findall(r"^torch==([0-9.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    oldest, newest = torches
    assert version_of(oldest)[: len(version_of(floor))] == version_of(floor)
    assert version_of(oldest) < version_of(pinned) < version_of(newest)


def test_the_site_and_the_release_are_published_from_the_right_places() -> None:
    docs, release = jobs("docs"), jobs("release")
    assert "refs/heads/main" in docs["deploy"]["if"] and docs["deploy"]["environment"]["name"] == "github-pages"
    assert workflow("release")[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    assert release["publish"]["needs"] == "inspect" and release["inspect"]["needs"] == "build"
    assert release["publish"]["environment"] == "pypi"
    assert [step["uses"].split("@")[0] for step in release["publish"]["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    systems = jobs("wheels")["wheels"]["strategy"]["matrix"]["os"]
    assert [system.split("-")[0] for system in systems] == ["ubuntu", "ubuntu", "macos"] and systems[1].endswith("-arm")


@pytest.mark.parametrize("checker", ["actionlint", "zizmor"])
def test_a_missing_checker_is_one_line(checker: str, tmp_path: Path) -> None:
    """And a checker that complains fails the target."""
    for name in ("sh", "make"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    (other,) = {"actionlint", "zizmor"} - {checker}
    (tmp_path / other).write_text("#!/bin/sh\n")
    (tmp_path / other).chmod(0o755)
    words = ["make", "--no-print-directory", f"BIN={tmp_path}", "workflows"]
    run = {"cwd": ROOT, "env": {"PATH": str(tmp_path)}, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(words, **run)
    assert (done.stdout, done.returncode) == (f"not run: {checker} (make tools)\n", 0), done.stderr
    (tmp_path / checker).write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / checker).chmod(0o755)
    assert subprocess.run(words, **run).returncode != 0


@pytest.mark.parametrize(
    ("apt", "said"), [("exit 0", "installed"), ("echo 'E: no network'; exit 100", "not installed")]
)
def test_tools_that_cannot_be_had_are_one_line(apt: str, said: str, tmp_path: Path) -> None:
    """CI goes on without them, and the tests that need them are skipped."""
    for name in ("bash", "env", "dirname", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    programs = {"apt-get": apt, "sudo": 'exec "$@"', "python": "exit 1", "qemu-aarch64": "exit 0"}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!{tmp_path}/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    words = [str(ROOT / ".ci" / "tools"), str(tmp_path)]
    done = subprocess.run(words, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    missing = "chromium gcc-aarch64-linux-gnu"
    assert f"tools: {said} {missing}".replace("not installed", "not installed:") in done.stdout + done.stderr
    assert (said == "installed") == ("no network" not in done.stderr)
    assert "not installed: the packages of .ci/requirements.txt" in done.stderr and done.returncode == 0


# Files of a release. ------------------------------------------------------------------------------------------------

FILES = (
    "bitbayes-1.2.0.tar.gz",
    "bitbayes-1.2.0-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    "bitbayes-1.2.0-py3-none-manylinux_2_28_aarch64.whl",
    "bitbayes-1.2.0-py3-none-macosx_11_0_arm64.whl",
)


@pytest.fixture
def release(tmp_path: Path) -> Any:
    """A project of version 1.2.0 with all its files, and what is said of them."""
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.0] - 2026-01-01\n")
    (tmp_path / "CITATION.cff").write_text("title: bitbayes\nversion: 1.2.0\n")
    (tmp_path / "dist").mkdir()
    for name in FILES:
        (tmp_path / "dist" / name).touch()
    complaints = runpy.run_path(str(ROOT / ".ci" / "distributions.py"))["complaints"]
    return lambda tag="v1.2.0": complaints(tag, tmp_path / "dist", tmp_path)


def test_a_whole_release_is_accepted(release: Any) -> None:
    assert release() == []


@pytest.mark.parametrize("tag", ["1.2.0", "v1.2.1", "v1.2", ""])
def test_the_tag_is_the_version(release: Any, tag: str) -> None:
    (line,) = release(tag)
    assert repr(tag) in line and "1.2.0" in line


@pytest.mark.parametrize("name", FILES)
def test_a_release_lacks_no_platform(release: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "dist" / name).unlink()
    (line,) = release()
    assert "has 0 files that are the " in line


@pytest.mark.parametrize("name", ["bitbayes-1.1.0.tar.gz", "bitbayes-1.2.0-py3-none-any.whl", "notes.txt"])
def test_a_release_has_no_other_file(release: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "dist" / name).touch()
    (line,) = release()
    assert name in line


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CITATION.cff"])
def test_changelog_and_citation_are_of_the_version(release: Any, tmp_path: Path, name: str) -> None:
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace("1.2.0", "1.1.9"))
    (line,) = release()
    assert name in line


# Security, forms and papers. ---------------------------------------------------------------------------------------

SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_limits_of_the_security_policy_are_those_of_the_format() -> None:
    table = dict(re.findall(r"^\| ([a-z][^|]*) \| ([\d,]+(?: [MK]iB)?) \|$", SECURITY, re.MULTILINE))
    assert table == {
        "header of the file": f"{file.MAX_HEADER >> 20} MiB",
        "program": f"{program.MAX_TEXT >> 10} KiB",
        "steps of a program": f"{program.MAX_STEPS:,}",
        "networks in a file": f"{program.MAX_SAMPLES:,}",
        "steps of all networks together": f"{check.MAX_RUNS:,}",
        "operations for one input": f"{check.MAX_WORK:,}",
        "numbers in memory at the same time, for one input": f"{check.MAX_HELD:,}",
    }
    assert f"more than {images.MAX_PIXELS // 10**6} million pixels" in SECURITY


def test_the_security_policy_promises_what_the_fuzzer_measures() -> None:
    fuzzer = (ROOT / "benchmarks" / "fuzz_limits.py").read_text(encoding="utf-8")
    ((seconds, times, spare),) = re.findall(r"SECONDS, TIMES, ALLOWED = ([\d.]+), (\d+), (\d+) << 20", fuzzer)
    assert (float(seconds), int(times)) == (2, 4) and SECURITY.count("at most 2 s of CPU time and four times the") == 2
    assert len(re.findall(rf"\b{spare}\s+MiB\b", SECURITY)) == 2
    tests = (ROOT / "tests" / "test_packed_limits.py").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)(\.py)?`", SECURITY)
    assert len(named) == 4
    for name, suffix in named:
        assert (ROOT / "tests" / f"{name}{suffix}").exists() if suffix else f"def {name}(" in tests, name


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_forms_have_what_github_needs(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form["blank_issues_enabled"] is False and "contact_links" not in form  # a link would need an address
        return
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert any(field.get("validations", {}).get("required") for field in fields)
    identities = [field["id"] for field in fields]
    assert len(identities) == len(set(identities))
    assert all(field["attributes"]["label"] for field in fields)


def test_the_citation_has_the_papers_of_all_rules() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (version,) = re.findall(r'^version = "(.+)"$', PROJECT, re.MULTILINE)
    assert citation["version"] == version
    assert all({"type", "title", "authors", "year"} <= set(paper) for paper in citation["references"])
    cited = [paper["scope"] for paper in citation["references"]]
    assert sorted(cited) == sorted(f"The rule {rule.__name__}." for rule in RULES.values() if rule is not None)
