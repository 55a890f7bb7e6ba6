"""Ensembles whose networks are drawn once: the outputs of `predict` bit for bit, also after later training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes import draws, ensemble


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)]
    model = nn.Sequential(*layers)
    model(torch.randn(50, 5) * 3 + 1)
    return model.to(dtype)


def bernoulli(seed: int = 0, scaled: bool = False) -> bb.BernoulliPosterior:
    generator = torch.Generator().manual_seed(seed)
    natural = {"0.weight": torch.randn(6, 5, generator=generator), "4.weight": torch.randn(3, 6, generator=generator)}
    return bb.BernoulliPosterior(natural, {"0.weight": torch.linspace(0.1, 0.6, 6)[:, None]} if scaled else None)


def low_rank() -> bb.LowRankGaussianPosterior:
    center = bernoulli(3).natural
    return bb.LowRankGaussianPosterior(center, {name: torch.randn(2, *t.shape) for name, t in center.items()})


POSTERIORS = {
    "bernoulli": bernoulli,
    "scaled": lambda: bernoulli(scaled=True),
    "low rank": low_rank,
    "samples": lambda: bb.SamplePosterior.of_samples(bernoulli(), 7),
    "weighted samples": lambda: bb.SamplePosterior(bernoulli().sample(4), weights=[1, 2, 3, 4]),
    "mixture": lambda: bb.Mixture([bernoulli(1), low_rank(), bb.SamplePosterior.of_samples(bernoulli(2), 3)]),
}
every_posterior = pytest.mark.parametrize("kind", POSTERIORS)
BATCHES = [torch.randn(20, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 1 for seed in range(3)]


def same(model: nn.Module, posterior: bb.Posterior, x: Tensor, samples: int = 5, *, chunk: int | None = None, **how):
    """Predict three times with one ensemble, and compare every bit with `predict`."""
    kept = bb.Ensemble(model, posterior, samples, **how)
    wanted = bb.predict(model, x, posterior, samples, chunk=chunk, **how).outputs
    for _ in range(3):
        found = kept.predict(x, chunk=chunk).outputs
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
    assert len(kept) == len(wanted) == samples
    return kept


@every_posterior
@pytest.mark.parametrize("backend", [None, "native", "reference", "torch"])
def test_outputs_are_those_of_predict(kind: str, backend: str | None) -> None:
    x = torch.randn(7, 5)
    for batches in (None, BATCHES):
        same(network(), POSTERIORS[kind](), x, seed=3, batches=batches, backend=backend)


@pytest.mark.parametrize("samples", [1, 2, 32, 33, 40])
@pytest.mark.parametrize("limit", [{}, {"_SMALL": 0}, {"_KEPT": 0}], ids=["kept", "one by one", "unpacked"])
def test_however_the_networks_are_computed(samples: int, limit: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(ensemble if name == "_KEPT" else draws, name, value)
    kept = same(network(), bernoulli(scaled=True), torch.randn(7, 5), samples, chunk=3, batches=BATCHES)
    assert sum(count for count, _ in kept._kept) == (0 if limit else samples)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types(dtype: torch.dtype) -> None:
    same(network(dtype), bernoulli(scaled=True), torch.randn(7, 5).to(dtype))


@pytest.mark.parametrize("scaled", [False, True])
def test_autocast(scaled: bool) -> None:
    model, x, posterior = network(), torch.randn(7, 5), bernoulli(scaled=scaled)
    kept = bb.Ensemble(model, posterior, 5)
    plain = kept.predict(x).outputs
    with torch.autocast("cpu", torch.bfloat16):
        same(model, posterior, x, batches=BATCHES)
        narrow = kept.predict(x).outputs
        assert torch.equal(narrow, bb.predict(model, x, posterior, 5).outputs) and not torch.equal(narrow, plain)
    assert torch.equal(kept.predict(x).outputs, plain)


class Branching(nn.Module):
    """Looks at values, which a batched pass over networks cannot, and returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3, bias=False)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.passes = self.passes + 1
        y = self.layer(x) + self.passes
        return x, y if y[0, 0] > 0 else -y


def test_networks_that_cannot_be_batched_and_replace_their_buffers() -> None:
    same(Branching(), bb.BernoulliPosterior({"layer.weight": torch.randn(3, 5)}), torch.randn(7, 5), output=1)


def test_tied_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    posterior = bb.BernoulliPosterior({"0.weight": torch.randn(8, 8)})
    for backend in (None, "native"):
        same(model, posterior, torch.randn(7, 8), backend=backend)


def test_wrapped_networks() -> None:
    compiled = torch.compile(network(), backend="eager")
    kept = same(compiled, bernoulli(), torch.randn(7, 5))
    assert repr(kept) == f"Ensemble(Sequential, 5 networks, {5 * (4 + 3)} bytes of bits)"


