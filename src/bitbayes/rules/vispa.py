"""VISPA (Orecchia, Hu, He, Wang, Yang, Wu & Geng, NeurIPS 2024): the sign of a low-rank Gaussian over the weights.

The belief is m and the K rows of Z, with SGD's momentum for each. Weights share r ~ N(0, I_K), which is drawn anew for
every step:

    w = sign(m + Zᵀr / √S);    g for m, r_k·g for z_k;    V ← β V + (G + decay·B);    B ← B − α V

With `project=True` (Algorithm 1 of the paper), B_i ← B_i / √(m_i² + ‖z_i‖² / S) follows every step, because the second
moment of a binary variable is 1. The released code (`project=False`) applies this normalisation only to copies inside
the forward pass, where it changes no sign, so the stored m and Z are free.

Paper and code differ in two points. The paper's momentum is an average, (1 − β) G, which only divides α by 10 at β =
0.9. The paper has S = 1 and one r for the whole network (`shared="network"`), whereas the code has S = 100 and one r
per tensor.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.kernels.run import Call
from bitbayes.noise import Noise
from bitbayes.posterior import LowRankGaussianPosterior
from bitbayes.rules import checks, scales, shards
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import Belief, Common, Number, Options, Values

_MOST_ROWS = 64  # half of MOST_ARRAYS in kernels.c


class VISPAOptions(Options):
    """Options that the functions of VISPA read."""

    rank: int
    divisor: float
    project: bool
    momentum: Number
    weight_decay: Number
    init_noise: float | None


class VISPA(BinaryOptimizer[VISPAOptions]):
    """VISPA, which trains a low-rank Gaussian whose sign is the network.

    It keeps 2 (K + 1) floats per weight: m, Z and their momentum.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Learning rate α of SGD.
        rank: Number K of directions in which weights vary together; 0 is STE with SGD.
        divisor: Divisor S of the noise variance; None selects 100 without projection and 1 with projection.
        project: Whether to use the paper's projection, instead of the released code's free m and Z.
        shared: "tensor" for one r per tensor; "network" for one r for all tensors.
        momentum: Momentum of SGD, as in torch without dampening.
        weight_decay: L2 penalty on m and Z, added to the gradient.
        init_noise: Initial ratio of the standard deviations of Zᵀr/√S and m. None selects the released code's ratio,
            which is Glorot's with the fans of the stacked tensor (about 0.01 to 0.2).
        **common: Options that all rules share; see `BinaryOptimizer`. The published networks have a learned factor per
            output channel: `bitbayes.nn.ChannelScale`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = VISPA([layer.weight], lr=0.1, rank=2, seed=0)
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
        lr: float = 1.0,
        *,
        rank: int = 4,
        divisor: float | None = None,
        project: bool = False,
        shared: str = "tensor",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        init_noise: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        divisor = (1.0 if project else 100.0) if divisor is None else divisor
        options = dict(lr=lr, rank=rank, divisor=divisor, project=project, shared=shared, momentum=momentum)
        options |= dict(weight_decay=weight_decay, init_noise=init_noise)
        super().__init__(params, options, **common)

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.whole(group["rank"], "rank", 0)
        checks.number(group["divisor"], "divisor", "a positive number", low=0)
        checks.option(group["shared"] in ("tensor", "network"), "shared", '"tensor" or "network"', group["shared"])
        checks.decay(group["momentum"], "momentum")
        checks.number(group["weight_decay"], "weight_decay", "at least 0", open_low=False)
        if group["init_noise"] is not None:
            checks.number(group["init_noise"], "init_noise", "at least 0, or None", open_low=False)

    @staticmethod
    def unread(group: Values) -> dict[str, str]:
        """Return the options of the noise if there are no directions."""
        return {} if group["rank"] else dict.fromkeys(("divisor", "shared", "init_noise"), "rank is at least 1")

    @staticmethod
    def is_point(group: Values) -> bool:
        """Return whether the rank is 0, so that there is no noise."""
        return not group["rank"]

    @staticmethod
    def hard(group: Values) -> bool:
        """Return True, because a draw is the signs of a Gaussian draw."""
        return True

    @staticmethod
    def ignores_draw(group: Values) -> bool:
        """Return whether the rank is 0, so that there is no noise."""
        return not group["rank"]

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: VISPAOptions) -> Belief:
        """Return a center with Glorot's standard deviation √(2 / (fan_in + fan_out)), and normal Z."""
        center = start * (2 * o.bound)
        spread = center.square().mean().sqrt()
        if o.init_noise is not None:
            deviation = o.init_noise * spread * math.sqrt(o.divisor / max(o.rank, 1))
        else:
            # Outputs times fan_in is the weights of a layer, which gives the fans of the stack (K, out, in, ...).
            deviation = math.sqrt(2 / (start.numel() // o.layers + o.rank * o.fan_in))
        more = Noise(noise.key, o.rank * start.numel(), noise.device)
        rows = torch.cat([center[None], deviation * more.normal().view(o.rank, start.numel())])
        return {"latent": _projected(rows, o), "momentum": torch.zeros_like(rows)}

    @staticmethod
    def relaxed(belief: Belief, keep: float, o: VISPAOptions) -> Belief:
        """Shrink the center, so that Z has more weight."""
        center, rows = belief["latent"][:1], belief["latent"][1:]
        return {"latent": _projected(torch.cat([keep * center, rows]), o)}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: VISPAOptions) -> Tensor:
        """Return sign(m + Zᵀr / √S)."""
        return F.sign(_coefficients(belief, noise, o.divisor**-0.5) @ belief["latent"])

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: VISPAOptions) -> Tensor:
        """Return g for m, and r_k·g for row k of Z."""
        return _coefficients(belief, noise, 1.0)[:, None] * gradient

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: VISPAOptions) -> Belief:
        """Take one step of SGD, then project if `project` is set."""
        momentum = o.momentum * belief["momentum"] + (estimate + o.weight_decay * belief["latent"])
        return {"latent": _projected(belief["latent"] - o.lr * momentum, o), "momentum": momentum}

    @staticmethod
    def mode(belief: Belief, o: VISPAOptions) -> Tensor:
        """Return sign(m)."""
        return F.sign(belief["latent"][0])

    @staticmethod
    def update_kernel(belief: Belief, o: VISPAOptions, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
        """Return the kernel, which covers single draws of up to 64 rows."""
        draw = VISPA.draw_kernel(belief, o, noise)
        if draw is None or estimated:  # an averaged estimate also has rows
            return None
        of_gradient = [1.0, *_factors(int(drawn.shared_key), len(belief["latent"]) - 1).tolist()]
        numbers = [o.lr, o.momentum, o.weight_decay, o.divisor, o.project, *of_gradient, *draw.numbers]
        return Call("vispa", [*draw.arrays, *belief["momentum"]], numbers)

    @staticmethod
    def draw_kernel(belief: Belief, o: VISPAOptions, noise: Noise) -> Call | None:
        """Return the kernel, which covers up to 64 rows."""
        rows = len(belief["latent"])
        if rows > _MOST_ROWS:
            return None
        factors = o.divisor**-0.5 * _factors(int(noise.shared_key), rows - 1)
        return Call("low_rank", [*belief["latent"]], [1.0, *factors.tolist()])

    def posterior(self) -> LowRankGaussianPosterior:
        """Return the posterior, the sign of a low-rank Gaussian.

        Returns:
            A copy of the posterior, keyed by parameter names.
        """
        self._report()
        center, factors, scale = {}, {}, {}
        for place in self._places():
            _, name, parameter, group = place
            rows = shards.whole(parameter, self._state(parameter)["belief"]["latent"])
            center[name], factors[name] = rows[0], rows[1:] * group["divisor"] ** -0.5
            scale[name] = shards.whole_scale(parameter, scales.value(self.state[parameter], place.own.shape))
        shared = {group["shared"] for group in self.param_groups}
        return LowRankGaussianPosterior(center, factors, scale, shared="network" if shared == {"network"} else "tensor")


@functools.lru_cache(maxsize=256)
def _factors(key: int, count: int) -> Tensor:
    """Return normal values that the weights of a tensor share; an update recomputes those of its draw."""
    return Noise(0, 0, shared_key=key).shared_normal(count)


def _projected(rows: Tensor, o: VISPAOptions) -> Tensor:
    """Return the belief with second moments of 1 if `project` is set."""
    if not o.project:
        return rows
    squares = rows.square()
    moment = squares[0] + squares[1:].sum(0) / o.divisor
    return rows / moment.clamp(min=1e-30).sqrt()


def _coefficients(belief: Belief, noise: Noise, size: float | Tensor) -> Tensor:
    """Return 1 for m and size·r_k for every row of Z."""
    rows = belief["latent"]
    return torch.cat([rows.new_ones(1), size * noise.shared_normal(len(rows) - 1)])
