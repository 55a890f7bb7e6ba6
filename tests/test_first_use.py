"""What a user gets who gives no options: fast updates, pretrained weights kept, one setting, no draw deployed."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import bitbayes as bb
import needs
from bitbayes.rules import engine
from bitbayes.rules.pretrained import looks_trained

needs_compiler = needs.kernels()


def step(optimizer: bb.BinaryOptimizer, seed: int = 0) -> None:
    """Take one step with made-up gradients."""
    for _, parameter in optimizer.named_binary():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """The state of a float network that classifies well."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = network(), torch.randn(512, 20)
        y = (x[:, :10].sum(1) > 0).long()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(100):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


# Fast updates. --------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("weights", "option", "runs"), [(9_999, False, "eager"), (10_000, "kernels", "kernel"), (1_000_000, True, "kernel")]
)
def test_updates_are_fast_where_it_pays(weights: int, option: object, runs: str) -> None:
    optimizer = bb.BayesBiNN(
        [Parameter(torch.empty(weights // 2)), Parameter(torch.empty(weights - weights // 2))], ess=1
    )
    assert optimizer.param_groups[0]["compile"] == option and optimizer.implementation == runs


def test_a_rule_without_a_kernel_is_compiled_from_a_million_weights_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "has_compiler", lambda device: True)
    runs = [bb.PMF([Parameter(torch.empty(count))], lr=0.1).implementation for count in (10_000, 1_000_000)]
    assert runs == ["eager", "torch.compile"]


def test_without_a_compiler_updates_are_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "has_compiler", lambda device: False)
    monkeypatch.setattr(engine.kernels, "_address", lambda name: None)
    optimizer = bb.BayesBiNN([Parameter(torch.empty(10_000))], ess=1)
    assert optimizer.implementation == "eager"
    step(optimizer)


@needs_compiler
def test_the_default_is_the_kernel_bit_for_bit_and_the_eager_belief() -> None:
    beliefs, draws = {}, {}
    for option in (None, "kernels", True, False):
        weights = Parameter(torch.empty(20_000))
        optimizer = bb.BayesBiNN([weights], lr=0.1, ess=10, seed=1, compile=option)
        for seed in range(3):
            step(optimizer, seed)
        beliefs[option], draws[option] = optimizer.state[weights]["belief"]["natural"], weights.detach()
    assert all(torch.equal(belief, beliefs[False]) for belief in beliefs.values())
    assert all(torch.equal(draws[option], draws[None]) for option in ("kernels", True))


@needs_compiler
def test_a_saved_run_keeps_its_form() -> None:
    weights = Parameter(torch.empty(20_000))
    saved = bb.BayesBiNN([weights], ess=1, seed=0, compile=False).state_dict()
    optimizer = bb.BayesBiNN([weights], ess=1, seed=0)
    optimizer.load_state_dict(saved)
    assert optimizer.implementation == "eager"


@needs_compiler
def test_a_rule_with_momentum_has_a_kernel() -> None:
    assert bb.BayesBiNN([Parameter(torch.zeros(20_000))], ess=1, momentum=0.9).implementation == "kernel"


@needs_compiler
def test_scaled_and_strided_weights_have_kernels_too() -> None:
    for weights in (torch.zeros(100, 200), torch.zeros(200, 100).T):
        for scale in ("one", "channel"):
            assert bb.BayesBiNN([Parameter(weights)], ess=1, scale=scale).implementation == "kernel"


def test_an_option_that_is_no_form_is_refused() -> None:
    with pytest.raises(ValueError, match="compile must be True, False or \"kernels\", got 'fast'"):
        bb.BayesBiNN([Parameter(torch.empty(3))], ess=1, compile="fast")  # type: ignore[arg-type]


def test_where_the_compiler_fails_the_update_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no such processor")

    compiled = torch.compile(lambda beliefs, gradients, *_: gradients[0] + 1, backend=broken)
    monkeypatch.setattr(engine, "has_compiler", lambda device: True)
    monkeypatch.setattr(engine, "compiled_update", lambda *_: compiled)
    monkeypatch.setattr(engine, "_FAILED", set())
    found = []
    for option in (True, False):
        weights = Parameter(torch.zeros(50))
        optimizer = bb.PMF([weights], lr=0.1, seed=0, compile=option)
        if option:
            assert optimizer.implementation == "torch.compile"
            with pytest.warns(RuntimeWarning, match="torch.compile failed .*; PMF runs without it and is slower"):
                step(optimizer)
            assert optimizer.implementation == "eager"
        else:
            step(optimizer)
        step(optimizer, 1)  # is not tried again
        found.append(weights.detach())
    assert torch.equal(*found)


# Pretrained weights. --------------------------------------------------------------------------------------------------


def test_weights_that_look_trained_are_where_the_beliefs_begin(trained: dict[str, Any]) -> None:
    model = network()
    model.load_state_dict(trained)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
    assert optimizer.param_groups[0]["init"] == "weights"
    with pytest.warns(UserWarning, match=r"'0.weight' looked trained.*init=\"weights\"") as told:
        optimizer.eval()
    assert told[0].filename == __file__  # the line of the user
    optimizer.train().eval()  # said once
    for name, mode in model.named_parameters():
        if name.endswith("weight"):
            assert torch.equal(mode.sign(), trained[name].sign())


@pytest.mark.parametrize("init", ["weights", "random"])
def test_an_init_that_is_given_is_silent(trained: dict[str, Any], init: str) -> None:
    model = network()
    model.load_state_dict(trained)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, init=init)
    assert optimizer.param_groups[0]["init"] == init