@pytest.mark.parametrize("backend", [None, "native"])
def test_later_training_does_not_change_it(backend: str | None) -> None:
    model, x = network(), torch.randn(7, 5)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0)
    bb.follow(model, optimizer)
    kept = bb.Ensemble(model, optimizer.posterior(), 5, backend=backend)
    before, modes = kept.predict(x).outputs, [module.training for module in model.modules()]
    assert all(modes) and optimizer.training
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.ones_like(tensor))
    assert torch.equal(kept.predict(x).outputs, before)
    assert not torch.equal(bb.predict(model, x, optimizer.posterior(), 5, backend=backend).outputs, before)
    copied = copy.deepcopy(kept)
    assert torch.equal(copied.predict(x).outputs, before)


def test_the_optimizer_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0)
    bb.follow(model, optimizer)
    monkeypatch.setattr(type(optimizer), "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    kept = bb.Ensemble(model, optimizer.posterior(), 3)
    assert kept.model.eval().training is False and optimizer.training and model.training


def test_a_packed_ensemble_takes_inputs_of_several_shapes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    posterior = bb.BernoulliPosterior({"0.weight": torch.randn(3, 2, 3, 3)})
    kept = bb.Ensemble(model, posterior, 4, backend="native")
    for size in (5, 8, 5):
        x = torch.randn(3, 2, size, size)
        assert torch.equal(kept.predict(x).outputs, bb.predict(model, x, posterior, 4, backend="native").outputs)


def test_its_posterior_is_the_bag_of_its_networks() -> None:
    """The members come in the order in which they were drawn; samples come in the order of their seed, without end."""
    kept, posterior, x = bb.Ensemble(network(), bernoulli(), 6, seed=2), bernoulli(), torch.randn(4, 5)
    assert type(kept.posterior) is bb.SamplePosterior
    for index in range(6):
        for name, weights in posterior.sample_at(index, seed=2).items():
            assert torch.equal(kept.posterior.member(index)[name], weights)
    again = bb.predict(network(), x, kept.posterior, 12, seed=5).outputs
    assert torch.equal(again[:6].sort(0).values, kept.predict(x).outputs.sort(0).values)
    assert torch.equal(again[6:].sort(0).values, again[:6].sort(0).values)
    both = bb.Mixture([kept.posterior, kept.posterior]).sample(32)
    assert {len(weights) for weights in both.values()} == {32}


def test_a_saved_ensemble_has_the_same_networks(tmp_path) -> None:
    kept, x = bb.Ensemble(network(), bernoulli(), 6, seed=2), torch.randn(4, 5)
    kept.posterior.save(tmp_path / "q")
    loaded = bb.load_posterior(tmp_path / "q")
    assert type(loaded) is bb.SamplePosterior
    again = bb.Ensemble(network(), loaded, 6, seed=1).predict(x).outputs
    assert sorted(again.flatten(1).tolist()) == sorted(kept.predict(x).outputs.flatten(1).tolist())
    assert not torch.equal(again, kept.predict(x).outputs)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        bb.Ensemble(network(), bernoulli(), 0)
    for backend in (None, "native"):
        with pytest.raises(ValueError, match="name different tensors"):
            bb.Ensemble(network(), bb.BernoulliPosterior({"x": torch.zeros(2)}), backend=backend)
    with pytest.raises(ValueError, match="output='logits' has no effect"):
        bb.Ensemble(network(), bernoulli(), backend="native", output="logits")
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        bb.Ensemble(network(), bernoulli()).predict(torch.ones(2, 5), chunk=0)
    with pytest.raises(ValueError, match="backend must be one of"):
        bb.Ensemble(network(), bernoulli(), backend="fast").predict(torch.ones(2, 5))
    with pytest.raises(ValueError, match="expected an entry 'logits'"):
        bb.Ensemble(Branching(), bb.BernoulliPosterior({"layer.weight": torch.ones(3, 5)}), output="logits").predict(
            torch.ones(2, 5)
        )


class Twice(nn.Module):
    """A network that uses one BatchNorm in two places, and so under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6)
        self.first, self.norm, self.second, self.again = nn.Linear(5, 6), norm, nn.Linear(6, 6), norm
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.last(self.again(self.second(x)).relu())


def test_statistics_of_a_batchnorm_with_two_names_are_packed_in_both_places() -> None:
    generator = torch.Generator().manual_seed(1)
    model, batches = Twice(), [4 * torch.randn(64, 5, generator=generator) + 2]
    posterior = bb.BernoulliPosterior({"second.weight": torch.randn(6, 6, generator=generator)})
    x = torch.randn(7, 5, generator=generator)
    packed = bb.Ensemble(model, posterior, 5, batches=batches, backend="reference").predict(x).outputs
    expected = bb.Ensemble(model, posterior, 5, batches=batches).predict(x).outputs
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)


def test_an_ensemble_made_in_inference_mode_predicts_outside_of_it() -> None:
    model, x, batches = network(), torch.randn(3, 5), [torch.randn(64, 5)]
    with torch.inference_mode():
        inside = bb.Ensemble(model, bernoulli(), 4, batches=batches)
    expected = bb.Ensemble(model, bernoulli(), 4, batches=batches)
    assert torch.equal(inside.predict(x).outputs, expected.predict(x).outputs)
