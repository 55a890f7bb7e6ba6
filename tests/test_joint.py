"""A rule and the optimizer of the real parameters as one optimizer, beside the loop that steps both."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
import needs
from laws import RULES, data, every_rule, loss, network, steps
from nested import equal


def parts(rule: str, **options: Any) -> tuple[nn.Sequential, bb.BinaryOptimizer, torch.optim.Optimizer]:
    """Return a network and its two optimizers."""
    model = network()
    binary, real = bb.split_parameters(model)
    return model, RULES[rule](binary, **{"seed": 3} | options), torch.optim.AdamW([p for _, p in real], lr=0.03)


def pair(rule: str = "bayesbinn-straight-through", **options: Any) -> tuple[nn.Sequential, bb.JointOptimizer]:
    """Return a network and its joint optimizer."""
    model, *both = parts(rule, **options)
    return model, bb.JointOptimizer(*both)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


@every_rule
def test_one_optimizer_is_the_loop_with_two(rule: str) -> None:
    """Also under a schedule, which scales each group from its own learning rate."""
    model, *both = parts(rule)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, 6) for each in both]
    x, y = data()
    for _ in range(4):
        loss(model, x, y).backward()
        for each, schedule in zip(both, schedules, strict=True):
            each.step()
            each.zero_grad()
            schedule.step()
    twin, joint = pair(rule)
    before = everything(twin, joint)
    steps(twin, joint, 4, torch.optim.lr_scheduler.CosineAnnealingLR(joint, 6))
    assert equal(dict(model.state_dict()), dict(twin.state_dict()))
    for each, other in zip(both, (joint.binary, joint.real), strict=True):
        assert equal(each.state_dict()["state"], other.state_dict()["state"])
        assert each.param_groups[0]["lr"] == other.param_groups[0]["lr"]
    assert not equal(before["model"], dict(twin.state_dict()))


@every_rule
@pytest.mark.parametrize("samples", [1, 3])
def test_a_closure_steps_as_the_mean_over_the_draws(rule: str, samples: int) -> None:
    """The real parameters get the mean gradient over the draws, computed here by averaging by hand."""
    model, binary, real = parts(rule, samples=samples)
    twin, joint = pair(rule, samples=samples)
    (x, y), kept = data(), []

    def closure(model: nn.Module, optimizers: list[Any], keep: bool) -> Tensor:
        for each in optimizers:
            each.zero_grad()
        value = loss(model, x, y)
        value.backward()
        if keep:
            kept.append([p.grad.clone() for p in real.param_groups[0]["params"]])
        return value

    for _ in range(3):
        kept.clear()
        mean = binary.step(lambda: closure(model, [binary, real], True))
        assert len(kept) == samples
        for parameter, gradients in zip(real.param_groups[0]["params"], zip(*kept, strict=True), strict=True):
            parameter.grad = sum(gradients) / samples
        real.step()
        assert torch.equal(joint.step(lambda: closure(twin, [joint], False)), mean)
    assert equal(dict(model.state_dict()), dict(twin.state_dict()))


def test_a_closure_that_computes_nothing_keeps_the_gradients() -> None:
    """As trainers pass where users call backward themselves."""
    model, joint = pair(samples=3)
    twin, other = pair(samples=3)
    for each, optimizer, closure in ((model, joint, None), (twin, other, lambda: None)):
        loss(each, *data()).backward()
        optimizer.step(closure)
    assert equal(everything(model, joint), everything(twin, other))


def test_a_gradient_that_only_some_draws_have_counts_as_zero_in_the_others() -> None:
    _, joint = pair(samples=2)
    parameter, calls = joint.real.param_groups[0]["params"][0], []

    def closure() -> None:
        joint.zero_grad()
        for _, weights in joint.binary.named_binary():
            weights.grad = torch.ones_like(weights)
        if not calls:
            parameter.grad = torch.full_like(parameter, 4.0)
        calls.append(1)

    joint.step(closure)
    assert len(calls) == 2 and torch.equal(parameter.grad, torch.full_like(parameter, 2.0))


@every_rule
def test_a_state_resumes_bit_for_bit(rule: str) -> None:
    model, joint = pair(rule)
    steps(model, joint, 3)
    saved = pickle.loads(pickle.dumps(everything(model, joint)))
    steps(model, joint, 3)
    twin, other = pair(rule, seed=9)
    twin.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    steps(twin, other, 3)
    assert equal(everything(model, joint), everything(twin, other))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_train_alike_and_apart(how: Any) -> None:
    model, joint = pair()
    steps(model, joint, 2, torch.optim.lr_scheduler.StepLR(joint, 1))
    twin, other = how((model, joint))
    assert equal(everything(model, joint), everything(twin, other))
    before = everything(model, joint)
    steps(twin, other, 2)
    assert equal(before, everything(model, joint)) and not equal(before, everything(twin, other))
    steps(model, joint, 2)
    assert equal(everything(model, joint), everything(twin, other))
    other.register_step_pre_hook(lambda *_: None)  # what torch sets up exists in copies too


def test_groups_and_states_are_those_of_the_parts() -> None:
    model, joint = pair()
    steps(model, joint, 1)
    assert [id(group) for group in joint.param_groups] == [
        id(group) for part in (joint.binary, joint.real) for group in part.param_groups
    ]
    assert all(joint.state[p] is joint.real.state[p] for p in joint.real.param_groups[0]["params"])
    assert set(joint.state) == set(model.parameters())
    joint.real.load_state_dict(joint.real.state_dict())  # replaces the groups of the part
    joint.param_groups[1]["lr"] = 7.0
    assert joint.real.param_groups[0]["lr"] == 7.0
    with pytest.raises(TypeError):  # it would be lost
        joint.state[next(model.parameters())] = {}
    joint.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_state_that_one_part_refuses_changes_neither() -> None:
    model, joint = pair()
    steps(model, joint, 2)
    before, saved = everything(model, joint), copy.deepcopy(joint.state_dict())
    steps(model, joint, 1)
    now = everything(model, joint)
    broken = copy.deepcopy(saved)
    broken["state"][0]["belief"]["natural"][0] = float("nan")
    alone = {"state": {}, "param_groups": saved["param_groups"][:1]}
    short = copy.deepcopy(saved)
    short["param_groups"][1]["params"].pop()
    swapped = saved | {"param_groups": saved["param_groups"][::-1]}
    for state, message in (
        (broken, "holds NaN or infinity"),
        (alone, "the saved state has 1 parameter groups, but this JointOptimizer has 1 binary and 1 real ones"),
        ({}, "the saved state has 0 parameter groups"),
        (short, "doesn't match the size"),
        (swapped, "has no belief and step"),
    ):
        with pytest.raises(ValueError, match=message):
            joint.load_state_dict(state)
        assert equal(now, everything(model, joint))
    model.load_state_dict(before["model"])
    joint.load_state_dict(saved)
    assert equal(before, everything(model, joint))


def test_a_refused_step_changes_no_real_parameter() -> None:
    model, joint = pair()
    steps(model, joint, 1)
    before = everything(model, joint)
    x, y = data()
    loss(model, x * float("nan"), y).backward()
    with pytest.raises(RuntimeError, match="the step was refused"):
        joint.step()
    assert equal(before, everything(model, joint))
    joint.zero_grad()
    joint.eval()
    loss(model, x, y).backward()
    before = everything(model, joint)
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) first"):
        joint.step()
    assert equal(before, everything(model, joint))


def test_the_network_switches_both_parts() -> None:
    class Averaged(torch.optim.SGD):
        """As the optimizers of schedulefree, which also evaluate at other weights."""

        mode = "train"

        def train(self) -> None:
            self.mode = "train"

        def eval(self) -> None:
            self.mode = "eval"

    model = network()
    binary, real = bb.split_parameters(model)
    averaged = Averaged([p for _, p in real], lr=0.1)
    joint = bb.JointOptimizer(bb.STE(binary, seed=0), averaged)
    bb.follow(model, joint)
    model.eval()
    assert not joint.training and averaged.mode == "eval"
    assert all(torch.equal(p, mode) for (_, p), (_, mode) in zip(binary, joint.binary.named_mode(), strict=True))
    model.train()
    assert joint.training and averaged.mode == "train"


def test_hooks_of_the_whole_and_of_the_parts_run_once() -> None:
    model, joint = pair()
    calls: list[str] = []
    for name, each in {"joint": joint, "binary": joint.binary, "real": joint.real}.items():
        each.register_step_post_hook(lambda *_, name=name: calls.append(name))
    steps(model, joint, 1)
    assert calls == ["binary", "real", "joint"]


def test_hooks_of_states_run_as_those_of_torch() -> None:
    """They see the joint state, may replace it, and run in the same order as those of any optimizer."""
    found = []
    for model, optimizer in (pair(), (lambda m: (m, torch.optim.SGD(m.parameters(), lr=0.1)))(network())):
        steps(model, optimizer, 1)
        calls: list[str] = []

        def add(where: str, changed: Any = None, optimizer: Any = optimizer, calls: list[str] = calls) -> Any:
            def hook(seen: Any, *given: Any) -> Any:
                assert seen is optimizer and (not given or "param_groups" in given[0])
                calls.append(where)
                return changed(*given) if changed else None

            return hook

        optimizer.register_state_dict_pre_hook(add("before saving"))
        optimizer.register_state_dict_post_hook(add("after saving", lambda state: state | {"note": 1}))
        optimizer.register_state_dict_post_hook(add("last", lambda state: state.update(seen=state["note"])))
        optimizer.register_load_state_dict_pre_hook(add("before loading", lambda state: state.pop("note") and None))
        optimizer.register_load_state_dict_pre_hook(add("replacing", lambda state: state["other"]))
        optimizer.register_load_state_dict_post_hook(add("after loading"))
        state = optimizer.state_dict()
        assert state["note"] == state["seen"] == 1
        other = copy.deepcopy(state)
        other["param_groups"][-1]["lr"] = 7.0
        state["other"] = other
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[-1]["lr"] == 7.0
        assert "note" in state  # a hook changes a copy
        found.append(calls)
    assert found[0] == found[1] and len(found[0]) == 6


def test_the_hook_after_loading_does_not_run_after_a_refusal() -> None:
    _, joint = pair()
    joint.register_load_state_dict_post_hook(lambda _: pytest.fail("it has not loaded"))
    with pytest.raises(ValueError, match="has no belief and step"):
        joint.load_state_dict(joint.state_dict() | {"state": {}})


def test_a_gradient_scaler_skips_steps_that_overflow() -> None:
    """And unscales the gradients of both parts: with a power of two, bit for bit."""
    model, joint = pair()
    twin, other = pair()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    x, y = data()
    for _ in range(2):
        scaler.scale(loss(model, x, y)).backward()
        scaler.unscale_(joint)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(joint)
        scaler.update()
        joint.zero_grad()
        loss(twin, x, y).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        other.step()
        other.zero_grad()
    assert equal(everything(model, joint), everything(twin, other))
    scaler.scale(loss(model, x, y)).backward()
    model[0].bias.grad[0] = float("inf")  # of a real parameter
    scaler.step(joint)
    scaler.update()
    assert equal(everything(model, joint), everything(twin, other)) and scaler.get_scale() == 2.0**9


def test_accelerate_prepares_and_steps_it() -> None:
    accelerate = needs.TRANSFORMERS.module("accelerate")
    model, joint = pair()
    twin, other = pair()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    schedule = torch.optim.lr_scheduler.StepLR(joint, 1)
    wrapped, optimizer, schedule = accelerator.prepare(model, joint, schedule)
    plain = torch.optim.lr_scheduler.StepLR(other, 1)
    x, y = data()
    for _ in range(2):
        for part in (slice(0, 8), slice(8, 16)):
            with accelerator.accumulate(wrapped):
                accelerator.backward(loss(wrapped, x[part], y[part]))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        for part in (slice(0, 8), slice(8, 16)):
            (loss(twin, x[part], y[part]) / 2).backward()
        other.step()
        plain.step()
        other.zero_grad()
    assert equal(everything(model, joint), everything(twin, other))
    optimizer.eval()
    assert not joint.training
    optimizer.train()
    assert joint.training


def test_what_cannot_be_joined_is_refused() -> None:
    model, binary, real = parts("ste-adam")
    parameters = [p for _, p in bb.split_parameters(model)[1]]
    for wrong, message in (
        (
            lambda: bb.JointOptimizer(real, binary),
            "binary must be a learning rule such as bitbayes.BayesBiNN, got AdamW",
        ),
        (
            lambda: bb.JointOptimizer(binary, parameters),
            "real must be an optimizer such as torch.optim.AdamW, got list",
        ),
        (
            lambda: bb.JointOptimizer(binary, bb.STE([nn.Parameter(torch.ones(2, 2))], seed=0)),
            "real must not be a learning rule, got STE; put all binary parameters into groups of one rule",
        ),
        (
            lambda: bb.JointOptimizer(binary, pair()[1]),
            "real must not be a learning rule, got JointOptimizer; put",
        ),
        (lambda: bb.JointOptimizer(binary, torch.optim.LBFGS(parameters)), "choose an optimizer whose step"),
    ):
        with pytest.raises(TypeError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"parameter '0.weight' belongs to both optimizers"):
        bb.JointOptimizer(binary, torch.optim.SGD(model.parameters(), lr=0.1))
    joint = bb.JointOptimizer(binary, real)
    with pytest.raises(RuntimeError, match=r"call optimizer.binary.add_param_group"):
        joint.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    joint.real.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.5})
    assert [group["lr"] for group in joint.param_groups] == [0.05, 0.03, 0.5]


def test_a_network_that_follows_a_joint_optimizer_is_packed_and_counted() -> None:
    """A copy of the network loses the marks of its parameters, and asks the optimizer that it follows."""
    model, binary, real = parts("ste-adam")
    joint = bb.JointOptimizer(binary, real)
    bb.follow(model, joint)
    model.train()
    x = torch.zeros(2, *model[0].weight.shape[1:])
    for drawn in (model, copy.deepcopy(model)):
        with pytest.raises(RuntimeError, match="holds weights that a training step of STE drew"):
            bb.pack(drawn, x)
    model.eval()
    bb.pack(model, x)
    assert bb.summary(model, joint) == bb.summary(model, binary)
