"""Predictions of other people's networks: recurrent layers, and outputs that are not one tensor."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes.draws import group_size


class Reader(nn.Module):
    """A sequence to a class, by a recurrent layer of either layout."""

    def __init__(self, kind: type[nn.RNNBase], *, batch_first: bool = True, whole: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = kind(4, 6, num_layers=2, batch_first=batch_first)
        self.head = nn.Linear(6, 3)
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.recurrent(x)[0]
        last = hidden[:, -1] if self.recurrent.batch_first else hidden[-1]
        return self.head(hidden if self.whole else last)


def posterior_of(model: nn.Module) -> bb.BernoulliPosterior:
    return bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0, init_lambda=0.1).posterior()


def one_by_one(model: nn.Module, x: Tensor, posterior: bb.Posterior, samples: int) -> Tensor:
    """Outputs of plain forwards, with the weights written into the parameters."""
    found, named = [], dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    with torch.no_grad():
        for index in range(samples):
            for name, weight in posterior.sample_at(index).items():
                named[name].copy_(weight)
            found.append(model(x))
        for name, weight in before.items():
            named[name].copy_(weight)
    return torch.stack(found)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("whole", [False, True])
def test_recurrent_networks(kind: type[nn.RNNBase], batch_first: bool, whole: bool) -> None:
    model = Reader(kind, batch_first=batch_first, whole=whole)
    posterior, x = posterior_of(model), torch.randn(7, 5, 4)
    wanted = one_by_one(model, x, posterior, 3)
    # Not bit for bit: on some processors the products of an RNN depend on where its weights lie in memory.
    torch.testing.assert_close(bb.predict(model, x, posterior, samples=3).outputs, wanted)
    assert not torch.allclose(wanted[0], wanted[1])
    if batch_first:
        torch.testing.assert_close(bb.predict(model, x, posterior, samples=3, chunk=2).outputs, wanted)


def test_chunks_of_time_are_refused() -> None:
    model = Reader(nn.GRU, batch_first=False)
    with pytest.raises(ValueError, match="2 inputs of a chunk have 5 outputs, so dimension 0 of x is not the batch"):
        bb.predict(model, torch.randn(7, 5, 4), posterior_of(model), samples=2, chunk=2)


class Attention(nn.Module):
    """Has an operation that torch can batch only one by one, of which it warns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.layer(x)[:, None].chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(query, key, value)[:, 0].mean(1))


def test_attention_is_computed_without_a_warning() -> None:
    model = Attention()
    posterior, x = posterior_of(model), torch.randn(7, 5, 4)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = bb.predict(model, x, posterior, samples=3).outputs
    assert not heard
    torch.testing.assert_close(found, one_by_one(model, x, posterior, 3))


