"""What every rule owes its users; one test a law, every rule a row."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import bitbayes as bb
from bitbayes.parameters import packed_bits
from bitbayes.rules import engine
from laws import (
    ESS,
    HARD,
    MOVED,
    STOCHASTIC,
    data,
    every_rule,
    loss,
    make,
    network,
    pair,
    same,
    signs_only,
    snapshot,
    steps,
)
from networks import UserNetwork
from tape import Tape


@every_rule
def test_mode_is_exactly_one(rule: str) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 5)
    optimizer.eval()
    for _, parameter in optimizer.named_binary():
        assert signs_only(parameter)
        assert parameter.dtype == torch.float32


@every_rule
@pytest.mark.parametrize("options", [{}, {"scale": "channel"}, {"capturable": True}])
def test_the_mode_is_given_without_touching_the_parameters(rule: str, options: dict) -> None:
    model, optimizer = pair(rule, **options)
    steps(model, optimizer, 5)
    before, versions = snapshot(model, optimizer), [p._version for _, p in optimizer.named_binary()]
    mode = dict(optimizer.named_mode())
    assert same(before, snapshot(model, optimizer))
    assert versions == [p._version for _, p in optimizer.named_binary()]
    optimizer.eval()
    for name, parameter in optimizer.named_binary():
        assert torch.equal(mode[name], parameter) and mode[name].dtype == parameter.dtype


@every_rule
def test_training_lowers_the_loss_of_the_mode(rule: str) -> None:
    model, optimizer = pair(rule)
    x, y = data()
    optimizer.eval()
    before = loss(model, x, y).item()
    optimizer.train()
    steps(model, optimizer, 150)
    optimizer.eval()
    assert loss(model, x, y).item() < before


@every_rule
def test_hard_rules_draw_signs(rule: str) -> None:
    model, optimizer = pair(rule)
    for _ in range(3):
        drawn = all(signs_only(p) for _, p in optimizer.named_binary())
        assert drawn == (rule in HARD or rule == "bayesbinn-point")
        assert drawn == optimizer.hard(optimizer.param_groups[0])
        steps(model, optimizer, 1)


@every_rule
def test_draws_of_one_step_agree_and_of_two_steps_differ(rule: str) -> None:
    model, optimizer = pair(rule)
    first = snapshot(model, optimizer)
    optimizer.eval()
    optimizer.train()
    assert same(first, snapshot(model, optimizer))
    if rule in STOCHASTIC:
        for _, parameter in optimizer.named_binary():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert not torch.equal(first["weight/0.weight"], snapshot(model, optimizer)["weight/0.weight"])


@every_rule
def test_seed_decides(rule: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        model, optimizer = pair(rule, seed=seed)
        torch.manual_seed(seed * 7)  # the global generator must not matter
        steps(model, optimizer, 3)
        runs.append(snapshot(model, optimizer))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@every_rule
@pytest.mark.parametrize("when", ["train", "eval"])
def test_resume_is_bit_exact(rule: str, when: str) -> None:
    model, optimizer = pair(rule)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    steps(model, optimizer, 6, scheduler)
    optimizer.train(when == "train")
    file = io.BytesIO()
    torch.save({"m": model.state_dict(), "o": optimizer.state_dict(), "s": scheduler.state_dict()}, file)
    file.seek(0)
    optimizer.train()
    steps(model, optimizer, 6, scheduler)

    saved = torch.load(file, weights_only=True)
    resumed, other = pair(rule, seed=99)
    other_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(other, 12)
    resumed.load_state_dict(saved["m"])
    other.load_state_dict(saved["o"])
    other_scheduler.load_state_dict(saved["s"])
    assert other.training == (when == "train")
    other.train()
    steps(resumed, other, 6, other_scheduler)
    assert same(snapshot(model, optimizer), snapshot(resumed, other))


@every_rule
def test_half_precision_weights_keep_float32_beliefs(rule: str) -> None:
    model = network(dtype=torch.bfloat16)
    optimizer = make(rule, model)
    x, y = data(dtype=torch.bfloat16)

    def train(m: nn.Module, o: bb.BinaryOptimizer) -> None:
        for _ in range(4):
            loss(m, x, y).backward()
            o.step()
            o.zero_grad()

    train(model, optimizer)
    clone = network(dtype=torch.bfloat16)
    other = make(rule, clone)
    clone.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for state in other.state.values():
        assert all(t.dtype in (torch.float32, torch.int8) for t in state["belief"].values())
    train(model, optimizer)
    train(clone, other)
    assert same(snapshot(model, optimizer), snapshot(clone, other))
    optimizer.eval()
    assert all(signs_only(p) and p.dtype == torch.bfloat16 for _, p in optimizer.named_binary())


@every_rule
def test_a_state_without_a_newer_option_loads(rule: str) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["scale_lr"]
    resumed, other = pair(rule)
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(saved)
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for each in ((model, optimizer), (resumed, other)):
        steps(*each, 2)
    assert same(snapshot(model, optimizer), snapshot(resumed, other))


@every_rule
def test_half_precision_beliefs_are_refused(rule: str) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 2)
    state = copy.deepcopy(optimizer.state_dict())
    belief = state["state"][0]["belief"]
    key = next(k for k, t in belief.items() if t.is_floating_point())
    belief[key] = belief[key].half()
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"torch.float16, expected torch.float32"):
        optimizer.load_state_dict(state)
    assert same(before, snapshot(model, optimizer))


def _ranks(rule: str, path: Path, ranks: int) -> dict[str, torch.Tensor]:
    here = Path(__file__).parent
    command = [sys.executable, str(here / "distributed_worker.py"), rule, str(path), str(ranks)]
    environment = os.environ | {"PYTHONPATH": f"{here.parent / 'src'}:{here}", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=120)
    return torch.load(path / "result.pt", weights_only=True)


@pytest.mark.parametrize("rule", ["bayesbinn-straight-through", "bayesbinn-concrete", "ste-adam", "bop"])
def test_two_ranks_equal_one_process_with_the_double_batch(rule: str, tmp_path: Path) -> None:
    theirs = _ranks(rule, tmp_path, 2)
    model, optimizer = pair(rule)
    steps(model, optimizer, 5)
    mine = snapshot(model, optimizer)
    assert mine.keys() == theirs.keys()
    for name in mine:
        # The mean of two half-batch gradients is the batch's up to rounding; hard draws make the rest exact.
        torch.testing.assert_close(theirs[name], mine[name], rtol=2e-4, atol=2e-5)


@every_rule
def test_gradient_accumulation_equals_the_big_batch(rule: str) -> None:
    x, y = data(16)
    runs = []
    for pieces in (1, 2):
        model, optimizer = pair(rule)
        for _ in range(3):
            for xs, ys in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                (loss(model, xs, ys) / pieces).backward()
            optimizer.step()
            optimizer.zero_grad()
        runs.append(snapshot(model, optimizer))
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-3, atol=1e-4)


@every_rule
def test_a_compiled_model_equals_the_eager_one(rule: str) -> None:
    runs = []
    for compiled in (False, True):
        model, optimizer = pair(rule)
        steps(torch.compile(model, backend="aot_eager") if compiled else model, optimizer, 3)
        runs.append(snapshot(model, optimizer))
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every_rule
def test_the_compiled_update_equals_the_eager_one(rule: str) -> None:
    runs = []
    for compiled in (False, True):
        torch.compiler.reset()
        model, optimizer = pair(rule, compile=compiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inductor's own
            steps(model, optimizer, 4)
        runs.append(snapshot(model, optimizer))
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-3, atol=1e-4)


@every_rule
def test_deepcopy_and_pickle_are_independent(rule: str) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 2)
    before = snapshot(model, optimizer)
    for clone, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        steps(clone, other, 3)
        assert same(before, snapshot(model, optimizer))
        assert not same(before, snapshot(clone, other))
    steps(model, optimizer, 3)
    assert same(snapshot(model, optimizer), snapshot(clone, other))


@every_rule
def test_clipping_acts(rule: str) -> None:
    model, optimizer = pair(rule)
    x, y = data()
    loss(model, x, y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.0)
    untouched, other = pair(rule)
    for _, parameter in other.named_binary():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    other.step()
    mine, theirs = snapshot(model, optimizer), snapshot(untouched, other)
    assert same({k: v for k, v in mine.items() if "belief" in k}, {k: v for k, v in theirs.items() if "belief" in k})


@every_rule
def test_grad_scaler_acts(rule: str) -> None:
    plain, optimizer = pair(rule)
    steps(plain, optimizer, 3)
    scaled, other = pair(rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = data()
    for _ in range(3):
        scaler.scale(loss(scaled, x, y)).backward()
        scaler.step(other)
        scaler.update()
        other.zero_grad()
    # A power of two scales exactly.
    assert same(snapshot(plain, optimizer), snapshot(scaled, other))
    before = snapshot(scaled, other)
    scaler.scale(loss(scaled, x, y) * float("inf")).backward()
    scaler.step(other)
    scaler.update()
    assert same(before, snapshot(scaled, other))


@every_rule
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_is_refused(rule: str, bad: float) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 2)
    before = snapshot(model, optimizer)
    for _, parameter in optimizer.named_binary():
        parameter.grad = torch.ones_like(parameter)
    dict(optimizer.named_binary())["2.weight"].grad[1, 1] = bad
    with pytest.raises(RuntimeError, match=r"gradient of '2.weight' is not finite.*beliefs are unchanged"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))
    optimizer.zero_grad()
    steps(model, optimizer, 1)


@every_rule
def test_a_deferred_refusal_leaves_the_belief_and_is_reported(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU: the device decides, and the next call reports."""
    model, optimizer = pair(rule, scale="channel")
    optimizer.refusals.defer = True
    steps(model, optimizer, 2)
    before = {k: v for k, v in snapshot(model, optimizer).items() if "belief" in k and "step" not in k}
    for _, parameter in optimizer.named_binary():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step()
    refused, optimizer.refusals = optimizer.refusals, engine.Refusals()
    after = snapshot(model, optimizer)
    assert same(before, {k: after[k] for k in before})
    optimizer.refusals = refused
    with pytest.raises(RuntimeError, match=r"'0.weight', '2.weight' is not finite"):
        optimizer.eval()


