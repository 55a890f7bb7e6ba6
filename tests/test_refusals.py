"""Bad input to the rules: what came, what was expected, what to call instead; and nothing is lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import bitbayes as bb
from laws import RULES, data, every_rule, loss, network, pair, same, snapshot


def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ess": 0}, "ess must be a positive number"),
        ({"ess": float("nan")}, "ess must be a positive number"),
        ({"tau": 0.0}, "tau must be a positive temperature, got 0.0"),
        ({"tau": -1.0}, "tau must be a positive temperature"),
        ({"lr": -0.1}, "lr must be a finite number of at least 0, got -0.1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"estimator": "straight"}, "estimator must be one of straight-through, concrete, released, got 'straight'"),
        ({"samples": 0}, "samples must be a whole number of at least 1"),
        ({"scale": "layer"}, 'scale must be one of "one", "fan_in", "channel", "normal", "weight"'),
        ({"scale": "group:0"}, "scale must be one of"),
        ({"scale": "group:-4"}, "scale must be one of"),
        ({"scale": "group:"}, "scale must be one of"),
        ({"scale": "group:99999999999999999999"}, "scale must be one of"),
        (
            {"scale": "group:5"},
            r'scale="group:5" needs a number of weights per output that is a multiple of 5, .* of shape \(3, 4\) has 4',
        ),
        ({"init": "ones"}, 'init must be "random", "weights", or None'),
        ({"init_lambda": -1.0}, "init_lambda must be at least 0"),
    ],
)
def test_options_of_bayesbinn(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bb.BayesBiNN([weight()], **{"ess": 10.0} | options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: bb.STE(p, inner="adamw"), 'inner must be "adam" or "sgd"'),
        (lambda p: bb.STE(p, clip=0.0), "clip must be positive, or None"),
        (lambda p: bb.STE(p, betas=(0.9, 1.0)), r"betas must be in \[0, 1\), got 1.0"),
        (lambda p: bb.Bop(p, threshold=-1.0), "threshold must be at least 0"),
        (lambda p: bb.Bop2ndOrder(p, sigma=0.0), r"sigma must be in \(0, 1\]"),
        (lambda p: bb.PMF(p, growth=0.9), "growth must be at least 1"),
        (lambda p: bb.PMF(p, jacobian="full"), 'jacobian must be "released" or "exact"'),
        (lambda p: bb.MirrorDescent(p, interval=0), "interval must be a number of steps of at least 1"),
        (lambda p: bb.ProxQuant(p, harden_after=0), "harden_after must be a step of at least 1, or None"),
        (lambda p: bb.AdaSTE(p, ess=1.0, a=0.0), "a must be positive"),
    ],
)
def test_options_of_the_others(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build([weight()])


@every_rule
def test_no_parameters(rule: str) -> None:
    from laws import RULES

    with pytest.raises(ValueError, match=r"no binary parameters: got an empty list. bitbayes.split_parameters"):
        RULES[rule]([])
    with pytest.raises(ValueError, match="a group is empty"):
        RULES[rule]([{"params": []}])
    with pytest.raises(ValueError, match="got one tensor; pass a list"):
        RULES[rule](weight())


def test_a_tensor_twice() -> None:
    p = weight()
    with pytest.raises(ValueError, match="'1' was given twice"):
        bb.STE([p, p])
    with pytest.raises(ValueError, match="'0' was given twice; each tensor belongs to one group"):
        bb.STE([{"params": [p]}, {"params": [p]}])
    optimizer = bb.STE([p], seed=0)
    with pytest.raises(ValueError, match="given twice"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


@every_rule
def test_all_parameters_of_a_model_are_refused(rule: str) -> None:
    """Biases, normalisation and log_scale would silently become binary."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), bb.nn.LogitScale())
    before = copy.deepcopy(model.state_dict())
    message = r"parameter 1 has shape \(3,\), as a bias.*pass bitbayes.split_parameters\(model\)\[0\] instead"
    with pytest.raises(ValueError, match=message):
        RULES[rule](model.parameters())
    with pytest.raises(ValueError, match=message):
        RULES[rule]([{"params": list(model.parameters())}])
    optimizer = RULES[rule]([model[0].weight], seed=0)
    with pytest.raises(ValueError, match="parameter 1 has shape"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]})
    assert len(optimizer.param_groups) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items() if name != "0.weight")