class Talkative(nn.Linear):
    """Warns at every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("mind the scale", stacklevel=1)
        return super().forward(x)


def test_warnings_of_the_network_are_heard() -> None:
    model = Talkative(4, 3)
    with pytest.warns(UserWarning, match="mind the scale"):
        bb.predict(model, torch.randn(7, 4), posterior_of(model), samples=3)


@dataclasses.dataclass
class Scores:
    """Outputs as a dataclass."""

    logits: Tensor
    loss: Tensor | None = None


class Pair(NamedTuple):
    """Outputs as a named tuple."""

    hidden: Tensor
    logits: Tensor


@dataclasses.dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As in Hugging Face Transformers: a dataclass and a dictionary, without the entries that are None."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                super().__setitem__(field.name, getattr(self, field.name))

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]


class Attributes:
    """Outputs as a plain object."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Wrapped(nn.Module):
    """A network whose outputs are packed into something else."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.layer(x))


FORMS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "dict": (lambda y: {"loss": None, "logits": y}, None),
    "dataclass": (Scores, None),
    "named tuple": (lambda y: Pair(y.exp(), y), None),
    "model output": (lambda y: ModelOutput(logits=y, hidden_states=(y,)), None),
    "attributes": (Attributes, None),
    "named key": (lambda y: {"scores": y, "loss": y.sum()}, "scores"),
    "key of a model output": (lambda y: ModelOutput(logits=-y, loss=y), "loss"),
    "attribute": (lambda y: Pair(y, -y), "hidden"),
    "place in a tuple": (lambda y: (y.exp(), y), 1),
    "function": (lambda y: {"parts": [y, y]}, lambda outputs: outputs["parts"][0]),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found(form: str) -> None:
    plain = Wrapped(lambda y: y)
    make, output = FORMS[form]
    posterior, x = posterior_of(plain), torch.randn(7, 4)
    for how in ({"posterior": posterior, "samples": 3}, {"posterior": posterior, "samples": 3, "chunk": 2}, {}):
        wanted = bb.predict(plain, x, **how).outputs
        other = Wrapped(make)
        other.load_state_dict(plain.state_dict())
        assert torch.equal(bb.predict(other, x, **how, output=output).outputs, wanted)


@pytest.mark.parametrize(
    ("make", "output", "message"),
    [
        (lambda y: (y, y), None, r"a tuple with the entries 0, 1, expected a tensor or an entry called 'logits'; pass"),
        (lambda y: {"scores": y}, None, "a dict with the entries 'scores', expected a tensor or an entry"),
        (lambda y: {"scores": y}, "score", "a dict with the entries 'scores', expected an entry 'score'"),
        (lambda y: y, "logits", "returned a Tensor, expected an entry 'logits'"),
        (lambda y: "text", None, "returned a str, expected a tensor or an entry called 'logits'"),
        (lambda y: y.sum(), None, r"the output is a tensor without dimensions, expected a tensor of logits, shape"),
        (lambda y: ModelOutput(loss=y), "logits", "a ModelOutput with the entries 'loss', expected an entry 'logits'"),
        (lambda y: {"logits": None}, None, "the output 'logits' is a NoneType, expected a tensor of logits"),
        (lambda y: y, lambda y: (y, y), r"what output\(\) returned is a tuple, expected a tensor of logits"),
    ],
)
def test_outputs_without_logits_are_refused(make: Callable[[Tensor], Any], output: Any, message: str) -> None:
    model = Wrapped(make)
    for posterior in (None, posterior_of(model)):
        with pytest.raises(ValueError, match=message) as caught:
            bb.predict(model, torch.randn(7, 4), posterior, samples=3, output=output)
        assert "\n" not in str(caught.value)


def test_a_packed_network_has_one_output() -> None:
    model = Wrapped(lambda y: {"logits": y})
    with pytest.raises(ValueError, match="a packed network has a single output, so output='logits' has no effect"):
        bb.predict(model, torch.randn(7, 4), posterior_of(model), output="logits", backend="reference")


class Failing(nn.Module):
    """Fails for reasons of its own, in words that a batched pass might use too."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.layer, self.error = nn.Linear(4, 3), error

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no vmap here"), ValueError("no"), KeyError("logits")])
def test_errors_of_the_network_are_its_own(error: Exception) -> None:
    model = Failing(error)
    with pytest.raises(type(error)) as caught:
        bb.predict(model, torch.randn(7, 4), posterior_of(model), samples=3)
    assert caught.value is error and caught.value.__context__ is None


class Keeping(nn.Module):
    """Network that stores features, counts its calls and appends to a list, as many do for their losses or plots."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.seen = nn.Linear(4, 3), 0, []
        self.features, self.last, self.named = torch.zeros(0), [torch.zeros(0)], {"x": torch.zeros(0)}

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.layer(x)
        self.calls += 1
        self.seen.append(self.features)
        self.last[0] = self.named["x"] = self.features
        return self.features


def test_a_network_that_stores_its_features_stays_usable() -> None:
    model = Keeping().eval()
    posterior = bb.BayesBiNN([("layer.weight", model.layer.weight)], ess=10, seed=0).posterior()
    x = torch.randn(5, 4)
    outputs = bb.predict(model, x, posterior, samples=4).outputs
    assert model.calls == 4 and len(model.seen) == 4
    assert model.last[0] is model.named["x"] is model.features
    assert torch.equal(model.features, outputs[-1]) and torch.equal(torch.stack(model.seen), outputs)
    copy.deepcopy(model)


def test_hooks_are_called_for_every_network() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    posterior = bb.BayesBiNN([("0.weight", model[0].weight)], ess=10, seed=0).posterior()
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, given, output: seen.append(output))
    x = torch.randn(5, 4)
    outputs = bb.predict(model, x, posterior, samples=3).outputs
    assert torch.equal(torch.stack(seen), outputs)


def test_networks_of_large_inputs_are_computed_one_by_one() -> None:
    """A convolution with few weights has large outputs, of which a group would hold 32."""
    posterior = bb.BernoulliPosterior({"w": torch.zeros(16, 3, 3, 3)})
    assert group_size(posterior, torch.zeros(1, 3, 224, 224).expand(4, -1, -1, -1), None) == 1
    assert group_size(posterior, torch.zeros(1, 3, 224, 224).expand(4, -1, -1, -1), 1) == 32
    assert group_size(posterior, torch.zeros(4, 3, 32, 32), None) == 32
