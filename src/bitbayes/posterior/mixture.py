"""A mixture of posteriors, such as those of several trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bitbayes.noise import stream_key
from bitbayes.posterior.base import Parts, Posterior
from bitbayes.posterior.bernoulli import BernoulliPosterior
from bitbayes.posterior.turns import Turns

_COMPONENT_STREAM = 8  # gives every component a seed of its own


class Mixture(Posterior):
    """Distribution that takes a component at random and samples a network from it.

    The components are, for example, posteriors of several trainings, whose networks differ more than samples of one
    posterior. They hold binary weights alone, so the networks should not differ in their real parameters. A component
    that is a mixture itself is replaced by its components.

    Args:
        components: Posteriors of any kind with the same names, shapes, devices and scales.
        weights: Probabilities of the components, shape (K,), up to a common factor. None makes them equal.

    Raises:
        TypeError: If a component is not a posterior.
        ValueError: If there is no component, if names, shapes, devices or scales differ, or if a weight is negative or
            not finite.

    Example:
        >>> q = Mixture([BernoulliPosterior({"w": torch.full((3,), value)}) for value in (9.0, -9.0)])
        >>> q.natural["w"], q.sample(2, seed=1)["w"]  # marginals are even, but samples are far from it
        (tensor([0., 0., 0.]), tensor([[ 1.,  1.,  1.],
                [-1., -1., -1.]]))
        >>> q.log_prob({"w": torch.tensor([1.0, 1.0, 1.0])}).exp()
        tensor(0.5000)
    """

    FORMAT = "bitbayes.mixture.1"
    NEEDS = ()

    def __init__(self, components: Sequence[Posterior], weights: Tensor | Sequence[float] | None = None) -> None:
        if not components:
            raise ValueError("a mixture needs at least one component, got none")
        for index, component in enumerate(components):
            if not isinstance(component, Posterior):
                raise TypeError(f"component {index} must be a posterior, got {type(component).__name__}")
        turns = Turns(len(components), weights, kind="component")
        if any(isinstance(component, Mixture) for component in components):
            pairs = zip(components, turns.weights.tolist(), strict=True)
            flat = [(part, weight * share) for component, weight in pairs for part, share in _flat(component)]
            components, turns = [part for part, _ in flat], Turns(len(flat), [weight for _, weight in flat])
        self.components, self._turns = tuple(components), turns
        first = self.components[0]
        super().__init__({name: first.scale[name].new_empty(()).expand(s) for name, s in first.shapes.items()}, None)
        self.scale, self._scaled = first.scale, first._scaled
        for index, component in enumerate(self.components):
            self.check_like(component.shapes, f"component {index}")
            for name, shape in self.shapes.items():
                mine, theirs = first.scale[name], component.scale[name]
                if mine.device != theirs.device:
                    raise ValueError(f"{name!r} is on {mine.device} in component 0 and on {theirs.device} in {index}")
                if not torch.equal(mine.expand(shape), theirs.expand(shape)):
                    raise ValueError(f"the scale of {name!r} differs between component 0 and component {index}")

    def _facts(self) -> dict[str, str]:
        pairs = zip(self.components, self.weights.tolist(), strict=True)
        return {"components": ", ".join(f"{type(component).__name__} ({weight:.3g})" for component, weight in pairs)}

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components, shape (K,), float64, on the CPU."""
        return self._turns.weights

    @property
    def natural(self) -> dict[str, Tensor]:
        """λ of every weight's marginal, which is the mixture of the components' marginals, by name."""
        up: dict[str, Tensor] = {}
        down: dict[str, Tensor] = {}
        for component, log_weight in self._weighted():
            for name, natural in component.natural.items():
                # Logarithms keep the marginals of weights that are almost certain.
                for total, sign in ((up, 2), (down, -2)):
                    log_probability = logsigmoid(sign * natural.double()) + log_weight
                    known = total.get(name)
                    total[name] = log_probability if known is None else torch.logaddexp(known, log_probability)
        return {name: ((up[name] - down[name]) / 2).float() for name in self.shapes}

    def marginals(self) -> BernoulliPosterior:
        """Return independent Bernoullis with the same mean weights, for example as a prior of `BayesBiNN`.

        Returns:
            A Bernoulli posterior with the same names and shapes.

        Example:
            >>> sure = [BernoulliPosterior({"w": torch.tensor([9.0, value])}) for value in (9.0, -9.0)]
            >>> Mixture(sure).marginals().natural["w"]
            tensor([9., 0.])
        """
        return BernoulliPosterior(self.natural, self.scale)

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return one of the networks that `sample` draws.

        Samples are stratified. With equal weights, every block of K samples takes each of the K components once, in an
        order that the seed determines: 32 samples of four components are eight of each. With other weights, component k
        gives about a share w_k of any number of samples.

        Args:
            index: Index of the network among the samples.
            seed: Seed of the order, and of the samples of every component.
            out: Tensors of any floating-point type to write into, such as those of an earlier call. None allocates new
                float32 tensors.

        Returns:
            Weights of ±scale by name.

        Raises:
            ValueError: If names or shapes of `out` differ from those of the posterior, or a tensor is not contiguous.

        Example:
            >>> q = Mixture([BernoulliPosterior({"w": torch.full((1,), value)}) for value in (9.0, -9.0)])
            >>> q.sample_at(0)["w"] + q.sample_at(1)["w"]
            tensor([0.])
        """
        member, earlier = self._turns.at(index, seed)
        own = stream_key(seed, _COMPONENT_STREAM, member)
        return self.components[member].sample_at(earlier, seed=own, out=out)

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of whole networks, if all components have one.

        Args:
            weights: Weights by name with the shapes of the posterior, or with one leading dimension of networks. Only
                their signs matter.

        Returns:
            A scalar in nats, or one value per network.

        Raises:
            TypeError: If a component has no log-probability in closed form.
            ValueError: If names or shapes differ.

        Example:
            >>> q = Mixture([BernoulliPosterior({"w": torch.zeros(2)}), bb.SamplePosterior({"w": torch.ones(1, 2)})])
            >>> q.log_prob({"w": torch.ones(2)}).exp()
            tensor(0.6250)
        """
        terms = [component.log_prob(weights).double() + log_weight for component, log_weight in self._weighted()]
        return torch.logsumexp(torch.stack(terms), 0).float()

    def _weighted(self) -> list[tuple[Posterior, float]]:
        """Return the components of positive weight and the logarithms of their weights."""
        pairs = zip(self.components, self.weights.tolist(), strict=True)
        return [(component, math.log(weight)) for component, weight in pairs if weight > 0]

    def parts(self) -> tuple[Parts, dict[str, str]]:
        """Return the parts of every component, with its number in front, and the weights if they are not equal."""
        found, about = self._turns.parts(), dict[str, str]()
        for index, component in enumerate(self.components):
            parts, texts = component.parts()
            found |= {f"{index}.{part}": named for part, named in parts.items()}
            about |= {f"{index}.{key}": text for key, text in ({"format": component.FORMAT} | texts).items()}
        return found, about

    @classmethod
    def of_parts(cls, parts: Parts, about: Mapping[str, str]) -> Mixture:
        """Construct a mixture from the parts of its components."""
        contents: dict[str, tuple[Parts, dict[str, str]]] = {}
        for key, named in parts.items():
            index, dot, part = key.partition(".")
            if dot:
                contents.setdefault(index, ({}, {}))[0][part] = named
        for key, text in about.items():
            index, dot, part = key.partition(".")
            if dot and index in contents:
                contents[index][1][part] = text
        components: list[Posterior] = []
        for index in map(str, range(len(contents))):
            if index not in contents:
                raise ValueError(f"it has no component {index}, but {len(contents)} components")
            kind = cls._kind(contents[index][1])
            if issubclass(kind, Mixture):
                raise ValueError(f"component {index} is a mixture itself; save the mixture of its components")
            try:
                components.append(kind._of_content(*contents[index]))
            except ValueError as error:
                raise ValueError(f"component {index}: {error}") from error
        return cls(components, Turns.weights_of(parts))


def _flat(component: Posterior) -> list[tuple[Posterior, float]]:
    """Return the components of a mixture with their weights, or a posterior of another kind with weight 1."""
    if not isinstance(component, Mixture):
        return [(component, 1.0)]
    return list(zip(component.components, component.weights.tolist(), strict=True))
