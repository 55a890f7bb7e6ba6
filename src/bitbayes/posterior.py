"""Posteriors over binary weights, independent of the optimizer that found them.

`BernoulliPosterior` is the mean-field family of BayesBiNN (Meng, Bachmann & Khan, ICML 2020, section 3.1):
q(w) = Π Bernoulli(w_i), with natural parameter λ_i = ½·log(p_i / (1 − p_i)), mean μ_i = tanh(λ_i).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitbayes import functional as F
from bitbayes.noise import Noise, stream_key

__all__ = ["BernoulliPosterior"]

_FORMAT = "bitbayes.bernoulli.1"
_SAMPLE_STREAM = 2  # keeps posterior samples apart from the draws of training


class BernoulliPosterior:
    """Independent Bernoullis on −1 and +1, one for every weight of every named tensor.

    Args:
        natural: λ by parameter name, floating point, any shapes; kept as float32.
        scale: Positive scale s by parameter name (weights are then ±s), broadcastable to λ. Missing names have s = 1.

    Raises:
        ValueError: If there is no tensor, a λ is not floating point or is NaN, or a scale is not positive.

    Example:
        >>> q = BernoulliPosterior({"weight": torch.tensor([-2.0, 0.0, 3.0])})
        >>> q.mode()["weight"]
        tensor([-1.,  1.,  1.])
        >>> q.sample(5)["weight"].shape
        torch.Size([5, 3])
        >>> round(float(q.entropy()), 3)
        0.385
    """

    def __init__(self, natural: Mapping[str, Tensor], scale: Mapping[str, Tensor] | None = None) -> None:
        if not natural:
            raise ValueError("a posterior needs at least one tensor of natural parameters; got none")
        for name, tensor in natural.items():
            if not tensor.is_floating_point():
                raise ValueError(f"natural parameters of {name!r} must be floating point, got {tensor.dtype}")
            if tensor.isnan().any():
                raise ValueError(f"natural parameters of {name!r} contain NaN")
        unknown = set(scale or {}) - set(natural)
        if unknown:
            raise ValueError(f"scales for unknown tensors {sorted(unknown)}; known: {sorted(natural)}")
        self.natural = {name: tensor.detach().float().clone() for name, tensor in natural.items()}
        one = torch.ones(())
        self.scale = {
            name: (scale or {}).get(name, one).detach().to(tensor.device, torch.float32).clone()
            for name, tensor in self.natural.items()
        }
        for name, value in self.scale.items():
            if not (value > 0).all():
                raise ValueError(f"the scale of {name!r} must be positive, got a minimum of {value.min():g}")

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.natural.values())
        return f"BernoulliPosterior({len(self.natural)} tensors, {count} weights, {self.entropy():.3f} bits a weight)"

    def probabilities(self) -> dict[str, Tensor]:
        """P[w = +1] for every weight.

        Returns:
            σ(2λ) by name, shapes of λ.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(1)}).probabilities()["w"]
            tensor([0.5000])
        """
        return {name: torch.sigmoid(2 * natural) for name, natural in self.natural.items()}

    def mode(self) -> dict[str, Tensor]:
        """The most likely weights, sign(λ) times the scale.

        Returns:
            Weights by name, shapes of λ.

        Example:
            >>> BernoulliPosterior({"w": torch.tensor([-1.0])}).mode()["w"]
            tensor([-1.])
        """
        return {name: F.sign(natural) * self.scale[name] for name, natural in self.natural.items()}

    def mean(self) -> dict[str, Tensor]:
        """The mean weights, μ = tanh(λ) times the scale.

        Returns:
            Means by name, shapes of λ.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(1)}).mean()["w"]
            tensor([0.])
        """
        return {name: natural.tanh() * self.scale[name] for name, natural in self.natural.items()}

    def sample(self, count: int = 1, *, seed: int = 0) -> dict[str, Tensor]:
        """Hard draws of all weights; sample c depends on (seed, c) alone, not on `count`.

        Args:
            count: Number of networks to draw.
            seed: Seed of the counter-based noise.

        Returns:
            Weights of ±scale by name, shapes (count, *shape of λ).

        Raises:
            ValueError: If `count` is less than 1.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(4)})
            >>> torch.equal(q.sample(2)["w"][1], q.sample(3)["w"][1])
            True
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}; use mode() for a single best network")
        drawn = [self.sample_at(index, seed=seed) for index in range(count)]
        return {name: torch.stack([weights[name] for weights in drawn]) for name in self.natural}

    def sample_at(self, index: int, *, seed: int = 0) -> dict[str, Tensor]:
        """One network of the sequence that `sample` draws, alone.

        Args:
            index: Its place in the sequence.
            seed: Seed of the counter-based noise.

        Returns:
            Weights of ±scale by name, shapes of λ.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(4)})
            >>> torch.equal(q.sample_at(2)["w"], q.sample(3)["w"][2])
            True
        """
        weights = {}
        for place, (name, natural) in enumerate(self.natural.items()):
            key = stream_key(seed, _SAMPLE_STREAM, index, place)
            flat = Noise(key, natural.numel(), natural.device).signs(torch.sigmoid(2 * natural.reshape(-1)))
            weights[name] = flat.view(natural.shape) * self.scale[name]
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

    def entropy(self) -> Tensor:
        """Mean entropy of a weight in bits: 1 for a coin, 0 for a posterior that has collapsed to a point.

        Returns:
            A scalar tensor in [0, 1].

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(3)}).entropy()
            tensor(1.)
        """
        total = sum(F.bernoulli_entropy(natural).double().sum().cpu() for natural in self.natural.values())
        count = sum(natural.numel() for natural in self.natural.values())
        return torch.as_tensor(total / max(count, 1), dtype=torch.float32)

    def kl(self, other: BernoulliPosterior | None = None) -> Tensor:
        """KL(self ‖ other) of all weights together.

        Args:
            other: The second distribution; None means the uniform prior λ₀ = 0.

        Returns:
            A scalar in nats, in float64 (it is a sum over many weights).

        Raises:
            ValueError: If names or shapes differ.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(3)}).kl()
            tensor(0., dtype=torch.float64)
        """
        if other is not None:
            self.check_like({name: natural.shape for name, natural in other.natural.items()}, "the other posterior")
        total = torch.zeros((), dtype=torch.float64)
        for name, natural in self.natural.items():
            reference = torch.zeros((), device=natural.device) if other is None else other.natural[name]
            total += F.bernoulli_kl(natural, reference.to(natural.device)).double().sum().cpu()
        return total

    def check_like(self, shapes: Mapping[str, torch.Size], what: str) -> None:
        """Refuses tensors whose names or shapes differ from this posterior's.

        Args:
            shapes: Shapes by name.
            what: What has these shapes, for the message.

        Raises:
            ValueError: If a name is missing, unknown, or has another shape.

        Example:
            >>> BernoulliPosterior({"w": torch.zeros(3)}).check_like({"w": torch.Size([3])}, "the network")
        """
        missing, unknown = sorted(set(self.natural) - set(shapes)), sorted(set(shapes) - set(self.natural))
        if missing or unknown:
            raise ValueError(
                f"the posterior and {what} name different tensors: only the posterior has {missing}, "
                f"only {what} has {unknown}"
            )
        for name, natural in self.natural.items():
            if natural.shape != shapes[name]:
                raise ValueError(
                    f"{name!r} has shape {tuple(natural.shape)} in the posterior and {tuple(shapes[name])} in {what}"
                )

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
        tensors = {f"natural/{name}": tensor.contiguous() for name, tensor in self.natural.items()}
        tensors |= {f"scale/{name}": tensor.contiguous() for name, tensor in self.scale.items()}
        save_file(tensors, str(path), metadata={"format": _FORMAT})

    @classmethod
    def load(cls, path: str | Path) -> BernoulliPosterior:
        """Reads a posterior that `save` wrote, onto the CPU.

        Args:
            path: The file.

        Returns:
            The same posterior, bit for bit.

        Raises:
            ValueError: If the file is not a posterior of this library.
            FileNotFoundError: If it does not exist.

        Example:
            >>> BernoulliPosterior.load("absent.safetensors")
            Traceback (most recent call last):
            ...
            FileNotFoundError: no posterior at absent.safetensors
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no posterior at {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                form = (file.metadata() or {}).get("format")
                if form != _FORMAT:
                    raise ValueError(f"{path} is not a saved posterior: its format is {form!r}, expected {_FORMAT!r}")
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path} is not a saved posterior: {error}") from error
        parts: dict[str, dict[str, Tensor]] = {"natural": {}, "scale": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = tensor
        return cls(parts["natural"], parts["scale"])