@pytest.mark.parametrize("layer", [nn.Linear(300, 40), nn.Conv2d(16, 64, 3), nn.Conv1d(1, 8, 5), nn.GRU(20, 30)])
@pytest.mark.parametrize("kind", ["as made", "normal", "orthogonal", "zero", "constant", "signs"])
def test_weights_that_were_drawn_do_not_look_trained(layer: nn.Module, kind: str) -> None:
    layer = copy.deepcopy(layer)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in (parameter for parameter in layer.parameters() if parameter.dim() > 1):
            fill = {"normal": nn.init.normal_, "orthogonal": nn.init.orthogonal_, "zero": nn.init.zeros_}
            fill |= {"constant": nn.init.ones_, "signs": lambda w: w.bernoulli_(0.5).mul_(2).sub_(1)}
            fill.get(kind, lambda w: w)(weight)
            assert not looks_trained(weight)


def test_looking_leaves_the_random_numbers_of_torch_alone(trained: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    assert looks_trained(trained["2.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def loaded_over(trained: dict[str, Any], **options: Any) -> tuple[nn.Module, bb.BinaryOptimizer]:
    model = network()
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0, **options)
    model.load_state_dict(trained)
    return model, optimizer


@pytest.mark.parametrize("then", ["step", "eval"])
def test_weights_loaded_beside_a_fresh_optimizer_are_warned_of(trained: dict[str, Any], then: str) -> None:
    _, optimizer = loaded_over(trained)
    with pytest.warns(UserWarning, match="'0.weight' were changed after BayesBiNN wrote them"):
        step(optimizer) if then == "step" else optimizer.eval()
    step(optimizer.train())  # said once


def test_resuming_is_silent() -> None:
    model = network()
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
    for steps in (0, 2):  # states before and after the first step
        for seed in range(steps):
            step(optimizer, seed)
        states = model.state_dict(), optimizer.state_dict()
        for model_first in (True, False):
            other = network()
            again = bb.BayesBiNN(bb.split_parameters(other)[0], ess=100, seed=0)
            for part in (0, 1) if model_first else (1, 0):
                (other, again)[part].load_state_dict(copy.deepcopy(states[part]))
            step(again)


def test_resuming_after_the_model_is_silent_too(trained: dict[str, Any]) -> None:
    model = network()
    model.load_state_dict(trained)
    saved = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0, init="weights").state_dict()
    again = network()
    again.load_state_dict(trained)
    optimizer = bb.BayesBiNN(bb.split_parameters(again)[0], ess=100, seed=0)
    optimizer.load_state_dict(saved)
    step(optimizer)


def test_all_weights_that_were_loaded_over_a_draw_are_drawn_again(trained: dict[str, Any]) -> None:
    model, optimizer = loaded_over(trained)
    wanted, _ = loaded_over(network().state_dict())
    bb.BayesBiNN(bb.split_parameters(wanted)[0], ess=100, seed=0, init="random")
    with pytest.warns(UserWarning, match="were changed") as told:
        optimizer.train()
    assert len(told) == 1
    for name, parameter in bb.split_parameters(model)[0]:
        assert torch.equal(parameter, wanted.get_parameter(name))


def test_a_group_that_cannot_begin_is_refused_whole() -> None:
    weights = Parameter(torch.zeros(3, 4))
    optimizer = bb.BayesBiNN([Parameter(torch.zeros(4, 4))], ess=10, seed=0)
    with pytest.raises(ValueError, match='init="weights" needs finite weights'):
        optimizer.add_param_group({"params": [Parameter(torch.ones(2, 2)), weights], "init": "weights"})
    assert len(optimizer.param_groups) == 1 and len(optimizer.state_dict()["state"]) == 1
    optimizer.eval()


def test_a_copied_optimizer_warns_of_nothing() -> None:
    model = network()
    optimizer = bb.STE(bb.split_parameters(model)[0], lr=1e-2, seed=0)
    _, other = copy.deepcopy((model, optimizer))
    step(other)


# One setting. ---------------------------------------------------------------------------------------------------------


def test_the_recommended_setting_is_that_of_the_command_line() -> None:
    from bitbayes.lab.recipes.base import DEFAULT

    optimizer = bb.BayesBiNN.recommended([Parameter(torch.empty(4))], steps=24 * 60, examples=1200)
    spec = DEFAULT.resolve(1200, steps=24, epochs=60)
    group = optimizer.param_groups[0] | {"init_lambda": optimizer.defaults["init_lambda"]}  # "auto", as it was given
    assert group["lr"] == spec.lr and all(group[name] == value for name, value in spec.options.items())
    assert group["estimator"] == "straight-through"


def test_options_replace_those_of_the_recommended_setting() -> None:
    weights = Parameter(torch.empty(4))
    group = bb.BayesBiNN.recommended([weights], steps=10, examples=20, ess=7, scale="fan_in").param_groups[0]
    assert (group["lr"], group["ess"], group["scale"]) == (0.1, 7, "fan_in")
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        bb.BayesBiNN.recommended([weights], steps=0, examples=20)


# No draw is deployed. -------------------------------------------------------------------------------------------------


def test_a_draw_is_not_packed_unless_told() -> None:
    model, x = network(), torch.zeros(1, 20)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
    with pytest.raises(
        RuntimeError, match=r"'0.weight' holds weights that a training step of BayesBiNN drew.*draw=True"
    ):
        bb.pack(model, x)
    drawn = bb.pack(model, x, draw=True)
    bb.pack(model, x, optimizer.posterior(), samples=2)  # draws its own
    optimizer.eval()
    mode = bb.pack(model, x)
    assert any((drawn.tensors[name] != tensor).any() for name, tensor in mode.tensors.items())
    optimizer.train()
    with pytest.raises(RuntimeError, match="training step"):
        bb.pack(torch.compile(model, backend="eager"), x)  # type: ignore[arg-type]


def test_weights_that_are_loaded_over_a_draw_can_be_packed() -> None:
    model, x = network(), torch.zeros(1, 20)
    optimizer = bb.STE(bb.split_parameters(model)[0], lr=1e-2, seed=0)
    mode = copy.deepcopy(optimizer.eval() and model.state_dict())
    step(optimizer.train())
    with pytest.raises(RuntimeError, match="training step"):
        bb.pack(model, x)
    model.load_state_dict(mode)
    bb.pack(model, x)


def test_a_copy_of_a_followed_network_knows_that_it_holds_a_draw() -> None:
    model, x = network(), torch.zeros(1, 20)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
    bb.follow(model, optimizer)
    with pytest.raises(RuntimeError, match="training step of BayesBiNN"):
        bb.pack(copy.deepcopy(model), x)
    model.eval()
    bb.pack(copy.deepcopy(model), x)


def test_a_network_that_is_followed_is_packed_after_its_own_eval() -> None:
    model = network()
    bb.follow(model, bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0))
    model.eval()
    bb.pack(model, torch.zeros(1, 20))


