"""A dense network and its data, in the form in which both implementations of a sweep read them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitbayes.errors import chosen
from bitbayes.nn import LogitScale
from bitbayes.parameters import Named

ACTIVATIONS = {nn.Identity: 0, nn.Tanh: 1, nn.ReLU: 2}
"""Activations by the number that the kernel has for each."""

LOSSES = {"binary": 0, "cross-entropy": 1, "squared": 2}
"""Losses by the number that the kernel has for each."""


@dataclass(frozen=True)
class Dense:
    """Layers of a dense network, and the place of every parameter in one flat vector.

    The vector holds, for every layer, the weights row by row and then the biases. Layers without biases have zeros.

    Args:
        linear: Linear layers from the inputs to the outputs, with their names.
        activations: Type of the module after each of them; `nn.Identity` after the last.
        gain: Factor of all outputs.
    """

    linear: tuple[tuple[str, nn.Linear], ...]
    activations: tuple[type[nn.Module], ...]
    gain: float

    @classmethod
    def of(cls, model: nn.Module) -> Dense:
        """Read a network.

        Raises:
            ValueError: If the network is not a sequence of layers that the sampler supports.
        """
        if type(model) is not nn.Sequential:
            raise ValueError(f"Gibbs reads an nn.Sequential of dense layers, got {type(model).__name__}")
        linear: list[tuple[str, nn.Linear]] = []
        activations: list[type[nn.Module]] = []
        gain, ended = 1.0, ""
        hooked = [name or "the network" for name, module in model.named_modules() if _hooks(module)]
        if hooked:
            raise ValueError(f"Gibbs does not run forward hooks, but {hooked[0]} has one; remove it")
        for name, module in _flat(model):
            kind = type(module)
            if ended:
                raise ValueError(f"layer {name!r} ({kind.__name__}) follows {ended!r}, which must be the last layer")
            if isinstance(module, nn.Linear) and kind is nn.Linear:
                linear.append((name, module))
                activations.append(nn.Identity)
            elif kind in (nn.Tanh, nn.ReLU) and linear and activations[-1] is nn.Identity:
                activations[-1] = kind
            elif isinstance(module, LogitScale):
                gain, ended = float(module.log_scale.detach().exp()), name
            elif not _nothing(module):
                raise ValueError(
                    f"layer {name!r} is {kind.__name__}; Gibbs reads Flatten, Linear, Tanh or ReLU after a Linear, "
                    "and a last LogitScale"
                )
        if not linear:
            raise ValueError("the network has no Linear layer")
        if activations[-1] is not nn.Identity:
            raise ValueError(f"the last layer must be Linear or LogitScale, got {activations[-1].__name__}")
        for (name, one), (other, two) in itertools.pairwise(linear):
            if one.out_features != two.in_features:
                raise ValueError(
                    f"{name!r} has {one.out_features} outputs, but {other!r} takes {two.in_features} inputs"
                )
        return cls(tuple(linear), tuple(activations), gain)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Number of inputs, and of outputs of every layer."""
        return (self.linear[0][1].in_features, *(layer.out_features for _, layer in self.linear))

    @functools.cached_property
    def parameters(self) -> tuple[tuple[str, nn.Parameter, int, int], ...]:
        """Name, parameter, layer and first place in the vector of all weights and biases, in the vector's order."""
        found, place = [], 0
        for index, (name, layer) in enumerate(self.linear):
            found.append((f"{name}.weight", layer.weight, index, place))
            place += layer.weight.numel()
            if layer.bias is not None:
                found.append((f"{name}.bias", layer.bias, index, place))
            place += layer.out_features
        return tuple(found)

    @functools.cached_property
    def size(self) -> int:
        """Length of the vector."""
        return sum(wide * units + units for wide, units in itertools.pairwise(self.widths))

    def vector(self, device: torch.device) -> Tensor:
        """Return the vector with the current values of the parameters."""
        values = torch.zeros(self.size, dtype=torch.float32, device=device)
        for _, parameter, _, place in self.parameters:
            values[place : place + parameter.numel()] = parameter.detach().float().reshape(-1)
        return values

    def matrices(self, vectors: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weights (C, units, inputs) and biases (C, units) of every layer, as views of vectors (C, size)."""
        place = 0
        for wide, units in itertools.pairwise(self.widths):
            middle, end = place + wide * units, place + wide * units + units
            yield vectors[:, place:middle].view(-1, units, wide), vectors[:, middle:end]
            place = end

    def visits(self, binary: Named) -> tuple[Tensor, Tensor]:
        """Return the layer, unit and input of every binary weight in the order of a sweep, and its place in the vector.

        The input of a bias is the number of inputs of its layer.

        Raises:
            ValueError: If a binary parameter is not in the network, or in several of its layers.
        """
        known = [id(parameter) for _, parameter, *_ in self.parameters]
        if len(set(known)) < len(known):
            raise ValueError("several layers share a parameter; give each layer its own")
        unknown = [name for name, parameter in binary if id(parameter) not in known]
        if unknown:
            raise ValueError(f"{unknown} are not weights or biases of the network's Linear layers")
        wanted = {id(parameter) for _, parameter in binary}
        rows, places = [], []
        for _, parameter, layer, place in self.parameters:
            if id(parameter) in wanted:
                wide, units = self.widths[layer], self.widths[layer + 1]
                inputs = [wide] if parameter.dim() == 1 else range(wide)
                rows += [(layer, unit, each) for unit in range(units) for each in inputs]
                places += range(place, place + parameter.numel())
        return torch.tensor(rows, dtype=torch.int32).reshape(-1, 3), torch.tensor(places)


def _flat(model: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested sequences with their full names; a layer that occurs twice is yielded twice."""
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is not nn.Sequential:
            yield name, module


def _hooks(module: nn.Module) -> bool:
    everywhere = torch.nn.modules.module  # hooks of all modules
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
    )


