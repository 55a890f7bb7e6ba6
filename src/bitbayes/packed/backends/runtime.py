"""What every backend does: run all C networks of a file, and say how sure they are."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitbayes.packed.format.network import PackedNetwork

if TYPE_CHECKING:
    from bitbayes.packed.format.program import Step

__all__ = ["Runtime", "load", "make_runtime"]

BACKENDS = {
    "reference": ("reference", "ReferenceRuntime"),
    "torch": ("torch", "TorchRuntime"),
    "native": ("native.runtime", "NativeRuntime"),
    "openvino": ("openvino.runtime", "OpenVinoRuntime"),
}


class Runtime(ABC):
    """Runs a packed network. A backend says how to run one step; the rest is here.

    Args:
        network: What to run.
    """

    def __init__(self, network: PackedNetwork) -> None:
        self.network = network
        last = {source: index for index, step in enumerate(network.program.steps) for source in step.sources}
        self._done = [[value for value, user in last.items() if user == index] for index in range(len(network.values))]

    @abstractmethod
    def outputs(self, x: Any) -> Any:
        """Raw outputs of all C networks.

        Args:
            x: Inputs, shape (N, ...).

        Returns:
            Shape (C, N, ...).

        Raises:
            ValueError: If the inputs have another shape, or are not floating-point numbers.
        """

    @abstractmethod
    def predict(self, x: Any) -> Any:
        """Mean probabilities of all C networks, and their uncertainty.

        Args:
            x: Inputs, shape (N, ...).

        Returns:
            `.probs`, `.entropy` and `.mutual_information`, as `bitbayes.predict` has them.

        Raises:
            ValueError: If the inputs have another shape, or are not floating-point numbers.
        """

    @abstractmethod
    def step(self, step: Step, index: int, sources: list[Any], sample: int) -> Any:
        """One step.

        Args:
            step: It.
            index: Its place in the program.
            sources: The values that it takes, with their batch.
            sample: Which of the C networks.

        Returns:
            The value that it makes.
        """

    def run(self, x: Any, sample: int) -> Any:
        """All steps of one network; what no later step needs is dropped at once.

        Args:
            x: Inputs that have been checked.
            sample: Which of the C networks.

        Returns:
            The last value.
        """
        values = {0: x}
        for index, step in enumerate(self.network.program.steps):
            values[index + 1] = self.step(step, index, [values[source] for source in step.sources], sample)
            for value in self._done[index]:
                values.pop(value, None)
        return values[len(self.network.program.steps)]

    def check(self, shape: tuple[int, ...], floating: bool, dtype: Any) -> None:
        """Refuses inputs of another kind in one line."""
        wanted = self.network.program.input
        if tuple(shape[1:]) != wanted or not shape:
            expected = ", ".join(map(str, ("N", *wanted)))
            raise ValueError(f"expected inputs of shape ({expected}), got {tuple(shape)}")
        if not floating:
            raise ValueError(f"expected floating-point inputs, got {dtype}; scale and normalise them as in training")

    def check_finite(self, finite: bool) -> None:
        """Refuses NaN and infinity, which have no sign bit to go on with."""
        if not finite:
            raise ValueError("the inputs have NaN or infinities; expected finite numbers")


def make_runtime(network: PackedNetwork, backend: str = "reference", **options: Any) -> Runtime:
    """Something that runs a packed network.

    Args:
        network: The network.
        backend: "reference", "torch", "native" or "openvino".
        **options: Of the backend.

    Returns:
        The runtime.

    Raises:
        ValueError: For another backend.
        ImportError: If what the backend needs is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    module, name = BACKENDS[backend]
    try:
        loaded = importlib.import_module(
            f"bitbayes.packed.backends.{module}"
        )  # here, because torch may not be installed
    except ImportError as error:
        raise ImportError(f'{error}; or take the backend "native" or "reference"') from error
    return getattr(loaded, name)(network, **options)


def load(path: str | Path, backend: str = "reference", **options: Any) -> Runtime:
    """Reads a packed network and makes it run.

    Args:
        path: The file, of any origin: what is no sound packed network is refused.
        backend: "reference" (NumPy alone, no torch, slow), "torch", "native" (compiled kernels; needs a C compiler, no
            torch) or "openvino" (needs the extra of that name).
        **options: Of the backend: `device` for "torch", `threads` for "native" and "openvino"; `allow` and `inputs`
            for "openvino".

    Returns:
        A runtime, with `outputs(x)` and `predict(x)`.

    Raises:
        FileNotFoundError: If there is no file.
        PackedFileError: If it is no sound packed network of this version.
        ValueError: For another backend.

    Example:
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0)
        >>> bb.pack(model, torch.zeros(1, 3)).save(path)
        >>> load(path).predict(torch.ones(5, 3).numpy()).probs.shape
        (5, 2)
    """
    return make_runtime(PackedNetwork.read(path), backend, **options)