def test_a_saved_state_has_no_marks(tmp_path: Path) -> None:
    model = network()
    bb.STE(bb.split_parameters(model)[0], lr=1e-2)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert not any(vars(value) for value in state.values())


def test_weights_that_are_loaded_in_the_middle_of_a_training_are_not_overwritten_without_a_word() -> None:
    """Restoring the best epoch in training mode would otherwise give the network of the last one."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    optimizer = bb.STE(bb.split_parameters(model)[0], lr=0.1, seed=0)
    bb.follow(model, optimizer)

    def step() -> None:
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    best = {name: -tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    with pytest.warns(UserWarning, match="'0.weight' were changed after STE wrote them; they are overwritten"):
        model.eval()
    model.load_state_dict(best)  # the mode again, in eval mode: it stays
    assert torch.equal(model.eval()[0].weight, best["0.weight"])
    with pytest.warns(UserWarning, match="were changed after STE wrote them"):
        model.train()
    model.load_state_dict(best)
    with pytest.warns(UserWarning, match="were changed after STE wrote them"):
        step()
    step()  # warned once


def test_an_optimizer_that_loads_its_own_state_still_warns(trained: dict[str, Any]) -> None:
    """Accelerate does so when it prepares an optimizer."""
    model = network()
    model.load_state_dict(trained)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
    with pytest.warns(UserWarning, match="'0.weight' looked trained, so BayesBiNN began with"):
        optimizer.load_state_dict(optimizer.state_dict())
    model.load_state_dict(trained)
    with pytest.warns(UserWarning, match="'0.weight' were changed after BayesBiNN wrote them"):
        optimizer.load_state_dict(optimizer.state_dict())
