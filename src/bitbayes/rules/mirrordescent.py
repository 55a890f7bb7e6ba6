"""Mirror descent, MD-tanh-S (Ajanthan, Gupta et al., AISTATS 2021): dual steps under the mirror map of tanh.

Belief: the dual variable v with Adam's moments. Forward is soft; the gradient at the primal point moves the dual one
without the factor tanh′, which is what makes it mirror descent:

    w = tanh(βv);    v ← v − α · Adam(g);    β ← min(β·growth, β_max) every `interval` steps
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


class MirrorDescentOptions(AdamStep):
    """What the functions of MirrorDescent read."""

    beta: Number


class MirrorDescent(BinaryOptimizer[MirrorDescentOptions]):
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
    def check(group: Mapping[str, Any]) -> None:
        """Refuse options out of range."""
        checks.annealing(group)
        checks.betas(group["betas"])

    @staticmethod
    def schedule(group: Mapping[str, Any], step: Count) -> dict[str, Any]:
        """β at this step."""
        beta = F.annealed(group["beta"], group["growth"], group["interval"], step, group["beta_max"])
        return {"beta": beta, **F.adam_options(group["betas"], step)}

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: MirrorDescentOptions) -> Belief:
        """Glorot's size, and no moments yet."""
        dual = start * o.bound
        return {"latent": dual, "first": torch.zeros_like(dual), "second": torch.zeros_like(dual)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: MirrorDescentOptions) -> Tensor:
        """Soft weights."""
        return torch.tanh(o.beta * belief["latent"])

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: MirrorDescentOptions) -> Belief:
        """One step of Adam on v."""
        first, second, direction = F.adam(belief["first"], belief["second"], estimate, o)
        return {"latent": belief["latent"] - o.lr * direction, "first": first, "second": second}

    @staticmethod
    def mode(belief: Belief, o: MirrorDescentOptions) -> Tensor:
        """sign(v)."""
        return F.sign(belief["latent"])
