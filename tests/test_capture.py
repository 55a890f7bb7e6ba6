"""Whole steps that are recorded and repeated: `tape.Tape` does on a CPU what a CUDA graph does on a GPU."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import bitbayes as bb
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import make_config, make_experiment, run_recipe
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.train import RunError, RunFolder, Schedule, SilentProgress, capture, loop, train
from laws import RULES
from nested import equal
from tape import TapeGraph


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capture.GRAPHS, "cpu", TapeGraph)


@pytest.fixture(scope="module")
def digits() -> DataBundle:
    """So many that the last batch of an epoch is a smaller one."""
    whole = load_data(make_config("digits"))
    return dataclasses.replace(whole, train=TensorData(whole.train.x[:330], whole.train.y[:330]))


def run(out: Path, digits: DataBundle, rule: str = "bayesbinn", *, resume: bool = False, **choices: Any) -> Any:
    """Two epochs of eight steps, unless said otherwise."""
    choices = {"capture": True, "epochs": 2, "batch_size": 44, "dropout": 0.3} | choices
    config = make_config("digits", rule, out=str(out), **choices)
    return run_recipe(config, resume=resume, data=digits, progress=SilentProgress())


def state(out: Path) -> dict[str, Any]:
    """A checkpoint, without the clock."""
    found = RunFolder(out).read_checkpoint()
    for row in found["history"]:
        row.pop("seconds")
    return found


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "straight-through": ("bayesbinn", {"estimator": "straight-through"}),
    "concrete": ("bayesbinn", {"estimator": "concrete", "options": {"tau": 0.5}}),
    "released": ("bayesbinn", {"estimator": "released"}),
    "two draws": ("bayesbinn", {"estimator": "straight-through", "samples": 2}),
    "VISPA": ("vispa", {}),
    "STE": ("ste", {}),
    "PMF": ("pmf", {}),
    "SGD": ("ste", {"real_optimizer": "sgd"}),
    "Nesterov": ("ste", {"real_optimizer": "nesterov"}),
    "in parts": ("ste", {"accumulate": 3}),
    "clipped": ("ste", {"clip_gradient": 0.1}),
    "float": ("full-precision", {}),
    "scales": ("ste", {"options": {"scale": "channel"}}),
    "bfloat16": ("bayesbinn", {"precision": "bf16"}),
    "by epochs": ("ste", {"schedule": Schedule("cosine")}),
    "by steps": ("ste", {"schedule": Schedule("warmup-cosine", warmup=0)}),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_captured_run_is_the_run(
    setting: str, tmp_path: Path, digits: DataBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit that of the same steps one by one; and, but for the last bit of a rate, that without `capture`."""
    rule, choices = SETTINGS[setting]
    usual = run(tmp_path / "usual", digits, rule, capture=False, **choices)
    captured = run(tmp_path / "captured", digits, rule, **choices)
    monkeypatch.setattr(capture, "_WARM_UP", 1000)
    run(tmp_path / "stepped", digits, rule, **choices)
    assert equal(state(tmp_path / "captured"), state(tmp_path / "stepped"))
    for mine, other in zip(captured.history, usual.history, strict=True):
        assert mine.lr == other.lr
        assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-4)


