"""PMF and mirror descent: soft weights tanh(βv) with a growing inverse temperature β, trained with Adam.

PMF, proximal mean-field (Ajanthan et al., ICCV 2019), anneals a categorical distribution. For two values, the softmax
over {−1, +1} depends on one number, the half-difference v of the two logits:

    w = tanh(βv);    v ← v − α · Adam(g · J);    β ← min(β·growth, β_max) every `interval` steps

J is the softmax's Jacobian: β(1 − w²) if "exact", or β(2 − w²) if "released", to which the published code's I − uuᵀ
amounts. The latter does not vanish if a weight is nearly hard.

MD-tanh-S (Ajanthan, Gupta et al., AISTATS 2021) takes dual steps under the mirror map of tanh: the gradient at the
primal point w moves the dual point v without the factor tanh′, so v ← v − α · Adam(g).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import AdamStep, Belief, Common, Count, Number, Values


class MirrorDescentOptions(AdamStep):
    """Options that the functions of both rules read."""

    beta: Number


S = TypeVar("S", bound=MirrorDescentOptions)


class _Soft(BinaryOptimizer[S]):
    """Base class of both rules in this file."""

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.annealing(group)
        checks.betas(group["betas"])

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return β at this step."""
        beta = F.annealed(group["beta"], group["growth"], group["interval"], step, group["beta_max"])
        return {"beta": beta, **F.adam_options(group["betas"], step)}

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: S) -> Belief:
        """Return v of Glorot's size and moments of zero."""
        latent = start * o.bound
        return {"latent": latent, "first": torch.zeros_like(latent), "second": torch.zeros_like(latent)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: S) -> Tensor:
        """Return the soft weights."""
        return torch.tanh(o.beta * belief["latent"])

    @staticmethod
    def mode(belief: Belief, o: S) -> Tensor:
        """Return sign(v)."""
        return F.sign(belief["latent"])


class PMFOptions(MirrorDescentOptions):
    """Options that the functions of PMF read."""

    beta_drawn: Number
    jacobian: str
    weight_decay: Number


class PMF(_Soft[PMFOptions]):
    """Proximal mean-field, which trains soft weights tanh(βv) with Adam while β grows.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of Adam.
        beta: Initial inverse temperature β.
        growth: Factor ρ by which β grows.
        interval: Number of steps between two growths of β.
        beta_max: Upper bound of β.
        jacobian: Jacobian of the softmax: "released" or "exact"; see the module.
        betas: Decay rates of Adam's moments.
        weight_decay: L2 penalty on the two logits of each weight, as in the published code.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = PMF([layer.weight], lr=0.1, seed=0)
        >>> for _ in range(50):
        ...     (layer(torch.ones(1, 2)) - 2).square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> _ = optimizer.eval()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    has_posterior = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        beta: float = 1.0,
        growth: float = 1.05,
        interval: int = 100,
        beta_max: float = 1e4,
        jacobian: str = "released",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options: Values = dict(lr=lr, beta=beta, growth=growth, interval=interval, beta_max=beta_max)
        options |= dict(jacobian=jacobian, betas=betas, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        _Soft.check(group)
        jacobian = group["jacobian"]
        checks.option(jacobian in ("released", "exact"), "jacobian", '"released" or "exact"', jacobian)
        checks.number(group["weight_decay"], "weight_decay", "at least 0", open_low=False)

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return the current β, and β at the time the current weights were drawn."""
        drawn = F.annealed(group["beta"], group["growth"], group["interval"], step - 1, group["beta_max"])
        return {**_Soft.schedule(group, step), "beta_drawn": drawn}

    @staticmethod
    def ignores_draw(group: Values) -> bool:
        """Return True, because the soft weights have no noise."""
        return True

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: PMFOptions) -> Tensor:
        """Return the gradient with respect to v."""
        slope = (2 if o.jacobian == "released" else 1) - draw * draw
        return gradient * slope * o.beta_drawn

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: PMFOptions) -> Belief:
        """Take one step of Adam on v."""
        # The gradient at v is the difference of those at the logits, v and −v, and so is that of the penalty.
        gradient = estimate + 2 * o.weight_decay * belief["latent"]
        first, second, direction = F.adam(belief["first"], belief["second"], gradient, o)
        return {"latent": belief["latent"] - o.lr * direction, "first": first, "second": second}

    @staticmethod
    def natural(belief: Belief, o: PMFOptions) -> Tensor:
        """Return λ = βv, because the mean of the categorical distribution is tanh(βv)."""
        return o.beta * belief["latent"]


class MirrorDescent(_Soft[MirrorDescentOptions]):
    """Mirror descent, which trains dual weights v with gradients at tanh(βv) and Adam while β grows.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of Adam.
        beta: Initial inverse temperature β.
        growth: Factor by which β grows.
        interval: Number of steps between two growths of β.
        beta_max: Upper bound of β.
        betas: Decay rates of Adam's moments.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = MirrorDescent([layer.weight], lr=0.1, seed=0)
        >>> for _ in range(50):
        ...     (layer(torch.ones(1, 2)) - 2).square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> _ = optimizer.eval()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        beta: float = 1.0,
        growth: float = 1.02,
        interval: int = 200,
        beta_max: float = 1e35,
        betas: tuple[float, float] = (0.9, 0.999),
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, beta=beta, growth=growth, interval=interval, beta_max=beta_max, betas=betas)
        super().__init__(params, options, **common)

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: MirrorDescentOptions) -> Belief:
        """Take one step of Adam on v."""
        first, second, direction = F.adam(belief["first"], belief["second"], estimate, o)
        return {"latent": belief["latent"] - o.lr * direction, "first": first, "second": second}
