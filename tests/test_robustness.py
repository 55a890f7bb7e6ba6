"""What happens to a run: kills, Ctrl-C, full disks, NaN, damage. Each leaves the last good state and one line."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import needs
from bitbayes.lab import cli
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.train import Interrupted, RunError, RunFolder, SilentProgress
from bitbayes.lab.train import folder as folder_module
from nested import equal

SOURCE = str(Path(cli.__file__).resolve().parents[3])
EPOCHS = 40


def command(out, *more):
    words = ["-m", "bitbayes", "train", "digits", "--epochs", str(EPOCHS), "--out", str(out)]
    return [sys.executable, *words, *more]


def environment():
    paths = [SOURCE, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def start(words):
    def hear_ctrl_c():  # which a job that was started in the background is deaf to
        signal.signal(signal.SIGINT, signal.default_int_handler)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, env=environment(), text=True, preexec_fn=hear_ctrl_c, **pipes)


def saved_epoch(out):
    """Of the checkpoint now, or -1."""
    try:
        return RunFolder(out, writes=False).read_checkpoint()["epoch"]
    except RunError:
        return -1


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run does not get there"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def beliefs(out):
    state = RunFolder(out).read_checkpoint()
    assert state["epoch"] == EPOCHS
    return state["parts"]


def metrics(out):
    rows = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    config = make_config("digits", epochs=EPOCHS, out=str(out))
    run_recipe(config, progress=SilentProgress())
    return out


@pytest.fixture(scope="module")
def digits():
    return load_data(make_config("digits"))


def test_kills_at_random_moments_change_nothing(tmp_path, uninterrupted):
    out = tmp_path / "run"
    generator = torch.Generator().manual_seed(os.getpid())
    for turn in range(3):
        process = start(command(out, *["--resume"] * (turn > 0)))
        before = saved_epoch(out)
        wait_for(lambda seen=before: saved_epoch(out) > seen, process)
        time.sleep(float(torch.rand((), generator=generator)) * 0.3)
        process.kill()
        process.communicate()
        assert saved_epoch(out) > before, "a kill lost a checkpoint"
    process = start(command(out, "--resume"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert equal(beliefs(out), beliefs(uninterrupted))
    assert metrics(out) == metrics(uninterrupted)
    for name in ("model.safetensors", "posterior.safetensors"):
        whole, resumed = (RunFolder(path).read_tensors(name) for path in (uninterrupted, out))
        assert equal(whole, resumed), name


SLOW_CHECKPOINTS = """
import sys, time
from bitbayes.lab import cli
from bitbayes.lab.train import folder
write = folder._Guard.write
def slow(self, data):  # by halves, with time for a kill in between
    data = bytes(data)
    if "checkpoint" in self.file.name and len(data) > 1000:
        write(self, data[: len(data) // 2])
        self.file.flush()
        time.sleep(0.05)
        return len(data) // 2 + write(self, data[len(data) // 2 :])
    return write(self, data)
folder._Guard.write = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_kill_during_a_checkpoint_write_leaves_the_old_one(tmp_path, uninterrupted):
    out = tmp_path / "run"
    words = [sys.executable, "-c", SLOW_CHECKPOINTS, *command(out)[3:]]
    process = start(words)
    partial = out / ".checkpoint.pt.partial"
    wait_for(
        lambda: saved_epoch(out) >= 1 and partial.is_file() and partial.stat().st_size > 1000,
        process,
    )
    process.kill()
    process.communicate()
    assert partial.is_file()  # it was hit in the middle
    assert saved_epoch(out) >= 1
    process = start(command(out, "--resume"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert not partial.exists()
    assert equal(beliefs(out), beliefs(uninterrupted))


def test_ctrl_c_in_the_middle_of_an_epoch(tmp_path):
    out = tmp_path / "run"
    process = start(command(out))
    wait_for(lambda: saved_epoch(out) >= 1, process)
    time.sleep(0.03)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "interrupted in epoch" in errors
    assert "--resume" in errors
    assert saved_epoch(out) >= 1


def test_ctrl_c_inside_the_process(tmp_path, digits):
    class Stop(SilentProgress):
        def step(self, epoch, step):
            if (epoch, step) == (3, 5):
                raise KeyboardInterrupt

    config = make_config("digits", epochs=5, out=str(tmp_path / "run"))
    with pytest.raises(Interrupted, match=r"interrupted in epoch 3; .* has a checkpoint of epoch 2"):
        run_recipe(config, data=digits, progress=Stop())
    assert saved_epoch(tmp_path / "run") == 2


def fill_disk_after(monkeypatch, epochs, name):
    """The disk is full when a file of that name is written for the n-th time."""
    count = 0
    write = folder_module._Guard.write

    def full(self, data):
        nonlocal count
        if name in self.file.name and not getattr(self, "counted", False):
            self.counted = True
            count += 1
        if name in self.file.name and count > epochs:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(folder_module._Guard, "write", full)


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, digits, monkeypatch, name, capsys):
    out = tmp_path / "run"
    fill_disk_after(monkeypatch, 2, name)
    code = cli.main(["train", "digits", "--epochs", "9", "--out", str(out)])
    errors = capsys.readouterr().err
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert f"cannot write {out / name}: No space left on device" in errors
    epoch = saved_epoch(out)
    assert f"the last good state is checkpoint.pt of epoch {epoch}" in errors
    assert not list(out.glob(".*.partial"))
    monkeypatch.undo()
    assert cli.main(["train", "digits", "--epochs", "9", "--out", str(out), "--resume"]) == 0


FILE_LIMIT = """
import resource, sys
from bitbayes.lab import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))  # less than a checkpoint
sys.exit(cli.main(sys.argv[1:]))
"""


@needs.UNIX.unless(sys.platform != "win32")
def test_a_write_that_the_system_refuses(tmp_path):
    out = tmp_path / "run"
    process = start([sys.executable, "-c", FILE_LIMIT, *command(out)[3:]])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert f"cannot write {out / 'checkpoint.pt'}: File too large" in errors
    assert not (out / "checkpoint.pt").exists()


def test_nan_in_the_data_names_epoch_and_step(tmp_path, digits):
    x = digits.train.x.float() / 255
    x[700, 3] = float("nan")
    bad = DataBundle("digits", TensorData(x, digits.train.y), digits.validation, digits.test, 10, "test")
    config = make_config("digits", epochs=2, out=str(tmp_path / "run"))
    pattern = r"epoch 1, step \d+: the loss is not finite; .* checkpoint.pt of epoch 0"
    with pytest.raises(RunError, match=pattern):
        run_recipe(config, data=bad, progress=SilentProgress())
    state = RunFolder(tmp_path / "run").read_checkpoint()
    assert state["epoch"] == 0
    assert all(v.isfinite().all() for v in state["parts"]["model"].values())


@pytest.mark.parametrize("damage", ["flip", "cut", "text", "empty"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, digits, damage, capsys):
    out = tmp_path / "run"
    config = make_config("digits", epochs=2, stop_after=1, out=str(out))
    run_recipe(config, data=digits, progress=SilentProgress())
    path = out / "checkpoint.pt"
    whole = bytearray(path.read_bytes())
    if damage == "flip":
        whole[len(whole) // 2] ^= 0x10
    path.write_bytes({"flip": whole, "cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    left = path.read_bytes()
    code = cli.main(["train", "digits", "--epochs", "2", "--out", str(out), "--resume"])
    errors = capsys.readouterr().err
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert f"{path} is damaged" in errors
    assert path.read_bytes() == left  # for whoever wants to look


@pytest.mark.parametrize(("other", "what"), [({"rule": "bop"}, "rule bop, not ste"), ({"seed": 7}, "seed 7, not 0")])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, digits, other, what):
    """Also where config.json says that all is well."""
    first, second = ({"rule": "ste", "epochs": 2, "out": str(tmp_path / name)} for name in ("first", "second"))
    run_recipe(make_config("digits", **first), data=digits, progress=SilentProgress())
    run_recipe(make_config("digits", **{**second, **other}), data=digits, progress=SilentProgress())
    (tmp_path / "second" / "checkpoint.pt").replace(tmp_path / "first" / "checkpoint.pt")
    with pytest.raises(RunError, match=f"checkpoint.pt in .*first is of another run, with .*{what}"):
        run_recipe(make_config("digits", **first), data=digits, resume=True, progress=SilentProgress())


def test_a_checkpoint_of_other_data_is_refused(tmp_path, digits):
    configs = [make_config("digits", "ste", epochs=1, out=str(tmp_path / name)) for name in ("first", "second")]
    other = dataclasses.replace(digits, train=dataclasses.replace(digits.train, x=digits.train.x.flip(0)))
    for config, data in zip(configs, (digits, other), strict=True):
        run_recipe(config, data=data, progress=SilentProgress())
    (tmp_path / "second" / "checkpoint.pt").replace(tmp_path / "first" / "checkpoint.pt")
    with pytest.raises(RunError, match="is of another run, on other data"):
        run_recipe(configs[0], data=digits, resume=True, progress=SilentProgress())


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, digits):
    """One of an earlier version, which does not say what run it is of."""
    for rule in ("ste", "bop"):
        config = make_config("digits", rule, epochs=1, out=str(tmp_path / rule))
        run_recipe(config, data=digits, progress=SilentProgress())
    state = RunFolder(tmp_path / "bop").read_checkpoint()
    del state["run"]
    torch.save(state, tmp_path / "ste" / "checkpoint.pt")
    config = make_config("digits", "ste", epochs=1, out=str(tmp_path / "ste"))
    with pytest.raises(RunError, match="does not fit this run"):
        run_recipe(config, data=digits, resume=True, progress=SilentProgress())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "dgits"], "did you mean 'digits'?"),
        (["train", "digits", "--rule", "bayesbin"], "did you mean 'bayesbinn'?"),
        (["train", "digits", "--estimator", "relased"], "did you mean 'released'?"),
        (["train", "mnist", "--data", "{empty}"], "{empty}"),
        (["train", "mnist", "--data", "{empty}/absent"], "{empty}/absent"),
        (["train", "digits", "--data", "{empty}"], "leave it out"),
        (["train", "snelson", "--data", "{empty}"], "train_inputs.txt"),
        (["train", "digits", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["continual", "permuted-mnist", "--device", "nowhere"], "device 'nowhere' cannot be used"),
        (
            ["train", "digits", "--resume", "--out", "{empty}"],
            "there is no checkpoint.pt in {empty}",
        ),
        (["train", "digits", "--resume", "--out", "runs/none"], "leave out --resume to start a run"),
        (["train", "digits", "--seeds", "2", "--resume", "--out", "runs/none"], "runs/none/seed0 to runs/none/seed1"),
        (["continual", "permuted-mnist", "--tasks", "0"], "tasks must be at least 1, got 0"),
        (["train", "digits", "--set", "ess"], "NAME=VALUE"),
        (["train", "digits", "--stop-after", "700"], "stop_after must lie between"),
        (["evaluate", "{empty}"], "is not a run"),
        (["reproduce", "tabel2"], "did you mean 'table2'?"),
        (["reproduce", "table2", "--dataset", "minst"], "did you mean 'mnist'?"),
        (["reproduce", "curves"], "--runs"),
        (["reproduce", "snelson", "--seeds", "0"], "splits must be at least 1"),
        (["reproduce", "moons", "--seeds", "0"], "seeds must be at least 1"),
        (
            ["reproduce", "moons", "--data", "."],
            "moons does not take --data; its options are: --epochs, --out, ",
        ),
        (["reproduce", "trust", "--protocol", "test"], "trust does not take --protocol"),
        (["reproduce", "table2", "--dataset", "cifar100"], "cifar100 has no quick schedule; use --budget paper"),
        (["train", "digits", "--set", "ess_scale=abc"], "ess_scale must be a positive number, got 'abc'"),
        (["train", "moons", "--dropout", "0.5"], "the network has no dropout layer"),
        (["train", "digits", "--set", "samples=3"], "samples is a setting of the run, not an option"),
        (
            ["train", "digits", "--rule", "full-precision", "--samples", "3"],
            "samples must be 1 for rule full",
        ),
        (
            ["train", "digits", "--rule", "pmf", "--set", "interval_epochs=-3"],
            "interval_epochs must be a positive number",
        ),
        (["train", "digits", "--epocs", "3"], "--epocs"),
        (["train"], "train needs RECIPE"),
        (["trian", "digits"], "trian"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = cli.main([word.replace("{empty}", str(empty)) for word in words])
    captured = capsys.readouterr()
    assert code == 2, captured
    assert len(captured.err.splitlines()) == 1
    assert expected.replace("{empty}", str(empty)) in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "runs").exists()  # nothing was begun