def test_python_takes_no_part(tmp_path: Path, digits: DataBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    step = loop.training_step
    monkeypatch.setattr(loop, "training_step", lambda *a: calls.append(len(a[2])) or step(*a))
    run(tmp_path / "run", digits, epochs=4)
    assert calls == [44] * 4 + [22] * 4  # to warm up and to record; the last batches
    rates = [group["lr"] for name in ("optimizer", "real_optimizer") for group in groups(tmp_path / "run", name)]
    assert all(type(rate) is float for rate in rates)


def groups(out: Path, name: str) -> list[dict[str, Any]]:
    return state(out)["parts"][name]["param_groups"]


@pytest.mark.parametrize("rule", ["bayesbinn", "ste"])
def test_it_resumes_bit_for_bit(rule: str, tmp_path: Path, digits: DataBundle) -> None:
    run(tmp_path / "whole", digits, rule, epochs=4)
    run(tmp_path / "cut", digits, rule, epochs=4, stop_after=2)
    run(tmp_path / "cut", digits, rule, epochs=4, resume=True)
    assert equal(state(tmp_path / "whole"), state(tmp_path / "cut"))


@pytest.mark.parametrize("rule", RULES)
def test_steps_on_the_device_are_those_of_the_host(rule: str) -> None:
    """Two groups with seeds of their own, and tensors without a gradient in some steps."""

    def trained(capturable: bool) -> tuple[list[torch.Tensor], Any]:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(5)]
        groups = [{"params": weights[:3], "seed": 1}, {"params": weights[3:], "seed": 2}]
        optimizer = RULES[rule](groups, seed=0, capturable=capturable)
        for step in range(4):
            for index, weight in enumerate(weights):
                weight.grad = None if (step + index) % 3 == 1 else torch.randn(4, 3)
            optimizer.step()
        return weights, [optimizer.state[weight]["belief"] for weight in weights]

    assert equal(trained(capturable=True), trained(capturable=False), 1e-6)


def test_a_rule_without_an_option_for_it_may_share_noise() -> None:
    weights = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    optimizer = bb.STE(weights, seed=0)
    before = [noise.shared_normal(2) for noise in optimizer._noises().values()]
    optimizer.step(lambda: sum((weight.sum() for weight in weights), torch.zeros(())).backward())
    after = [noise.shared_normal(2) for noise in optimizer._noises().values()]
    assert len({tuple(shared.tolist()) for shared in before + after}) == 4
    assert torch.equal(after[0], optimizer._noises()[weights[0]].shared_normal(2))


class Shifts(TorchDispatchMode):
    """Counts the bit shifts, which hashes consist of."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket is torch.ops.aten.__rshift__
        return function(*args, **(kwargs or {}))


def test_the_streams_of_all_tensors_are_hashed_together() -> None:
    """A graph repeats dozens of operations for each hash, which would take longer than the updates themselves."""
    found = []
    for tensors in (1, 9):
        weights = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(tensors)]
        optimizer = bb.STE(weights, seed=0, capturable=True)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        with Shifts() as shifts:
            optimizer.step()
        found.append(shifts.count)
    assert found == [18, 18]  # two scrambles, of three shifts each, for the step, the sample and the tensor


def test_a_bad_gradient_in_a_graph_ends_the_run(tmp_path: Path, digits: DataBundle) -> None:
    inputs = digits.train.x / 255
    inputs[7] = float("nan")
    bad = dataclasses.replace(digits, train=TensorData(inputs, digits.train.y))
    with pytest.raises(RunError, match=r"epoch 1, step 6: the gradient of .* is not finite; .* look for"):
        run(tmp_path / "run", bad, epochs=1)
    assert RunFolder(tmp_path / "run").has("failure.json")


def test_what_cannot_be_captured_is_refused(
    tmp_path: Path, digits: DataBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("digits", "ste", out=str(tmp_path / "run"), epochs=1, capture=True)
    experiment = make_experiment(config, digits)
    two = dataclasses.replace(experiment.ranks, count=2)
    cases = [
        (dataclasses.replace(experiment, hooks=object()), "cannot call object at every step"),  # type: ignore[arg-type]
        (make_experiment(dataclasses.replace(config, capture=False), digits), "STE with capturable=True"),
    ]
    for each, message in cases:
        with pytest.raises(ValueError, match=message):
            train(config, each)
    monkeypatch.setattr(experiment, "ranks", two)
    with pytest.raises(ValueError, match="one process, got 2"):
        train(config, experiment)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="capture needs a device of type cuda, got cpu; leave out capture"):
        train(config, make_experiment(config, digits))
    assert not (tmp_path / "run").exists()