def gradients(optimizer: bb.BinaryOptimizer) -> None:
    """Puts fixed gradients where they can be replaced by others of the next step."""
    for index, (_, parameter) in enumerate(optimizer.named_binary()):
        generator = torch.Generator().manual_seed(index)
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@every_rule
@pytest.mark.parametrize("scale", ["one", "channel", "group:2"])
def test_a_captured_step_repeats_as_a_step_of_its_own(rule: str, scale: str) -> None:
    """A CUDA graph repeats operations on the device, and no Python: noise and annealing must go on all the same."""
    (_, captured), (_, stepped), (_, usual) = (
        pair(rule, scale=scale, capturable=capturable) for capturable in (True, True, False)
    )
    for optimizer in (captured, stepped, usual):
        gradients(optimizer)
    captured.step()
    with Tape() as tape:
        captured.step()
    for _ in range(14):  # past the end of every annealing
        tape.replay()
    for _ in range(16):
        stepped.step()
        usual.step()
    mine, own, other = (dict(optimizer.named_binary()) for optimizer in (captured, stepped, usual))
    for name, weights in mine.items():
        assert captured.state[weights]["step"] == 16
        assert torch.equal(weights, own[name])
        assert torch.equal(weights, other[name])
    assert same(snapshot(nn.Module(), captured), snapshot(nn.Module(), stepped))


