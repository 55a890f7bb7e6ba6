"""Runs a rule's pure functions over the flat storage of one tensor.

Rules are written as equations that return new tensors. Here they are applied chunk by chunk, so that every temporary
stays in the processor's cache and none has the network's size; or, with `compile=True`, as one pass over memory: by
the compiled loops of `bitbayes.kernels` where the rule has one for this device, else by torch.compile. Without the
compiler that these need, chunk by chunk after all.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bitbayes.kernels import run as kernels
from bitbayes.noise import Noise, spans
from bitbayes.rules.rule import Belief, Options, Rule


def _estimate(rule: type[Rule], belief: Belief, gradient: Tensor, weights: Tensor, drawn: Noise, o: Options) -> Tensor:
    """What a draw says of the belief, in float32 whatever the weights are kept in."""
    return rule.estimate(belief, gradient.float(), weights.float(), drawn, o)


def _advance_chunk(
    rule: type[Rule],
    belief: Belief,
    gradient: Tensor,
    weights: Tensor,
    o: Options,
    drawn: Noise,
    noise: Noise,
    estimated: bool,
    accept: Tensor | None,
) -> None:
    estimate = gradient if estimated else _estimate(rule, belief, gradient, weights, drawn, o)
    for name, value in rule.update(belief, estimate, o).items():
        old = belief[name]
        old.copy_(value if accept is None else torch.where(accept, value, old))
    weights.copy_(rule.draw(belief, noise, o))


@functools.cache
def _has_compiler(device: str) -> bool:
    """Whether torch.compile can work: on a CPU it needs a compiler of C++, on a GPU Triton needs one of C."""
    named, *usual = ("CXX", "c++", "g++", "clang++") if device == "cpu" else ("CC", "cc", "gcc", "clang")
    return any(shutil.which(name) for name in (os.environ.get(named, usual[0]).split()[:1] + usual))


@functools.cache
def _compiled(rule: type[Rule], static: tuple[tuple[str, object], ...]) -> Callable[..., None]:
    """The fused update of one rule with one set of options that are not numbers."""

    def fused(
        belief: Belief,
        gradient: Tensor,
        weights: Tensor,
        numbers: dict[str, Tensor],
        keys: Tensor,
        estimated: bool,
        accept: Tensor | None,
    ) -> None:
        o = SimpleNamespace(**dict(static), **numbers)
        drawn, noise = (
            Noise(own, weights.numel(), weights.device, shared_key=shared) for own, shared in keys.view(2, 2).unbind()
        )
        _advance_chunk(rule, belief, gradient, weights, o, drawn, noise, estimated, accept)

    # torch.compile stops after eight recompilations of one code object, so every rule gets one of its own.
    fused.__code__ = fused.__code__.replace(co_name=f"fused_{rule.__name__}")
    return torch.compile(fused, dynamic=True)


def _on_device(values: list[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as one tensor, without waiting for the device: from pageable memory a copy would.

    Where some are there already, the step may be part of a CUDA graph, to which memory of the host must not matter.
    """
    if any(isinstance(value, Tensor) for value in values):
        parts = [
            v.to(device, dtype) if isinstance(v, Tensor) else torch.full((), v, dtype=dtype, device=device)
            for v in values
        ]
        return torch.stack(parts)
    sent = torch.tensor(values, dtype=dtype)
    return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent.to(device)


