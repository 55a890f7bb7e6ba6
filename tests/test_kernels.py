"""The compiled loops against the rules' own functions: the same belief bit for bit, the same draws."""

from __future__ import annotations

import copy
import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

import bitbayes as bb
import needs
from bitbayes.kernels import build, run, threads, variants
from bitbayes.noise import CHUNK, Noise, stream_key
from bitbayes.rules import engine

Make = Callable[..., bb.BinaryOptimizer]

COVERED: dict[str, Make] = {
    "straight-through": lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, **k),
    "straight-through, momentum": lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, momentum=0.9, **k),
    "point": lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, estimator="released", **k),
    "point, momentum": lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, estimator="released", momentum=0.9, **k),
    "ste-adam": lambda p, **k: bb.STE(p, lr=0.05, **k),
    "ste-adam, free": lambda p, **k: bb.STE(p, lr=0.05, betas=(0.0, 0.0), clip=None, **k),
    "ste-sgd": lambda p, **k: bb.STE(p, lr=0.05, inner="sgd", momentum=0.0, **k),
    "ste-sgd, window": lambda p, **k: bb.STE(p, lr=0.05, inner="sgd", window=0.1, weight_decay=0.1, clip=0.3, **k),
    "bop": lambda p, **k: bb.Bop(p, lr=0.2, threshold=1e-2, **k),
    "vispa": lambda p, **k: bb.VISPA(p, lr=0.1, rank=4, weight_decay=0.1, **k),
    "vispa, no rank": lambda p, **k: bb.VISPA(p, lr=0.1, rank=0, **k),
    "vispa, projected": lambda p, **k: bb.VISPA(p, lr=0.1, rank=2, project=True, shared="network", **k),
}
LEFT_OUT: dict[str, Make] = {
    "concrete": lambda p, **k: bb.BayesBiNN(p, ess=100, estimator="concrete", **k),
    "released": lambda p, **k: bb.BayesBiNN(p, ess=100, estimator="released", tau=1.0, **k),
    "metaplastic": lambda p, **k: bb.STE(p, metaplasticity=1.35, clip=None, **k),
    "rank": lambda p, **k: bb.VISPA(p, rank=64, **k),
    "bop2ndorder": lambda p, **k: bb.Bop2ndOrder(p, **k),
}
# torch's vectorised root is not always the nearest float32, and its sum over rows has an order of its own.
ROUNDED = {"ste-adam", "ste-adam, free", "vispa, projected"}

