"""SWAG and IVON, posteriors over real weights, against loops by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import DataBundle, TensorData, batches, load_digits
from bitbayes.lab.recipes import make_experiment, open_recipe
from bitbayes.lab.studies.gaussian import (
    IVON,
    SWAG,
    Gaussian,
    Swag,
    gaussian_config,
    gaussian_experiment,
    gaussian_predictor,
    load_gaussian,
    missing,
    train_gaussian,
)
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RunConfig, Schedule, SilentProgress, train
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.schedule import advance
from bitbayes.noise import stream_key
from needs import IVON as PACKAGE

installed = PACKAGE.unless_installed("ivon")


@pytest.fixture(scope="module")
def digits() -> DataBundle:
    """The digits, of which 200 are trained on."""
    data = load_digits()
    train = dataclasses.replace(data.train, x=data.train.x[:200], y=data.train.y[:200])
    return dataclasses.replace(data, train=train)


def config(name: str, out: Path, **settings: Any) -> RunConfig:
    return gaussian_config(open_recipe("digits"), name, Overrides(**{"epochs": 3, **settings}), str(out))


def test_swag_has_the_moments_of_its_snapshots() -> None:
    """160 steps, of which the last 40 are collected, at 0.15 of the learning rate."""
    model = torch.nn.Linear(3, 2)
    data = SimpleNamespace(train=TensorData(torch.zeros(320, 3), torch.zeros(320)))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    experiment: Any = SimpleNamespace(model=model, data=data, real_optimizer=optimizer)
    settings: Any = SimpleNamespace(epochs=1, batch_size=2)
    hooks = Swag(settings, experiment)
    seen, rates = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(160):
        optimizer.param_groups[0]["lr"] = 1.0  # as a scheduler sets it
        hooks.before_update()
        rates.append(optimizer.param_groups[0]["lr"])
        vector = torch.randn(8, generator=generator) * torch.arange(1, 9)
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
        hooks.after_update()
        seen.append(vector)
    collected = torch.stack(seen[120:])
    found = hooks.posterior()
    assert rates == [1.0] * 120 + [0.3] * 40
    torch.testing.assert_close(found.mean, collected.mean(0))
    torch.testing.assert_close(2 * found.std.square(), collected.var(0, correction=0))
    assert found.columns.shape == (20, 8)
    torch.testing.assert_close(found.columns[-1] * math.sqrt(2 * 19), collected[-1] - collected.mean(0))
    again = Swag(settings, experiment)
    again.load_state_dict(hooks.state_dict())
    for mine, theirs in zip(vars(again.posterior()).values(), vars(found).values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("steps", [4, 161, 316, 320])
def test_swag_collects_at_least_forty_networks(steps: int) -> None:
    model = torch.nn.Linear(3, 2)
    data = SimpleNamespace(train=TensorData(torch.zeros(steps, 3), torch.zeros(steps)))
    experiment: Any = SimpleNamespace(model=model, data=data, real_optimizer=torch.optim.SGD(model.parameters(), lr=1))
    settings: Any = SimpleNamespace(epochs=1, batch_size=1)
    hooks = Swag(settings, experiment)
    for _ in range(steps):
        hooks.after_update()
    assert hooks.state_dict()["counts"] == [steps, {4: 1, 161: 40, 316: 79, 320: 40}[steps]]


def test_swag_holds_a_share_of_the_configured_rate(digits: DataBundle, tmp_path: Path) -> None:
    """A warm-up has set the rate to 0 when the hooks are made."""
    settings = config(SWAG, tmp_path, epochs=1).changed(schedule=Schedule("warmup-cosine", warmup=1), lr=0.2)
    experiment = gaussian_experiment(settings, digits)
    assert experiment.real_optimizer is not None and experiment.hooks is not None
    (group,) = experiment.real_optimizer.param_groups
    assert group["lr"] == 0
    for _ in range(4):
        experiment.hooks.before_update()
        experiment.hooks.after_update()
    assert group["lr"] == pytest.approx(0.15 * 0.2)


def test_samples_have_the_covariance() -> None:
    posterior = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1]), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    samples = torch.stack([posterior.sample_at(index) for index in range(4000)])
    expected = posterior.columns.T @ posterior.columns + posterior.std.square().diag()
    torch.testing.assert_close(samples.T.cov(), expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(samples.mean(0), posterior.mean, rtol=0, atol=0.15)
    assert torch.equal(samples[7], posterior.sample_at(7)) and not torch.equal(samples[7], posterior.sample_at(7, 1))


@pytest.mark.parametrize("name", [SWAG, pytest.param(IVON, marks=installed)])
def test_an_interrupted_run_has_the_same_posterior(name: str, digits: DataBundle, tmp_path: Path) -> None:
    settings = config(name, tmp_path / "whole", epochs=8)
    train_gaussian(settings, digits)
    parts = config(name, tmp_path / "parts", epochs=8, stop_after=7)  # within the quarter that SWAG collects
    train(parts, gaussian_experiment(parts, digits), progress=SilentProgress())
    train_gaussian(config(name, tmp_path / "parts", epochs=8), digits)
    one, other = (load_gaussian(load_run(tmp_path / part, data=digits)) for part in ("whole", "parts"))
    for mine, theirs in zip(vars(one).values(), vars(other).values(), strict=True):
        assert torch.equal(mine, theirs)
    assert str(RunConfig.load(settings.out).rule_name) == name and one.std.min() >= 0 < one.std.max()


def test_samples_predict_with_their_own_statistics(digits: DataBundle, tmp_path: Path) -> None:
    train_gaussian(config(SWAG, tmp_path), digits)
    run = load_run(tmp_path, data=digits)
    posterior = load_gaussian(run)
    x, _ = whole(digits.test)  # type: ignore[arg-type]
    three = gaussian_predictor(run, posterior, 3)(x).outputs
    assert torch.equal(three[:2], gaussian_predictor(run, posterior, 2)(x).outputs)
    model = run.experiment.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inputs = torch.cat([each for each, _ in batches(digits.train, 200)])
    mean = gaussian_predictor(run, posterior)(x).outputs[0]
    for vector, expected in ((posterior.sample_at(1), three[1]), (posterior.mean, mean)):
        torch.nn.utils.vector_to_parameters(vector, parameters)
        model.eval()
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)):
            norm.momentum, norm.training = None, True
            norm.reset_running_stats()
        with torch.no_grad():
            model(inputs)
            model.eval()
            torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)
    assert float((three[0] - three[1]).abs().max()) > 1e-3


@installed
def test_ivon_by_the_hooks_is_ivon_in_a_loop(digits: DataBundle, tmp_path: Path) -> None:
    """Its own context manager around every pass, with the noise of the same generator."""
    ivon = PACKAGE.module("ivon")
    settings = config(IVON, tmp_path, dropout=0.0, batch_size=100)
    assert settings.spec.lr == 0.1
    train_gaussian(settings, digits)
    found = load_gaussian(load_run(tmp_path, data=digits))
    plain = make_experiment(settings.changed(out=str(tmp_path / "plain")), digits)
    model, loss = plain.model, torch.nn.CrossEntropyLoss()
    optimizer: Any = ivon.IVON(model.parameters(), lr=0.1, ess=200, hess_init=0.1, beta2=0.999, weight_decay=1e-4)
    scheduler = settings.spec.schedule.build(optimizer, 3, 2)
    model.train()
    for epoch in (1, 2, 3):
        advance([scheduler])
        torch.manual_seed(stream_key(settings.seed, 11, epoch))
        for x, y in batches(digits.train, 100, seed=settings.seed, epoch=epoch, shuffle=True):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss(model(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(found.mean, torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    (group,) = optimizer.param_groups
    torch.testing.assert_close(found.std, 1 / (200 * (group["hess"] + 1e-4)).sqrt())


@installed
def test_ivon_refuses_to_clip(digits: DataBundle, tmp_path: Path) -> None:
    settings = config(IVON, tmp_path).changed(clip_gradient=0.5)
    with pytest.raises(ValueError, match=r"^IVON cannot clip gradients, got clip_gradient 0\.5; use None$"):
        gaussian_experiment(settings, digits)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = missing(IVON)
    assert line is not None and "ivon is not installed; run: pip install" in line and "\n" not in line
    assert missing(SWAG) is None