def test_biases_are_binary_where_somebody_has_said_so() -> None:
    """By their names, in a group of their own, or alone."""
    for how in (
        lambda m: bb.split_parameters(m, binary=["bias"])[0],
        lambda m: [{"params": [m.weight]}, {"params": [m.bias]}],
        lambda m: [m.bias],
    ):
        model = nn.Linear(4, 3)
        bb.STE(how(model), seed=0)
        assert torch.equal(model.bias.detach().abs(), torch.ones(3))


def test_integer_tensors() -> None:
    with pytest.raises(ValueError, match=r"'w' must be a floating-point tensor, got torch.int64"):
        bb.STE([("w", torch.ones(3, dtype=torch.int64))])


def test_groups_are_checked_too() -> None:
    optimizer = bb.BayesBiNN([weight()], ess=10.0)
    with pytest.raises(ValueError, match="tau must be a positive"):
        optimizer.add_param_group({"params": [weight()], "tau": 0.0})
    with pytest.raises(ValueError, match='init_lambda must be at least 0, or "auto"'):
        optimizer.add_param_group({"params": [weight()], "init_lambda": np.array([1.0, 2.0])})
    assert len(optimizer.param_groups) == 1


def test_a_group_is_refused_whole_if_its_rule_cannot_choose() -> None:
    class Unsure(bb.STE):
        @staticmethod
        def chosen(group: dict, transformer: bool) -> dict:
            assert not isinstance(group["lr"], np.generic), "numbers of NumPy are converted before"
            if group["lr"] == 2.0:
                raise ValueError("no choice")
            return {}

    optimizer = Unsure([weight()], lr=0.1, seed=0)
    with pytest.raises(ValueError, match="no choice"):
        optimizer.add_param_group({"params": [weight()], "lr": np.float32(2.0)})
    assert len(optimizer.param_groups) == 1


def test_a_prior_of_another_network() -> None:
    q = bb.BernoulliPosterior({"w": torch.zeros(3, 4)})
    bb.BayesBiNN([("w", weight())], ess=1.0, prior=q)
    with pytest.raises(ValueError, match=r"only the posterior has \['w'\], only the optimizer has \['v'\]"):
        bb.BayesBiNN([("v", weight())], ess=1.0, prior=q)
    with pytest.raises(ValueError, match=r"'w' has shape \(3, 4\) in the posterior and \(2, 2\) in the optimizer"):
        bb.BayesBiNN([("w", nn.Parameter(torch.zeros(2, 2)))], ess=1.0, prior=q)


def test_the_prior_pulls_and_is_saved() -> None:
    p = weight()
    prior = bb.BernoulliPosterior({"w": torch.full((3, 4), 0.7)})
    optimizer = bb.BayesBiNN([("w", p)], lr=0.2, ess=1.0, prior=prior, seed=0)
    for _ in range(60):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(optimizer.posterior().natural["w"], prior.natural["w"], atol=1e-4, rtol=0)
    other = bb.BayesBiNN([("w", weight())], lr=0.2, ess=1.0)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state_dict()["state"][0]["belief"]["prior"], torch.full((12,), 0.7))


def test_weights_that_are_all_zero_cannot_start_a_belief() -> None:
    with pytest.raises(ValueError, match='init="weights" needs finite weights that are not all zero'):
        bb.STE([nn.Parameter(torch.zeros(3))], init="weights")


def test_a_state_of_another_rule_or_shape() -> None:
    model, optimizer = pair("ste-adam")
    before = snapshot(model, optimizer)
    _, bop = pair("bop")
    with pytest.raises(ValueError, match="is of the rule Bop, but this optimizer is STE"):
        optimizer.load_state_dict(bop.state_dict())
    other = bb.STE([nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(3, 1))])
    with pytest.raises(ValueError, match=r"has shape \(4,\), expected \(48,\)"):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="the saved state has 1 binary tensors, but this optimizer has 2"):
        optimizer.load_state_dict(bb.STE([weight()]).state_dict())
    adam = torch.optim.Adam(network().parameters())
    state = copy.deepcopy(optimizer.state_dict())
    state["state"] = adam.state_dict()["state"]
    with pytest.raises(ValueError, match="load a state that a bitbayes rule has saved"):
        optimizer.load_state_dict(state)
    assert same(before, snapshot(model, optimizer))


