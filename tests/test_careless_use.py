"""What a rule does with unusual but likely use: averages, refusals, equal names, unused layers, autocast, types."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import bitbayes as bb
from laws import RULES, data, every_rule, loss, make, network, pair, steps
from nested import equal


def followed(rule: str = "ste-adam") -> tuple[nn.Module, bb.BinaryOptimizer]:
    model, optimizer = pair(rule)
    bb.follow(model, optimizer)
    return model.train(), optimizer


# Copies. ------------------------------------------------------------------------------------------------------------


def test_an_average_of_a_followed_network_keeps_its_weights() -> None:
    model, optimizer = followed()
    average = AveragedModel(model)
    for _ in range(5):
        steps(model, optimizer, 1)
        average.update_parameters(model)
    before = copy.deepcopy(average.state_dict())
    average.eval()
    assert equal(average.state_dict(), before) and not average.module.training
    average.train()
    assert equal(average.state_dict(), before) and average.module.training
    model.eval()
    of_modes = AveragedModel(model)
    of_modes.update_parameters(model)
    before = copy.deepcopy(of_modes.state_dict())
    of_modes.train()
    assert equal(of_modes.state_dict(), before)
    assert (average.module[0].weight.abs() < 1).any(), "an average of binary weights shows the difference"


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_whose_weights_nobody_changes_follows_its_own_optimizer(how: Any) -> None:
    model, optimizer = followed("bayesbinn-straight-through")
    steps(model, optimizer, 2)
    clone = how(model).eval()
    assert optimizer.training
    assert equal(
        dict(optimizer.named_mode()), {name: dict(clone.named_parameters())[name] for name in names(optimizer)}
    )


def names(optimizer: bb.BinaryOptimizer) -> list[str]:
    return [name for name, _ in optimizer.named_binary()]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copied_pair_follows_also_after_weights_were_loaded(how: Any) -> None:
    model, optimizer = followed()
    steps(model, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    clone, other = how((model, optimizer))
    clone.load_state_dict(saved[0])
    clone.train()
    other.load_state_dict(saved[1])
    steps(clone, other, 1)
    clone.eval()
    assert not other.training and not held_wrongly(other)


def held_wrongly(optimizer: bb.BinaryOptimizer) -> list[str]:
    """Names of the parameters that hold anything but the draw or the mode of their state."""
    with torch.no_grad():
        return optimizer._written_again(optimizer._places())


def test_a_summary_leaves_the_marks_of_a_split() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Parameter(torch.randn(4, 8, 6))

    def refused(model: nn.Module, *, summarised: bool) -> str:
        binary, _ = bb.split_parameters(model, binary=["experts"])
        if summarised:
            with warnings.catch_warnings(action="ignore"):
                bb.summary(nn.Sequential(model, nn.Linear(2, 2)))
        with pytest.raises(ValueError, match="needs to know which dimension") as error:
            bb.STE(binary, scale="channel", seed=0)
        return str(error.value)

    assert refused(Experts(), summarised=True) == refused(Experts(), summarised=False)


# Construction. ------------------------------------------------------------------------------------------------------


def test_a_refused_construction_leaves_the_weights() -> None:
    first, second = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 4))
    before = [first.detach().clone(), second.detach().clone()]
    groups = [{"params": [("a", first)]}, {"params": [("b", second)], "ess": -1}]
    wrong = bb.BernoulliPosterior({"c": torch.zeros(3, 4)})
    for make_ in (
        lambda: bb.BayesBiNN(groups, ess=10, seed=0),
        lambda: bb.BayesBiNN([("a", first), ("b", second)], ess=10, prior=wrong, seed=0),
    ):
        with pytest.raises(ValueError, match=r"ess must be|name different tensors"):
            make_()
        assert torch.equal(first, before[0]) and torch.equal(second, before[1])


def test_equal_names_of_two_networks_are_refused() -> None:
    models = [nn.Sequential(nn.Linear(3, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match=r"2 parameters are called '0.weight'; give those of each network a prefix"):
        bb.STE([{"params": bb.split_parameters(model)[0]} for model in models], seed=0)
    binary = [bb.split_parameters(model)[0] for model in models]
    named = [{"params": [(f"{at}.{name}", p) for name, p in each]} for at, each in enumerate(binary)]
    assert names(bb.STE(named, seed=0)) == ["0.0.weight", "1.0.weight"]


def test_what_all_groups_share_and_what_has_no_order_is_refused() -> None:
    one, two = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2, 2))
    with pytest.raises(ValueError, match="samples must be the same in all parameter groups, got 5"):
        bb.BayesBiNN([{"params": [one]}, {"params": [two], "samples": 5}], ess=10, seed=0)
    with pytest.raises(TypeError, match="parameters must have an order, on which their noise depends, got a set"):
        bb.BayesBiNN([{"params": {one, two}}], ess=10, seed=0)


@pytest.mark.parametrize("compile", [False, "kernels", True])
def test_decay_rates_may_be_a_list(compile: Any) -> None:
    found = []
    for betas in ((0.8, 0.99), [0.8, 0.99]):
        model = network()
        steps(
            model, bb.STE(bb.split_parameters(model)[0], betas=betas, metaplasticity=1.35, compile=compile, seed=0), 3
        )
        found.append(model[0].weight.detach().clone())
    assert torch.equal(*found)


# States. ------------------------------------------------------------------------------------------------------------


def named(*order: str) -> tuple[dict[str, nn.Parameter], bb.BinaryOptimizer]:
    weights = {name: nn.Parameter(torch.randn(2, 3)) for name in order}
    return weights, bb.BayesBiNN(list(weights.items()), ess=10, seed=order.index("a"))


def test_a_state_in_another_order_is_refused() -> None:
    _, optimizer = named("a", "b")
    _, other = named("b", "a")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="another order: number 0 is 'a' there and 'b' here; construct the optimizer"):
        other.load_state_dict(optimizer.state_dict())
    assert equal(other.state_dict(), before)


def test_a_hook_that_orders_the_state_by_names_is_heard() -> None:
    weights, optimizer = named("a", "b")
    mine, other = named("b", "a")

    def by_name(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        group = state["param_groups"][0]
        order = [group["param_names"].index(name) for name in names(other)]
        ordered = group | {"params": [0, 1], "param_names": names(other)}
        return state | {"param_groups": [ordered], "state": {at: state["state"][old] for at, old in enumerate(order)}}

    other.register_load_state_dict_pre_hook(by_name)
    other.load_state_dict(optimizer.state_dict())
    for name, weight in weights.items():
        assert torch.equal(other.state[mine[name]]["belief"]["natural"], optimizer.state[weight]["belief"]["natural"])


# Steps. -------------------------------------------------------------------------------------------------------------


@every_rule
def test_a_layer_without_a_gradient_keeps_its_draw_over_several(rule: str) -> None:
    model = network()
    optimizer = make(rule, model, samples=3)
    x, y = data()
    for _ in range(2):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(model[:1], x, torch.zeros(len(y), dtype=torch.int64))  # the last layer has no part in it
            value.backward()
            return value

        before = model[2].weight.detach().clone()
        optimizer.step(closure)
        assert torch.equal(model[2].weight, before)
    assert not held_wrongly(optimizer)


def test_autocast_around_a_step_changes_no_draw() -> None:
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(300, 200))
        optimizer = RULES["vispa"]([("w", weight)], seed=0, compile=False)
        weight.grad = torch.randn(300, 200, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            optimizer.step()
            optimizer.eval().train()
        found.append(weight.detach().clone())
        assert not held_wrongly(optimizer)
    assert torch.equal(*found)


def test_second_order_bop_at_a_rate_of_zero_flips_nothing() -> None:
    for unbiased in (False, True):
        weight = nn.Parameter(torch.randn(100, 10))
        optimizer = bb.Bop2ndOrder([weight], lr=0.0, unbiased=unbiased, seed=0)
        before = weight.detach().clone()
        weight.grad = torch.randn(100, 10)
        optimizer.step()
        assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fan_in", [6, 11])
def test_half_precision_weights_with_a_scale_count_as_signs(dtype: torch.dtype, fan_in: int) -> None:
    """AdaSTE stops the gradient of saturated weights, which a rounded scale must not hide."""
    found = []
    for kind in (torch.float32, dtype):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(8, fan_in).to(kind))
        optimizer = bb.AdaSTE([weight], lr=0.1, ess=100.0, init_theta=3.0, scale="channel", scale_lr=0.0, seed=0)
        weight.grad = -torch.sign(weight.detach())
        optimizer.step()
        found.append(optimizer.state[weight]["belief"]["latent"].abs())
    torch.testing.assert_close(*found, rtol=0.01, atol=0.01)


def test_the_default_type_of_torch_changes_nothing() -> None:
    weights, found = [torch.randn(20, 10) for _ in range(2)], []
    for kind in (torch.float32, torch.float64):
        torch.set_default_dtype(kind)
        try:
            optimizer = bb.STE([nn.Parameter(weight.clone()) for weight in weights], scale="channel", seed=0)
            found.append(optimizer.state_dict()["state"])
        finally:
            torch.set_default_dtype(torch.float32)
    assert equal(*found)


def test_a_parameter_without_dimensions_has_a_posterior() -> None:
    optimizer = bb.BayesBiNN([("w", nn.Parameter(torch.tensor(0.3)))], ess=10, seed=0)
    assert optimizer.posterior().natural["w"].shape == ()


def test_a_misspelled_option_of_a_group_is_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="unknown option 'weigth_decay'; the nearest is 'weight_decay'"):
        bb.STE([{"params": [layer.weight], "weigth_decay": 0.1}], lr=0.1)
    with pytest.raises(ValueError, match="learning rules minimise, got maximize=True"):
        bb.STE([{"params": [layer.weight], "maximize": True}], lr=0.1)
    bb.STE([{"params": [layer.weight], "name": "first", "max_momentum": 0.9}], lr=0.1)  # what schedulers keep there


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda m: m, "expected parameters, got the module Linear. bitbayes.split_parameters"),
        (lambda m: bb.split_parameters(m), "must be a floating-point tensor, got list. bitbayes.split_parameters"),
        (lambda m: m.state_dict(), "must be a floating-point tensor, got str. bitbayes.split_parameters"),
    ],
)
def test_what_is_no_list_of_parameters_says_where_they_are(given: Any, expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        bb.STE(given(torch.nn.Linear(2, 2)), lr=0.1)


def test_a_scheduler_cannot_raise_the_rate_of_bayesbinn_beyond_one() -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = bb.BayesBiNN([("w", layer.weight)], ess=10, lr=0.5, seed=0)
    before = optimizer.posterior().natural["w"]
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5.0, total_steps=4, div_factor=2.0)
    layer.weight.grad = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"lr must be at most 1, because .* got 2\.5"):
        optimizer.step()
    assert torch.equal(optimizer.posterior().natural["w"], before)
    optimizer.eval()
    assert torch.equal(layer.weight, optimizer.posterior().mode()["w"])


def test_one_cycle_drives_both_parts_of_a_joint_optimizer() -> None:
    layer = torch.nn.Linear(2, 2)
    ste = bb.STE([("w", layer.weight)], lr=0.1, seed=0)
    joint = bb.JointOptimizer(ste, torch.optim.AdamW([layer.bias]))
    torch.optim.lr_scheduler.OneCycleLR(joint, max_lr=0.1, total_steps=4)
    assert {group["betas"][0] for group in joint.param_groups} == {0.95}
    joint.step()
