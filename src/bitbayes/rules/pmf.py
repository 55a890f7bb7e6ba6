"""PMF, proximal mean-field (Ajanthan et al., ICCV 2019): soft weights of a categorical, annealed to hard ones.

For two values the softmax over {−1, +1} depends on one number, the half-difference v of the two logits, so the
belief is v with Adam's moments. Forward is soft, with an inverse temperature β that grows:

    w = tanh(βv);    v ← v − α · Adam(g · J);    β ← min(β·growth, β_max) every `interval` steps

J is the softmax's Jacobian: β(1 − w²) "exact", or β(2 − w²) "released", what the published code's I − uuᵀ comes to;
the latter does not vanish where a weight is nearly hard.
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
from bitbayes.rules.rule import AdamStep, Belief, Count, Number

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PMFOptions(AdamStep):
    """What the functions of PMF read."""

    beta: Number
    beta_drawn: Number
    jacobian: str
    weight_decay: Number


class PMF(BinaryOptimizer[PMFOptions]):
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
        options = dict(
            lr=lr,
            beta=beta,
            growth=growth,
            interval=interval,
            beta_max=beta_max,
            jacobian=jacobian,
            betas=betas,
            weight_decay=weight_decay,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Mapping[str, Any]) -> None:
        """Refuse options out of range."""
        checks.annealing(group)
        checks.betas(group["betas"])
        checks.option(
            group["jacobian"] in ("released", "exact"), "jacobian", '"released" or "exact"', group["jacobian"]
        )
        checks.number(group["weight_decay"], "weight_decay", "at least 0", open_low=False)

    @staticmethod
    def schedule(group: Mapping[str, Any], step: Count) -> dict[str, Any]:
        """β now, and β when the weights at hand were drawn."""
        at = (group["beta"], group["growth"], group["interval"])
        return {
            "beta": F.annealed(*at, step, group["beta_max"]),
            "beta_drawn": F.annealed(*at, step - 1, group["beta_max"]),
            **F.adam_options(group["betas"], step),
        }

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: PMFOptions) -> Belief:
        """Glorot's size, and no moments yet."""
        latent = start * o.bound
        return {"latent": latent, "first": torch.zeros_like(latent), "second": torch.zeros_like(latent)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: PMFOptions) -> Tensor:
        """Soft weights."""
        return torch.tanh(o.beta * belief["latent"])

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
    def mode(belief: Belief, o: PMFOptions) -> Tensor:
        """sign(v)."""
        return F.sign(belief["latent"])

    @staticmethod
    def natural(belief: Belief, o: PMFOptions) -> Tensor:
        """λ = βv: the categorical's mean is tanh(βv)."""
        return o.beta * belief["latent"]