covered = pytest.mark.parametrize("rule", COVERED)
needs_compiler = needs.kernels()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What every attempt to use a kernel returned."""
    found: list[bool] = []
    plain = run.submit

    def spy(*args: Any, **options: Any) -> bool:
        found.append(plain(*args, **options))
        return found[-1]

    monkeypatch.setattr(run, "submit", spy)
    yield found


def trained(make: Make, count: int, *, steps: int = 4, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """An optimizer after some steps on random gradients, and its parameter."""
    parameter = Parameter(torch.zeros(count, dtype=dtype))
    optimizer = make([parameter], seed=5, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        parameter.grad = torch.randn(count, generator=generator).mul(0.1).to(dtype)
        optimizer.step()
    return optimizer, parameter


def agree(rule: str, a: Any, b: Any) -> None:
    """Equal beliefs, equal draws."""
    (mine, weights), (theirs, other) = a, b
    for name, value in theirs.state[other]["belief"].items():
        if rule in ROUNDED:
            torch.testing.assert_close(mine.state[weights]["belief"][name], value, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(mine.state[weights]["belief"][name], value), name
    assert weights.dtype == other.dtype
    # The probability of a draw differs by 1e-7 at most, so of these few weights hardly ever one.
    assert (weights != other).sum() <= 1 + 1e-5 * weights.numel()


@needs_compiler
@covered
@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 1000, 40_001])
def test_a_kernel_is_its_rule(rule: str, count: int, done: list[bool]) -> None:
    plain = trained(COVERED[rule], count, compile=False)
    assert not done
    fused = trained(COVERED[rule], count, compile=True)
    assert len(done) >= 4 and all(done)  # the first draw of a rule without noise is the rule's own
    agree(rule, fused, plain)


@needs_compiler
@covered
def test_bfloat16_weights(rule: str) -> None:
    plain, fused = (trained(COVERED[rule], 777, dtype=torch.bfloat16, compile=c) for c in (False, True))
    assert fused[1].dtype == torch.bfloat16
    agree(rule, fused, plain)


@needs_compiler
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_prior(momentum: float) -> None:
    prior = bb.BernoulliPosterior({"0": torch.randn(777)})
    runs = [
        trained(lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=10, prior=prior, momentum=momentum, **k), 777, compile=c)
        for c in (False, True)
    ]
    agree("prior", runs[1], runs[0])
    without = trained(lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=10, momentum=momentum, **k), 777, compile=True)
    assert not torch.equal(runs[1][0].posterior().natural["0"], without[0].posterior().natural["0"])


@needs_compiler
@covered
def test_threads_and_place_change_nothing(rule: str) -> None:
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(trained(COVERED[rule], 150_001, steps=2, compile=True))
    finally:
        torch.set_num_threads(threads)
    for other, weights in runs[1:]:
        assert torch.equal(weights, runs[0][1])
        for name, value in other.state[weights]["belief"].items():
            assert torch.equal(value, runs[0][0].state[runs[0][1]]["belief"][name])


@needs_compiler
@covered
def test_a_run_of_kernels_resumes_bit_for_bit(rule: str) -> None:
    optimizer, weights = trained(COVERED[rule], 50_001, compile=True)
    other_weights = Parameter(torch.zeros_like(weights))
    other = COVERED[rule]([other_weights], seed=9, compile=True)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(weights, other_weights)  # written by a redraw, there by a step
    optimizer.eval()
    optimizer.train()
    assert torch.equal(weights, other_weights)


@needs_compiler
@covered
def test_a_refused_step_leaves_the_belief(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a flag on the device: the belief stays, the next draw is of a new step."""
    runs = []
    for compiled in (False, True):
        optimizer, weights = trained(COVERED[rule], 1000, compile=compiled)
        before = copy.deepcopy(optimizer.state[weights]["belief"])
        optimizer.refusals.defer = True
        weights.grad[7] = torch.nan
        optimizer.step()
        assert all(torch.equal(before[name], value) for name, value in optimizer.state[weights]["belief"].items())
        runs.append((optimizer, weights))
    agree(rule, runs[1], runs[0])


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_is_refused(bad: float) -> None:
    optimizer, weights = trained(COVERED["straight-through"], 1000, compile=True)
    before, drawn = copy.deepcopy(optimizer.state[weights]["belief"]), weights.detach().clone()
    weights.grad[999] = bad
    with pytest.raises(RuntimeError, match="not finite"):
        optimizer.step()
    assert torch.equal(before["natural"], optimizer.state[weights]["belief"]["natural"])
    assert torch.equal(weights, drawn)


def test_a_gradient_whose_sum_overflows_is_finite() -> None:
    big = torch.full((4,), 3e38)
    assert not big.sum().isfinite()
    assert engine.Refusals().accept({"w": big}, compile=False) is None


@needs_compiler
def test_several_draws(done: list[bool]) -> None:
    runs = []
    for compiled in (False, True):
        weights = Parameter(torch.zeros(1000))
        optimizer = bb.BayesBiNN([weights], lr=0.1, ess=10, samples=3, seed=2, compile=compiled)

        def closure(optimizer: Any = optimizer, weights: Any = weights) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (weights * torch.linspace(-1, 1, 1000)).sum().square()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        runs.append((optimizer, weights))
    assert done and all(done)
    agree("several", runs[1], runs[0])


