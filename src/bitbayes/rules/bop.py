"""Bop (Helwegen et al., NeurIPS 2019): flip a weight when a moving average of its gradient says so.

Belief: the average m and the current signs w; there are no latent weights. With γ = lr:

    m ← (1 − γ) m + γ g;    w ← −w where w·m > threshold
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.kernels.run import Call
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Common, Params
from bitbayes.rules.rule import Belief, Number, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BopOptions(Options):
    """What the functions of Bop read."""

    threshold: Number


class Bop(BinaryOptimizer[BopOptions]):
    """Flips weights whose averaged gradient is consistent and large enough.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Adaptivity rate γ of the moving average.
        threshold: Size of the average that flips a weight.
        **common: Options of all rules; see `BinaryOptimizer`.

    Raises:
        ValueError: For options out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = Bop([layer.weight], lr=0.5, seed=0)
        >>> (layer(torch.ones(1, 2)) - 9).square().sum().backward()
        >>> optimizer.step()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    start = "signs"

    def __init__(self, params: Params, lr: float = 1e-4, *, threshold: float = 1e-8, **common: Unpack[Common]) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold}, **common)

    @staticmethod
    def check(group: Mapping[str, Any]) -> None:
        """Refuse options out of range."""
        checks.share(group["lr"], "lr")
        checks.number(group["threshold"], "threshold", "at least 0", open_low=False)

    @staticmethod
    def hard(group: Mapping[str, Any]) -> bool:
        """Always: a belief has the signs themselves."""
        return True

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: BopOptions) -> Belief:
        """Signs of the start, and no average yet."""
        return {"sign": F.sign(start).to(torch.int8), "average": torch.zeros_like(start)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: BopOptions) -> Tensor:
        """The signs."""
        return belief["sign"].float()

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: BopOptions) -> Belief:
        """Average the gradient, then flip."""
        sign = belief["sign"].float()
        average = belief["average"] + o.lr * (estimate - belief["average"])
        return {"average": average, "sign": sign * F.sign(o.threshold - sign * average)}

    @staticmethod
    def mode(belief: Belief, o: BopOptions) -> Tensor:
        """The signs."""
        return belief["sign"].float()

    @staticmethod
    def update_kernel(belief: Belief, o: BopOptions, drawn: Noise, noise: Noise, estimated: bool) -> Call:
        """Covers all options."""
        return Call("bop", [belief["average"], belief["sign"]], [o.lr, o.threshold])
