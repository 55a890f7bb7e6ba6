"""Closures with several draws per step: what they do with the gradients that they find must not matter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes.rules import places
from laws import ESS, RULES, data, every_rule, loss, network, pair, same, snapshot
from nested import equal
from test_joint import everything
from test_joint import pair as joint_pair

SAMPLES = 3


def clears(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()


def clears_in_place(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=False)


def keeps(optimizer: torch.optim.Optimizer) -> None:
    """Clear nothing."""


def once(first: Callable[[Any], None]) -> Callable[[Any], None]:
    """Clear the gradients at the first call only."""
    calls: list[int] = []

    def clear(optimizer: torch.optim.Optimizer) -> None:
        calls.append(1)
        if len(calls) == 1:
            first(optimizer)

    return clear


Adds = Callable[[nn.Module, Tensor, Tensor], Tensor]


def adds(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value = loss(model, x, y)
    value.backward()
    return value


def adds_twice(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Two micro-batches: the second gradient finds the first one, and not the earlier one."""
    return sum(adds(model, *part) for part in zip(x.chunk(2), y.chunk(2), strict=True))  # type: ignore[return-value]


def replaces(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """With `create_graph`, backward adds out of place and makes a new tensor of the gradient."""
    value = loss(model, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about memory that such gradients hold
        value.backward(create_graph=True)
    return value


def assigns(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value, parameters = loss(model, x, y), list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return value


def assigns_unseen(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradients are those of other tensors, so no hook of a parameter sees them."""
    copies = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    value = nn.functional.cross_entropy(torch.func.functional_call(model, copies, (x,)), y)
    for parameter, gradient in zip(model.parameters(), torch.autograd.grad(value, list(copies.values())), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return value


every_way_to_add = pytest.mark.parametrize("add", [adds, replaces, assigns, assigns_unseen])


def closure_of(
    model: nn.Module, optimizer: Any, first: Callable[[Any], None], add: Adds = adds, calls: list[int] | None = None
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        if calls is not None:
            calls.append(1)
        first(optimizer)
        return add(model, *data())

    return closure


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_rule
def test_every_closure_steps_alike(rule: str) -> None:
    """Clearing before the step is enough, and so is clearing in the closure, in place or not."""
    found = []
    for before, first in ((keeps, clears), (keeps, clears_in_place), (clears, keeps), (clears_in_place, keeps)):
        model, optimizer = pair(rule, samples=SAMPLES)
        closure = closure_of(model, optimizer, first)
        for _ in range(3):
            before(optimizer)
            optimizer.step(closure)
        found.append(snapshot(model, optimizer))
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.parametrize("scale", ["one", "channel"])
def test_the_joint_optimizer_steps_alike_with_every_closure(scale: str) -> None:
    found = []
    for before, first in ((keeps, clears), (keeps, clears_in_place), (clears, keeps), (clears_in_place, keeps)):
        model, optimizer = joint_pair(samples=SAMPLES, scale=scale)
        for _ in range(3):
            before(optimizer)
            optimizer.step(closure_of(model, optimizer, first))
        found.append(everything(model, optimizer))
    assert all(equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(
    ("add", "first", "share"),
    [
        *((add, keeps, 1.0) for add in (adds, replaces, assigns, assigns_unseen)),
        (adds, clears, 0.0),
        (adds, once(clears), 2 / SAMPLES),
        (replaces, once(clears_in_place), 2 / SAMPLES),
    ],
)
def test_gradients_of_micro_batches_before_the_step_count_once(
    add: Adds, first: Callable[[Any], None], share: float
) -> None:
    """The last of three micro-batches has three draws; the others have the first draw, and all have weight one.

    The mean is over what the closure leaves at each draw, so clearing at one of three draws takes away a third.
    """
    model, optimizer = joint_pair(samples=SAMPLES)
    parameters, x = dict(model.named_parameters()), data(24)[0].chunk(3)
    y = data(24)[1].chunk(3)
    for part in (0, 1):
        (loss(model, x[part], y[part]) / 3).backward()
    earlier = {name: p.grad.clone() for name, p in parameters.items()}
    before, draws, seen = optimizer.binary.posterior().natural, [], []

    def closure() -> Tensor:
        first(optimizer)
        draws.append(torch.autograd.grad(loss(model, x[2], y[2]), list(parameters.values())))
        seen.append(model[0].weight.detach().clone())
        return add(model, x[2], y[2])

    optimizer.step(closure)
    assert len({tuple(each.flatten().tolist()) for each in seen}) == SAMPLES
    means = dict(zip(parameters, [torch.stack(each).mean(0) for each in zip(*draws, strict=True)], strict=True))
    for name, after in optimizer.binary.posterior().natural.items():
        expected = before[name] - 0.1 * (ESS * (share * earlier[name] + means[name]) + before[name])
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    for name in ("0.bias", "2.bias"):
        torch.testing.assert_close(parameters[name].grad, share * earlier[name] + means[name])
        assert not parameters[name].grad.requires_grad


BOUND = {
    "concrete": ("bayesbinn-concrete", {}),
    "released": ("bayesbinn-released", {}),
    "vispa": ("vispa", {}),
    "learned scale": ("bayesbinn-straight-through", {"scale": "channel"}),
}


@pytest.mark.parametrize("case", BOUND)
def test_estimates_that_need_their_own_draw_refuse_gradients_of_another(case: str) -> None:
    rule, options = BOUND[case]
    model, optimizer = pair(rule, samples=SAMPLES, **options)
    before = snapshot(model, optimizer)
    loss(model, *data()).backward()
    earlier = gradients(model)
    for add in (adds, adds_twice, replaces, assigns, assigns_unseen):
        calls: list[int] = []
        with pytest.raises(RuntimeError, match=r"samples=3 found a gradient of '0.weight' .* or take samples=1$"):
            optimizer.step(closure_of(model, optimizer, keeps, add, calls))
        assert len(calls) == 1
        assert same(before, snapshot(model, optimizer))
        found = gradients(model)
        assert all(equal(earlier[name], found[name]) for name in ("0.weight", "2.weight")), add
    for first in (clears, clears_in_place):
        optimizer.step(closure_of(model, optimizer, first))
    assert not same(before, snapshot(model, optimizer))
    assert not any(parameter._backward_hooks for parameter in model.parameters())


@pytest.mark.parametrize("case", BOUND)
@pytest.mark.parametrize("first", [clears, clears_in_place])
def test_a_closure_that_clears_at_the_first_draw_only_is_refused_at_the_second(
    case: str, first: Callable[[Any], None]
) -> None:
    rule, options = BOUND[case]
    model, optimizer = pair(rule, samples=SAMPLES, **options)
    loss(model, *data()).backward()
    earlier, before, calls = gradients(model), snapshot(model, optimizer), []
    with pytest.raises(RuntimeError, match=r"found a gradient of '0.weight'"):
        optimizer.step(closure_of(model, optimizer, once(first), calls=calls))
    assert len(calls) == 2
    assert same(before, snapshot(model, optimizer))
    assert all(equal(earlier[name], gradients(model)[name]) for name in ("0.weight", "2.weight"))


@pytest.mark.parametrize("case", BOUND)
@pytest.mark.parametrize("first", [keeps, clears, clears_in_place])
def test_a_weight_whose_first_gradient_comes_at_a_later_draw_is_refused_too(
    case: str, first: Callable[[Any], None]
) -> None:
    """An earlier gradient that the closure leaves alone is refused at once, and a cleared one when it comes back."""
    rule, options = BOUND[case]
    model, optimizer = pair(rule, samples=SAMPLES, **options)
    calls: list[int] = []
    model[0].weight.grad, model[2].weight.grad = torch.ones(8, 6), None
    clear = once(first)

    def closure() -> Tensor:
        calls.append(1)
        clear(optimizer)
        h = model[0](data()[0])
        h = h.detach() if len(calls) == 1 else h
        value = model[2](torch.tanh(h)).square().mean()
        value.backward()
        return value

    with pytest.raises(RuntimeError, match=r"found a gradient of '0.weight'"):
        optimizer.step(closure)
    assert len(calls) == (1 if first is keeps else 2)


@every_way_to_add
def test_a_refusal_of_the_joint_optimizer_puts_all_gradients_back(add: Adds) -> None:
    """The second attempt is the step of an optimizer that has not been refused."""
    model, optimizer = joint_pair(samples=SAMPLES, scale="channel")
    loss(model, *data()).backward()
    earlier, before = gradients(model), everything(model, optimizer)
    with pytest.raises(RuntimeError, match=r"found a gradient of '0.weight'"):
        optimizer.step(closure_of(model, optimizer, keeps, add))
    assert equal(before, everything(model, optimizer))
    assert equal(earlier, gradients(model))
    twin, other = joint_pair(samples=SAMPLES, scale="channel")
    for each, part in ((model, optimizer), (twin, other)):
        part.step(closure_of(each, part, clears))
    assert equal(everything(model, optimizer), everything(twin, other))


def test_a_closure_that_raises_at_a_later_draw_leaves_the_gradients_as_they_were() -> None:
    model, optimizer = joint_pair(samples=SAMPLES)
    loss(model, *data()).backward()
    earlier, before, calls = gradients(model), everything(model, optimizer), []

    def closure() -> Tensor:
        calls.append(1)
        value = adds(model, *data())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert equal(before, everything(model, optimizer))
    assert equal(earlier, gradients(model))


def test_capturable_steps_read_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph cannot read whether earlier gradients are zero, so they count as others; clearing them is enough."""
    model, optimizer = pair("bayesbinn-concrete", samples=SAMPLES, capturable=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def read(tensor: Tensor) -> None:
        raise AssertionError(f"a value of a tensor of shape {tuple(tensor.shape)} was read")

    for name in ("__bool__", "tolist", "item"):
        monkeypatch.setattr(Tensor, name, read)
    with pytest.raises(RuntimeError, match=r"found a gradient of '0.weight'"):
        optimizer.step(closure_of(model, optimizer, keeps))
    for first in (clears_in_place, clears):
        optimizer.step(closure_of(model, optimizer, first))


def test_zeros_are_found_by_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    for weight, value in zip(weights, (0.0, 1.0, 0.0), strict=True):
        weight.grad = torch.full((2,), value)
    earlier, reads, read = places.EarlierGradients(weights), [], Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: reads.append(1) or read(tensor))
    monkeypatch.setattr(Tensor, "__bool__", lambda tensor: pytest.fail("a single value was read"))
    for _ in range(2):
        earlier.put_back()
        with earlier.watched(weights):
            torch.stack([*weights]).sum().backward()
        assert [earlier.added_to(weight) for weight in weights] == [False, True, False]
    assert len(reads) == 1


def test_gradients_that_are_written_past_their_version_are_put_back() -> None:
    """As captured graphs and the buckets of distributed training write them."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    earlier = places.EarlierGradients([weight])
    weight.grad.data.add_(1)
    earlier.put_back()
    assert weight.grad.tolist() == [1, 1]


def test_a_subclass_with_another_estimate_does_not_inherit_what_its_base_says_of_draws() -> None:
    class Weighed(bb.BayesBiNN):
        @staticmethod
        def estimate(belief: Any, gradient: Tensor, draw: Tensor, noise: Any, o: Any) -> Tensor:
            return gradient * draw

    class Alike(Weighed):
        @staticmethod
        def ignores_draw(group: dict[str, Any]) -> bool:
            return True

    class Both(bb.BayesBiNN):
        estimate, ignores_draw = Weighed.estimate, Alike.ignores_draw

    for kind, needs in ((bb.BayesBiNN, False), (Weighed, True), (Alike, False), (Both, False), (bb.STE, False)):
        model = network()
        optimizer = kind(
            bb.split_parameters(model)[0], lr=0.1, samples=SAMPLES, **({} if kind is bb.STE else {"ess": ESS})
        )
        loss(model, *data()).backward()
        closure = closure_of(model, optimizer, keeps)
        with pytest.raises(RuntimeError, match="together with its own draw") if needs else nullcontext():
            optimizer.step(closure)


def test_estimates_without_their_own_draw_are_known() -> None:
    """The estimates of one gradient at two draws are compared bit for bit."""
    for rule in RULES:
        _, optimizer = pair(rule)
        place = next(iter(optimizer._places()))
        belief, gradient = optimizer._state(place.parameter)["belief"], torch.ones(place.parameter.numel())
        o, found = optimizer._options(place, 1), []
        for sample in (0, 1):
            noises = optimizer._noises(sample)
            optimizer._show(place, noises[place.parameter])
            weights = place.parameter.detach().reshape(-1)
            found.append(optimizer.estimate(belief, gradient, weights, noises[place.parameter], o).clone())
        assert torch.equal(*found) is not optimizer._weighs_draws(place.group), rule


def test_a_closure_of_a_compiled_network_steps_alike() -> None:
    """The hooks on earlier gradients, which the second step has, also see the gradients of a compiled network."""
    found = []
    for before, first in ((keeps, clears_in_place), (clears, keeps)):
        model, optimizer = joint_pair(samples=SAMPLES, scale="channel")
        compiled = torch.compile(model, backend="aot_eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                before(optimizer)
                optimizer.step(closure_of(compiled, optimizer, first))
            found.append(everything(model, optimizer))
            with pytest.raises(RuntimeError, match=r"found a gradient of '0.weight'"):
                optimizer.step(closure_of(compiled, optimizer, keeps))
    assert equal(*found)


def test_one_draw_copies_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are set aside only for several draws."""
    made: list[int] = []
    init = places.EarlierGradients.__init__

    def counted(self: Any, parameters: Any, **options: Any) -> None:
        listed = list(parameters)
        made.append(len(listed))
        init(self, listed, **options)

    monkeypatch.setattr("bitbayes.rules.places.EarlierGradients.__init__", counted)
    for samples in (1, SAMPLES):
        model, optimizer = joint_pair(samples=samples)
        optimizer.step(closure_of(model, optimizer, keeps))
        assert made == ([0] if samples == 1 else [0, 2, 2]), "the real parameters, then the binary ones"
