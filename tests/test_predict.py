"""Predictions, their uncertainties, BatchNorm statistics; and that the model is left as it was found."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import bitbayes as bb
from bitbayes import draws


def network() -> tuple[nn.Module, bb.BayesBiNN]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0, init_lambda=0.5)
    model(torch.randn(50, 5) * 3 + 1)
    return model, optimizer


def state(model: nn.Module) -> list:
    return [t.clone() for t in model.state_dict().values()], [m.training for m in model.modules()]


def same(a, b) -> bool:
    return all(map(torch.equal, a[0], b[0])) and a[1] == b[1]


def test_samples_are_the_posteriors_networks() -> None:
    model, optimizer = network()
    posterior, x = optimizer.posterior(), torch.randn(7, 5)
    prediction = bb.predict(model, x, posterior, samples=4, seed=3)
    drawn = posterior.sample(4, seed=3)
    model.eval()
    with torch.no_grad():
        for index in range(4):
            for name, parameter in optimizer.named_binary():
                parameter.copy_(drawn[name][index])
            torch.testing.assert_close(prediction.outputs[index], model(x))


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_do_not_change_the_numbers(chunk: int) -> None:
    model, optimizer = network()
    posterior, x = optimizer.posterior(), torch.randn(7, 5)
    whole = bb.predict(model, x, posterior, samples=3)
    torch.testing.assert_close(bb.predict(model, x, posterior, samples=3, chunk=chunk).outputs, whole.outputs)


@pytest.mark.parametrize("backend", ["reference", "native", "torch"])
@pytest.mark.parametrize("batches", [None, [torch.randn(20, 5) * 3 + 1 for _ in range(3)]], ids=["", "batches"])
def test_packed_networks_are_the_same(backend: str, batches: list | None) -> None:
    model, optimizer = network()
    x, before = torch.randn(7, 5), state(model)
    how = {"samples": 4, "seed": 3, "batches": batches}
    usual = bb.predict(model, x, optimizer.posterior(), **how).outputs
    packed = bb.predict(model, x, optimizer.posterior(), **how, chunk=3, backend=backend).outputs
    torch.testing.assert_close(packed, usual, rtol=1e-5, atol=1e-5)
    assert same(before, state(model))
    optimizer.eval()
    alone = bb.predict(model, x, backend=backend).outputs
    torch.testing.assert_close(alone, bb.predict(model, x).outputs, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_packed_is_named() -> None:
    model, x = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Softplus()), torch.randn(7, 5)
    bb.STE([model[0].weight], seed=0)
    with pytest.raises(ValueError, match=r"cannot pack layer '1 \(Softplus\)'"):
        bb.predict(model, x, backend="native")
    with pytest.raises(ValueError, match="backend must be one of"):
        bb.predict(model[0], x, backend="fast")


class Branching(nn.Module):
    """Looks at values, which a batched pass over networks cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y if y[0, 0] > 0 else -y


