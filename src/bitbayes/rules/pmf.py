"""PMF and mirror descent: soft weights tanh(βv) with an inverse temperature β that grows. v has Adam's moments.

PMF, proximal mean-field (Ajanthan et al., ICCV 2019), anneals a categorical. For two values the softmax over {−1, +1}
depends on one number, the half-difference v of the two logits:

    w = tanh(βv);    v ← v − α · Adam(g · J);    β ← min(β·growth, β_max) every `interval` steps

J is the softmax's Jacobian: β(1 − w²) "exact", or β(2 − w²) "released", what the published code's I − uuᵀ comes to;
the latter does not vanish where a weight is nearly hard.

MD-tanh-S (Ajanthan, Gupta et al., AISTATS 2021) takes dual steps under the mirror map of tanh: the gradient at the
primal point w moves the dual one v without the factor tanh′, so v ← v − α · Adam(g).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Common, Params
from bitbayes.rules.rule import AdamStep, Belief, Count, Number, Values


class MirrorDescentOptions(AdamStep):
    """Options that the functions of both rules read."""

    beta: Number


S = TypeVar("S", bound=MirrorDescentOptions)


class _Soft(BinaryOptimizer[S]):
    """Base of both rules in this file."""

    @staticmethod
    def check(group: Values) -> None:
        """Refuse options out of range."""
        checks.annealing(group)
        checks.betas(group["betas"])

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """β at this step."""
        beta = F.annealed(group["beta"], group["growth"], group["interval"], step, group["beta_max"])
        return {"beta": beta, **F.adam_options(group["betas"], step)}

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: S) -> Belief:
        """Glorot's size, and no moments yet."""
        latent = start * o.bound
        return {"latent": latent, "first": torch.zeros_like(latent), "second": torch.zeros_like(latent)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: S) -> Tensor:
        """Soft weights."""
        return torch.tanh(o.beta * belief["latent"])

    @staticmethod
    def mode(belief: Belief, o: S) -> Tensor:
        """sign(v)."""
        return F.sign(belief["latent"])


class PMFOptions(MirrorDescentOptions):
    """Options that the functions of PMF read."""

    beta_drawn: Number
    jacobian: str
    weight_decay: Number


class PMF(_Soft[PMFOptions]):
    """Trains soft weights tanh(βv) with Adam while β grows.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of Adam.
        beta: First inverse temperature β.
        growth: Factor ρ on β.
        interval: Steps between two factors.
        beta_max: Upper bound of β.
        jacobian: "released" or "exact".
        betas: Adam's decays.
        weight_decay: L2 penalty on v.
        **common: Options of all rules; see `BinaryOptimizer`.

    Raises:
        ValueError: For options out of range.

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
        """Refuse options out of range."""
        _Soft.check(group)
        jacobian = group["jacobian"]
        checks.option(jacobian in ("released", "exact"), "jacobian", '"released" or "exact"', jacobian)
        checks.number(group["weight_decay"], "weight_decay", "at least 0", open_low=False)

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """β now, and β when the weights at hand were drawn."""
        drawn = F.annealed(group["beta"], group["growth"], group["interval"], step - 1, group["beta_max"])
        return {**_Soft.schedule(group, step), "beta_drawn": drawn}

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: PMFOptions) -> Tensor:
        """The gradient with respect to v."""
        slope = (2 if o.jacobian == "released" else 1) - draw * draw
        return gradient * slope * o.beta_drawn

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: PMFOptions) -> Belief:
        """One step of Adam on v."""
        gradient = estimate + o.weight_decay * belief["latent"]
        first, second, direction = F.adam(belief["first"], belief["second"], gradient, o)
        return {"latent": belief["latent"] - o.lr * direction, "first": first, "second": second}

    @staticmethod
    def natural(belief: Belief, o: PMFOptions) -> Tensor:
        """λ = βv: the categorical's mean is tanh(βv)."""
        return o.beta * belief["latent"]


class MirrorDescent(_Soft[MirrorDescentOptions]):
    """Trains dual weights with Adam at the soft primal weights tanh(βv), while β grows.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of Adam.
        beta: First inverse temperature β.
        growth: Factor on β.
        interval: Steps between two factors.
        beta_max: Upper bound of β.
        betas: Adam's decays.
        **common: Options of all rules; see `BinaryOptimizer`.

    Raises:
        ValueError: For options out of range.

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
        """One step of Adam on v."""
        first, second, direction = F.adam(belief["first"], belief["second"], estimate, o)
        return {"latent": belief["latent"] - o.lr * direction, "first": first, "second": second}
