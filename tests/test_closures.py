"""Closures with several draws per step: what they do with the gradients that they find must not matter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitbayes.rules import places
from laws import ESS, RULES, data, every_rule, loss, pair, same, snapshot
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


def closure_of(model: nn.Module, optimizer: Any, first: Callable[[Any], None]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        first(optimizer)
        value = loss(model, *data())
        value.backward()
        return value

    return closure


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


def test_gradients_of_micro_batches_before_the_step_count_once() -> None:
    """The last of three micro-batches has three draws; the others have the first draw, and all have weight one."""
    model, optimizer = joint_pair(samples=SAMPLES)
    parameters, x = dict(model.named_parameters()), data(24)[0].chunk(3)
    y = data(24)[1].chunk(3)
    for part in (0, 1):
        (loss(model, x[part], y[part]) / 3).backward()
    earlier = {name: p.grad.clone() for name, p in parameters.items()}
    before, draws, seen = optimizer.binary.posterior().natural, [], []

    def closure() -> Tensor:
        value = loss(model, x[2], y[2]) / 3
        draws.append(torch.autograd.grad(value, list(parameters.values()), retain_graph=True))
        value.backward()
        seen.append(model[0].weight.detach().clone())
        return value

    optimizer.step(closure)
    assert len({tuple(each.flatten().tolist()) for each in seen}) == SAMPLES
    means = dict(zip(parameters, [torch.stack(each).mean(0) for each in zip(*draws, strict=True)], strict=True))
    for name, after in optimizer.binary.posterior().natural.items():
        expected = before[name] - 0.1 * (ESS * (earlier[name] + means[name]) + before[name])
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    for name in ("0.bias", "2.bias"):
        torch.testing.assert_close(parameters[name].grad, earlier[name] + means[name])


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
    with pytest.raises(RuntimeError, match=r"samples=3 found a gradient of '0.weight' .* or take samples=1$"):
        optimizer.step(closure_of(model, optimizer, keeps))
    assert same(before, snapshot(model, optimizer))
    for first in (clears, clears_in_place):
        optimizer.step(closure_of(model, optimizer, first))
    assert not same(before, snapshot(model, optimizer))
    assert not any(parameter._backward_hooks for parameter in model.parameters())


@pytest.mark.parametrize("case", BOUND)
def test_a_weight_whose_first_gradient_comes_at_a_later_draw_is_refused_too(case: str) -> None:
    rule, options = BOUND[case]
    model, optimizer = pair(rule, samples=SAMPLES, **options)
    calls: list[int] = []
    model[0].weight.grad, model[2].weight.grad = torch.ones(8, 6), None

    def closure() -> Tensor:
        calls.append(1)
        h = model[0](data()[0])
        h = h.detach() if len(calls) == 1 else h
        value = model[2](torch.tanh(h)).square().mean()
        value.backward()
        return value

    with pytest.raises(RuntimeError, match=r"found a gradient of '0.weight'"):
        optimizer.step(closure)


def test_estimates_without_their_own_draw_are_known() -> None:
    """The estimates of one gradient at two draws are compared bit for bit."""
    for rule in RULES:
        _, optimizer = pair(rule)
        place = next(iter(optimizer._places()))
        belief, gradient = optimizer._belief(place.parameter), torch.ones(place.parameter.numel())
        o, found = optimizer._options(place, 1), []
        for sample in (0, 1):
            optimizer._show(place, sample)
            weights = place.parameter.detach().reshape(-1)
            found.append(optimizer.estimate(belief, gradient, weights, optimizer._noise(place, sample), o).clone())
        assert torch.equal(*found) is not optimizer._weighs_draws(place.group), rule


def test_a_closure_of_a_compiled_network_steps_alike() -> None:
    found = []
    for before, first in ((keeps, clears), (clears, keeps)):
        model, optimizer = joint_pair(samples=SAMPLES)
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(2):
            before(optimizer)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step(closure_of(compiled, optimizer, first))
        found.append(everything(model, optimizer))
    assert equal(*found)


def test_one_draw_copies_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are set aside only for several draws."""
    made: list[int] = []
    init = places.EarlierGradients.__init__

    def counted(self: Any, parameters: Any) -> None:
        listed = list(parameters)
        made.append(len(listed))
        init(self, listed)

    monkeypatch.setattr("bitbayes.rules.places.EarlierGradients.__init__", counted)
    for samples in (1, SAMPLES):
        model, optimizer = joint_pair(samples=samples)
        optimizer.step(closure_of(model, optimizer, keeps))
        assert made == ([0] if samples == 1 else [0, 2, 2]), "the real parameters, then the binary ones"