@pytest.mark.parametrize("model", [network()[0], Branching()], ids=["batched", "branching"])
def test_networks_together_are_the_networks_alone(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = bb.split_parameters(model)[0]
    posterior = bb.BayesBiNN(binary, ess=10, seed=0, init_lambda=0.1).posterior()
    passes, x = [], torch.randn(7, 5)
    forward = model.forward

    def counted(x: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return forward(x)

    monkeypatch.setattr(model, "forward", counted)
    together = bb.predict(model, x, posterior, samples=40).outputs
    assert len(passes) == (42 if isinstance(model, Branching) else 2)  # 32 and 8 networks, then one by one
    monkeypatch.setattr(draws, "_TOGETHER", 1)
    torch.testing.assert_close(together, bb.predict(model, x, posterior, samples=40).outputs)


def test_the_model_is_left_as_it_was() -> None:
    model, optimizer = network()
    bb.follow(model, optimizer)
    model[3].eval()  # a mixed mode is restored too
    before = state(model)
    batches = [torch.randn(20, 5) for _ in range(3)]
    bb.predict(model, torch.randn(4, 5), optimizer.posterior(), samples=2, batches=batches)
    assert same(before, state(model)) and optimizer.training
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        bb.predict(model, torch.randn(4, 6), optimizer.posterior(), samples=2, batches=batches)
    assert same(before, state(model))


def test_uncertainties_against_their_definitions() -> None:
    outputs = torch.randn(6, 5, 3)
    prediction = bb.Prediction(outputs)
    p = torch.softmax(outputs, -1)
    torch.testing.assert_close(prediction.probs, p.mean(0))
    total = -(p.mean(0) * p.mean(0).log()).sum(-1)
    torch.testing.assert_close(prediction.entropy, total)
    torch.testing.assert_close(prediction.mutual_information, total + (p * p.log()).sum(-1).mean(0))
    torch.testing.assert_close(prediction.std, outputs.std(0))
    torch.testing.assert_close(prediction.confidence, p.mean(0).max(1).values)
    torch.testing.assert_close(prediction.energy, -outputs.exp().sum(-1).log().mean(0))
    torch.testing.assert_close(2 * prediction.tempered(2).energy, -2 * (outputs / 2).exp().sum(-1).log().mean(0))
    single = bb.Prediction(outputs[..., :1])
    two = bb.Prediction(torch.cat([-outputs[..., :1], outputs[..., :1]], -1) / 2)
    for name in ("entropy", "confidence", "energy"):
        torch.testing.assert_close(getattr(single, name), getattr(two, name))
    binary = bb.Prediction(torch.zeros(2, 4, 1))
    torch.testing.assert_close(binary.entropy, torch.full((4,), 2.0).log())
    assert bb.Prediction(outputs[:1]).mutual_information.abs().max() < 1e-6
    assert bb.Prediction(outputs[:1]).std.abs().max() == 0


@pytest.mark.parametrize("shape", [(6, 5, 3), (1, 5, 3), (6, 5, 1)], ids=["classes", "one network", "one logit"])
def test_arrays_have_the_uncertainties_of_tensors(shape: tuple[int, ...]) -> None:
    outputs = 9 * torch.randn(shape, dtype=torch.float64)
    ours, arrays = bb.Prediction(outputs), bb.Prediction(outputs.numpy())
    names = ("sample_probs", "probs", "entropy", "mutual_information", "confidence", "energy", "probs_std", "mean")
    for name in (*names, "std"):
        found = getattr(arrays, name)
        assert isinstance(found, np.ndarray)
        torch.testing.assert_close(torch.from_numpy(found), getattr(ours, name), rtol=1e-12, atol=1e-12)
    assert np.array_equal(arrays.tempered(2.0).outputs, outputs.numpy() / 2)


@pytest.mark.parametrize("classes", [1, 3])
def test_energies_of_large_logits_are_finite(classes: int) -> None:
    outputs = torch.full((2, 4, classes), 3e4)
    for found in (bb.Prediction(outputs.half()), bb.Prediction(outputs), bb.Prediction(-outputs.numpy())):
        assert np.isfinite(np.asarray(found.energy)).all() and np.asarray(found.energy).dtype == np.float32


def test_arrays_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import numpy as np; from bitbayes.prediction import Prediction; "
    code += "print(Prediction(np.zeros((2, 1, 4))).probs.tolist())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "[[0.25, 0.25, 0.25, 0.25]]\n"


def test_refresh_is_the_average_over_batches() -> None:
    model, optimizer = network()
    optimizer.eval()
    batches = [torch.randn(20, 5) for _ in range(3)]
    momentum = model[1].momentum
    bb.refresh_batchnorm(model, iter([(x, None) for x in batches]))
    hidden = [model[0](x) for x in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert model[1].momentum == momentum and model.training and model[3].training


def test_refresh_by_keywords_is_refresh_by_position() -> None:
    found = []
    for batches in ([torch.arange(8.0).view(4, 2)], [{"input": torch.arange(8.0).view(4, 2)}]):
        norm = nn.BatchNorm1d(2)
        bb.refresh_batchnorm(norm, batches)
        found.append(norm.running_mean)
    assert torch.equal(*found) and torch.equal(found[0], torch.tensor([3.0, 4.0]))


def test_refresh_of_each_sample() -> None:
    model, optimizer = network()
    posterior, x, batches = optimizer.posterior(), torch.randn(7, 5), [torch.randn(40, 5) * 5]
    refreshed = bb.predict(model, x, posterior, samples=2, batches=batches)
    for index in range(2):
        weights = posterior.sample_at(index)
        hidden = batches[0] @ weights["0.weight"].T
        z = (x @ weights["0.weight"].T - hidden.mean(0)) / (hidden.var(0) + 1e-5).sqrt()
        expected = z.relu() @ weights["4.weight"].T + model[4].bias
        torch.testing.assert_close(refreshed.outputs[index], expected.detach(), rtol=1e-4, atol=1e-4)


def test_batches_also_without_a_posterior() -> None:
    model, _ = network()
    x, batches, before = torch.randn(7, 5), [torch.randn(40, 5) * 5], state(model)
    found = bb.predict(model, x, batches=batches).outputs[0]
    assert same(before, state(model)) and not torch.allclose(found, bb.predict(model, x).outputs[0])
    bb.refresh_batchnorm(model, batches)
    torch.testing.assert_close(found, bb.predict(model, x).outputs[0])


def test_a_failing_batch_leaves_the_statistics() -> None:
    model, _ = network()

    def stream():
        yield torch.randn(20, 5)
        raise OSError("the disk is gone")

    before = state(model)
    with pytest.raises(OSError, match="the disk is gone"):
        bb.refresh_batchnorm(model, stream())
    assert same(before, state(model)) and model[1].momentum == 0.1


class Counts(nn.Module):
    """Puts another tensor in the place of its buffers at every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("seen", None)

    def forward(self, x):
        self.count, self.seen = self.count + 1, x
        return self.linear(x)


def test_buffers_that_the_network_replaces_are_restored() -> None:
    model = Counts()
    count = model.count
    bb.predict(model, torch.ones(4, 3), chunk=2)
    assert model.count is count and count == 0 and model.seen is None


def test_wrapped_networks() -> None:
    model, optimizer = network()
    posterior, x = optimizer.posterior(), torch.randn(7, 5)
    expected = bb.predict(model, x, posterior, samples=3).outputs
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(bb.predict(compiled, x, posterior, samples=3).outputs, expected)
    # A posterior with the names of the wrapped network is good as well.
    named = bb.BernoulliPosterior({f"_orig_mod.{n}": v for n, v in posterior.natural.items()})
    assert bb.predict(compiled, x, named, samples=3).outputs.shape == expected.shape
    with pytest.raises(ValueError, match="name different tensors"):
        bb.predict(compiled, x, bb.BernoulliPosterior({"x": torch.zeros(2)}), samples=2)


def test_double_precision_stays() -> None:
    model = nn.Linear(3, 2).double()
    found = bb.predict(model, torch.ones(4, 3).double())
    assert found.outputs.dtype == found.probs.dtype == torch.float64
    assert bb.predict(model.bfloat16(), torch.ones(4, 3).bfloat16()).outputs.dtype == torch.float32


class Noting(nn.Linear):
    """Notes the type of the weights that it computes with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.weight.dtype
        return super().forward(x)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("width", [6, 600])  # as many weights as a kernel draws, too
def test_autocast_computes_with_draws_in_its_own_type(width: int, scale: float) -> None:
    torch.manual_seed(0)
    layers = [Noting(5, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), Noting(width, width, bias=False)]
    model = nn.Sequential(*layers).eval()
    shapes = {f"{index}.weight": layers[index].weight.shape for index in (0, 3)}
    scales = {name: torch.tensor(scale) for name in shapes}
    posterior = bb.BernoulliPosterior({name: torch.randn(shape) for name, shape in shapes.items()}, scales)
    x = torch.randn(7, 5)
    seen = torch.bfloat16 if scale == 1 else torch.float32  # bfloat16 does not hold 0.3
    rooms = []
    sample_at = posterior.sample_at
    posterior.sample_at = lambda *where, out=None, **how: (rooms.append(out), sample_at(*where, out=out, **how))[1]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = bb.predict(model, x, posterior, samples=3)
        memory = {tensor.data_ptr() for room in rooms for tensor in room.values()}
        assert len(memory) == 2  # draws are written where the last was, and not converted
        assert {tensor.dtype for room in rooms for tensor in room.values()} == {seen}
        wanted = [torch.func.functional_call(model, posterior.sample_at(c), (x,)).float() for c in range(3)]
        bb.predict(model, x, posterior, samples=1)
    assert torch.equal(found.outputs, torch.stack(wanted))
    assert model[0].seen == model[3].seen == seen
    bb.predict(model, x, posterior, samples=1)
    assert model[0].seen == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_draws_have_the_type_of_the_parameters(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Noting(5, 4, bias=False).to(dtype)
    posterior = bb.BernoulliPosterior({"weight": torch.randn(4, 5)}, {"weight": torch.tensor(0.3)})
    x = torch.ones(2, 5, dtype=dtype)
    found = bb.predict(model, x, posterior, samples=3)
    wanted = [nn.functional.linear(x, posterior.sample_at(c)["weight"].to(dtype)) for c in range(3)]
    assert model.seen == dtype
    with torch.autocast("cpu", torch.bfloat16):
        bb.predict(model, x, bb.BernoulliPosterior({"weight": torch.randn(4, 5)}), samples=1)
    assert model.seen == dtype
    torch.testing.assert_close(found.outputs, torch.stack(wanted).to(found.outputs.dtype))


def test_bad_input() -> None:
    model, optimizer = network()
    with pytest.raises(ValueError, match="at least one batch"):
        bb.refresh_batchnorm(model, [])
    bb.refresh_batchnorm(nn.Linear(2, 2), [])  # nothing to estimate
    with pytest.raises(ValueError, match="samples must be at least 1"):
        bb.predict(model, torch.randn(2, 5), optimizer.posterior(), samples=0)
    with pytest.raises(ValueError, match="name different tensors"):
        bb.predict(model, torch.randn(2, 5), bb.BernoulliPosterior({"x": torch.zeros(2)}), samples=2)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        bb.predict(model, torch.randn(2, 5), chunk=0)


def test_spread_of_probabilities() -> None:
    outputs = torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]], [[3.0, 0.0]]])
    torch.testing.assert_close(bb.Prediction(outputs).probs_std, outputs.softmax(-1).std(0))
    assert torch.equal(bb.Prediction(outputs[:1]).probs_std, torch.zeros(1, 2))