@every_rule
def test_a_captured_step_with_a_bad_gradient_is_refused(rule: str) -> None:
    _, optimizer = pair(rule, scale="channel", capturable=True)
    gradients(optimizer)
    optimizer.step()
    with Tape() as tape:
        optimizer.step()

    def kept() -> dict[str, torch.Tensor]:
        states = [optimizer.state[parameter] for _, parameter in optimizer.named_binary()]
        found = [{**state["belief"], "scale": state["scale"]} for state in states]
        return {f"{place}/{key}": value.clone() for place, each in enumerate(found) for key, value in each.items()}

    before, worst = kept(), dict(optimizer.named_binary())["2.weight"].grad
    good, worst[1, 1] = worst[1, 1].clone(), float("nan")
    tape.replay()
    assert same(before, kept())
    with pytest.raises(RuntimeError, match=r"gradient of '2.weight' is not finite.*beliefs are unchanged"):
        optimizer.eval()
    worst[1, 1] = good
    tape.replay()
    assert not same(before, kept())
    optimizer.eval()  # told once


@pytest.mark.parametrize("rule", ["bayesbinn-momentum", "pmf", "vispa"])
def test_a_compiled_step_may_be_capturable(rule: str) -> None:
    """By a kernel in C, or by torch.compile, which gets the numbers of a step from the device."""
    known = engine.compiled_update.cache_info().currsize
    runs = [pair(rule, compile=True, capturable=capturable) for capturable in (True, False)]
    for model, optimizer in runs:
        steps(model, optimizer, 7)
    assert engine.compiled_update.cache_info().currsize <= known + 1  # no number of a step is built in
    for one, other in zip(*(model.parameters() for model, _ in runs), strict=True):
        torch.testing.assert_close(one, other)