@needs_compiler
@pytest.mark.parametrize("rule", LEFT_OUT)
def test_what_has_no_kernel_falls_through(rule: str) -> None:
    weights = Parameter(torch.zeros(10))
    optimizer = LEFT_OUT[rule]([weights])
    (place,) = optimizer._places()
    belief, noise = copy.deepcopy(optimizer.state[weights]["belief"]), Noise(1, 10, shared_key=2)
    o = optimizer._options(place, 1)
    update = engine.Update(type(optimizer), belief, torch.ones(10), weights.detach(), o, noise, noise)
    assert engine.implementation(update, "kernels") == "eager"
    assert all(torch.equal(value, optimizer.state[weights]["belief"][name]) for name, value in belief.items())


@needs_compiler
def test_a_subclass_and_other_tensors_have_no_kernel(done: list[bool]) -> None:
    class Slower(bb.BayesBiNN):
        @staticmethod
        def update(belief: Any, estimate: Any, o: Any) -> Any:
            return {"natural": belief["natural"] - 0.1 * o.lr * estimate}

    weights = Parameter(torch.zeros(10))
    optimizer = Slower([weights], ess=10)
    (place,) = optimizer._places()
    belief, noise = optimizer.state[weights]["belief"], Noise(1, 10)
    o = optimizer._options(place, 1)
    update = engine.Update(Slower, belief, torch.ones(10), weights.detach(), o, noise, noise)
    assert engine.implementation(update, "kernels") == "eager"
    update = update._replace(rule=bb.BayesBiNN)
    assert engine.implementation(update._replace(weights=torch.ones(10)), "kernels") == "kernel"
    assert engine.implementation(update._replace(weights=torch.ones(10, dtype=torch.float64)), "kernels") == "eager"
    assert engine.implementation(update._replace(weights=torch.ones(20)[::2]), "kernels") == "eager"


@needs_compiler
def test_autograd_sees_the_change() -> None:
    optimizer, weights = trained(COVERED["bop"], 10, compile=True)
    loss = weights.square().sum()  # keeps the weights for its gradient
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_compiler
@pytest.mark.parametrize("natural", [0.0, 1e-3, -0.3, 0.5, -1.0, 3.0, -7.0, 50.0, -200.0, float("inf")])
def test_the_probability_of_a_draw(natural: float) -> None:
    count = 1 << 20
    weights = torch.empty(count)
    assert run.submit(run.hard_draw(torch.full((count,), natural)), None, weights, Noise(stream_key(4), count))
    p = torch.sigmoid(torch.tensor(2 * natural, dtype=torch.float64))
    frequency = (weights > 0).double().mean()
    assert abs(frequency - p) <= 5 * (p * (1 - p) / count) ** 0.5 + 2**-24
    assert ((weights == 1) | (weights == -1)).all()


@needs_compiler
def test_draws_are_those_of_the_noise() -> None:
    """At the same seed all draws agree but those that the last bits of the probability decide."""
    count = 1 << 21
    natural = torch.randn(count, generator=torch.Generator().manual_seed(0)) * 2
    weights, noise = torch.empty(count), Noise(stream_key(8), count)
    assert run.submit(run.hard_draw(natural), None, weights, noise)
    assert (weights != noise.signs(torch.sigmoid(2 * natural))).double().mean() < 1e-6
    nan = torch.full((9,), torch.nan)
    assert run.submit(run.hard_draw(nan), None, weights[:9], Noise(1, 9))
    assert torch.equal(weights[:9], Noise(1, 9).signs(torch.sigmoid(nan)))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [1, 2, 129, 1000])
def test_a_piece_of_a_tensor_is_drawn_as_in_the_whole(start: int, dtype: torch.dtype) -> None:
    """As the processes of `fully_shard` draw; a piece may begin within a word."""
    natural, noise = torch.randn(1303), Noise(stream_key(7), 1303)
    whole, piece = torch.empty(1303, dtype=dtype), torch.empty(1303 - start, dtype=dtype)
    assert run.submit(run.hard_draw(natural), None, whole, noise)
    assert run.submit(run.hard_draw(natural[start:]), None, piece, noise.part(slice(start, 1303)))
    assert torch.equal(piece, whole[start:])


