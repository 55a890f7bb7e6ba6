"""Updates by torch.compile: one pass over memory, and on a GPU one call for all tensors of a step."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bitbayes.noise import Noise
from bitbayes.rules.rule import Belief, Options, Rule
from bitbayes.rules.update import Update

# Where a call costs little beside the work, tensors are taken one by one: they share one compiled function then,
# and one for all of them takes about a second a tensor to compile.
_ALONE = {"cpu"}

# On a GPU the kernels of one graph are joined, up to eight at a time. Inductor's estimate of memory would forbid it, as
# it takes what is written in place for new; older torch has no such estimate.
_JOINED = {"combo_kernels": True, "combo_kernel_peak_memory_pct_threshold": None}

Static = tuple[tuple[str, object], ...]


def _numbers(job: Update) -> dict[str, Any]:
    """Options that are handed to a compiled update; the others are part of it."""
    values = vars(job.o).items()
    return {n: v for n, v in values if isinstance(v, (int, float, Tensor)) and not isinstance(v, bool)}


def _kind(job: Update) -> tuple[Any, ...]:
    """What updates of one step that one call can do have in common: what is compiled, and where."""
    names = tuple(_numbers(job))
    static = tuple((name, value) for name, value in sorted(vars(job.o).items()) if name not in names)
    return job.rule, static, names, job.weights.device


@functools.cache
def has_compiler(device: str) -> bool:
    """Whether torch.compile can work: on a CPU it needs a compiler of C++, on a GPU Triton needs one of C."""
    named, *usual = ("CXX", "c++", "g++", "clang++") if device == "cpu" else ("CC", "cc", "gcc", "clang")
    return any(shutil.which(name) for name in (os.environ.get(named, usual[0]).split()[:1] + usual))


def run(jobs: Iterable[Update]) -> None:
    """Updates the tensors of one step, those that are alike by one call."""
    for (rule, static, names, device), group in itertools.groupby(jobs, _kind):
        alike, compiled = list(group), _compiled(rule, static, names)
        for part in ([job] for job in alike) if device.type in _ALONE else [alike]:
            _call(compiled, part)


def _call(compiled: Callable[..., None], jobs: list[Update]) -> None:
    device, estimated, accept = jobs[0].weights.device, jobs[0].estimated, jobs[0].accept
    numbers = _on_device([[*_numbers(job).values()] for job in jobs], torch.float32, device)
    noises = [(job.drawn, job.noise) for job in jobs]
    keys = _on_device([[key for n in pair for key in (n.key, n.shared_key)] for pair in noises], torch.int64, device)
    beliefs, gradients, weights = ([getattr(job, role) for job in jobs] for role in ("belief", "gradient", "weights"))
    compiled(beliefs, gradients, weights, numbers, keys, estimated, accept)


@functools.cache
def _compiled(rule: type[Rule], static: Static, names: tuple[str, ...]) -> Callable[..., None]:
    """The fused update of one rule with one set of options that are not numbers."""
    from torch._inductor import config  # torch.compile loads it; import bitbayes need not

    def fused(
        beliefs: list[Belief],
        gradients: list[Tensor],
        weights: list[Tensor],
        numbers: Tensor,
        keys: Tensor,
        estimated: bool,
        accept: Tensor | None,
    ) -> None:
        for place, flat in enumerate(weights):
            o = Options(**dict(static), **dict(zip(names, numbers[place].unbind(), strict=True)))
            drawn, noise = (
                Noise(own, flat.numel(), flat.device, shared_key=shared)
                for own, shared in keys[place].view(2, 2).unbind()
            )
            Update(rule, beliefs[place], gradients[place], flat, o, drawn, noise, estimated, accept).do()

    # torch.compile stops after eight recompilations of one code object, so every rule gets one of its own.
    fused.__code__ = fused.__code__.replace(co_name=f"fused_{rule.__name__}")
    return torch.compile(fused, dynamic=True, options={n: v for n, v in _JOINED.items() if hasattr(config, n)})


def _on_device(rows: list[list[Any]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as one tensor, without waiting for the device: from pageable memory a copy would.

    Where some are there already, the step may be part of a CUDA graph, to which memory of the host must not matter.
    """
    values = list(itertools.chain.from_iterable(rows))
    if not any(isinstance(value, Tensor) for value in values):
        sent = torch.tensor(rows, dtype=dtype)
        return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent.to(device)
    plain = {value for value in values if not isinstance(value, Tensor)}
    written = {value: torch.full((), value, dtype=dtype, device=device) for value in plain}
    parts = [value.to(device, dtype) if isinstance(value, Tensor) else written[value] for value in values]
    return torch.stack(parts).view(len(rows), -1)