@every_rule
def test_capturable_resumes(rule: str) -> None:
    model, optimizer = pair(rule, capturable=True)
    steps(model, optimizer, 3)
    other, resumed = pair(rule)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # the option comes with the state
    for _, parameter in resumed.named_binary():
        assert isinstance(resumed.state[parameter]["step"], torch.Tensor)
    assert same(snapshot(model, optimizer), snapshot(other, resumed))
    for m, o in ((model, optimizer), (other, resumed)):
        steps(m, o, 2)
    assert same(snapshot(model, optimizer), snapshot(other, resumed))


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    """More than rounding: a projection of what is projected already may move the last bit."""
    return bool((a - b).abs().max() > 1e-6)


@every_rule
def test_schedulers_act(rule: str) -> None:
    moved = []
    for factor in (1.0, 0.0):
        model, optimizer = pair(rule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, f=factor: f)
        before = snapshot(model, optimizer)
        steps(model, optimizer, 4, scheduler)
        after = snapshot(model, optimizer)
        main = [k for k in before if k.split("/")[-1] in MOVED]
        moved.append(any(differ(before[k], after[k]) for k in main))
    assert moved == [True, False]


@every_rule
def test_unused_parameters_are_left_alone(rule: str) -> None:
    model = network()
    extra = nn.Parameter(torch.randn(3, 3))
    optimizer = make(rule, model)
    optimizer.add_param_group({"params": [("extra", extra)]})
    weights, belief = extra.detach().clone(), copy.deepcopy(optimizer.state[extra])
    steps(model, optimizer, 3)
    assert torch.equal(weights, extra)
    assert optimizer.state[extra]["step"] == 0
    assert all(torch.equal(t, belief["belief"][k]) for k, t in optimizer.state[extra]["belief"].items())


@every_rule
def test_closure_is_the_same_loop(rule: str) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 3)
    other_model, other = pair(rule)
    x, y = data()

    def closure() -> torch.Tensor:
        other.zero_grad()
        value = loss(other_model, x, y)
        value.backward()
        return value

    for _ in range(3):
        assert other.step(closure) is not None
    other.zero_grad()
    assert same(snapshot(model, optimizer), snapshot(other_model, other))


@every_rule
def test_several_draws_average_the_update(rule: str) -> None:
    model, optimizer = pair(rule, samples=4)
    x, y = data()
    seen = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        seen.append(model[0].weight.detach().clone())
        value = loss(model, x, y)
        value.backward()
        return value

    value = optimizer.step(closure)
    assert len(seen) == 4
    assert value is not None and torch.isfinite(value)
    distinct = {tuple(t.flatten().tolist()) for t in seen}
    assert len(distinct) == (4 if rule in STOCHASTIC else 1)


def test_the_update_is_that_of_the_mean_gradient() -> None:
    model, optimizer = pair("bayesbinn-straight-through", samples=3)
    before, gradients = optimizer.posterior().natural, []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(model, *data())
        value.backward()
        gradients.append({name: p.grad.clone() for name, p in optimizer.named_binary()})
        return value

    optimizer.step(closure)
    for name, after in optimizer.posterior().natural.items():
        mean = torch.stack([gradient[name] for gradient in gradients]).mean(0)
        torch.testing.assert_close(after, before[name] - 0.1 * (ESS * mean + before[name]))


