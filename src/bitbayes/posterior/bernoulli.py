"""The mean-field family of BayesBiNN (Meng, Bachmann & Khan, ICML 2020, section 3.1).

q(w) = Π Bernoulli(w_i), with natural parameter λ_i = ½·log(p_i / (1 − p_i)), mean μ_i = tanh(λ_i).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.kernels import run as kernels
from bitbayes.noise import CHUNK, Noise, spans, stream_key
from bitbayes.posterior.base import SAMPLE_STREAM, Parts, Posterior


class BernoulliPosterior(Posterior):
    """Independent Bernoulli distributions on −1 and +1, one per weight of every named tensor.

    Args:
        natural: Natural parameters λ by parameter name, floating point, any shapes. They are stored as float32.
        scale: Positive scale s by parameter name, so that weights are ±s, broadcastable to λ. Missing names have s = 1.

    Raises:
        ValueError: If there is no tensor, a λ is not floating point or not finite, or a scale is not positive.

    Example:
        >>> q = BernoulliPosterior({"weight": torch.tensor([-2.0, 0.0, 3.0])})
        >>> q.mode()["weight"]
        tensor([-1.,  1.,  1.])
        >>> q.sample(5)["weight"].shape
        torch.Size([5, 3])
        >>> round(float(q.entropy()), 3)
        0.385
    """

    FORMAT = "bitbayes.bernoulli.1"
    NEEDS = ("natural", "scale")

    def __init__(self, natural: Mapping[str, Tensor], scale: Mapping[str, Tensor] | None = None) -> None:
        for name, tensor in natural.items():
            if not tensor.is_floating_point():
                raise ValueError(f"natural parameters of {name!r} must be floating point, got {tensor.dtype}")
            if not (2 * tensor.float()).isfinite().all():
                raise ValueError(
                    f"natural parameters of {name!r} contain NaN or infinity, or are too large for float32; use "
                    "|λ| = 20 for a weight that is certain"
                )
        self._natural = {name: tensor.detach().float().clone() for name, tensor in natural.items()}
        super().__init__(natural, scale)

    @property
    def natural(self) -> dict[str, Tensor]:
        """λ by name."""
        return self._natural

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return one of the networks that `sample` draws.

        Args:
            index: Index of the network among the samples.
            seed: Seed of the counter-based noise.
            out: Tensors of any floating-point type to write into, such as those of an earlier call, which saves
                allocating memory for every network. None allocates new float32 tensors.

        Returns:
            Weights of ±scale by name, with the shapes of λ.

        Raises:
            ValueError: If names or shapes of `out` differ from those of the posterior, or a tensor is not contiguous.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(4)})
            >>> torch.equal(q.sample_at(2)["w"], q.sample(3)["w"][2])
            True
        """
        weights = self._room(out)
        for name, natural in self.natural.items():
            beliefs, flat = natural.reshape(-1), weights[name].view(-1)
            noise = Noise(stream_key(seed, SAMPLE_STREAM, index, self._places[name]), natural.numel(), natural.device)
            # For few weights, the first use of kernels on a machine, which takes a second, does not pay.
            if natural.numel() < CHUNK or not kernels.submit(kernels.hard_draw(beliefs), None, flat, noise):
                for span in spans(natural.numel(), natural.device):
                    flat[span] = noise.part(span).signs(torch.sigmoid(2 * beliefs[span]))
            if name in self._scaled:
                weights[name].mul_(self.scale[name])
        return weights

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of whole networks.

        Args:
            weights: Weights by name with the shapes of λ, or with one leading dimension of samples. Only their signs
                matter.

        Returns:
            A scalar in nats, or one value per sample.

        Raises:
            ValueError: If names or shapes differ.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(3)})
            >>> q.log_prob(q.sample(2)).exp()
            tensor([0.1250, 0.1250])
        """
        self._check_weights(weights)
        total = torch.zeros(())
        for name, natural in self.natural.items():
            log_prob = F.bernoulli_log_prob(natural, weights[name])
            start = log_prob.dim() - natural.dim()
            total = total.to(log_prob.device) + log_prob.flatten(start).sum(-1)
        return total

    def kl(self, other: Posterior | None = None) -> Tensor:
        """Return the KL divergence KL(self ‖ other) of the weights' signs, summed over all weights.

        Args:
            other: The second distribution; None means the uniform prior λ₀ = 0.

        Returns:
            A float64 scalar in nats.

        Raises:
            ValueError: If names or shapes differ.
            TypeError: If `other` is not a BernoulliPosterior.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(3)}).kl()
            tensor(0., dtype=torch.float64)
        """
        if other is not None:
            if not isinstance(other, BernoulliPosterior):
                kind = type(other).__name__
                raise TypeError(f"kl() needs a BernoulliPosterior, got {kind}; pass its marginals() instead")
            self.check_like(other.shapes, "the other posterior")
        total = torch.zeros((), dtype=torch.float64)
        for name, natural in self.natural.items():
            mine = natural.reshape(-1)
            theirs = torch.zeros_like(mine) if other is None else other.natural[name].to(mine.device).reshape(-1)
            for span in spans(len(mine), mine.device):
                # In float32, the terms of a small divergence cancel, and the errors of all weights have the same sign.
                total += F.bernoulli_kl(mine[span].double(), theirs[span].double()).sum().cpu()
        return total

    def parts(self) -> tuple[Parts, dict[str, str]]:
        """Return λ and the scales."""
        return {"natural": self.natural, "scale": self.scale}, {}

    @classmethod
    def of_parts(cls, parts: Parts, about: Mapping[str, str]) -> BernoulliPosterior:
        """Construct a posterior from λ and scales."""
        return cls(parts["natural"], parts["scale"])
