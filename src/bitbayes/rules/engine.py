"""Runs a rule's pure functions over the flat storage of one tensor.

Rules are written as equations that return new tensors. Here they are applied chunk by chunk, so that every temporary
stays in the processor's cache and none has the network's size; or, with `compile=True`, as one pass over memory: by
the compiled loops of `bitbayes.kernels` where the rule has one for this device, else by torch.compile. Without the
compiler that these need, chunk by chunk after all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bitbayes.kernels import run as kernels
from bitbayes.noise import Noise, spans
from bitbayes.rules import fused
from bitbayes.rules.rule import Belief, Options, Rule
from bitbayes.rules.update import Update, estimate_of, part


@dataclass
class Jobs:
    """Work of one step that is put off, to be done for all tensors by one call."""

    in_c: list[kernels.Job] = field(default_factory=list)
    compiled: list[Update] = field(default_factory=list)


def _spans(belief: Belief, weights: Tensor) -> Iterator[slice]:
    """Pieces of the weights, shorter for beliefs of many rows."""
    count = weights.numel()
    rows = max(tensor.dim() and tensor.numel() // max(count, 1) for tensor in belief.values())
    return spans(count, weights.device, max(rows, 1))


def advance(update: Update, *, compile: bool = False, jobs: Jobs | None = None) -> None:
    """Updates a belief in place and writes the next draw.

    Args:
        update: Of one tensor.
        compile: One pass over memory instead of chunks.
        jobs: Of `together`: what is to be done in one pass is put there.
    """
    rule, belief, gradient, weights, o, drawn, noise, estimated, accept = update
    if compile and weights.device.type == "cpu":
        if accept is not None and not accept:
            redraw(rule, belief, weights, o, noise, compile=True)
            return
        listed = None if jobs is None else jobs.in_c
        if kernels.advance(rule, belief, gradient, weights, o, drawn, noise, estimated=estimated, jobs=listed):
            return
    if compile and fused.has_compiler(weights.device.type):
        if jobs is None:
            fused.run([update])
        else:
            jobs.compiled.append(update)
        return
    for span in _spans(belief, weights):
        update.part(span).do()


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
        piece = part(belief, span), gradient[span], weights[span], drawn.part(span)
        estimate = estimate_of(rule, *piece, o) / samples
        if total is None:
            total = estimate.new_empty(*estimate.shape[:-1], weights.numel())
        total[..., span] = estimate if first else total[..., span] + estimate
    return weights.new_empty(0, dtype=torch.float32) if total is None else total


@contextmanager
def together() -> Iterator[Jobs]:
    """Lends lists for the work of one step, and does it by one call: streams of memory would evict Python."""
    jobs = Jobs()
    try:
        yield jobs
    finally:
        kernels.run(jobs.in_c)
        fused.run(jobs.compiled)


def redraw(rule: type[Rule], belief: Belief, weights: Tensor, o: Options, noise: Noise, compile: bool = False) -> None:
    """Writes a draw of an unchanged belief into flat weights; `compile` as the `advance` that it repeats."""
    if compile and weights.device.type == "cpu" and kernels.redraw(rule, belief, weights, o, noise):
        return
    for span in _spans(belief, weights):
        weights[span].copy_(rule.draw(part(belief, span), noise.part(span), o))
