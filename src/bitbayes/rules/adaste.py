"""AdaSTE (Le, Høier, Lin & Zach, CVPR 2022): a straight-through estimator derived from a bilevel problem.

Belief: latent θ and a moving average. Forward uses the lower problem's solution, which hardens as β grows:

    w = hardtanh((θ + β(1 + a)·sign θ) / (1 + β));    β ← min(β·growth, 1/a) every `interval` steps

The gradient g at w is multiplied by 1/(1 + β) where w is not saturated; where it is, by 0 if the step would push θ
further out, and by min(1/|θ|, ½) if it would bring θ towards a flip. With f that factor, N = ess and the released
optimizer's shell:

    m ← 0.9 m + 0.1 (N²·f·g + θ);    θ ← θ − α m / (1 − 0.9ᵗ)
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Common, Params
from bitbayes.rules.rule import Belief, Count, Number, Options, Values


class AdaSTEOptions(Options):
    """Options that the functions of AdaSTE read."""

    ess: Number
    beta: Number
    beta_drawn: Number
    a: Number
    momentum: Number
    correction: Number
    init_theta: float


class AdaSTE(BinaryOptimizer[AdaSTEOptions]):
    """Trains latent weights with gradients kept alive where they would flip a weight.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Step size α.
        ess: N; the released code multiplies the gradient by its square.
        beta: First β.
        growth: Factor on β.
        interval: Steps between two factors (the paper: one epoch).
        a: Margin a > 0; β ends at 1/a, where w is exactly sign(θ).
        momentum: Decay of the moving average.
        init_theta: Initial |θ|; signs are random.
        **common: Options of all rules; see `BinaryOptimizer`.

    Raises:
        ValueError: For options out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = AdaSTE([layer.weight], lr=0.01, ess=100, seed=0)
        >>> for _ in range(50):
        ...     (layer(torch.ones(1, 2)) - 2).square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> _ = optimizer.eval()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    start = "signs"

    def __init__(
        self,
        params: Params,
        lr: float = 3e-4,
        *,
        ess: float,
        beta: float = 0.01,
        growth: float = 1.05,
        interval: int = 500,
        a: float = 0.01,
        momentum: float = 0.9,
        init_theta: float = 10.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr, ess=ess, beta=beta, growth=growth, interval=interval, a=a, momentum=momentum, init_theta=init_theta
        )
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Values) -> None:
        """Refuse options out of range."""
        checks.number(group["ess"], "ess", "a positive number (examples times augmentation)", low=0)
        checks.number(group["a"], "a", "positive", low=0)
        checks.number(group["init_theta"], "init_theta", "positive", low=0)
        checks.annealing({**group, "beta_max": 1 / group["a"]})
        checks.decay(group["momentum"], "momentum")

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """β now, and β when the weights at hand were drawn."""
        at, highest = (group["beta"], group["growth"], group["interval"]), 1 / group["a"]
        return {
            "beta": F.annealed(*at, step, highest),
            "beta_drawn": F.annealed(*at, step - 1, highest),
            "correction": F.bias_correction(group["momentum"], step),
        }

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: AdaSTEOptions) -> Belief:
        """θ = ±init_theta, and no average yet."""
        latent = start * o.init_theta
        return {"latent": latent, "average": torch.zeros_like(latent)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: AdaSTEOptions) -> Tensor:
        """The lower problem's solution w."""
        latent = belief["latent"]
        return ((latent + o.beta * (1 + o.a) * F.sign(latent)) / (1 + o.beta)).clamp(-1, 1)

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: AdaSTEOptions) -> Tensor:
        """N²·f·g."""
        latent = belief["latent"]
        inside = 1 / (1 + o.beta_drawn)
        # A step against the gradient brings θ towards a flip where θ·g > 0.
        outside = (1 / latent.abs()).clamp(max=0.5) * F.heaviside(latent * gradient)
        factor = inside + F.heaviside(draw.abs() - 1) * (outside - inside)
        return o.ess * o.ess * factor * gradient

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: AdaSTEOptions) -> Belief:
        """One step of the moving average on θ."""
        average = o.momentum * belief["average"] + (1 - o.momentum) * (estimate + belief["latent"])
        return {"latent": belief["latent"] - o.lr / o.correction * average, "average": average}

    @staticmethod
    def mode(belief: Belief, o: AdaSTEOptions) -> Tensor:
        """sign(θ)."""
        return F.sign(belief["latent"])
