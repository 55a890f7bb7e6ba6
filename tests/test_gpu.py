"""What only a GPU can show; `benchmarks/on_gpu.sh` runs this file on a machine that has one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.lab.data import TensorData
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.train import RunError, RunFolder, SilentProgress
from laws import data, every_rule, loss, make, network, pair, steps
from nested import equal

pytestmark = [pytest.mark.gpu, needs.CUDA.unless(torch.cuda.is_available())]
RULES = ("full-precision", "ste", "bop", "bayesbinn:straight-through", "bayesbinn:concrete", "vispa")
some_rules = pytest.mark.parametrize("rule", RULES)


def run(out: Path, rule: str, *, resume: bool = False, **choices: Any) -> Any:
    settings = {"epochs": 2, "device": "cuda", "dropout": 0.0} | choices
    config = make_config("digits", rule, out=str(out), **settings)
    return run_recipe(config, resume=resume, progress=SilentProgress())


def state(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the parts and the rows of a checkpoint, without the clock."""
    found = RunFolder(out).read_checkpoint()
    for row in found["history"]:
        row.pop("seconds")
    return found["parts"], found["history"]


def trained(rule: str) -> tuple[torch.nn.Module, bb.BinaryOptimizer, torch.Tensor]:
    """Return a network after five steps, in eval mode, its optimizer, and inputs."""
    model, optimizer = pair(rule)
    model.cuda()
    x, y = (t.cuda() for t in data())
    for _ in range(5):
        optimizer.zero_grad()
        loss(model, x, y).backward()
        optimizer.step()
    return model.eval(), optimizer, x


@every_rule
def test_moving_to_a_gpu_and_back(rule: str) -> None:
    model, optimizer = pair(rule)
    model.cuda()
    x, y = (t.cuda() for t in data())
    for _ in range(3):
        loss(model, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.cpu()
    steps(model, optimizer, 2)
    dict(optimizer.named_binary())["0.weight"].grad = torch.full((8, 6), float("nan"))
    with pytest.raises(RuntimeError, match=r"'0.weight' is not finite"):
        optimizer.step()


def test_draws_agree_between_cpu_and_gpu() -> None:
    runs = []
    for device in ("cpu", "cuda"):
        model = network().to(device)
        make("bayesbinn-straight-through", model)
        runs.append(model[0].weight.detach().cpu())
    assert torch.equal(*runs)


@some_rules
def test_a_captured_run_is_near_the_usual_run(rule: str, tmp_path: Path) -> None:
    usual = run(tmp_path / "usual", rule)
    captured = run(tmp_path / "captured", rule, capture=True)
    for mine, other in zip(captured.history, usual.history, strict=True):
        assert mine.lr == other.lr
        assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-3)


@some_rules
def test_a_captured_run_resumes_bit_for_bit(rule: str, tmp_path: Path) -> None:
    run(tmp_path / "whole", rule, capture=True, epochs=4)
    run(tmp_path / "cut", rule, capture=True, epochs=4, stop_after=2)
    run(tmp_path / "cut", rule, capture=True, epochs=4, resume=True)
    assert equal(state(tmp_path / "whole"), state(tmp_path / "cut"))


@pytest.mark.parametrize("capture", [False, True])
def test_a_bad_input_ends_the_run(capture: bool, tmp_path: Path) -> None:
    config = make_config("digits", "ste", out=str(tmp_path / "run"), epochs=1, device="cuda", capture=capture)
    whole = load_data(config)
    inputs = whole.train.x / 255
    inputs[7] = float("nan")
    bad = dataclasses.replace(whole, train=TensorData(inputs, whole.train.y))
    with pytest.raises(RunError, match=r"epoch 1, step \d+: .* is not finite"):
        run_recipe(config, data=bad, progress=SilentProgress())
    assert RunFolder(tmp_path / "run").has("failure.json")


@pytest.mark.parametrize("samples", [1, 5])
def test_an_ensemble_predicts_as_predict(samples: int) -> None:
    model, optimizer, x = trained("bayesbinn-straight-through")
    posterior = optimizer.posterior()
    wanted = bb.predict(model, x, posterior, samples).outputs
    assert wanted.device.type == "cuda"
    assert torch.equal(bb.Ensemble(model, posterior, samples).predict(x).outputs, wanted)


def test_a_network_of_a_gpu_is_packed() -> None:
    model, optimizer, x = trained("ste-adam")
    optimizer.eval()
    wanted = model(x).detach().cpu()
    found = bb.packed.load(bb.pack(model, x[:1])).predict(x.cpu().numpy()).outputs
    torch.testing.assert_close(torch.as_tensor(found)[0], wanted, rtol=1e-4, atol=1e-4)
