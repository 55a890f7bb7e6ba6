"""STE / BinaryConnect (Courbariaux, Bengio & David, NeurIPS 2015): gradient steps on latent weights at their signs.

Belief: latent v, and the moments of the inner optimizer. With g the gradient at w = sign(v):

    g ← g · 1[|v| ≤ window]                           (optional)
    d ← direction(g + decay·v)                        Adam's, or SGD with momentum
    d ← d · (1 − tanh²(m·v)) where d·v > 0            (optional)
    v ← clip(v − α·d, −c, c)

With m, weights that training has made large resist a step towards zero, and so a change of sign: metaplasticity
(Laborieux, Ernoult, Hirtzlin & Querlioz, Nature Communications 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import checks
from bitbayes.rules.counter import Step
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import Belief, Options


class STE(BinaryOptimizer):
    """Trains latent weights through their sign with Adam or SGD.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of the inner optimizer.
        inner: "adam" or "sgd".
        betas: Adam's decays.
        momentum: SGD's momentum, as in torch without dampening.
        weight_decay: L2 penalty on the latent weights, added to the gradient.
        clip: Latent weights stay in [−clip, clip]; None leaves them free.
        window: The gradient is dropped where |v| exceeds it; None keeps it everywhere.
        metaplasticity: m above, about 1.35 where published, with `clip=None`; None leaves all steps as they are.
        **common: samples, scale, scale_lr, init, seed, compile: see `BinaryOptimizer`.

    Raises:
        ValueError: For options out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = STE([layer.weight], lr=0.1, seed=0)
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
        inner: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        window: float | None = None,
        metaplasticity: float | None = None,
        **common: Any,
    ) -> None:
        options = {
            "lr": lr,
            "inner": inner,
            "betas": betas,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "clip": clip,
            "window": window,
            "metaplasticity": metaplasticity,
        }
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Mapping[str, Any]) -> None:
        """Refuses options out of range."""
        checks.option(group["inner"] in ("adam", "sgd"), "inner", '"adam" or "sgd"', group["inner"])
        checks.betas(group["betas"])
        checks.decay(group["momentum"], "momentum")
        checks.number(group["weight_decay"], "weight_decay", "at least 0", open_low=False)
        for name in ("clip", "window", "metaplasticity"):
            if group[name] is not None:
                checks.number(group[name], name, "positive, or None", low=0)

    @staticmethod
    def hard(group: Mapping[str, Any]) -> bool:
        """Always: a draw is the signs of the latent weights."""
        return True

    @staticmethod
    def schedule(group: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """What Adam asks for."""
        return F.adam_options(group["betas"], step)

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: Options) -> Belief:
        """Latent weights of Glorot's size."""
        latent = start * o.bound
        latent = latent if o.clip is None else latent.clamp(-o.clip, o.clip)
        moments = ("first", "second") if o.inner == "adam" else ("momentum",)
        return {"latent": latent} | {name: torch.zeros_like(latent) for name in moments}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: Options) -> Tensor:
        """sign(v)."""
        return F.sign(belief["latent"])

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: Options) -> Belief:
        """One step of the inner optimizer on v, then the clip."""
        latent = belief["latent"]
        gradient = estimate if o.window is None else estimate * F.heaviside(o.window - latent.abs())
        gradient = gradient + o.weight_decay * latent
        if o.inner == "adam":
            first, second, direction = F.adam(belief["first"], belief["second"], gradient, o)
            moments = {"first": first, "second": second}
        else:
            direction = o.momentum * belief["momentum"] + gradient
            moments = {"momentum": direction}
        if o.metaplasticity is not None:
            shrinks = F.heaviside(direction * latent)
            direction = direction * (1 - shrinks * (1 - F.sech2(o.metaplasticity * latent)))
        latent = latent - o.lr * direction
        return {"latent": latent if o.clip is None else latent.clamp(-o.clip, o.clip)} | moments

    @staticmethod
    def mode(belief: Belief, o: Options) -> Tensor:
        """sign(v)."""
        return F.sign(belief["latent"])