def _spans(belief: Belief, weights: Tensor) -> Iterator[slice]:
    """Pieces of the weights, shorter for beliefs of many rows."""
    count = weights.numel()
    rows = max(tensor.dim() and tensor.numel() // max(count, 1) for tensor in belief.values())
    return spans(count, weights.device, max(rows, 1))


def _part(belief: Belief, span: slice) -> Belief:
    return {name: tensor[..., span] for name, tensor in belief.items()}


def advance(
    rule: type[Rule],
    belief: Belief,
    gradient: Tensor,
    weights: Tensor,
    o: Options,
    drawn: Noise,
    noise: Noise,
    *,
    estimated: bool = False,
    accept: Tensor | None = None,
    compile: bool = False,
    jobs: list[kernels.Job] | None = None,
) -> None:
    """Updates a belief in place and writes the next draw.

    Args:
        rule: The learning rule.
        belief: Flat float32 tensors, or rows of them; changed in place.
        gradient: Flat gradient at the weights, or an estimate already averaged over draws.
        weights: Flat weights of the current draw; overwritten with the next.
        o: Options of the rule.
        drawn: Noise of the current draw.
        noise: Noise of the next.
        estimated: Whether `gradient` is already an estimate.
        accept: 0-d bool on the device; False leaves the belief as it is.
        compile: One pass over memory instead of chunks.
        jobs: Of `together`: what a kernel would do is put there.
    """
    if compile and weights.device.type == "cpu":
        if accept is not None and not accept:
            redraw(rule, belief, weights, o, noise, compile=True)
            return
        if kernels.advance(rule, belief, gradient, weights, o, drawn, noise, estimated=estimated, jobs=jobs):
            return
    if compile and _has_compiler(weights.device.type):
        number = {n: v for n, v in vars(o).items() if isinstance(v, (int, float, Tensor)) and not isinstance(v, bool)}
        static = tuple((name, value) for name, value in sorted(vars(o).items()) if name not in number)
        values = _on_device([*number.values()], torch.float32, weights.device)
        numbers = dict(zip(number, values.unbind(), strict=True))
        keys = [drawn.key, drawn.shared_key, noise.key, noise.shared_key]
        keys = _on_device(keys, torch.int64, weights.device)
        _compiled(rule, static)(belief, gradient, weights, numbers, keys, estimated, accept)
        return
    for span in _spans(belief, weights):
        pieces = drawn.part(span), noise.part(span)
        _advance_chunk(rule, _part(belief, span), gradient[..., span], weights[span], o, *pieces, estimated, accept)


def accumulate(
    rule: type[Rule],
    belief: Belief,
    gradient: Tensor,
    weights: Tensor,
    o: Options,
    drawn: Noise,
    samples: int,
    total: Tensor | None,
) -> Tensor:
    """Adds one draw's share of a mean estimate to those of the step's other draws.

    Args:
        rule: The learning rule.
        belief: Flat float32 tensors, or rows of them.
        gradient: Flat gradient at the weights.
        weights: Flat weights of the draw.
        o: Options of the rule.
        drawn: Noise of the draw.
        samples: Draws of the step.
        total: Of the draws before, changed in place; None for the first.

    Returns:
        The total: flat, or rows for rules that have several estimates a weight.
    """
    first = total is None
    for span in _spans(belief, weights):
        part = _part(belief, span), gradient[span], weights[span], drawn.part(span)
        estimate = _estimate(rule, *part, o) / samples
        if total is None:
            total = estimate.new_empty(*estimate.shape[:-1], weights.numel())
        total[..., span] = estimate if first else total[..., span] + estimate
    return weights.new_empty(0, dtype=torch.float32) if total is None else total


@contextmanager
def together() -> Iterator[list[kernels.Job]]:
    """Lends a list for the kernels of one step, and runs them by one call: streams of memory would evict Python."""
    jobs: list[kernels.Job] = []
    try:
        yield jobs
    finally:
        kernels.run(jobs)


def redraw(rule: type[Rule], belief: Belief, weights: Tensor, o: Options, noise: Noise, compile: bool = False) -> None:
    """Writes a draw of an unchanged belief into flat weights; `compile` as the `advance` that it repeats."""
    if compile and weights.device.type == "cpu" and kernels.redraw(rule, belief, weights, o, noise):
        return
    for span in _spans(belief, weights):
        weights[span].copy_(rule.draw(_part(belief, span), noise.part(span), o))