def test_a_point_posterior_warns_once() -> None:
    optimizer = bb.BayesBiNN([weight()], ess=10.0, estimator="released", seed=0)
    with pytest.warns(UserWarning, match="leaves a point, not a posterior"):
        optimizer.posterior()
    optimizer.posterior()  # no second warning: warnings are errors here


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"scale": "chanel"}, "scale must be one of"),
        ({"init": "weight"}, 'init must be "random", "weights", or None'),
        ({"scale_lr": -1.0}, "scale_lr must be a finite number of at least 0"),
        ({"samples": 0}, "samples must be"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"betas": 0.9}, "betas must be two decay rates"),
    ],
)
def test_options_of_a_group_are_checked_and_the_group_is_refused_whole(option: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bb.STE([{"params": [weight()]} | option])
    optimizer = bb.STE([weight()], seed=0)
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": [weight()]} | option)
    assert len(optimizer.param_groups) == 1


def test_all_groups_are_capturable_or_none() -> None:
    optimizer = bb.STE([weight()], seed=0)
    with pytest.raises(ValueError, match="capturable must be the same in all parameter groups, got True"):
        optimizer.add_param_group({"params": [weight()], "capturable": True})
    assert len(optimizer.param_groups) == 1


def test_numbers_of_numpy_and_of_tensors_are_numbers() -> None:
    theirs = bb.BayesBiNN([weight()], lr=np.float32(0.5), ess=torch.tensor(60.0), init_lambda=np.int64(2), seed=0)
    group = theirs.param_groups[0]
    assert (group["lr"], group["ess"], group["init_lambda"]) == (0.5, 60.0, 2)
    assert not any(isinstance(value, (np.generic, torch.Tensor)) for name, value in group.items() if name != "params")


def test_a_state_that_would_do_harm() -> None:
    p = weight()
    optimizer = bb.STE([p], lr=0.01, seed=0)
    alike = bb.MirrorDescent([weight()], lr=0.001)  # keeps tensors of the same names
    with pytest.raises(ValueError, match="is of the rule MirrorDescent, but this optimizer is STE"):
        optimizer.load_state_dict(alike.state_dict())
    with pytest.raises(ValueError, match="expected an optimizer's state with param_groups and state"):
        optimizer.load_state_dict({})
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["belief"]["latent"][1] = float("nan")
    with pytest.raises(ValueError, match="belief 'latent' of tensor 0 holds NaN"):
        optimizer.load_state_dict(state)
    del state["state"][0]["step"]
    with pytest.raises(ValueError, match="no belief and step"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.01 and bool(torch.isfinite(p).all())


def test_a_prior_that_is_none() -> None:
    with pytest.raises(TypeError, match="prior must be a BernoulliPosterior"):
        bb.BayesBiNN([weight()], ess=1.0, prior={"0": torch.zeros(3, 4)})


@pytest.mark.parametrize("samples", [1, 2])
def test_a_closure_without_a_loss(samples: int) -> None:
    """Trainers such as Lightning hand over closures that return None."""
    results = []
    for given in (None, torch.tensor(2.0)):
        p = nn.Parameter(torch.ones(3, 4))
        optimizer = bb.STE([p], samples=samples, seed=0)

        def closure(p: nn.Parameter = p, given: torch.Tensor | None = given) -> torch.Tensor | None:
            p.grad = torch.ones_like(p)
            return given

        results.append((optimizer.step(closure), p))
    assert results[0][0] is None and results[1][0] == 2
    assert torch.equal(results[0][1], results[1][1])
    with pytest.raises(TypeError, match="must return the loss as a tensor, got float"):
        bb.STE([weight()], samples=samples, seed=0).step(lambda: 1.0)


@every_rule
def test_a_sparse_gradient_is_refused_before_anything_moves(rule: str) -> None:
    model, optimizer = pair(rule)
    loss(model, *data()).backward()
    model[2].weight.grad = model[2].weight.grad.to_sparse()
    before = snapshot(model, optimizer)
    with pytest.raises(TypeError, match=r"the gradient of '2.weight' is sparse"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("lr", float("nan"), "lr must be a finite"), ("ess", -5.0, "ess must be"), ("samples", 0, "samples must be")],
)
def test_a_saved_state_with_an_option_out_of_range(option: str, value: float, message: str) -> None:
    model, optimizer = pair("bayesbinn-straight-through")
    before, state = snapshot(model, optimizer), copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0][option] = value
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize(
    "build",
    [lambda p: bb.BayesBiNN(p, lr=5.0, ess=1.0), lambda p: bb.Bop(p, lr=5.0), lambda p: bb.Bop2ndOrder(p, lr=2.0)],
)
def test_a_rate_that_is_a_share_is_at_most_one(build) -> None:
    with pytest.raises(ValueError, match=r"lr must be at most 1, because it is a fraction of the step, got \d"):
        build([weight()])