def test_samples_of_a_large_posterior_are_draws() -> None:
    natural = torch.randn(CHUNK, generator=torch.Generator().manual_seed(0))
    posterior = bb.BernoulliPosterior({"w": natural})
    sample = posterior.sample_at(1, seed=3)["w"]
    noise = Noise(stream_key(3, 2, 1, 0), CHUNK)
    assert (sample != noise.signs(torch.sigmoid(2 * natural))).double().mean() < 1e-5
    with torch.inference_mode():
        assert torch.equal(posterior.sample_at(1, seed=3)["w"], sample)


@needs_compiler
def test_an_empty_tensor() -> None:
    agree("empty", *(trained(COVERED["straight-through"], 0, compile=compiled) for compiled in (True, False)))


def outcome() -> tuple[Any, str]:
    """What loading comes to in a process that has not tried yet."""
    return build._outcome.__wrapped__()


@pytest.mark.parametrize("trouble", ["no compiler", "a failing compiler", "a folder of others"])
def test_why_there_are_no_kernels(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = str(tmp_path)
    if trouble == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler -O2")
        expected = "no C compiler: no-such-compiler is not on the path; set CC to one"
    elif trouble == "a failing compiler":
        monkeypatch.setenv("CC", "false")
        expected = "failed: exit status 1"
    else:
        (tmp_path / "bitbayes").mkdir()
        (tmp_path / "bitbayes").chmod(0o777)
        expected = "is not yours alone; remove it, or set XDG_CACHE_HOME to a folder of your own"
    library, why = outcome()
    assert library is None
    assert why.startswith("not in use: ") and expected in why


@needs_compiler
@pytest.mark.parametrize("trouble", ["a file", "read-only", "no home"])
def test_a_cache_that_cannot_be_written_is_done_without(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process compiles for itself, and leaves nothing."""
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if trouble == "a file":
        cache.write_text("where the folder should be")
    elif trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        (tmp_path / "file").write_text("")
    else:
        cache.mkdir()
        cache.chmod(0o500)
        if os.access(cache, os.W_OK):
            needs.NO_ROOT.skip()
    library, why = outcome()
    assert library is not None and "for this process alone: " in why and str(tmp_path) in why
    assert library.bitbayes_run and not list(temporary.iterdir())


def test_without_kernels_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bb.BernoulliPosterior({"w": torch.zeros(CHUNK)}).sample_at(0)["w"]
    monkeypatch.setattr(run, "_address", lambda name: None)
    assert (plain != bb.BernoulliPosterior({"w": torch.zeros(CHUNK)}).sample_at(0)["w"]).sum() <= 1
    belief, weights, noise = {"natural": torch.zeros(9)}, torch.ones(9), Noise(1, 9)
    assert not run.submit(run.hard_draw(belief["natural"]), None, weights, noise)
    assert torch.equal(weights, torch.ones(9))


@pytest.mark.parametrize("rule", ["straight-through", "vispa", "concrete", "bop2ndorder"])
def test_compile_works_without_any_compiler(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = (COVERED | LEFT_OUT)[rule]
    plain = trained(make, 1000)
    monkeypatch.setattr(run, "_address", lambda name: None)
    monkeypatch.setattr(run, "_checker", lambda: None)
    monkeypatch.setattr(torch, "compile", None)
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    engine.has_compiler.cache_clear()
    fallen_back = trained(make, 1000, compile=True)
    monkeypatch.undo()
    engine.has_compiler.cache_clear()
    assert torch.equal(fallen_back[1], plain[1])
    for name, value in plain[0].state[plain[1]]["belief"].items():
        assert torch.equal(fallen_back[0].state[fallen_back[1]]["belief"][name], value)


@needs_compiler
def test_all_tensors_of_a_step_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of several groups; a tensor with a scale is a copy, which is written back at once."""
    made: list[tuple[Any, Any]] = []
    plain, calls = run.run, []

    def spy(jobs: list[run.Job]) -> None:
        calls.append(len(jobs))
        plain(jobs)

    monkeypatch.setattr(run, "run", spy)
    for compiled in (False, True):
        generator = torch.Generator().manual_seed(3)
        tensors = [Parameter(torch.zeros(6, count)) for count in (5, 40, 3, 7)]
        groups = [{"params": tensors[:2]}, {"params": tensors[2:3], "scale": "channel"}, {"params": tensors[3:]}]
        optimizer = bb.BayesBiNN(groups, lr=0.1, ess=100, seed=1, compile=compiled)
        calls.clear()
        for tensor in tensors:
            tensor.grad = torch.randn(tensor.shape, generator=generator)
        optimizer.step()
        assert calls == ([1, 3] if compiled else [0])
        made.append((optimizer, tensors))
    for mine, theirs in zip(made[1][1], made[0][1], strict=True):
        assert torch.equal(made[1][0].state[mine]["belief"]["natural"], made[0][0].state[theirs]["belief"]["natural"])
        assert torch.equal(mine, theirs)


class NeverWaits(TorchDispatchMode):
    """Refuses what on a GPU would wait for it: `.item()`, `bool(tensor)`, and indices found from values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = {
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.equal.default,
        }
        assert function not in waits, function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", COVERED | LEFT_OUT)
def test_a_step_reads_no_value_back(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients checked as on a GPU, by a flag that stays there."""
    optimizer, weights = trained((COVERED | LEFT_OUT)[rule], 100, steps=1)
    optimizer.refusals.defer = True
    before = weights.detach().clone()
    with NeverWaits():
        optimizer.step()
    assert optimizer.state[weights]["step"] == 2 and before.isfinite().all()
    with pytest.raises(AssertionError, match="local_scalar"), NeverWaits():
        before.sum().item()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 65_536, 200_003])
