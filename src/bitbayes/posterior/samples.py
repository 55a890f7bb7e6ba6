"""A posterior that is a bag of sampled networks, one bit per weight and sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from bitbayes.bits import pack_signs, row_bytes, unpack_signs
from bitbayes.noise import CHUNK
from bitbayes.posterior.base import Parts, Posterior, check_signs
from bitbayes.posterior.bernoulli import BernoulliPosterior
from bitbayes.posterior.turns import Turns

_SURE = 20.0  # |λ| of a weight on which all samples agree; its entropy is 0 in float32


def _common_size(name: str, sizes: Tensor) -> Tensor:
    """Return the sizes of the weights that several networks share, as few as their equality allows.

    Args:
        name: Name of the weights.
        sizes: Sizes in every network, shape (C, ...).
    """
    first = sizes[0]
    if not torch.allclose(sizes, first.expand_as(sizes), rtol=1e-4, atol=0, equal_nan=True):
        raise ValueError(
            f"the weights {name!r} have different sizes in the networks, but the distribution keeps one scale for all; "
            "pass scale=, or scale={} to keep the signs alone"
        )
    if (first == 0).any():
        raise ValueError(
            f"{name!r} has weights of size 0; pass scale={{}} to keep the signs alone, of which that of 0 is +1"
        )
    for axis in range(first.dim()):
        one = first.narrow(axis, 0, 1) if first.shape[axis] else first
        first = one if torch.equal(one.expand_as(first), first) else first
    return first.reshape(()) if first.numel() == 1 else first


class SamplePosterior(Posterior):
    """Distribution over C networks, from any sampler or chain, or from several trainings.

    A network takes one bit per weight. The distribution is discrete: every other network has probability 0. The
    marginal of a weight on which all samples agree is certain, and its λ is ±20.

    Args:
        signs: Samples by parameter name, shape (C, *shape of the weights), in any signed type. Only their signs matter;
            0 counts as +1.
        scale: Positive scale s by parameter name, so that weights are ±s, broadcastable to the weights. Missing names
            have s = 1.
        weights: Probabilities of the samples, shape (C,), up to a common factor. None makes them equal.

    Raises:
        ValueError: If there is no tensor or no sample, the numbers of samples differ, a sign is NaN or has a type
            without negative numbers, a weight is negative or not finite, or a scale is not positive.

    Example:
        >>> q = SamplePosterior({"w": torch.tensor([[1, -1, 1], [1, 1, -1], [1, -1, -1], [1, -1, -1]])})
        >>> len(q), q.bits["w"].shape
        (4, torch.Size([4, 1]))
        >>> q.mean()["w"]
        tensor([ 1.0000, -0.5000, -0.5000])
        >>> sorted(q.sample(4)["w"].tolist()) == sorted(q.member(index)["w"].tolist() for index in range(4))
        True
        >>> q.log_prob({"w": torch.tensor([1.0, -1.0, -1.0])}).exp()
        tensor(0.5000)
    """

    FORMAT = "bitbayes.samples.1"
    NEEDS = ("bits", "shape", "scale")

    def __init__(
        self,
        signs: Mapping[str, Tensor],
        scale: Mapping[str, Tensor] | None = None,
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        for name, tensor in signs.items():
            if tensor.dim() == 0 or len(tensor) == 0:
                raise ValueError(f"samples of {name!r} have shape {tuple(tensor.shape)}, expected (C, ...) with C >= 1")
            check_signs(f"samples of {name!r}", tensor)
        shapes = {name: tensor.shape[1:] for name, tensor in signs.items()}
        flat = {name: tensor.detach().reshape(len(tensor), shapes[name].numel()) for name, tensor in signs.items()}
        self._hold({name: pack_signs(tensor) for name, tensor in flat.items()}, shapes, scale, weights)

    def _hold(
        self,
        bits: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        scale: Mapping[str, Tensor] | None,
        weights: Tensor | Sequence[float] | None,
    ) -> None:
        """Keep bits that need no packing."""
        super().__init__({name: bits[name].new_empty(()).expand(shape) for name, shape in shapes.items()}, scale)
        if not any(shape.numel() for shape in shapes.values()):
            raise ValueError("a SamplePosterior needs at least one weight, got none")
        counts = {name: len(tensor) for name, tensor in bits.items()}
        count = next(iter(counts.values()))
        if set(counts.values()) != {count}:
            raise ValueError(f"all tensors must have the same number of samples, got {counts}")
        self.bits = dict(bits)
        self._turns = Turns(count, weights, kind="sample")

    @classmethod
    def of_networks(
        cls,
        networks: Sequence[Mapping[str, Tensor]],
        scale: Mapping[str, Tensor] | None = None,
        weights: Tensor | Sequence[float] | None = None,
    ) -> Self:
        """Return the distribution over given networks, such as the modes of several trainings.

        Args:
            networks: Weights by parameter name, the same names and shapes for all.
            scale: Positive scale s by parameter name, as in the constructor. Only the signs of the networks matter
                then. None takes the sizes of the weights, which must be the same in all networks; those of integers
                are 1.
            weights: Probabilities of the networks, up to a common factor. None makes them equal.

        Raises:
            ValueError: If there is no network, if names, shapes or sizes differ, or as in the constructor.

        Example:
            >>> SamplePosterior.of_networks([{"w": torch.tensor([1.0, -1.0])}, {"w": torch.tensor([1.0, 1.0])}]).mean()
            {'w': tensor([1., 0.])}
        """
        if not networks:
            raise ValueError("a SamplePosterior needs at least one network, got none")
        expected = {name: tuple(tensor.shape) for name, tensor in networks[0].items()}
        for index, network in enumerate(networks):
            found = {name: tuple(tensor.shape) for name, tensor in network.items()}
            if found != expected:
                raise ValueError(f"network {index} has tensors {found}, but network 0 has {expected}")
        stacked = {name: torch.stack([each[name] for each in networks]) for name in expected}
        if scale is None:
            real = {name: tensor for name, tensor in stacked.items() if tensor.is_floating_point()}
            scale = {name: _common_size(name, tensor.abs()) for name, tensor in real.items()}
        return cls(stacked, scale, weights)

    @classmethod
    def of_samples(cls, posterior: Posterior, samples: int, *, seed: int = 0) -> Self:
        """Return the distribution over networks that a posterior samples, such as to keep them as bits.

        Args:
            posterior: Posterior of any kind.
            samples: Number of networks to sample.
            seed: Seed of the samples.

        Returns:
            A distribution whose member c is sample c of the posterior.

        Raises:
            ValueError: If `samples` is less than 1.

        Example:
            >>> q = BernoulliPosterior({"w": torch.zeros(9)})
            >>> torch.equal(SamplePosterior.of_samples(q, 5).member(3)["w"], q.sample_at(3)["w"])
            True
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        room: dict[str, Tensor] | None = None
        rows: dict[str, list[Tensor]] = {name: [] for name in posterior.shapes}
        for index in range(samples):
            room = posterior.sample_at(index, seed=seed, out=room)
            for name, row in rows.items():
                row.append(pack_signs(room[name].reshape(-1)))
        found = cls.__new__(cls)
        bits = {name: torch.stack(row) for name, row in rows.items()}
        found._hold(bits, posterior.shapes, posterior.scale, None)
        return found

    def __len__(self) -> int:
        return self._turns.count

    def _facts(self) -> dict[str, str]:
        return {"networks": f"{len(self):,}, one bit per weight"}

    @property
    def weights(self) -> Tensor:
        """Probabilities of the samples, shape (C,), float64, on the CPU."""
        return self._turns.weights

    @property
    def natural(self) -> dict[str, Tensor]:
        """λ = ½·log(P[w > 0] / P[w < 0]) by name, at most 20 in magnitude."""
        return self._natural(0.0)

    def _natural(self, smoothing: float) -> dict[str, Tensor]:
        # Equal weights are counted, so that a tie is exactly λ = 0.
        weights = [1.0] * len(self) if self._turns.given is None else self._turns.given.tolist()
        total = sum(weights)
        added = smoothing * sum(weight * weight for weight in weights) / total  # the weight of one effective sample
        found: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            up = torch.full((shape.numel(),), added, dtype=torch.float64, device=self.bits[name].device)
            down = up.clone()
            # Numbers of samples are sums of integers, so groups are exact. Sums of weights have a fixed order.
            group = max(CHUNK // max(shape.numel(), 1), 1) if self._turns.given is None else 1
            for weight, rows in zip(weights[::group], self.bits[name].split(group), strict=True):
                ones = (unpack_signs(rows, shape.numel(), torch.int8) > 0).sum(0)
                up.add_(ones, alpha=weight)
                down.add_(len(rows) - ones, alpha=weight)
            found[name] = ((up.log() - down.log()) / 2).clamp(-_SURE, _SURE).float().view(shape)
        return found

    def marginals(self, smoothing: float = 0.0) -> BernoulliPosterior:
        """Return independent Bernoullis with the same mean weights, for example as a prior of `BayesBiNN`.

        A few samples that agree on a weight do not make it certain. As a prior, use `smoothing=0.5`, which adds half a
        sample of either sign to every weight (Krichevsky & Trofimov 1981). Samples of unequal weights count as
        (Σ w)² / Σ w² samples (Kish 1965).

        Args:
            smoothing: Number of imaginary samples of either sign, at least 0.

        Returns:
            A Bernoulli posterior with the same names and shapes.

        Raises:
            ValueError: If `smoothing` is negative.

        Example:
            >>> q = SamplePosterior({"w": torch.tensor([[1, -1], [1, 1]])})
            >>> q.marginals().natural["w"], q.marginals(smoothing=0.5).probabilities()["w"]
            (tensor([20.,  0.]), tensor([0.8333, 0.5000]))
        """
        if not smoothing >= 0:
            raise ValueError(f"smoothing must be at least 0, got {smoothing}")
        return BernoulliPosterior(self._natural(smoothing), self.scale)

    def member(self, index: int, *, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return one of the C networks in the order in which they are stored.

        `q.member(int(q.weights.argmax()))` is the most probable sample.

        Args:
            index: Index of the network, from 0 to C − 1.
            out: Tensors of any floating-point type to write into, such as those of an earlier call. None allocates new
                float32 tensors.

        Returns:
            Weights of ±scale by name.

        Raises:
            IndexError: If there is no such network.
            ValueError: If names or shapes of `out` differ from those of the posterior, or a tensor is not contiguous.

        Example:
            >>> SamplePosterior({"w": torch.tensor([[1, -1], [1, 1]])}, {"w": torch.tensor(0.5)}).member(0)["w"]
            tensor([ 0.5000, -0.5000])
        """
        if not 0 <= index < len(self):
            raise IndexError(f"member {index} does not exist; the posterior has {len(self)} members, from 0 on")
        weights = self._room(out)
        for name, shape in self.shapes.items():
            weights[name].copy_(unpack_signs(self.bits[name][index], shape.numel()).view(shape))
            if name in self._scaled:
                weights[name].mul_(self.scale[name])
        return weights

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return one of the networks that `sample` draws.

        Samples without weights take every one of the C networks once before any network again, in an order that the
        seed determines, so `sample(C)` is the whole bag. With weights, samples are stratified: network c is about w_c
        of any number of samples, and over all seeds every sample is network c with probability w_c.

        Args:
            index: Index of the network among the samples.
            seed: Seed of the order.
            out: Tensors of any floating-point type to write into, such as those of an earlier call. None allocates new
                float32 tensors.

        Returns:
            Weights of ±scale by name.

        Raises:
            ValueError: If names or shapes of `out` differ from those of the posterior, or a tensor is not contiguous.

        Example:
            >>> q = SamplePosterior({"w": torch.tensor([[1, -1], [1, 1]])})
            >>> torch.equal(q.sample_at(0)["w"], q.sample_at(2)["w"])
            True
        """
        return self.member(self._turns.at(index, seed)[0], out=out)

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of whole networks: that of the samples that equal the network.

        Args:
            weights: Weights by name with the shapes of the posterior, or with one leading dimension of networks. Only
                their signs matter.

        Returns:
            A scalar in nats, or one value per network; −infinity for a network that is none of the samples.

        Raises:
            ValueError: If names or shapes differ.

        Example:
            >>> q = SamplePosterior({"w": torch.tensor([[1, -1], [1, 1]])})
            >>> q.log_prob({"w": torch.tensor([[1, -1], [-1, -1]])})
            tensor([-0.6931,    -inf])
        """
        many = self._check_weights(weights)
        count = len(next(iter(weights.values()))) if many else 1
        equal = torch.ones(count, len(self), dtype=torch.bool)
        for name, shape in self.shapes.items():
            asked = pack_signs(weights[name].reshape(count, shape.numel())).to(self.bits[name].device)
            for index, row in enumerate(asked):
                equal[index] &= (row == self.bits[name]).all(1).cpu()
        found = (equal * self.weights).sum(1).log().float()
        found = found.to(next(iter(self.bits.values())).device)
        return found if many else found[0]

    def parts(self) -> tuple[Parts, dict[str, str]]:
        """Return bits, shapes, scales, and the weights of the samples if they are not equal."""
        shape = {name: torch.tensor(shape, dtype=torch.int64) for name, shape in self.shapes.items()}
        return {"bits": self.bits, "shape": shape, "scale": self.scale, **self._turns.parts()}, {}

    @classmethod
    def of_parts(cls, parts: Parts, about: Mapping[str, str]) -> Self:
        """Construct a posterior from bits, shapes, scales and weights."""
        bits, shapes = parts["bits"], dict[str, torch.Size]()
        for name, shape in parts["shape"].items():
            if shape.dtype != torch.int64 or shape.dim() != 1 or (shape < 0).any():
                raise ValueError(f"the shape of {name!r:.60} must be a list of int64 numbers of at least 0")
            if 0 in shape and math.prod(size or 1 for size in shape.tolist()) > 1 << 62:  # even so torch overflows
                raise ValueError(f"the shape of {name!r:.60} is too large")
            shapes[name] = torch.Size(shape.tolist())
        if set(bits) != set(shapes):
            raise ValueError(f"bits and shapes must have the same names, got {sorted(bits)} and {sorted(shapes)}")
        for name, tensor in bits.items():
            count = math.prod(shapes[name])  # of a hostile file, `numel` would overflow
            if tensor.dtype != torch.uint8 or tensor.dim() != 2 or len(tensor) == 0:
                got = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise ValueError(f"bits of {name!r:.60} must be torch.uint8 of shape (C, bytes) with C >= 1, got {got}")
            if tensor.shape[1] != row_bytes(count):
                expected = f"{row_bytes(count)} for the shape {tuple(shapes[name])}"
                raise ValueError(f"samples of {name!r:.60} have {tensor.shape[1]} bytes, expected {expected}")
            if count % 8 and (tensor[:, -1] >> (count % 8)).any():
                raise ValueError(f"bits of {name!r:.60} have ones in their unused bits")
        found = cls.__new__(cls)
        found._hold({name: bits[name].clone() for name in shapes}, shapes, parts["scale"], Turns.weights_of(parts))
        return found
