"""The mean-field family of BayesBiNN (Meng, Bachmann & Khan, ICML 2020, section 3.1).

q(w) = Π Bernoulli(w_i), with natural parameter λ_i = ½·log(p_i / (1 − p_i)), mean μ_i = tanh(λ_i).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.kernels import run as kernels
from bitbayes.noise import CHUNK, Noise, spans, stream_key
from bitbayes.posterior import files
from bitbayes.posterior.base import SAMPLE_STREAM, Posterior

__all__ = ["BernoulliPosterior"]


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

    def __init__(self, natural: Mapping[str, Tensor], scale: Mapping[str, Tensor] | None = None) -> None:
        for name, tensor in natural.items():
            if not tensor.is_floating_point():
                raise ValueError(f"natural parameters of {name!r} must be floating point, got {tensor.dtype}")
            if not tensor.isfinite().all():
                raise ValueError(
                    f"natural parameters of {name!r} contain NaN or infinity; a weight is certain from |λ| = 20 on"
                )
        self._natural = {name: tensor.detach().float().clone() for name, tensor in natural.items()}
        super().__init__(
            {name: tensor.shape for name, tensor in natural.items()},
            {name: tensor.device for name, tensor in natural.items()},
            scale,
        )

    @property
    def natural(self) -> dict[str, Tensor]:
        """λ by name."""
        return self._natural

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """One network of the sequence that `sample` draws, alone.

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
        """Log-probability of a whole network.

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
                raise ValueError(
                    f"{name!r} has shape {tuple(shape)}; expected {tuple(natural.shape)}, or (samples, ...)"
                )
            log_prob = F.bernoulli_log_prob(natural, weights[name])
            start = log_prob.dim() - natural.dim()
            total = total.to(log_prob.device) + log_prob.flatten(start).sum(-1)
        return total

    def kl(self, other: BernoulliPosterior | None = None) -> Tensor:
        """KL(self ‖ other) of all weights together.

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
                raise TypeError(
                    f"kl() needs a BernoulliPosterior, got {type(other).__name__}; marginals() makes one of it"
                )
            self.check_like(other.shapes, "the other posterior")
        total = torch.zeros((), dtype=torch.float64)
        for name, natural in self.natural.items():
            mine = natural.reshape(-1)
            theirs = torch.zeros_like(mine) if other is None else other.natural[name].to(mine.device).reshape(-1)
            for span in spans(len(mine), mine.device):
                # In float32 the terms of a small divergence cancel, weight by weight to the same side.
                total += F.bernoulli_kl(mine[span].double(), theirs[span].double()).sum().cpu()
        return total

    def to(self, device: torch.device | str) -> BernoulliPosterior:
        """The same posterior on another device.

        Args:
            device: Where.

        Returns:
            A copy.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(3)}).to("cpu").natural["w"].device
            device(type='cpu')
        """
        return BernoulliPosterior({name: tensor.to(device) for name, tensor in self.natural.items()}, self.scale)

    def save(self, path: str | Path) -> None:
        """Writes λ and the scales to a safetensors file, keyed by parameter names.

        Args:
            path: Where to write.

        Example:
            >>> import tempfile, os
            >>> path = os.path.join(tempfile.mkdtemp(), "posterior.safetensors")
            >>> BernoulliPosterior({"w": torch.ones(2)}).save(path)
            >>> BernoulliPosterior.load(path).natural["w"]
            tensor([1., 1.])
        """
        files.write(path, self.FORMAT, {"natural": self.natural, "scale": self.scale})

    @classmethod
    def load(cls, path: str | Path) -> BernoulliPosterior:
        """Reads a posterior that `save` wrote, onto the CPU.

        Args:
            path: The file.

        Returns:
            The same posterior, bit for bit.

        Raises:
            ValueError: If the file is not a Bernoulli posterior of this library.
            FileNotFoundError: If it does not exist.

        Example:
            >>> BernoulliPosterior.load("absent.safetensors")
            Traceback (most recent call last):
            ...
            FileNotFoundError: no posterior at absent.safetensors
        """
        _, parts = files.read(path, cls.FORMAT, ("natural", "scale"))
        return cls(parts["natural"], parts["scale"])
