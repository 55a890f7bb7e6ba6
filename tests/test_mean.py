"""The mean over a run's posterior: every network with BatchNorm statistics of its own, however it is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import bitbayes as bb
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.train import SilentProgress, mean
from bitbayes.lab.train.mean import MeanPredictor, kept_inputs
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.precision import autocast


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    out = tmp_path_factory.mktemp("runs") / "digits"
    run_recipe(make_config("digits", "bayesbinn", epochs=4, seed=1, out=str(out)), progress=SilentProgress())
    return load_run(out)


def test_each_network_has_its_own_statistics(run: FinishedRun) -> None:
    x = whole(run.experiment.data.test)[0]
    before = {name: value.clone() for name, value in run.experiment.model.state_dict().items()}
    predictor = run.predictor(4)
    found = predictor(x)
    inputs = kept_inputs(run.config, run.experiment)
    wanted = bb.predict(run.experiment.model, x, run.posterior, samples=4, batches=inputs)
    torch.testing.assert_close(found.outputs, wanted.outputs)
    pieces = torch.cat([predictor(part).outputs for part in x.split(50)], 1)
    torch.testing.assert_close(pieces, found.outputs)
    shared = bb.predict(run.experiment.model, x, run.posterior, samples=4)
    assert (shared.outputs - found.outputs).abs().max() > 0.01
    assert all(torch.equal(value, before[name]) for name, value in run.experiment.model.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_batchnorm(run: FinishedRun, precision: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 5, bias=False), nn.ReLU(), nn.Linear(5, 1))
    posterior = bb.BernoulliPosterior({"0.weight": torch.randn(5, 64)})
    x = torch.randn(7, 64)
    found = MeanPredictor(replace(run.config, precision=precision), run.experiment, model, posterior, 3)(x)
    assert found.outputs.shape == (3, 7, 1)
    with autocast(x.device, precision):
        wanted = bb.predict(model, x, posterior, 3).outputs
    torch.testing.assert_close(found.outputs, wanted)


def test_inputs_are_kept_as_far_as_memory_goes(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = kept_inputs(run.config, run.experiment)
    assert len(batches) == 2 and batches[0].shape == (500, 64)
    monkeypatch.setattr(mean, "_MOST", 1)
    assert len(kept_inputs(run.config, run.experiment)) == 1
