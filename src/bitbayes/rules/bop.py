"""Bop (Helwegen et al., NeurIPS 2019): flip a weight when a moving average of its gradient says so.

Belief: the average m and the current signs w; there are no latent weights. With γ = lr:

    m ← (1 − γ) m + γ g;    w ← −w where w·m > threshold
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import Belief, Options


class Bop(BinaryOptimizer):
    """Flips weights whose averaged gradient is consistent and large enough.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Adaptivity rate γ of the moving average.
        threshold: Size of the average that flips a weight.
        **common: samples, scale, scale_lr, init, seed, compile: see `BinaryOptimizer`.

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

    def __init__(self, params: Params, lr: float = 1e-4, *, threshold: float = 1e-8, **common: Any) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold}, **common)

    @staticmethod
    def check(group: Mapping[str, Any]) -> None:
        """Refuses options out of range."""
        checks.number(group["threshold"], "threshold", "at least 0", open_low=False)

    @staticmethod
    def hard(group: Mapping[str, Any]) -> bool:
        """Always: a belief has the signs themselves."""
        return True

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: Options) -> Belief:
        """Signs of the start, and no average yet."""
        return {"sign": F.sign(start).to(torch.int8), "average": torch.zeros_like(start)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: Options) -> Tensor:
        """The signs."""
        return belief["sign"].float()

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: Options) -> Belief:
        """Average the gradient, then flip."""
        sign = belief["sign"].float()
        average = belief["average"] + o.lr * (estimate - belief["average"])
        return {"average": average, "sign": sign * F.sign(o.threshold - sign * average)}

    @staticmethod
    def mode(belief: Belief, o: Options) -> Tensor:
        """The signs."""
        return belief["sign"].float()
