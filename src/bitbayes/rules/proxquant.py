"""ProxQuant (Bai, Wang & Liberty, ICLR 2019): proximal steps of a W-shaped regulariser on real weights.

The belief is the real weights θ with Adam's moments. The gradient is taken at θ itself, without a straight-through
estimator. The pull towards ±1 grows with the step t:

    θ ← θ − α · Adam(g);    θ ← sign(θ) · min(|θ| + α·rate·t, 1)

The second step is the proximal map of α·rate·t · ||θ| − 1| followed by clipping to [−1, 1].

After `harden_after` steps, θ is replaced by its sign and fixed, while the real parameters continue to train.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import AdamStep, Belief, Common, Count, Number, Values


class ProxQuantOptions(AdamStep):
    """Options that the functions of ProxQuant read."""

    rate: Number
    hard: Number


class ProxQuant(BinaryOptimizer[ProxQuantOptions]):
    """ProxQuant, which trains real weights with a growing proximal pull towards ±1.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of Adam.
        rate: Growth of the regulariser per step. In the paper, it grows by 1e-4 per epoch.
        harden_after: Number of steps after which the weights are set to their signs and fixed; None never does so in
            training.
        betas: Decay rates of Adam's moments.
        **common: Options that all rules share; see `BinaryOptimizer`. The paper starts from a trained float network:
            load its weights and pass `init="weights"`. θ then begins with their signs and relative sizes, scaled to
            Glorot's range. A network whose layers are normalised computes the same at the start, and others do not.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = ProxQuant([layer.weight], lr=0.1, rate=0.01, seed=0)
        >>> for _ in range(50):
        ...     (layer(torch.ones(1, 2)) - 2).square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> layer.weight.data
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        *,
        rate: float = 1e-4,
        harden_after: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "rate": rate, "harden_after": harden_after, "betas": betas}, **common)

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.number(group["rate"], "rate", "at least 0", open_low=False)
        checks.betas(group["betas"])
        after = group["harden_after"]
        checks.option(after is None or after >= 1, "harden_after", "a step of at least 1, or None", after)

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return whether the weights are hard by now."""
        after = group["harden_after"]
        hard = 0.0 if after is None else 1.0 * (step > after)
        return {"hard": hard, **F.adam_options(group["betas"], step)}

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: ProxQuantOptions) -> Belief:
        """Return real weights of Glorot's size and moments of zero."""
        weights = (start * o.bound).clamp(-1, 1)
        return {"weights": weights, "first": torch.zeros_like(weights), "second": torch.zeros_like(weights)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: ProxQuantOptions) -> Tensor:
        """Return θ."""
        return belief["weights"]

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: ProxQuantOptions) -> Belief:
        """Take one step of Adam, then the proximal step."""
        first, second, direction = F.adam(belief["first"], belief["second"], estimate, o)
        weights = belief["weights"] - o.lr * direction
        # This combines the pull towards ±1 by α·rate·t and the clip.
        soft = F.sign(weights) * (weights.abs() + o.lr * o.rate * o.step).clamp(max=1)
        hard = F.sign(belief["weights"])
        return {"weights": soft + o.hard * (hard - soft), "first": first, "second": second}

    @staticmethod
    def mode(belief: Belief, o: ProxQuantOptions) -> Tensor:
        """Return sign(θ)."""
        return F.sign(belief["weights"])
