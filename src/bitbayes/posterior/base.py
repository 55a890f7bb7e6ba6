"""The interface of all posteriors over binary weights."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bitbayes import functional as F
from bitbayes.files import check_seal, replacing, sealed
from bitbayes.hub import Description, Pretrained
from bitbayes.posterior.describe import described

Parts = dict[str, dict[str, Tensor]]
"""Tensors of a posterior, by part, such as "natural", and by parameter name."""

SAMPLE_STREAM, SHARED_SAMPLE_STREAM = 2, 4  # keeps the noise of posterior samples apart from that of training


def check_signs(what: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor whose elements have no sign, such as bits 0 and 1 or NaN."""
    if not tensor.dtype.is_signed or tensor.is_complex():
        raise ValueError(f"{what} must have a signed type, got {tensor.dtype}; pass −1 and +1")
    if tensor.isnan().any():
        raise ValueError(f"{what} contain NaN")


class Posterior(Pretrained):
    """Distribution over the weights of a network, each −s or +s, keyed by parameter names.

    `save_pretrained`, `from_pretrained` and `push_to_hub` of `bitbayes.hub.Pretrained` keep it in a folder with a model
    card, and share it on the Hugging Face Hub. Subclasses define `natural` (the marginal of every weight), `sample_at`,
    and the content of a saved file: `parts` and `of_parts`.

    Args:
        like: Tensors by name that have the shapes and devices of the weights.
        scale: Positive scale s by name, broadcastable to the weights. Missing names have s = 1.

    Raises:
        ValueError: If there is no tensor, or a scale has an unknown name or is not positive.
    """

    PRETRAINED: ClassVar[str] = "posterior.safetensors"
    FORMAT: ClassVar[str]  # name of the file format
    NEEDS: ClassVar[tuple[str, ...]]  # parts and metadata that a file must have
    _kinds: ClassVar[dict[str, type[Posterior]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "FORMAT" in vars(cls):  # a subclass of a kind is read as that kind
            Posterior._kinds[cls.FORMAT] = cls

    def __init__(self, like: Mapping[str, Tensor], scale: Mapping[str, Tensor] | None) -> None:
        if not like:
            raise ValueError("a posterior needs at least one tensor of weights; got none")
        scale, one = scale or {}, torch.ones(())
        unknown = set(scale) - set(like)
        if unknown:
            raise ValueError(f"got scales for unknown tensors {sorted(unknown)}; the posterior has {sorted(like)}")
        self.shapes = {name: tensor.shape for name, tensor in like.items()}
        self.scale = {n: scale.get(n, one).detach().to(t.device, torch.float32).clone() for n, t in like.items()}
        for name, value in self.scale.items():
            if not (value > 0).all() or not value.isfinite().all():
                least, most = (float(found) for found in value.aminmax())
                raise ValueError(f"the scale of {name!r} must be positive and finite, got {least:g} to {most:g}")
            mine, theirs = tuple(value.shape), tuple(like[name].shape)
            if len(mine) > len(theirs) or any(a not in (1, b) for a, b in zip(mine[::-1], theirs[::-1], strict=False)):
                raise ValueError(f"the scale of {name!r} has shape {mine}, which does not broadcast to {theirs}")
        self._scaled = {name for name, value in self.scale.items() if (value != 1).any()}

    def __repr__(self) -> str:
        count = sum(shape.numel() for shape in self.shapes.values())
        content = f"{len(self.shapes)} tensors, {count} weights, per-weight entropy {self.entropy():.3f} bits"
        return f"{type(self).__name__}({content})"

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """Place of every tensor among the sorted names, on which its noise depends: a file keeps no other order."""
        return {name: place for place, name in enumerate(sorted(self.shapes))}

    @property
    @abstractmethod
    def natural(self) -> dict[str, Tensor]:
        """λ = ½·log(p / (1 − p)) of every weight's marginal, with p = P[w > 0], by name."""

    @abstractmethod
    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return network number `index` of those that `sample` draws; it depends only on (seed, index)."""

    def _room(self, out: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return tensors to write a sample into: the given ones after checking them, or new ones."""
        if out is None:
            return {name: self.scale[name].new_empty(shape) for name, shape in self.shapes.items()}
        self.check_like({name: tensor.shape for name, tensor in out.items()}, "out")
        scattered = next((name for name, tensor in out.items() if not tensor.is_contiguous()), None)
        if scattered is not None:
            raise ValueError(f"out has a tensor {scattered!r} that is not contiguous; give tensors of torch.empty")
        return dict(out)

    def _check_weights(self, weights: Mapping[str, Tensor]) -> bool:
        """Return whether the weights are those of several networks, after checking their names and shapes."""
        if set(weights) != set(self.shapes):
            raise ValueError(f"weights are named {sorted(weights)}, but the posterior has {sorted(self.shapes)}")
        leading: dict[str, torch.Size] = {}
        for name, shape in self.shapes.items():
            check_signs(f"weights of {name!r}", weights[name])
            found = weights[name].shape
            if found not in (shape, (found[:1] + shape)):
                raise ValueError(f"{name!r} has shape {tuple(found)}; expected {tuple(shape)}, or (samples, ...)")
            leading[name] = found[: len(found) - len(shape)]
        first = next(iter(leading))
        for name, dims in leading.items():
            if dims != leading[first]:
                count, other = (dict(enumerate(leading[each])).get(0, "a single") for each in (name, first))
                raise ValueError(f"{name!r} has the weights of {count} network(s), but {first!r} of {other}")
        return bool(leading[first])

    @abstractmethod
    def parts(self) -> tuple[Parts, dict[str, str]]:
        """Return all tensors by part and parameter name, and additional metadata."""

    @classmethod
    @abstractmethod
    def of_parts(cls, parts: Parts, about: Mapping[str, str]) -> Self:
        """Construct a posterior from what `parts` returned."""

    def to(self, device: torch.device | str) -> Self:
        """Return a copy of the posterior on another device.

        Example:
            >>> bb.BernoulliPosterior({"w": torch.zeros(3)}).to("cpu").natural["w"].device
            device(type='cpu')
        """
        parts, about = self.parts()
        moved = {part: {name: t.to(device) for name, t in named.items()} for part, named in parts.items()}
        return type(self).of_parts(moved, about)

    def save(self, path: str | Path) -> None:
        """Write the posterior to a safetensors file with a digest, keyed by parameter names.

        Args:
            path: File to write. An existing file is replaced only after the new one is complete.

        Example:
            >>> import tempfile, os
            >>> path = os.path.join(tempfile.mkdtemp(), "posterior.safetensors")
            >>> bb.BernoulliPosterior({"w": torch.ones(2)}).save(path)
            >>> bb.BernoulliPosterior.load(path).natural["w"]
            tensor([1., 1.])
        """
        parts, about = self.parts()
        tensors = {f"{part}/{name}": t.contiguous() for part, named in parts.items() for name, t in named.items()}
        owners = {tensor.data_ptr(): key for key, tensor in tensors.items()}
        # Components of a mixture may share their tensors, but safetensors takes no memory twice.
        tensors = {key: t if owners[t.data_ptr()] == key else t.clone() for key, t in tensors.items()}
        with replacing(path) as partial, open(partial, "xb") as file:
            file.writelines(sealed(save(tensors, metadata={"format": self.FORMAT} | about)))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a posterior of this class that `save` wrote, bit for bit, onto the CPU.

        Args:
            path: File to read.

        Raises:
            ValueError: If the file is not a posterior of this kind, or is damaged.
            FileNotFoundError: If it does not exist.

        Example:
            >>> bb.BernoulliPosterior.load("absent.safetensors")
            Traceback (most recent call last):
            ...
            FileNotFoundError: no posterior at absent.safetensors
        """
        parts, about = _read(path)
        if about.get("format") != cls.FORMAT:
            found = about.get("format")
            raise ValueError(f"{path} is not a saved posterior: its format is {found!r}, expected {cls.FORMAT!r}")
        return cls._checked(path, parts, about)

    @staticmethod
    def _kind(about: Mapping[str, str]) -> type[Posterior]:
        """Return the class whose format the metadata of a file name."""
        found = about.get("format", "")
        if found not in Posterior._kinds:
            raise ValueError(f"its format is {found!r}, expected one of {', '.join(Posterior._kinds)}")
        return Posterior._kinds[found]

    @classmethod
    def _of_file(cls, path: Path) -> Self:
        if cls is Posterior:
            return load_posterior(path)  # type: ignore[return-value]
        return cls.load(path)

    def _description(self, source: str) -> Description:
        return described(type(self).__name__, self.shapes, float(self.entropy()), source, self._facts())

    def _facts(self) -> dict[str, str]:
        """Return what a model card says of this kind of posterior alone."""
        return {}

    @classmethod
    def _checked(cls, path: str | Path, parts: Parts, about: Mapping[str, str]) -> Self:
        try:
            return cls._of_content(parts, about)
        except KeyError as error:  # a name may be among the texts, where a part should be
            raise ValueError(f"{path} is not a saved posterior: it has no part {error}") from error
        except (ValueError, RuntimeError) as error:  # torch has RuntimeErrors for strange shapes and types
            raise ValueError(f"{path} is not a saved posterior: {error}") from error

    @classmethod
    def _of_content(cls, parts: Parts, about: Mapping[str, str]) -> Self:
        missing = set(cls.NEEDS) - set(parts) - set(about)
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        for name, tensor in parts.get("scale", {}).items():
            if not tensor.is_floating_point():
                raise ValueError(f"the scale of {name!r:.60} must be floating point, got {tensor.dtype}")
        return cls.of_parts(parts, about)

    def probabilities(self) -> dict[str, Tensor]:
        """Return the probability P[w > 0] of every weight.

        Returns:
            σ(2λ) by name, with the shapes of the weights.

        Example:
            >>> bb.BernoulliPosterior({"w": torch.zeros(1)}).probabilities()["w"]
            tensor([0.5000])
        """
        return {name: torch.sigmoid(2 * natural) for name, natural in self.natural.items()}

    def mode(self) -> dict[str, Tensor]:
        """Return the most likely value of every weight, sign(λ) times the scale.

        Returns:
            Weights by name.

        Example:
            >>> bb.BernoulliPosterior({"w": torch.tensor([-1.0])}).mode()["w"]
            tensor([-1.])
        """
        return {name: F.sign(natural) * self.scale[name] for name, natural in self.natural.items()}

    def mean(self) -> dict[str, Tensor]:
        """Return the mean of every weight, μ = tanh(λ) times the scale.

        Returns:
            Means by name.

        Example:
            >>> bb.BernoulliPosterior({"w": torch.zeros(1)}).mean()["w"]
            tensor([0.])
        """
        return {name: natural.tanh() * self.scale[name] for name, natural in self.natural.items()}

    def sample(self, count: int = 1, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw the weights of whole networks; sample c depends only on (seed, c), not on `count`.

        Args:
            count: Number of networks to draw.
            seed: Seed of the counter-based noise.

        Returns:
            Weights of ±scale by name, with shapes (count, *shape of the weights).

        Raises:
            ValueError: If `count` is less than 1.

        Example:
            >>> q = bb.BernoulliPosterior({"w": torch.zeros(4)})
            >>> torch.equal(q.sample(2)["w"][1], q.sample(3)["w"][1])
            True
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}; use mode() for a single best network")
        drawn = [self.sample_at(index, seed=seed) for index in range(count)]
        return {name: torch.stack([weights[name] for weights in drawn]) for name in self.shapes}

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of whole networks, or raise TypeError if the family has none in closed form.

        Args:
            weights: Weights by name, or with one leading dimension of networks. Only their signs matter.

        Returns:
            A scalar in nats, or one value per network.

        Raises:
            TypeError: If the family has no log-probability in closed form.
            ValueError: If names or shapes differ.

        Example:
            >>> q = bb.LowRankGaussianPosterior({"w": torch.ones(2)}, {"w": torch.ones(1, 2)})
            >>> q.marginals().log_prob(q.mode()).exp()
            tensor(0.7079)
        """
        raise TypeError(f"{type(self).__name__} has no log-probability in closed form; use marginals().log_prob()")

    def kl(self, other: Posterior | None = None) -> Tensor:
        """Return the KL divergence KL(self ‖ other), or raise TypeError if the family has none in closed form.

        Args:
            other: The second distribution; None means the uniform prior λ₀ = 0.

        Raises:
            TypeError: If the families have no divergence in closed form. `marginals().kl()` returns the divergence of
                the marginals.

        Example:
            >>> q = bb.LowRankGaussianPosterior({"w": torch.ones(2)}, {"w": torch.ones(1, 2)})
            >>> round(float(q.marginals().kl()), 3)
            0.511
        """
        raise TypeError(f"{type(self).__name__} has no KL divergence in closed form; use marginals().kl()")

    def entropy(self) -> Tensor:
        """Return the mean per-weight entropy in bits: 1 for fair coins, 0 for a single network.

        If weights are correlated, the entropy of the whole network is less than the sum of the per-weight entropies.

        Returns:
            A scalar tensor in [0, 1].

        Example:
            >>> bb.BernoulliPosterior({"w": torch.zeros(3)}).entropy()
            tensor(1.)
        """
        natural = self.natural
        total = sum(F.bernoulli_entropy(tensor).double().sum().cpu() for tensor in natural.values())
        count = sum(tensor.numel() for tensor in natural.values())
        return torch.as_tensor(total / max(count, 1), dtype=torch.float32)

    def check_like(self, shapes: Mapping[str, torch.Size], what: str) -> None:
        """Raise ValueError for tensors whose names or shapes differ from this posterior's.

        Args:
            shapes: Shapes by name.
            what: Name of the owner of these shapes, for the error message.

        Raises:
            ValueError: If a name is missing or unknown, or a shape differs.

        Example:
            >>> bb.BernoulliPosterior({"w": torch.zeros(3)}).check_like({"w": torch.Size([3])}, "the network")
        """
        missing, unknown = sorted(set(self.shapes) - set(shapes)), sorted(set(shapes) - set(self.shapes))
        if missing or unknown:
            raise ValueError(
                f"the posterior and {what} name different tensors: only the posterior has {missing}, "
                f"only {what} has {unknown}"
            )
        for name, shape in self.shapes.items():
            if shape != shapes[name]:
                mine, theirs = tuple(shape), tuple(shapes[name])
                raise ValueError(f"{name!r} has shape {mine} in the posterior and {theirs} in {what}")


def load_posterior(path: str | Path) -> Posterior:
    """Read a posterior of any class that its `save` wrote, bit for bit, onto the CPU.

    Args:
        path: File to read.

    Raises:
        ValueError: If the file is not a posterior of this library, or is damaged.
        FileNotFoundError: If it does not exist.

    Example:
        >>> load_posterior("absent.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no posterior at absent.safetensors
    """
    parts, about = _read(path)
    try:
        kind = Posterior._kind(about)
    except ValueError as error:
        raise ValueError(f"{path} is not a saved posterior: {error}") from None
    return kind._checked(path, parts, about)


def _read(path: str | Path) -> tuple[Parts, dict[str, str]]:
    """Return tensors by part and parameter name, and metadata, from an untrusted file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no posterior at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            try:
                check_seal(path, about)
            except ValueError as error:
                raise ValueError(f"{path} is damaged: {error}") from None
            parts: Parts = {}
            for key in file.keys():
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
            return parts, about
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved posterior: {error}") from error
