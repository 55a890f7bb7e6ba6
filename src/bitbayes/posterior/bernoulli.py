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
    """Independent Bernoullis on −1 and +1, one for every weight of every named tensor.

    Args:
        natural: λ by parameter name, floating point, any shapes; kept as float32.
        scale: Positive scale s by parameter name (weights are then ±s), broadcastable to λ. Missing names have s = 1.

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
            if not tensor.isfinite().all():
                raise ValueError(
                    f"natural parameters of {name!r} contain NaN or infinity; a weight is certain from |λ| = 20 on"
                )
        self._natural = {name: tensor.detach().float().clone() for name, tensor in natural.items()}
        super().__init__(natural, scale)

    @property
    def natural(self) -> dict[str, Tensor]:
        """λ by name."""
        return self._natural

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return one network of the sequence that `sample` draws.

        Args:
            index: Its place in the sequence.
            seed: Seed of the counter-based noise.
            out: Tensors to write into, of any floating-point type, such as what an earlier call returned: memory for
                large ones need not be found again for every network. None for new ones of float32.

        Returns:
            Weights of ±scale by name, shapes of λ.

        Raises:
            ValueError: If names or shapes of `out` differ.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(4)})
            >>> torch.equal(q.sample_at(2)["w"], q.sample(3)["w"][2])
            True
        """
        weights = self._room(out)
        for place, (name, natural) in enumerate(self.natural.items()):
            beliefs, flat = natural.reshape(-1), weights[name].view(-1)
            noise = Noise(stream_key(seed, SAMPLE_STREAM, index, place), natural.numel(), natural.device)
            # Few weights are not worth the second that the first use of kernels on a machine takes.
            if natural.numel() < CHUNK or not kernels.submit(kernels.hard_draw(beliefs), None, flat, noise):
                for span in spans(natural.numel(), natural.device):
                    flat[span] = noise.part(span).signs(torch.sigmoid(2 * beliefs[span]))
            if name in self._scaled:
                weights[name].mul_(self.scale[name])
        return weights

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of a whole network.

        Args:
            weights: Weights by name (their signs count), shapes of λ, or with one leading dimension of samples.

        Returns:
            A scalar in nats, or one value a sample.

        Raises:
            ValueError: If names or shapes differ.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(3)})
            >>> q.log_prob(q.sample(2)).exp()
            tensor([0.1250, 0.1250])
        """
        if set(weights) != set(self.natural):
            raise ValueError(f"weights are named {sorted(weights)}, the posterior {sorted(self.natural)}")
        total = torch.zeros(())
        for name, natural in self.natural.items():
            shape = weights[name].shape
            if shape not in (natural.shape, (shape[:1] + natural.shape)):
                expected = tuple(natural.shape)
                raise ValueError(f"{name!r} has shape {tuple(shape)}; expected {expected}, or (samples, ...)")
            log_prob = F.bernoulli_log_prob(natural, weights[name])
            start = log_prob.dim() - natural.dim()
            total = total.to(log_prob.device) + log_prob.flatten(start).sum(-1)
        return total

    def kl(self, other: BernoulliPosterior | None = None) -> Tensor:
        """Return KL(self ‖ other) of all weights together.

        Args:
            other: The second distribution; None means the uniform prior λ₀ = 0.

        Returns:
            A scalar in nats, in float64 (it is a sum over many weights).

        Raises:
            ValueError: If names or shapes differ.
            TypeError: If the other is of another family.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(3)}).kl()
            tensor(0., dtype=torch.float64)
        """
        if other is not None:
            if not isinstance(other, BernoulliPosterior):
                kind = type(other).__name__
                raise TypeError(f"kl() needs a BernoulliPosterior, got {kind}; marginals() makes one of it")
            self.check_like(other.shapes, "the other posterior")
        total = torch.zeros((), dtype=torch.float64)
        for name, natural in self.natural.items():
            mine = natural.reshape(-1)
            theirs = torch.zeros_like(mine) if other is None else other.natural[name].to(mine.device).reshape(-1)
            for span in spans(len(mine), mine.device):
                # In float32 the terms of a small divergence cancel, weight by weight to the same side.
                total += F.bernoulli_kl(mine[span].double(), theirs[span].double()).sum().cpu()
        return total

    def parts(self) -> tuple[Parts, dict[str, str]]:
        """Return λ and the scales."""
        return {"natural": self.natural, "scale": self.scale}, {}

    @classmethod
    def of_parts(cls, parts: Parts, about: Mapping[str, str]) -> BernoulliPosterior:
        """Make a posterior of λ and scales."""
        return cls(parts["natural"], parts["scale"])