@pytest.mark.parametrize(("batches", "words"), [(torch.zeros(4, 3), "use \\[x\\]"), ([1], "got int")])
def test_what_is_no_batches(batches: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        bb.refresh_batchnorm(nn.BatchNorm1d(3), batches)


def test_packed_networks_share_tied_weights() -> None:
    """A weight with two names is drawn once, and put in both places."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    posterior = bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0).posterior()
    x = torch.randn(5, 8)
    plain, packed = (bb.predict(model, x, posterior, samples=3, backend=name).outputs for name in (None, "reference"))
    torch.testing.assert_close(packed, plain)


def test_a_single_input_is_no_batch() -> None:
    model = nn.Sequential(nn.Linear(8, 3))
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0)
    for posterior in (None, optimizer.posterior()):
        with pytest.raises(ValueError, match=r"x of shape \(8,\) has outputs of shape \(3,\), .*; give x\[None\]$"):
            bb.predict(model, torch.randn(8), posterior, samples=2)
    ids = nn.Embedding(5, 3)  # inputs of shape (N,), which are a batch
    assert bb.predict(ids, torch.tensor([1, 4])).outputs.shape == (1, 2, 3)


def test_a_batch_of_one_example_is_refused_in_words() -> None:
    model = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match="BatchNorm needs at least two examples in a batch, got one; leave that batch out"
    ):
        bb.refresh_batchnorm(model, torch.randn(9, 8).split(4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_arguments_of_another_kind_are_refused_in_words() -> None:
    model, x = nn.Linear(3, 2), torch.ones(5, 3)
    posterior = bb.BernoulliPosterior({"weight": torch.zeros(2, 3)})
    optimizer = bb.STE([model.weight], seed=0)
    for wrong, name in ((optimizer, "STE"), (model.state_dict(), "OrderedDict")):
        for function in (lambda p: bb.predict(model, x, p), lambda p: bb.Ensemble(model, p)):
            with pytest.raises(TypeError, match=rf"must be a Posterior, such as optimizer.posterior\(\), got {name}"):
                function(wrong)
    with pytest.raises(TypeError, match="got NoneType"):
        bb.Ensemble(model, None)  # type: ignore[arg-type]
    for samples in (8.0, [x]):
        with pytest.raises(TypeError, match=f"samples must be a whole number, got {type(samples).__name__}"):
            bb.predict(model, x, posterior, samples)  # type: ignore[arg-type]
    for batches, name in ((x, "one tensor"), (TensorDataset(x), "a TensorDataset")):
        with pytest.raises(TypeError, match=f"batches must be an iterable of batches, got {name}"):
            bb.predict(model, x, posterior, batches=batches)