def _nothing(module: nn.Module) -> bool:
    """Return whether a layer changes nothing in rows of numbers."""
    whole = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    return whole or type(module) is nn.Identity


@dataclass(frozen=True)
class Target:
    """Training points with their loss.

    Args:
        loss: Name of the loss.
        x: Inputs, shape (N, inputs).
        y: Targets, shape (N, outputs): numbers, or a 1 for the class of each point.
        scale: Factor of squared errors, 1 / (2σ²).
        gain: Factor of all outputs.
    """

    loss: str
    x: Tensor
    y: Tensor
    scale: float
    gain: float

    @classmethod
    def of(cls, dense: Dense, x: Tensor, y: Tensor, loss: str, noise: float | None) -> Target:
        """Check training points, and bring them into the form of the sampler.

        Raises:
            ValueError: If shapes or values do not fit the network or the loss.
        """
        chosen("loss", loss, LOSSES)
        if (loss == "squared") != (noise is not None):
            wanted = "needs noise=σ, the standard deviation of the targets" if noise is None else "takes no noise"
            raise ValueError(f"loss={loss!r} {wanted}")
        if noise is not None and not (noise > 0 and math.isfinite(noise)):
            raise ValueError(f"noise must be positive and finite, got {noise}")
        inputs, outputs = dense.widths[0], dense.widths[-1]
        x = x.detach().flatten(1).float() if x.dim() > 1 else x
        if x.dim() != 2 or x.shape[1] != inputs or not len(x):
            raise ValueError(f"x must have the shape (N, {inputs}) with N of at least 1, got {tuple(x.shape)}")
        if len(y) != len(x):
            raise ValueError(f"x has {len(x)} points and y has {len(y)}")
        y = y.detach().to(x.device)
        if loss == "cross-entropy":
            if y.dim() != 1 or y.is_floating_point() or y.min() < 0 or y.max() >= outputs:
                raise ValueError(f"y must hold whole numbers from 0 to {outputs - 1}, shape (N,), for cross-entropy")
            y = F.one_hot(y.long(), outputs)
        elif y.numel() != len(x) * outputs:
            raise ValueError(f"y must have the shape (N, {outputs}), got {tuple(y.shape)}")
        y = y.float().reshape(len(x), outputs)
        if not x.isfinite().all() or not y.isfinite().all():
            raise ValueError("x and y must be finite, but they contain NaN or infinity")
        if loss == "binary" and (y.min() < 0 or y.max() > 1):
            raise ValueError(f"y must be in [0, 1] for loss='binary', got {float(y.min()):g} to {float(y.max()):g}")
        return cls(loss, x, y, 0.5 / noise**2 if noise else 1.0, dense.gain)

    def total(self, outputs: Tensor) -> Tensor:
        """Return the total loss in nats, shape (C,), of outputs before the gain, shape (C, outputs, N)."""
        z = (self.gain * outputs).double()
        y = self.y.mT.double().expand_as(z)
        if self.loss == "binary":
            losses = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        elif self.loss == "cross-entropy":
            losses = z.logsumexp(1, keepdim=True) - (y * z).sum(1, keepdim=True)
        else:
            losses = self.scale * (z - y).square()
        return losses.sum((1, 2))


def activated(kind: type[nn.Module], values: Tensor) -> Tensor:
    """Return the outputs of units."""
    return values.tanh() if kind is nn.Tanh else values.relu() if kind is nn.ReLU else values


def forward(dense: Dense, vectors: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return what goes into the units of every layer and what comes out, each of shape (C, units, N)."""
    pre: list[Tensor] = []
    out: list[Tensor] = []
    below = x.mT
    for (weight, bias), kind in zip(dense.matrices(vectors), dense.activations, strict=True):
        pre.append(weight @ below + bias[:, :, None])
        out.append(activated(kind, pre[-1]))
        below = out[-1]
    return pre, out
