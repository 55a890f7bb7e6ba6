"""Second-order Bop (Suarez-Ramirez et al., CVPR workshops 2021): Bop with the average scaled by the gradient's size.

Belief: averages m of g and v of g², and the current signs w. With γ = lr:

    m ← m + γ (g − m);    v ← v + σ (g² − v);    w ← −w where w·m / (√v + 1e-10) > threshold

The unbiased variant divides m and v by 1 − (1 − γ)ᵗ and 1 − (1 − σ)ᵗ first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Common, Params
from bitbayes.rules.rule import Belief, Count, Number, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Bop2ndOrderOptions(Options):
    """What the functions of Bop2ndOrder read."""

    threshold: Number
    sigma: Number
    unbiased: bool
    correction1: Number
    correction2: Number


class Bop2ndOrder(BinaryOptimizer[Bop2ndOrderOptions]):
    """Flips weights whose averaged gradient is large beside its own root mean square.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Adaptivity rate γ of the first moment.
        threshold: Normalised average that flips a weight.
        sigma: Adaptivity rate σ of the second moment.
        unbiased: Correct both moments for their start at zero.
        **common: Options of all rules; see `BinaryOptimizer`.

    Raises:
        ValueError: For options out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = Bop2ndOrder([layer.weight], lr=0.5, seed=0)
        >>> (layer(torch.ones(1, 2)) - 9).square().sum().backward()
        >>> optimizer.step()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    start = "signs"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        *,
        threshold: float = 1e-6,
        sigma: float = 1e-2,
        unbiased: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold, "sigma": sigma, "unbiased": unbiased}, **common)

    @staticmethod
    def check(group: Mapping[str, Any]) -> None:
        """Refuse options out of range."""
        checks.share(group["lr"], "lr")
        checks.number(group["threshold"], "threshold", "at least 0", open_low=False)
        checks.option(0 < group["sigma"] <= 1, "sigma", "in (0, 1]", group["sigma"])

    @staticmethod
    def hard(group: Mapping[str, Any]) -> bool:
        """Always: a belief has the signs themselves."""
        return True

    @staticmethod
    def schedule(group: Mapping[str, Any], step: Count) -> dict[str, Any]:
        """By what the unbiased variant divides."""
        return {
            "correction1": F.bias_correction(1 - group["lr"], step),
            "correction2": F.bias_correction(1 - group["sigma"], step),
        }

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: Bop2ndOrderOptions) -> Belief:
        """Signs of the start, and no moments yet."""
        zero = torch.zeros_like(start)
        return {"sign": F.sign(start).to(torch.int8), "first": zero, "second": zero.clone()}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: Bop2ndOrderOptions) -> Tensor:
        """The signs."""
        return belief["sign"].float()

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: Bop2ndOrderOptions) -> Belief:
        """Average the gradient and its square, then flip."""
        sign = belief["sign"].float()
        first = belief["first"] + o.lr * (estimate - belief["first"])
        second = belief["second"] + o.sigma * (F.square(estimate) - belief["second"])
        mean, square = first, second
        if o.unbiased:
            mean, square = first / o.correction1, second / o.correction2
        margin = o.threshold - sign * mean / (square.sqrt() + 1e-10)
        return {"first": first, "second": second, "sign": sign * F.sign(margin)}

    @staticmethod
    def mode(belief: Belief, o: Bop2ndOrderOptions) -> Tensor:
        """The signs."""
        return belief["sign"].float()
