"""Four processes that share a batch: gradients are averaged, draws come from a shared seed."""

from typing import Any

import style
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import bitbayes as bb

RANKS, WEIGHTS = 4, 12


def draw() -> Figure:
    """Take one step in each of four copies, with the mean of their gradients, and draw the signs that each holds."""
    gradients = torch.randn(RANKS, WEIGHTS, generator=torch.Generator().manual_seed(0))
    held = []
    for _ in range(RANKS):
        weight = torch.nn.Parameter(torch.zeros(WEIGHTS))
        optimizer = bb.BayesBiNN([("weight", weight)], lr=1.0, ess=10, seed=1)
        weight.grad = gradients.mean(0)
        optimizer.step()
        held.append(weight.detach().sign())
    assert all(torch.equal(held[0], signs) for signs in held)
    figure, ((axis,),) = style.new_figure(height=3.3)
    for rank in range(RANKS):
        y = rank * 1.15
        _box(axis, 0, y, 2.3, f"process {rank}", "25 of 100 examples")
        _box(axis, 3.0, y, 1.6, "gradient", "of the share")
        _box(axis, 7.1, y, 1.6, "update", "and next draw")
        for place, sign in enumerate(held[rank].tolist()):
            face = style.BLUE if sign > 0 else "none"
            axis.add_patch(_patch(9.4 + 0.26 * place, y + 0.28, 0.2, 0.3, face, style.BLUE, 0.02))
        axis.annotate("", (3.0, y + 0.42), (2.3, y + 0.42), arrowprops=_ARROW)
        axis.annotate("", (5.2, y + 0.42), (4.6, y + 0.42), arrowprops=_ARROW)
        axis.annotate("", (7.1, y + 0.42), (6.5, y + 0.42), arrowprops=_ARROW)
        axis.annotate("", (9.35, y + 0.42), (8.7, y + 0.42), arrowprops=_ARROW)
    axis.add_patch(_patch(5.2, 0, 1.3, 4.3, "none", style.ORANGE, 0.08))
    axis.text(5.85, 2.15, "mean of\nall\ngradients", ha="center", va="center", fontsize=8.5)
    axis.text(10.9, -0.35, "the same weights everywhere", ha="center", va="center", color=style.MUTED, fontsize=9)
    axis.text(5.85, 4.75, "the only communication", ha="center", va="center", color=style.MUTED, fontsize=9)
    axis.text(10.2, 4.75, "noise = f(seed, step, tensor)", ha="center", va="center", color=style.MUTED, fontsize=9)
    axis.set(xlim=(-0.1, 12.6), ylim=(5.0, -0.6))
    axis.axis("off")
    return figure


_ARROW = {"arrowstyle": "->", "color": style.MUTED, "lw": 1.2}


def _box(axis: Any, x: float, y: float, width: float, first: str, second: str) -> None:
    axis.add_patch(_patch(x, y, width, 0.85, "none", style.LINE, 0.08))
    axis.text(x + width / 2, y + 0.28, first, ha="center", va="center", fontsize=9.5)
    axis.text(x + width / 2, y + 0.6, second, ha="center", va="center", fontsize=8, color=style.MUTED)


def _patch(x: float, y: float, width: float, height: float, face: str, edge: str, rounding: float) -> FancyBboxPatch:
    shape = f"round,pad=0,rounding_size={rounding}"
    return FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=face, edgecolor=edge, linewidth=1.2)
