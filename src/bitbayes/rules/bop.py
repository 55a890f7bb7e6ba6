"""Bop flips a weight when a moving average of its gradient is large and pushes against its sign.

There are no latent weights: the belief holds the current signs w. With γ = lr, Bop (Helwegen et al., NeurIPS 2019)
keeps the average m:

    m ← (1 − γ) m + γ g;    w ← −w where w·m > threshold

Second-order Bop (Suarez-Ramirez et al., CVPR workshops 2021) divides m by the root of v, the moving average of g²:

    m ← m + γ (g − m);    v ← v + σ (g² − v);    w ← −w where w·m / (√v + 1e-10) > threshold

The unbiased variant first divides m by 1 − (1 − γ)ᵗ and v by 1 − (1 − σ)ᵗ.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.kernels.run import Call
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import Belief, Common, Count, Number, O, Options, Values


class _Flips(BinaryOptimizer[O]):
    """Base class of both rules in this file."""

    start = "signs"

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.share(group["lr"], "lr")
        checks.number(group["threshold"], "threshold", "at least 0", open_low=False)

    @staticmethod
    def hard(group: Values) -> bool:
        """Return True, because the belief holds the signs themselves."""
        return True

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: O) -> Tensor:
        """Return the signs."""
        return belief["sign"].float()

    @staticmethod
    def mode(belief: Belief, o: O) -> Tensor:
        """Return the signs."""
        return belief["sign"].float()


class BopOptions(Options):
    """Options that the functions of Bop read."""

    threshold: Number


class Bop(_Flips[BopOptions]):
    """Bop, which flips a weight whose averaged gradient is large and consistent.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Adaptivity rate γ of the moving average.
        threshold: Magnitude of the average above which a weight flips.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = Bop([layer.weight], lr=0.5, seed=0)
        >>> (layer(torch.ones(1, 2)) - 9).square().sum().backward()
        >>> optimizer.step()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    def __init__(self, params: Params, lr: float = 1e-4, *, threshold: float = 1e-8, **common: Unpack[Common]) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold}, **common)

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: BopOptions) -> Belief:
        """Return the initial signs and an average of zero."""
        return {"sign": F.sign(start).to(torch.int8), "average": torch.zeros_like(start)}

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: BopOptions) -> Belief:
        """Update the average, then flip weights."""
        sign = belief["sign"].float()
        average = belief["average"] + o.lr * (estimate - belief["average"])
        return {"average": average, "sign": sign * F.sign(o.threshold - sign * average)}

    @staticmethod
    def update_kernel(belief: Belief, o: BopOptions, drawn: Noise, noise: Noise, estimated: bool) -> Call:
        """Return the kernel, which covers all options."""
        return Call("bop", [belief["average"], belief["sign"]], [o.lr, o.threshold])


class Bop2ndOrderOptions(BopOptions):
    """Options that the functions of Bop2ndOrder read."""

    sigma: Number
    unbiased: bool
    correction1: Number
    correction2: Number


class Bop2ndOrder(_Flips[Bop2ndOrderOptions]):
    """Second-order Bop, which flips a weight whose averaged gradient is large relative to its root mean square.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Adaptivity rate γ of the first moment.
        threshold: Magnitude of the normalised average above which a weight flips.
        sigma: Adaptivity rate σ of the second moment.
        unbiased: Whether to correct both moments for their initial value of zero. The correction is that of a constant
            `lr`, so that a rate which falls makes more weights flip.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = Bop2ndOrder([layer.weight], lr=0.5, seed=0)
        >>> (layer(torch.ones(1, 2)) - 9).square().sum().backward()
        >>> optimizer.step()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

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
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        _Flips.check(group)
        checks.option(0 < group["sigma"] <= 1, "sigma", "in (0, 1]", group["sigma"])

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return the two numbers that the unbiased variant divides by."""
        return {
            "correction1": _divisor(F.bias_correction(1 - group["lr"], step)),
            "correction2": F.bias_correction(1 - group["sigma"], step),
        }

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: Bop2ndOrderOptions) -> Belief:
        """Return the initial signs and moments of zero."""
        zero = torch.zeros_like(start)
        return {"sign": F.sign(start).to(torch.int8), "first": zero, "second": zero.clone()}

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: Bop2ndOrderOptions) -> Belief:
        """Update the averages of the gradient and its square, then flip weights."""
        sign = belief["sign"].float()
        first = belief["first"] + o.lr * (estimate - belief["first"])
        second = belief["second"] + o.sigma * (F.square(estimate) - belief["second"])
        mean, square = first, second
        if o.unbiased:
            mean, square = first / o.correction1, second / o.correction2
        margin = o.threshold - sign * mean / (square.sqrt() + 1e-10)
        return {"first": first, "second": second, "sign": sign * F.sign(margin)}


def _divisor(correction: float | Tensor) -> float | Tensor:
    """Return a correction, or 1 where it is 0, because the moment is then 0, too: nothing was learned so far."""
    return torch.where(correction == 0, 1.0, correction) if isinstance(correction, Tensor) else correction or 1.0