@every_rule
@pytest.mark.parametrize("samples", [1, 2])
def test_pieces_of_a_tensor_do_not_show(rule: str, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk in (1 << 18, 8):  # weights that are worked on at a time, of 48 and 32
        monkeypatch.setattr("bitbayes.noise.CHUNK", chunk)
        model, optimizer = pair(rule, samples=samples)

        def closure(model=model, optimizer=optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(model, *data())
            value.backward()
            return value

        for _ in range(3):
            optimizer.step(closure)
        optimizer.zero_grad()
        found.append(snapshot(model, optimizer))
    assert same(*found)


@every_rule
def test_an_exception_in_the_closure_changes_nothing(rule: str) -> None:
    model, optimizer = pair(rule, samples=3)
    before = snapshot(model, optimizer)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        value = loss(model, *data())
        value.backward()
        return value

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert same(before, snapshot(model, optimizer))


@every_rule
@pytest.mark.parametrize(("scale", "shared"), [("fan_in", 6), ("channel", 6), ("group:2", 2), ("group:1", 1)])
def test_scales(rule: str, scale: str, shared: int) -> None:
    model, optimizer = pair(rule, scale=scale, scale_lr=0.05)
    steps(model, optimizer, 4)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    weight = model[0].weight
    magnitude = weight.abs()
    sizes = magnitude.view(len(weight), -1, shared)
    assert torch.equal(sizes, sizes[..., :1].expand_as(sizes))
    assert signs_only(weight / magnitude)
    first = 6**-0.5
    moved = (magnitude - first).abs() > 1e-4
    assert not bool(moved.any()) if scale == "fan_in" else float(moved.float().mean()) > 0.9
    assert len(sizes.unique()) == (1 if scale == "fan_in" else sizes[..., 0].numel())
    other_model, other = pair(rule, scale=scale, scale_lr=0.05)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    optimizer.train()
    steps(model, optimizer, 3)
    steps(other_model, other, 3)
    assert same(snapshot(model, optimizer), snapshot(other_model, other))


@every_rule
def test_random_sizes_of_weights(rule: str) -> None:
    """Every weight keeps its size, that of a standard normal number, and only signs are learned."""

    def sizes(optimizer: bb.BinaryOptimizer) -> list[torch.Tensor]:
        return [mode.abs() for _, mode in optimizer.named_mode()]

    model, optimizer = pair(rule, scale="normal")
    before = sizes(optimizer)
    steps(model, optimizer, 4)
    for found in (sizes(optimizer), sizes(pair(rule, scale="normal")[1])):
        assert all(torch.equal(one, other) for one, other in zip(before, found, strict=True))
    many = torch.nn.Sequential(torch.nn.Linear(100, 100, bias=False))
    size = sizes(make(rule, many, scale="normal"))[0]
    assert abs(float(size.square().mean()) - 1) < 0.05 and abs(float(size.mean()) - (2 / torch.pi) ** 0.5) < 0.02


@every_rule
def test_learned_sizes_of_weights(rule: str) -> None:
    """Sizes begin as random ones, each follows the slope of the loss in its logarithm, and training resumes."""
    model, optimizer = pair(rule, scale="weight", scale_lr=0.05)
    fixed = pair(rule, scale="normal")[1]
    before = {name: mode.abs() for name, mode in optimizer.named_mode()}
    assert same(before, {name: mode.abs() for name, mode in fixed.named_mode()})
    gradients(optimizer)
    slopes = {name: p.grad * p.detach() for name, p in optimizer.named_binary()}  # ∂loss/∂log s of a weight w·s
    optimizer.step()
    for name, parameter in optimizer.named_binary():
        moved = (dict(optimizer.named_mode())[name].abs() / before[name]).log()
        large = slopes[name].abs() > 1e-3
        torch.testing.assert_close(
            moved[large], -0.05 * slopes[name].sign()[large], rtol=1e-3, atol=1e-4
        )  # Adam's first
        assert large.float().mean() > 0.9 and packed_bits(optimizer)[name] == 32 * parameter.numel()
    steps(model, optimizer, 3)
    other_model, other = pair(rule, scale="weight", scale_lr=0.05)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, 3)
    steps(other_model, other, 3)
    assert same(snapshot(model, optimizer), snapshot(other_model, other))


@every_rule
def test_start_from_weights(rule: str) -> None:
    model = network()
    signs = {name: torch.sign(p.detach()) for name, p in model.named_parameters() if name.endswith("weight")}
    optimizer = make(rule, model, init="weights")
    optimizer.eval()
    for name, parameter in optimizer.named_binary():
        assert torch.equal(parameter, signs[name])


@every_rule
def test_parameter_groups(rule: str) -> None:
    model = network()
    named = [(n, p) for n, p in model.named_parameters() if n.endswith("weight")]
    groups = [{"params": named[:1], "lr": 0.0}, {"params": named[1:]}]
    from laws import RULES

    optimizer = RULES[rule](groups, seed=3)
    before = snapshot(model, optimizer)
    steps(model, optimizer, 4)
    after = snapshot(model, optimizer)
    keys = [k for k in before if k.split("/")[-1] in MOVED]
    assert [differ(before[k], after[k]) for k in keys] == [False, True]


@every_rule
def test_memory_format_does_not_matter(rule: str) -> None:
    runs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, 3, bias=False)
        conv.weight.data = conv.weight.data.contiguous(memory_format=layout)
        optimizer = make(rule, conv)
        x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(2))
        for _ in range(3):
            conv(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert conv.weight.is_contiguous(memory_format=layout)
        runs.append(conv.weight.detach().clone())
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-3, atol=1e-4)


