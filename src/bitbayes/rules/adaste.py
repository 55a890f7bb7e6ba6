"""AdaSTE (Le, Høier, Lin & Zach, CVPR 2022): a straight-through estimator derived from a bilevel problem.

The belief is a latent θ and a moving average. The forward pass uses the lower problem's solution, which hardens as β
grows:

    w = hardtanh((θ + β(1 + a)·sign θ) / (1 + β));    β ← min(β·growth, 1/a) every `interval` steps

The gradient g at w is multiplied by a factor f, which is that of the released code. The first row that applies counts:

    |g| < dead_zone                              f = 1/(1 + β)
    |θ| > 1 − βa (saturated), outwards           f = 0
    |θ| > 1 − βa, towards a flip                 f = (1 + 2β + βa) / ((1 + β)|θ|), at most ½
    |θ| < 1 − βa, outwards                       f = 1/(1 + β)
    |θ| < 1 − βa, towards a flip                 f = (2β(1 + a) − |θ|) / ((1 + β)|θ|), in [0, ½]

When β has reached 1/a, weights with |θ| > 0.001 and |g| ≥ dead_zone have f = 0 outwards and f = min(1/|θ|, ½) towards
a flip, and all others f = 1. In the last of the five rows, the released code has θ instead of |θ| in the numerator,
which treats the two signs differently. With N = ess, the released optimizer then computes:

    m ← 0.9 m + 0.1 (N²·f·g + θ);    θ ← θ − α m / (1 − 0.9ᵗ)
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import Belief, Common, Count, Number, Options, Values


class AdaSTEOptions(Options):
    """Options that the functions of AdaSTE read."""

    ess: Number
    beta: Number
    beta_drawn: Number
    hard: Number
    a: Number
    dead_zone: Number
    momentum: Number
    correction: Number
    init_theta: float


class AdaSTE(BinaryOptimizer[AdaSTEOptions]):
    """AdaSTE, which keeps gradients of saturated weights alive where they would flip the weight.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Step size α.
        ess: Effective sample size N. The released code multiplies the gradient by N².
        beta: Initial β.
        growth: Factor by which β grows.
        interval: Number of steps between two growths of β. The paper uses one epoch.
        a: Margin a > 0. β grows up to 1/a, where w is exactly sign(θ).
        dead_zone: Gradients with a smaller |g| are multiplied by 1/(1 + β), whatever θ is.
        momentum: Decay rate of the moving average.
        init_theta: Initial |θ|. The signs are random.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range.

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
        dead_zone: float = 1e-3,
        momentum: float = 0.9,
        init_theta: float = 10.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, ess=ess, beta=beta, growth=growth, interval=interval, a=a, dead_zone=dead_zone)
        options |= dict(momentum=momentum, init_theta=init_theta)
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.number(group["ess"], "ess", "a positive number (examples times augmentation)", low=0)
        checks.number(group["a"], "a", "positive", low=0)
        checks.number(group["dead_zone"], "dead_zone", "at least 0", open_low=False)
        checks.number(group["init_theta"], "init_theta", "positive", low=0)
        checks.annealing({**group, "beta_max": 1 / group["a"]})
        checks.decay(group["momentum"], "momentum")

    @staticmethod
    def ignores_draw(group: Values) -> bool:
        """Return True, because w has no noise."""
        return True

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return the current β, and β when the current weights were drawn, with whether it was the highest."""
        at, highest = (group["beta"], group["growth"], group["interval"]), 1 / group["a"]
        drawn = F.annealed(*at, step - 1, highest)
        return {
            "beta": F.annealed(*at, step, highest),
            "beta_drawn": drawn,
            "hard": 1.0 * (drawn >= highest),
            "correction": F.bias_correction(group["momentum"], step),
        }

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: AdaSTEOptions) -> Belief:
        """Return θ = ±init_theta and a moving average of zero."""
        latent = start * o.init_theta
        return {"latent": latent, "average": torch.zeros_like(latent)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: AdaSTEOptions) -> Tensor:
        """Return the lower problem's solution w."""
        latent = belief["latent"]
        return ((latent + o.beta * (1 + o.a) * F.sign(latent)) / (1 + o.beta)).clamp(-1, 1)

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: AdaSTEOptions) -> Tensor:
        """Return N²·f·g."""
        latent, beta, soft = belief["latent"], o.beta_drawn, 1 - o.hard
        size = latent.abs()
        rest = o.hard + soft / (1 + beta)
        pull = o.hard + soft * (1 + 2 * beta + beta * o.a) / (1 + beta)
        edge = 1e-3 * o.hard + soft * (1 - beta * o.a)
        # Where θ·g > 0, a step against the gradient brings θ towards a flip.
        towards = F.heaviside(latent * gradient)
        outside = towards * (pull / size).clamp(max=0.5)
        between = ((2 * beta * (1 + o.a) - size) / ((1 + beta) * size)).clamp(0, 0.5)
        inside = rest + soft * towards * (between - rest)
        moved = inside + F.heaviside(size - edge) * (outside - inside)
        factor = rest + F.heaviside(gradient.abs() - o.dead_zone) * (moved - rest)
        return o.ess * o.ess * factor * gradient

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: AdaSTEOptions) -> Belief:
        """Take one step on θ along the moving average."""
        average = o.momentum * belief["average"] + (1 - o.momentum) * (estimate + belief["latent"])
        return {"latent": belief["latent"] - o.lr / o.correction * average, "average": average}

    @staticmethod
    def mode(belief: Belief, o: AdaSTEOptions) -> Tensor:
        """Return sign(θ)."""
        return F.sign(belief["latent"])
