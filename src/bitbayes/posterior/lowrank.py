"""The sign of a low-rank Gaussian, VISPA's posterior (Orecchia et al., NeurIPS 2024, section 3).

w = sign(v), v = m + Zᵀr with r ~ N(0, I_K): weights of one tensor (or of the whole network) share r, and so are
correlated. With a = m / ‖z‖ and ρ the correlation of v_i and v_j:

    E[w_i] = 2Φ(a_i) − 1
    Cov[w_i, w_j] = (2/π) ∫₀^{arcsin ρ} exp(−(a_i² + a_j² − 2 a_i a_j sin θ) / (2 cos² θ)) dθ

the second by Plackett's identity for the bivariate normal; for m = 0 it is (2/π)·arcsin ρ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.special import log_ndtr

from bitbayes import functional as F
from bitbayes.noise import Noise, stream_key
from bitbayes.posterior.base import SHARED_SAMPLE_STREAM, Parts, Posterior
from bitbayes.posterior.bernoulli import BernoulliPosterior

_SURE = 1e3  # |m| / ‖z‖ from which on a weight is certain in floating point


class LowRankGaussianPosterior(Posterior):
    """Distribution of the sign of a low-rank Gaussian over the weights.

    Args:
        center: Center m by parameter name, any shapes. It is stored as float32.
        factors: Factors Z by parameter name, shape (K, *shape of m).
        scale: Positive scale s by parameter name, broadcastable to m. Missing names have s = 1.
        shared: "tensor" for one r per tensor; "network" for one r for all tensors, which then need the same rank K.

    Raises:
        ValueError: If names or shapes differ, a value is not finite, or a scale is not positive.

    Example:
        >>> q = LowRankGaussianPosterior({"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([[1.0, -1.0]])})
        >>> q.mean()["w"]
        tensor([0., 0.])
        >>> q.correlation(("w", [0]), ("w", [1]))  # the two share their only r, with opposite signs
        tensor([-1.], dtype=torch.float64)
    """

    FORMAT = "bitbayes.low-rank-gaussian.1"
    NEEDS = ("center", "factors", "scale", "shared")

    def __init__(
        self,
        center: Mapping[str, Tensor],
        factors: Mapping[str, Tensor],
        scale: Mapping[str, Tensor] | None = None,
        *,
        shared: str = "tensor",
    ) -> None:
        if shared not in ("tensor", "network"):
            raise ValueError(f'shared must be "tensor" or "network", got {shared!r}')
        if set(center) != set(factors):
            raise ValueError(f"center and factors must have the same names, got {sorted(center)} and {sorted(factors)}")
        for name, tensor in center.items():
            if factors[name].shape[1:] != tensor.shape or factors[name].dim() != tensor.dim() + 1:
                got, expected = tuple(factors[name].shape), tuple(tensor.shape)
                raise ValueError(f"factors of {name!r} have shape {got}, expected (K, *{expected})")
            if not (tensor.is_floating_point() and factors[name].is_floating_point()):
                types = f"{tensor.dtype} and {factors[name].dtype}"
                raise ValueError(f"center and factors of {name!r} must be floating point, got {types}")
            if not all(each.float().isfinite().all() for each in (tensor, factors[name])):
                raise ValueError(f"center and factors of {name!r} must be finite in float32")
        ranks = {len(tensor) for tensor in factors.values()}
        if shared == "network" and len(ranks) > 1:
            raise ValueError(f'shared="network" needs one rank for all tensors, got {sorted(ranks)}')
        self.center = {name: tensor.detach().float().clone() for name, tensor in center.items()}
        self.factors = {name: factors[name].detach().float().clone() for name in center}
        self.shared = shared
        super().__init__(center, scale)

    @property
    def natural(self) -> dict[str, Tensor]:
        """λ of every weight's marginal, ½·log(Φ(a) / Φ(−a)), by name."""
        standardised = {name: self._standardised(name) for name in self.shapes}
        # This form avoids the cancellation of 1 − Φ(a).
        return {name: (log_ndtr(a) - log_ndtr(-a)) / 2 for name, a in standardised.items()}

    def mode(self) -> dict[str, Tensor]:
        """Return the most likely value of every weight, sign(m) times the scale.

        Returns:
            Weights by name, with the shapes of m.

        Example:
            >>> LowRankGaussianPosterior({"w": torch.tensor([-2.0])}, {"w": torch.ones(1, 1)}).mode()["w"]
            tensor([-1.])
        """
        return {name: F.sign(center) * self.scale[name] for name, center in self.center.items()}

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return one of the networks that `sample` draws.

        Args:
            index: Index of the network among the samples.
            seed: Seed of the counter-based noise.
            out: Tensors of any floating-point type to write into, such as those of an earlier call. None allocates new
                float32 tensors.

        Returns:
            Weights of ±scale by name, with the shapes of m.

        Raises:
            ValueError: If names or shapes of `out` differ from those of the posterior, or a tensor is not contiguous.

        Example:
            >>> q = LowRankGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.ones(1, 2)})
            >>> weights = q.sample_at(3)["w"]
            >>> bool(weights[0] == weights[1])
            True
        """
        weights = self._room(out)
        for name, center in self.center.items():
            path = [] if self.shared == "network" else [self._places[name]]
            key = stream_key(seed, SHARED_SAMPLE_STREAM, index, *path)
            r = Noise(0, center.numel(), center.device, shared_key=key).shared_normal(len(self.factors[name]))
            drawn = center + torch.tensordot(r, self.factors[name], 1)
            torch.mul(F.sign(drawn), self.scale[name], out=weights[name])
        return weights

    def correlation(self, first: tuple[str, Tensor | list[int]], second: tuple[str, Tensor | list[int]]) -> Tensor:
        """Return the correlation coefficients of pairs of weights.

        Args:
            first: Parameter name, and positions of weights in the flat tensor, shape (P,).
            second: The other weight of each pair, in the same form.

        Returns:
            Correlation coefficients in float64, shape (P,); 0 if a weight is certain, to within 1e-300.

        Raises:
            ValueError: If a name is unknown.

        Example:
            >>> q = LowRankGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.eye(2)})
            >>> q.correlation(("w", [0]), ("w", [1]))
            tensor([0.], dtype=torch.float64)
        """
        (a, z, name), (b, y, other) = self._chosen(*first), self._chosen(*second)
        lengths = z.norm(dim=0) * y.norm(dim=0)
        together = name == other or self.shared == "network"
        rho = ((z * y).sum(0) / lengths.clamp(min=1e-300)).clamp(-1, 1) if together else torch.zeros_like(lengths)
        spread = _sign_variance(a).sqrt() * _sign_variance(b).sqrt()
        found = _sign_covariance(a, b, rho) / spread.clamp(min=1e-300)
        return torch.where(spread > 0, found.clamp(-1, 1), 0.0)

    def marginals(self) -> BernoulliPosterior:
        """Return independent Bernoullis with the same mean weights, for example as a prior of `BayesBiNN`.

        Returns:
            A Bernoulli posterior with the same names and shapes.

        Example:
            >>> LowRankGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.ones(1, 2)}).marginals().kl()
            tensor(0., dtype=torch.float64)
        """
        return BernoulliPosterior(self.natural, self.scale)

    def parts(self) -> tuple[Parts, dict[str, str]]:
        """Return m, Z, the scales, and which weights share their noise."""
        return {"center": self.center, "factors": self.factors, "scale": self.scale}, {"shared": self.shared}

    @classmethod
    def of_parts(cls, parts: Parts, about: Mapping[str, str]) -> LowRankGaussianPosterior:
        """Construct a posterior from m, Z and scales."""
        return cls(parts["center"], parts["factors"], parts["scale"], shared=about["shared"])

    def _standardised(self, name: str) -> Tensor:
        """Return a = m / ‖z‖, bounded where there is no noise."""
        center, length = self.center[name], self.factors[name].norm(dim=0)
        a = (center / length.clamp(min=1e-30)).clamp(-_SURE, _SURE)
        return torch.where(length > 0, a, _SURE * F.sign(center))  # also for m = 0, whose sign is +1

    def _chosen(self, name: str, index: Tensor | list[int]) -> tuple[Tensor, Tensor, str]:
        """Return a and Z of some weights of a tensor in float64, and the name of the tensor."""
        if name not in self.shapes:
            raise ValueError(f"the posterior has no tensor {name!r}; its tensors are {sorted(self.shapes)}")
        at = torch.as_tensor(index, device=self.center[name].device)
        a, z = self._standardised(name).reshape(-1)[at], self.factors[name].flatten(1)[:, at]
        return a.double(), z.double(), name


def _sign_variance(a: Tensor) -> Tensor:
    """Return Var[sign(x + a)] = 1 − erf²(a / √2) of a standard normal, without cancellation."""
    outside = torch.erfc(a.abs() / math.sqrt(2))
    return outside * (2 - outside)


def _sign_covariance(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
    """Return Cov[sign(x + a), sign(y + b)] of standard normals with correlation ρ by Gauss-Legendre quadrature."""
    nodes, weights = (torch.as_tensor(part, device=a.device) for part in np.polynomial.legendre.leggauss(128))
    end = torch.asin(rho)
    # The substitution crowds nodes towards the end, where cos θ may vanish.
    u = (nodes[:, None] + 1) / 2
    theta = end * (1 - (1 - u) ** 2)
    cosine = torch.cos(theta).clamp(min=1e-150)
    exponent = -(a * a + b * b - 2 * a * b * torch.sin(theta)) / (2 * cosine * cosine)
    return (2 / torch.pi) * ((weights[:, None] * (1 - u)) * exponent.exp()).sum(0) * end