@every_rule
def test_a_users_own_network(rule: str) -> None:
    torch.manual_seed(0)
    model = UserNetwork()
    binary, real = bb.split_parameters(model)
    optimizer = make(rule, model)
    adam = torch.optim.Adam(real, lr=1e-3)
    bb.follow(model, optimizer)
    example = UserNetwork.example()

    def train(m: nn.Module, o: bb.BinaryOptimizer, a: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            m(*example).square().mean().backward()
            o.step()
            o.zero_grad()
            a.step()
            a.zero_grad()

    train(model, optimizer, adam, 10)
    model.eval()
    assert not optimizer.training
    assert all(signs_only(p) for _, p in binary)
    model.train()
    assert optimizer.training
    clone, other, other_adam = copy.deepcopy((model, optimizer, adam))
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict(), adam.state_dict()), file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed = UserNetwork()
    third = make(rule, resumed)
    third_adam = torch.optim.Adam(bb.split_parameters(resumed)[1], lr=1e-3)
    for part, state in zip((resumed, third, third_adam), states, strict=True):
        part.load_state_dict(state)
    train(model, optimizer, adam, 2)
    train(clone, other, other_adam, 2)
    train(resumed, third, third_adam, 2)
    assert same(snapshot(model, optimizer), snapshot(clone, other))
    assert same(snapshot(model, optimizer), snapshot(resumed, third))


@every_rule
def test_a_users_own_network_compiles(rule: str) -> None:
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = UserNetwork()
        optimizer = make(rule, model)
        forward = torch.compile(model, backend="eager") if compiled else model
        for _ in range(3):
            forward(*UserNetwork.example()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        runs.append(snapshot(model, optimizer))
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-3, atol=1e-4)


@every_rule
def test_step_in_eval_mode_is_refused(rule: str) -> None:
    _model, optimizer = pair(rule)
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) first"):
        optimizer.step()


@every_rule
def test_posterior_or_a_clear_refusal(rule: str) -> None:
    model, optimizer = pair(rule)
    steps(model, optimizer, 3)
    if not optimizer.has_posterior:
        with pytest.raises(RuntimeError, match="keeps one network and no posterior"):
            optimizer.posterior()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if rule == "bayesbinn-point" else "error")
        posterior = optimizer.posterior()
    assert list(posterior.natural) == ["0.weight", "2.weight"]
    optimizer.eval()
    for name, weights in posterior.mode().items():
        assert torch.equal(weights, dict(optimizer.named_binary())[name])
