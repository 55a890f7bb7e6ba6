"""Binary weights in bfloat16 during a run: the same numbers in less memory, and only where they are the same."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from bitbayes.lab.recipes import make_config, make_experiment
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.train import RunFolder, SilentProgress, loop, train
from bitbayes.lab.train.precision import held
from nested import equal

HARD = {
    "straight-through": ("bayesbinn", {}),
    "two draws": ("bayesbinn", {"samples": 2}),
    "released": ("bayesbinn", {"estimator": "released"}),
    "ste": ("ste", {}),
    "bop": ("bop", {}),
    "bop2": ("bop2", {}),
    "vispa": ("vispa", {}),
}
OTHER = {
    "float32": ("ste", {"precision": "fp32"}),
    "no binary weights": ("full-precision", {}),
    "relaxed": ("bayesbinn", {"estimator": "concrete"}),
    "warm": ("bayesbinn", {"estimator": "released", "options": {"tau": 1.0, "ess_scale": 10.0}}),
    "soft": ("pmf", {}),
    "scaled": ("ste", {"options": {"scale": "fan_in"}}),
    "clipped": ("ste", {"clip_gradient": 1.0}),
    "in parts": ("ste", {"accumulate": 2}),
}


@pytest.fixture(scope="module")
def digits():
    return load_data(make_config("digits"))


class Watch(SilentProgress):
    """Types of the weights, of their gradients and of the beliefs during the run."""

    def __init__(self, experiment) -> None:
        self.experiment, self.found = experiment, set()

    def step(self, epoch, step) -> None:
        for _, parameter in self.experiment.optimizer.named_binary() if self.experiment.optimizer else ():
            belief = self.experiment.optimizer.state[parameter]["belief"]
            kinds = {tensor.dtype for tensor in belief.values()} - {torch.int8}
            self.found.add((parameter.dtype, parameter.grad.dtype, *kinds))


def run(out, digits, rule, *, stop_after=None, resume=False, hooks=None, **choices):
    config = make_config("digits", rule, out=str(out), **{"epochs": 3, "precision": "bf16", **choices})
    experiment = make_experiment(config, digits)
    experiment.hooks = hooks
    watch = Watch(experiment)
    result = train(config, experiment, resume=resume, progress=watch)
    return experiment, result, watch.found


@pytest.mark.parametrize("case", HARD)
def test_it_changes_no_number(case, tmp_path, digits, monkeypatch):
    rule, choices = HARD[case]
    experiment, ours, found = run(tmp_path / "held", digits, rule, **choices)
    assert found == {(torch.bfloat16, torch.bfloat16, torch.float32)}
    monkeypatch.setattr(loop, "held", lambda *_: contextlib.nullcontext())
    plain, theirs, found = run(tmp_path / "plain", digits, rule, **choices)
    assert found == {(torch.float32, torch.float32, torch.float32)}
    for a, b in zip(ours.history, theirs.history, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)
    mine, other = (RunFolder(tmp_path / name).read_checkpoint()["parts"] for name in ("held", "plain"))
    assert equal(mine["optimizer"], other["optimizer"]) and equal(mine["real_optimizer"], other["real_optimizer"])
    saved = [load_file(tmp_path / name / "model.safetensors") for name in ("held", "plain")]
    assert equal(*saved)  # their types, too
    for (_, a), (_, b) in zip(experiment.model.named_parameters(), plain.model.named_parameters(), strict=True):
        assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize("case", OTHER)
def test_where_numbers_would_change_it_is_not_done(case, tmp_path, digits):
    rule, choices = OTHER[case]
    _, _, found = run(tmp_path / "run", digits, rule, **{"epochs": 1, **choices})
    assert {dtype for kinds in found for dtype in kinds} <= {torch.float32}


def test_what_adds_to_gradients_sees_float32(tmp_path, digits):
    class Nothing:
        def before_update(self):
            pass

        def after_update(self):
            pass

        def state_dict(self):
            return {}

    _, _, found = run(tmp_path / "run", digits, "ste", epochs=1, hooks=Nothing())
    assert found == {(torch.float32, torch.float32, torch.float32)}


def test_several_processes_average_gradients_of_float32(tmp_path, digits):
    config = make_config("digits", "ste", out=str(tmp_path), precision="bf16")
    experiment = make_experiment(config, digits)
    for count, wanted in ((1, torch.bfloat16), (2, torch.float32)):
        experiment.ranks = dataclasses.replace(experiment.ranks, count=count)
        with held(config, experiment):
            assert {parameter.dtype for _, parameter in experiment.optimizer.named_binary()} == {wanted}


def test_a_run_resumes_as_if_it_had_not_stopped(tmp_path, digits):
    run(tmp_path / "whole", digits, "bayesbinn", epochs=4)
    for stop in (2, None):
        config = {"epochs": 4, "stop_after": stop, "resume": stop is None}
        experiment, _, _ = run(tmp_path / "parts", digits, "bayesbinn", **config)
        assert all(parameter.dtype == torch.float32 for parameter in experiment.model.parameters())
    assert equal(*(RunFolder(tmp_path / name).read_checkpoint()["parts"] for name in ("whole", "parts")))


def test_weights_are_float32_again_after_an_error(tmp_path, digits):
    config = make_config("digits", "ste", out=str(tmp_path), epochs=2, precision="bf16")
    experiment = make_experiment(config, digits)

    class Stop(SilentProgress):
        def epoch(self, row) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, experiment, progress=Stop())
    assert all(parameter.dtype == torch.float32 for parameter in experiment.model.parameters())
