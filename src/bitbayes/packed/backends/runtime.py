"""Common parts of all backends: their interface, the order of computation, and checks of inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Step
from bitbayes.prediction import Prediction


class Runtime(ABC):
    """Packed network on a backend, ready to run; `bitbayes.packed.load` creates it.

    Attributes:
        network: The packed network.
    """

    network: PackedNetwork

    @abstractmethod
    def outputs(self, x: Any) -> Any:
        """Return the raw outputs of all C networks, in float32.

        Args:
            x: Inputs, shape (N, ...): finite floating-point numbers, or token ids of any integer type if the network
                begins with an embedding.

        Returns:
            Shape (C, N, ...).

        Raises:
            ValueError: If the inputs have another shape or type, are not finite, or are no ids of the network.
        """

    def predict(self, x: Any) -> Prediction[Any]:
        """Return the prediction of all C networks: mean probabilities and uncertainties.

        Args:
            x: Inputs, shape (N, ...).

        Returns:
            A prediction with `.probs`, `.entropy` and `.mutual_information`, as `bitbayes.predict` returns it. A single
            output per input is the logit of class 1.
        """
        return Prediction(self.outputs(x))


class Order:
    """Order in which values are computed; each value is dropped after its last use.

    Args:
        tasks: For each task, the values that it takes and the value that it makes. Value 0 is the input.
        keep: Values to keep in addition to that of the last task.

    Example:
        >>> Order([((0,), 1), ((0, 1), 2)]).run({0: 3}, lambda task, values: 10 * sum(values))
        {2: 330}
    """

    def __init__(self, tasks: Iterable[tuple[tuple[int, ...], int]], keep: Iterable[int] = ()) -> None:
        self._tasks = [(sources, target, list[int]()) for sources, target in tasks]
        last: dict[int, int] = {}
        for place, (sources, target, _) in enumerate(self._tasks):
            last |= dict.fromkeys((*sources, target), place)
        for value in {*keep, *(target for _, target, _ in self._tasks[-1:])}:
            last.pop(value, None)
        for value, place in last.items():
            self._tasks[place][2].append(value)

    def run(self, given: Mapping[int, Any], compute: Callable[[int, list[Any]], Any]) -> dict[int, Any]:
        """Return the values that are kept.

        Args:
            given: Values that no task makes.
            compute: Function of the number of a task and the values that the task takes; returns the value that the
                task makes.
        """
        values = dict(given)
        for place, (sources, target, done) in enumerate(self._tasks):
            values[target] = compute(place, [values[source] for source in sources])
            for value in done:
                del values[value]
        return values


class Steps:
    """Order in which the steps of a packed network are computed, one network after the other.

    Values that all networks have in common are computed once.

    Args:
        network: Packed network.
    """

    def __init__(self, network: PackedNetwork) -> None:
        steps, own = network.program.steps, network.own_values
        self._last, self._samples = len(steps), network.program.samples
        self._common = [index for index in range(len(steps)) if index + 1 not in own]
        self._own = [index for index in range(len(steps)) if index + 1 in own]
        shown = {source for index in self._own for source in steps[index].sources} | {self._last}
        self._before = Order(((steps[index].sources, index + 1) for index in self._common), shown)
        self._order = Order((steps[index].sources, index + 1) for index in self._own)

    def run(self, x: Any, compute: Callable[[int, list[Any], int], Any]) -> Iterator[Any]:
        """Yield the output of each network.

        Args:
            x: Inputs.
            compute: Function of the number of a step, the values that the step takes, and the number of the network;
                returns the value that the step makes.
        """
        common = self._before.run({0: x}, lambda place, sources: compute(self._common[place], sources, 0))
        for sample in range(self._samples):
            found = self._order.run(common, lambda place, sources, c=sample: compute(self._own[place], sources, c))
            yield found[self._last]


def check_inputs(network: PackedNetwork, shape: tuple[int, ...], floating: bool, dtype: Any) -> None:
    """Raise ValueError for inputs of another shape or type than the network takes."""
    wanted = network.program.input
    if tuple(shape[1:]) != wanted or not shape:
        expected = ", ".join(map(str, ("N", *wanted)))
        raise ValueError(f"expected inputs of shape ({expected}), got {tuple(shape)}")
    if network.tokens is not None:
        whole = np.issubdtype(dtype, np.integer) if isinstance(dtype, np.dtype) else "int" in str(dtype)
        if not whole:
            raise ValueError(f"expected token ids, which are integers below {network.tokens}, got {dtype}")
    elif not floating:
        how = "scale and normalise them as in training" if network.inputs is None else "call network.prepare(x) first"
        raise ValueError(f"expected floating-point inputs, got {dtype}; {how}")


def check_finite(finite: bool) -> None:
    """Raise ValueError for NaN and infinity, whose sign is meaningless."""
    if not finite:
        raise ValueError("expected finite inputs, got NaN or infinities; remove or replace them")


def check_tokens(network: PackedNetwork, ids: Any) -> None:
    """Raise ValueError for token ids, in an array or a tensor, that a network does not have."""
    assert network.tokens is not None
    least, most = (int(ids.min()), int(ids.max())) if math.prod(ids.shape) else (0, 0)
    if least < 0 or most >= network.tokens:
        raise ValueError(f"expected token ids from 0 to {network.tokens - 1}, got {least if least < 0 else most}")


def checked(network: PackedNetwork, x: Any) -> Array:
    """Return inputs as an array of float32 numbers or int32 token ids, after checking them."""
    x = np.asarray(_on_cpu(x) if hasattr(x, "detach") else x)
    check_inputs(network, x.shape, np.issubdtype(x.dtype, np.floating), x.dtype)
    if network.tokens is not None:
        check_tokens(network, x)
        return x.astype(np.int32, copy=False)
    x = x.astype(np.float32, copy=False)
    check_finite(bool(np.isfinite(x).all()))
    return x


def _on_cpu(x: Any) -> Any:
    """Return a tensor as NumPy can read it; torch need not be installed where there are no tensors."""
    x = x.detach().cpu()
    return x.float() if x.is_floating_point() else x


def check_threads(threads: Any) -> None:
    """Raise an error for a number of threads that is none."""
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an integer, got {threads!r}")
    if threads < 0:
        raise ValueError(f"threads must be at least 0, got {threads}")


def random_inputs(network: PackedNetwork, count: int, seed: int = 0) -> Array:
    """Return random inputs (count, ...) of a network: standard normal numbers, or token ids."""
    rng, shape = np.random.default_rng(seed), (count, *network.program.input)
    if network.tokens is not None:
        return rng.integers(0, network.tokens, shape, np.int32)
    return rng.standard_normal(shape).astype(np.float32)


def sliced(step: Step) -> tuple[slice, ...]:
    """Return the index of the entries that a slice keeps, for a value with its batch."""
    settings = step.settings
    return (*[slice(None)] * settings["axis"], slice(settings["begin"], settings["end"]))


def in_pieces(network: PackedNetwork, x: Array, most: int, run: Callable[[Array], Array]) -> Array:
    """Return the outputs of inputs that are computed in pieces; the array is new and writable."""
    pieces = [run(x[start : start + most]) for start in range(0, len(x), most)]
    nothing = np.empty((network.program.samples, 0, *network.values[-1].shape), np.float32)
    return np.concatenate(pieces or [nothing], axis=1)