def test_one_bad_value_anywhere_is_seen(count: int, dtype: torch.dtype) -> None:
    values = torch.full((count + 1,), torch.finfo(dtype).min, dtype=dtype)[1:]  # not where a word begins
    assert run.finite([torch.zeros(0), values, torch.ones(3)])
    for place in {0, count // 4, count // 2, count - 1}:
        for bad in (torch.nan, torch.inf, -torch.inf):
            other = values.clone()
            other[place] = bad
            assert not run.finite([torch.ones(3), other, torch.ones(3).bfloat16()])
    assert not run.finite([values.double()]) and not run.finite([torch.ones(4)[::2]])  # it cannot tell


@needs_compiler
def test_the_cache_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor() as pool:
        said = {future.result()[1] for future in [pool.submit(outcome) for _ in range(3)]}
    assert len(said) == 1 and said.pop().startswith("compiled by")
    (library,) = (tmp_path / "bitbayes").iterdir()  # and nothing temporary beside it
    stamp = library.stat().st_mtime_ns
    assert outcome()[0] is not None
    assert library.stat().st_mtime_ns == stamp


@needs_compiler
@pytest.mark.parametrize("harm", ["planted", "truncated", "emptied"])
def test_a_library_that_was_changed_is_built_anew(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcome()
    (library,) = (tmp_path / "bitbayes").iterdir()
    content = library.read_bytes()
    library.unlink()  # it is loaded, and must not change under this process
    library.write_bytes({"planted": content + b"x", "truncated": content[:1000], "emptied": b""}[harm])
    loaded, why = outcome()
    assert loaded is not None and library.read_bytes() == content, why


@needs_compiler
def test_a_library_that_others_may_write_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcome()
    (library,) = (tmp_path / "bitbayes").iterdir()
    library.chmod(0o722)
    loaded, why = outcome()
    assert loaded is None and "is not yours alone" in why


def test_a_relative_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    outcome()
    assert not (tmp_path / "here").exists()


@needs_compiler
@needs.UNIX.unless(hasattr(os, "fork"))
def test_a_forked_process_updates_too() -> None:
    """The threads of the parent are not there; a kernel that waited for them would hang."""
    code = """
import os, torch, bitbayes as bb
torch.set_num_threads(2)
weights = torch.nn.Parameter(torch.zeros(200_000))
optimizer = bb.BayesBiNN([weights], lr=0.1, ess=10, seed=0, compile=True)
weights.grad = torch.ones(200_000)
optimizer.step()
child = os.fork()
if child == 0:
    optimizer.step()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
"""
    run = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# Libraries of a wheel. ------------------------------------------------------------------------------------------------

_SSE = "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt"
_AVX2 = f"{_SSE} avx avx2 bmi1 bmi2 f16c fma abm movbe"
_AVX512 = f"{_AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("machine", "line", "name", "wanted"),
    [
        ("x86_64", f"flags : {_SSE}", "kernels", ["x86-64"]),
        ("x86_64", f"flags : {_SSE} avx avx2", "kernels", ["x86-64"]),  # without fused multiply-adds
        ("x86_64", f"flags : {_AVX2}", "kernels", ["x86-64-v3", "x86-64"]),
        ("x86_64", f"flags : {_AVX2} avx512f", "inference", ["x86-64-v3", "x86-64"]),  # not all of the level
        ("x86_64", f"flags : {_AVX512}", "inference", ["x86-64-v4", "x86-64-v3", "x86-64"]),
        ("x86_64", f"flags : {_AVX512} avx512_vpopcntdq", "kernels", ["x86-64-v4", "x86-64-v3", "x86-64"]),
        (
            "x86_64",
            f"flags : {_AVX512} avx512_vpopcntdq",
            "inference",
            ["x86-64-v4+vpopcntdq", "x86-64-v4", "x86-64-v3", "x86-64"],
        ),
        ("x86_64", "", "kernels", ["x86-64"]),  # nothing known, as on macOS
        ("aarch64", "Features : fp asimd sve", "inference", ["armv8-a"]),
        ("arm64", "", "inference", ["arm64"]),
        ("riscv64", "", "inference", []),
        ("i686", f"flags : {_AVX2}", "inference", []),
    ],
)
def test_a_processor_gets_the_fastest_variant_that_it_can_run(
    machine: str, line: str, name: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants.platform, "machine", lambda: machine)
    monkeypatch.setattr(variants, "processor", lambda: line)
    assert [variant.name for variant in variants.fitting(name)] == wanted


def test_this_processor_has_the_features_that_linux_lists() -> None:
    assert variants.processor() == "" or len(variants.processor().partition(":")[2].split()) > 3


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if this were a wheel whose libraries are in the folder, on a processor with the variants "fast" and "any"."""
    folder, cache = tmp_path / "shipped", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(build, "SHIPPED", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(variants, "fitting", lambda name: [variants.Variant("fast"), variants.Variant("any")])
    return folder


def ship(folder: Path, variant: str) -> Path:
    """Put a library into the wheel."""
    source, made = Path(build.__file__).with_name("kernels.c"), folder / "made"
    flags = [f'-DBITBAYES_NOTE="{variant}"', "-O0"]  # quick to compile
    subprocess.run(variants.command(variants.compiler(), flags, source, made), check=True)
    return made.rename(folder / variants.shipped_name("kernels", variant, made.read_bytes()))


@needs_compiler
def test_the_library_of_a_wheel_is_used_and_no_compiler_looked_for(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ship(shipped, "any").read_bytes()
    monkeypatch.setattr(variants, "compiler", None)
    library, about = outcome()
    assert library is not None and library.bitbayes_run
    assert about == "shipped with the wheel, any"
    (shipped / variants.shipped_name("kernels", "fast", content)).write_bytes(content)
    assert outcome()[1] == "shipped with the wheel, fast"
    assert not (tmp_path / "cache").exists()


@needs_compiler
@pytest.mark.parametrize("harm", ["truncated", "emptied", "of another machine"])
def test_a_damaged_library_of_a_wheel_is_passed_over(harm: str, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the next variant, then for a library that is compiled here, then for none; `status` names it."""
    good = ship(shipped, "any")
    content = b"MZ of another machine" if harm == "of another machine" else good.read_bytes()
    bad = shipped / variants.shipped_name("kernels", "fast", content)
    bad.write_bytes({"truncated": content[:4000], "emptied": b""}.get(harm, content))
    assert outcome()[1] == "shipped with the wheel, any"
    good.unlink()
    library, about = outcome()
    assert library is not None and about.startswith("compiled by ") and f"(in the wheel {bad.name}" in about
    monkeypatch.setenv("CC", "no-such-compiler")
    library, about = outcome()
    assert library is None and about.startswith("not in use: no C compiler: ") and bad.name in about
    assert len(about.splitlines()) == 1


@needs_compiler
def test_a_missing_library_is_compiled(shipped: Path) -> None:
    assert outcome()[1].startswith("compiled by ") and "in the wheel" not in outcome()[1]


# Threads. -------------------------------------------------------------------------------------------------------------


def test_kernels_run_on_the_threads_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runtime is found without the name of its file, which differs from one package of torch to another."""
    if "OpenMP" not in torch.__config__.parallel_info().partition("ATen parallel backend: ")[2]:
        needs.OPENMP.skip()
    expected, plain = threads._addresses(torch._C.__file__, threads._OPENMP), threads._addresses
    monkeypatch.setattr(
        threads, "_addresses", lambda file, names: [0] * len(names) if file == "libgomp.so.1" else plain(file, names)
    )
    assert threads._openmp() == expected and all(expected)


@needs_compiler
@pytest.mark.parametrize("kind", ["openmp", "posix", "none", "refused"])
def test_every_kind_of_threads_does_every_part_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "refused": the system starts one thread and no more."""
    started: list[int] = []
    create_type = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)
    posix = threads._addresses(None, threads._POSIX)
    real_create = create_type(posix[0])

    @create_type
    def create(thread: int, attributes: int, function: int, argument: int) -> int:
        started.append(1)
        return 11 if len(started) > 1 else real_create(thread, attributes, function, argument)

    address = ctypes.cast(create, ctypes.c_void_p).value
    openmp = threads._openmp()
    given = {"openmp": [*openmp, 0, 0], "posix": [0, 0, 0, *posix], "none": [0] * 5}
    given["refused"] = [0, 0, 0, address or 0, posix[1]]
    if kind == "openmp" and not all(openmp):
        needs.OPENMP.skip()
    library = build.library()
    assert library is not None
    tell = functools.partial(library.bitbayes_threads, (ctypes.c_int64 * 5)(*given[kind]))
    before, runs = torch.get_num_threads(), []
    try:
        tell()
        for count in (1, 3):
            torch.set_num_threads(count)
            runs.append(trained(COVERED["straight-through"], 150_001, steps=2, compile=True))
    finally:
        torch.set_num_threads(before)
        threads.connect(library)
    (one, weights), (other, others) = runs
    assert torch.equal(weights, others)
    assert torch.equal(one.state[weights]["belief"]["natural"], other.state[others]["belief"]["natural"])
    assert len(started) == (
        4 if kind == "refused" else 0
    )  # the first of a draw and two steps starts one, and asks for two


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch deprecates
def test_options_without_a_kernel_are_compiled_by_torch() -> None:
    """What the trainer asks for from a million weights on must also work where torch.compile has to do it."""
    weight = torch.nn.Parameter(torch.zeros(40, 5))
    optimizer = bb.BayesBiNN([weight], ess=10, estimator="concrete", tau=1.0, lr=0.1, seed=0, compile=True)
    plain = torch.nn.Parameter(torch.zeros(40, 5))
    reference = bb.BayesBiNN([plain], ess=10, estimator="concrete", tau=1.0, lr=0.1, seed=0)
    for _ in range(2):
        for parameter, each in ((weight, optimizer), (plain, reference)):
            parameter.grad = torch.linspace(-1, 1, 200).view(40, 5)
            each.step()
    found, wanted = (each.posterior().mean() for each in (optimizer, reference))
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
