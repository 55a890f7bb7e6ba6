"""STE / BinaryConnect (Courbariaux, Bengio & David, NeurIPS 2015): latent weights with gradients at their signs.

The belief is a latent v and the moments of the inner optimizer. With g the gradient at w = sign(v):

    g ← g · 1[|v| ≤ window]                           (optional)
    d ← direction(g + decay·v)                        Adam's, or SGD with momentum
    d ← d · (1 − tanh²(m·v)) where d·v > 0            (optional)
    v ← clip(v − α·d, −c, c)

With m > 0, weights that training has made large resist steps towards zero, and thus sign flips. This is metaplasticity
(Laborieux, Ernoult, Hirtzlin & Querlioz, Nature Communications 2021).
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
from bitbayes.rules.rule import AdamStep, Belief, Common, Count, Number, Values

LR, TRANSFORMER_LR = 1e-2, 1e-3


class STEOptions(AdamStep):
    """Options that the functions of STE read."""

    inner: str
    momentum: Number
    weight_decay: Number
    clip: float | None
    window: float | None
    metaplasticity: float | None


class STE(BinaryOptimizer[STEOptions]):
    """Straight-through estimator, which trains latent weights through their signs with Adam or SGD.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate of the inner optimizer. None selects 1e-3 if one of the weights of a group belongs to a
            transformer, and 1e-2 otherwise. With 1e-2, a small encoder stayed at chance. Give each network a group of
            its own. This requires parameters from `bitbayes.split_parameters`.
        inner: "adam" or "sgd".
        betas: Decay rates of Adam's moments.
        momentum: Momentum of SGD, as in torch without dampening.
        weight_decay: L2 penalty on the latent weights, added to the gradient.
        clip: Bound that keeps latent weights in [−clip, clip]; None sets no bound.
        window: Bound on |v| above which the gradient is set to 0; None keeps all gradients.
        metaplasticity: Strength m of metaplasticity; the paper uses about 1.35 and no clip (`clip=None`). None disables
            it.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range.

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
        lr: float | None = None,
        *,
        inner: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        window: float | None = None,
        metaplasticity: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, inner=inner, betas=betas, momentum=momentum, weight_decay=weight_decay, clip=clip)
        options |= dict(window=window, metaplasticity=metaplasticity)
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.option(group["inner"] in ("adam", "sgd"), "inner", '"adam" or "sgd"', group["inner"])
        checks.betas(group["betas"])
        checks.decay(group["momentum"], "momentum")
        checks.number(group["weight_decay"], "weight_decay", "at least 0", open_low=False)
        for name in ("clip", "window", "metaplasticity"):
            if group[name] is not None:
                checks.number(group[name], name, "positive, or None", low=0)

    @staticmethod
    def chosen(group: Values, transformer: bool) -> Values:
        """Return the learning rate if it is None."""
        return {"lr": TRANSFORMER_LR if transformer else LR} if group["lr"] is None else {}

    @staticmethod
    def unread(group: Values) -> dict[str, str]:
        """Return the options of the other inner optimizer."""
        return {"momentum": "inner is sgd"} if group["inner"] == "adam" else {"betas": "inner is adam"}

    @staticmethod
    def hard(group: Values) -> bool:
        """Return True, because a draw is the signs of the latent weights."""
        return True

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return the coefficients of Adam's step."""
        return F.adam_options(group["betas"], step)

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: STEOptions) -> Belief:
        """Return latent weights of Glorot's size and moments of zero."""
        latent = start * o.bound
        latent = latent if o.clip is None else latent.clamp(-o.clip, o.clip)
        moments = ("first", "second") if o.inner == "adam" else ("momentum",)
        return {"latent": latent} | {name: torch.zeros_like(latent) for name in moments}

    @staticmethod
    def relaxed(belief: Belief, keep: float, o: STEOptions) -> Belief:
        """Shrink the latent weights, so that smaller steps flip signs."""
        return {"latent": keep * belief["latent"]}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: STEOptions) -> Tensor:
        """Return sign(v)."""
        return F.sign(belief["latent"])

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: STEOptions) -> Belief:
        """Take one step of the inner optimizer on v, then clip."""
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
    def mode(belief: Belief, o: STEOptions) -> Tensor:
        """Return sign(v)."""
        return F.sign(belief["latent"])

    @staticmethod
    def update_kernel(belief: Belief, o: STEOptions, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
        """Return the kernel, which covers all options but metaplasticity."""
        if o.metaplasticity is not None:
            return None
        window, clip = (float("inf") if limit is None else limit for limit in (o.window, o.clip))
        common = [window, o.weight_decay, o.lr, clip]
        if o.inner == "sgd":
            return Call("ste_sgd", [belief["latent"], belief["momentum"]], [*common, o.momentum])
        corrections = [1 - o.beta1, 1 - o.beta2, o.correction1, o.correction2]
        return Call("ste_adam", [belief["latent"], belief["first"], belief["second"]], [*common, *corrections])