@every_rule
def test_tensors_without_weights(rule: str) -> None:
    optimizer = RULES[rule]([weight(), nn.Parameter(torch.zeros(0, 4))], seed=0)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.eval().param_groups[0]["params"][1].shape == (0, 4)


@pytest.mark.parametrize("rule", ["ste-adam", "bop2ndorder", "pmf", "mirrordescent", "proxquant"])
@pytest.mark.parametrize("compile", [False, True])
def test_one_huge_gradient_leaves_the_moments_finite(rule: str, compile: bool) -> None:
    p = weight()
    optimizer = RULES[rule]([p], seed=0, compile=compile)
    for value in (1e20, 1e-3, 1e-3):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in optimizer.state[p]["belief"].values())


def test_a_refused_step_of_several_draws_leaves_the_scales() -> None:
    p = weight()
    optimizer = bb.BayesBiNN([p], lr=0.1, ess=10.0, samples=3, scale="channel", scale_lr=0.1, seed=0)
    before, calls = (p.detach().clone(), optimizer.posterior().scale["0"].clone()), []

    def closure() -> torch.Tensor:
        calls.append(1)
        p.grad = torch.full_like(p, float("nan") if len(calls) == 3 else 1.0)
        return torch.zeros(())

    with pytest.raises(RuntimeError, match="finite"):
        optimizer.step(closure)
    assert torch.equal(p, before[0]) and torch.equal(optimizer.posterior().scale["0"], before[1])
    optimizer.step(closure)  # none of these three is bad
    moved = (optimizer.posterior().scale["0"] / before[1]).log().abs()
    assert moved.max() < 0.1 * 1.01  # one step of Adam, not three


@pytest.mark.parametrize("use", ["step", "eval", "posterior"])
def test_a_parameter_that_was_replaced_is_named(use: str) -> None:
    """As by accelerate's FSDP, which writes its own parameters into the groups."""
    optimizer = bb.BayesBiNN([weight()], lr=0.1, ess=10.0, seed=0)
    optimizer.param_groups[0]["params"] = [replaced := torch.nn.Parameter(torch.ones(2, 3))]
    replaced.grad = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"a parameter of shape \(2, 3\) has no belief.*after fully_shard"):
        getattr(optimizer, use)()


@pytest.mark.parametrize("missing", ["begin", "draw", "update", "mode"])
def test_a_rule_without_one_of_its_functions_cannot_be_made(missing: str) -> None:
    parts = {name: vars(bb.STE)[name] for name in ("begin", "draw", "update", "mode") if name != missing}
    partial = type("Partial", (bb.BinaryOptimizer,), parts)
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        partial([weight()], {"lr": 0.1})


def test_a_rule_with_a_posterior_must_say_which() -> None:
    class Silent(bb.STE):
        has_posterior = True

    with pytest.raises(TypeError, match=r"Silent has a posterior, so it must define natural\(\) or posterior\(\)"):
        Silent([weight()])
