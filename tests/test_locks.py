"""One process at a time writes into the folder of a run; a second one is refused in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import needs
from bitbayes.lab import cli
from bitbayes.lab.train import RunError, RunFolder, lock
from generated import write
from test_robustness import command, environment, saved_epoch, start, wait_for

pytestmark = needs.UNIX.unless(lock.fcntl)


def test_a_second_process_is_refused_and_changes_nothing(tmp_path):
    """Nor can its settings go on with what the first has written."""
    out = tmp_path / "mix"
    first = start([*command(out), "--seed", "7"])
    wait_for(lambda: saved_epoch(out) >= 1, first)
    os.kill(first.pid, signal.SIGSTOP)  # alive, and not finished before the second has looked
    try:
        partial = out / ".model.safetensors.partial"
        partial.touch()  # as if it was writing
        second = subprocess.run([*command(out), "--seed", "1"], env=environment(), capture_output=True, text=True)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    holder = f"process {first.pid}" if Path("/proc/locks").exists() else "another process"
    assert second.stderr == f"bitbayes: {out} is in use by {holder}; wait until it ends, or choose another folder\n"
    assert partial.exists() and not (tmp_path / "mix.old-1").exists()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    rows = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, len(rows) + 1))
    assert json.loads((out / "summary.json").read_text())["seed"] == 7
    assert cli.main([*command(out)[3:], "--seed", "1", "--resume"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "--epochs", "1"],
        ["continual", "split-mnist", "--epochs", "1", "--data", "{data}"],
        ["tune", "digits", "--trials", "1", "--epochs", "1"],
        ["reproduce", "default", "--dataset", "digits", "--epochs", "1", "--seeds", "1"],
        ["reproduce", "moons", "--epochs", "1"],
        ["reproduce", "snelson", "--epochs", "1"],
        ["reproduce", "truth", "--epochs", "1"],
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_every_command_that_writes_into_a_folder_holds_it(tmp_path, words, capsys):
    data = write(tmp_path / "data", "mnist", train=20, test=10) if "{data}" in words else ""
    words = [str(data) if word == "{data}" else word for word in words]
    out = tmp_path / "out"
    with RunFolder(out).held():
        assert cli.main([*words, "--out", str(out)]) == 1
        assert list(out.iterdir()) == []
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"bitbayes: {out} is in use by")
    assert not out.exists()


def test_a_run_inside_a_table_is_held_too(tmp_path, capsys):
    run = tmp_path / "table" / "ste-seed0"
    words = ["reproduce", "default", "--dataset", "digits", "--epochs", "1", "--seeds", "1", "--rules", "ste"]
    with RunFolder(run).held():
        assert cli.main([*words, "--out", str(tmp_path / "table")]) == 1
    assert f"{run} is in use by" in capsys.readouterr().err


def test_a_run_that_goes_on_is_not_evaluated(tmp_path, capsys):
    """Its weights would change under the evaluation."""
    run = tmp_path / "run"
    assert cli.main(["train", "digits", "--epochs", "1", "--out", str(run)]) == 0
    with RunFolder(run).held():
        assert cli.main(["evaluate", str(run)]) == 1
        assert "is in use by" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run), "--samples", "1"]) == 0
    assert cli.main(["evaluate", str(tmp_path / "none")]) == 2 and not (tmp_path / "none").exists()


def test_a_folder_with_a_live_one_inside_is_not_moved_aside(tmp_path):
    outer = RunFolder(tmp_path / "outer")
    outer.write_json("summary.json", {})
    inner = RunFolder(tmp_path / "outer" / "seed1")
    with outer.held():
        with inner.held(), pytest.raises(RunError, match="seed1 is in use by"):
            outer.set_aside()
        assert outer.set_aside() == tmp_path / "outer.old-1"
        with pytest.raises(RunError, match="outer is in use by"), RunFolder(outer.path).held():
            pass
        with RunFolder(tmp_path / "outer.old-1").held():  # nobody's any more
            pass


def test_a_lock_goes_with_a_folder_that_is_renamed(tmp_path):
    with RunFolder(tmp_path / "old").held():
        (tmp_path / "old").rename(tmp_path / "new")
        with pytest.raises(RunError, match="new is in use by"), RunFolder(tmp_path / "new").held():
            pass
        with RunFolder(tmp_path / "old").held():  # another folder of that name
            pass


def test_a_run_does_not_write_into_the_folder_that_took_its_name(tmp_path):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.held():
        first.append_line("metrics.jsonl", {"epoch": 1})
        (tmp_path / "run").rename(tmp_path / "moved")
        for there in (False, True):
            if there:
                second.write_lines("metrics.jsonl", [])
            with pytest.raises(RunError, match="run was renamed or removed while it was in use"):
                first.append_line("metrics.jsonl", {"epoch": 2})
            with pytest.raises(RunError, match="run was renamed or removed while it was in use"):
                first.write_json("summary.json", {})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_an_empty_folder_does_not_stay(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new/deep"):
        with RunFolder(tmp_path / name).held():
            assert (tmp_path / name).is_dir()
    assert (tmp_path / "there").is_dir() and not (tmp_path / "new").exists()
    with RunFolder(tmp_path / "kept").held():
        (tmp_path / "kept" / "file").touch()
    assert (tmp_path / "kept" / "file").exists()


FORKS = """
import os, sys, time
from bitbayes.lab.train import RunFolder
with RunFolder(sys.argv[1]).held():
    if not os.fork():  # such as a worker that loads data
        time.sleep(60)
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path):
    words = [sys.executable, "-c", FORKS, str(tmp_path / "run")]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(RunError, match="is in use"), RunFolder(tmp_path / "run").held():
            pass
        try:
            process.kill()
            process.wait()
            end = time.monotonic() + 10
            while lock.locked(tmp_path / "run"):  # the child may still be on its way to where it forgets the lock
                assert time.monotonic() < end
                time.sleep(0.01)
            with RunFolder(tmp_path / "run").held():
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_without_locks_a_run_goes_on(tmp_path, monkeypatch):
    """As on Windows, and on file systems that refuse them."""
    monkeypatch.setattr(lock, "fcntl", None)
    with RunFolder(tmp_path).held(), RunFolder(tmp_path).held():
        assert lock.locked(tmp_path) is None


def test_results_without_a_checkpoint_are_not_overwritten(tmp_path, capsys):
    """Tables go on with whatever is in their folder."""
    words = ["reproduce", "default", "--dataset", "digits", "--seeds", "1", "--rules", "ste", "--out", str(tmp_path)]
    assert cli.main([*words, "--epochs", "1"]) == 0
    (tmp_path / "ste-seed0" / "checkpoint.pt").unlink()
    before = (tmp_path / "ste-seed0" / "summary.json").read_text()
    assert cli.main([*words, "--epochs", "2"]) == 2
    assert "holds results without a checkpoint to continue from" in capsys.readouterr().err
    assert (tmp_path / "ste-seed0" / "summary.json").read_text() == before
