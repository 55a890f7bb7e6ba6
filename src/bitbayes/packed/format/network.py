"""Packed networks in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.format.check import check_program, check_tensors
from bitbayes.packed.format.file import DTYPES, read_file, write_file
from bitbayes.packed.format.ops import Layout
from bitbayes.packed.format.program import PackedFileError, Program, Step
from bitbayes.packed.format.summary import PackedSummary, summary_rows

if TYPE_CHECKING:
    from bitbayes.packed.backends.runtime import Runtime

__all__ = ["PackedNetwork"]

Array = npt.NDArray[Any]


class PackedNetwork:
    """A program and its tensors: bits where weights are binary, float32 where they are real. `bitbayes.pack` makes it.

    Args:
        program: The steps.
        tensors: By name; uint8 for bits, float32, and integers for thresholds.

    Raises:
        PackedFileError: If they do not fit together.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False), bb.nn.LogitScale(2.0))
        >>> _ = bb.STE([model[0].weight], seed=0)
        >>> network = bb.pack(model, torch.zeros(1, 16))
        >>> network
        PackedNetwork(input (16,), output (2,), 1 network, 2 steps, 8 bytes of tensors)
        >>> network.runtime().outputs(torch.ones(3, 16).numpy()).shape
        (1, 3, 2)
    """

    def __init__(self, program: Program, tensors: Mapping[str, Array]) -> None:
        names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
        layouts = {key: Layout(names.get(value.dtype, str(value.dtype)), value.shape) for key, value in tensors.items()}
        self.program, self.tensors = program, dict(tensors)
        self.values, self._differing = check_program(program, layouts)
        check_tensors(program, self.values, tensors)

    def __repr__(self) -> str:
        count = self.program.samples
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        return (
            f"PackedNetwork(input {self.program.input}, output {self.values[-1].shape}, {count} "
            f"network{'s' if count > 1 else ''}, {len(self.program.steps)} steps, {size} bytes of tensors)"
        )

    @classmethod
    def read(cls, path: str | Path) -> PackedNetwork:
        """Reads a file that `save` wrote, or refuses it.

        Args:
            path: The file, of any origin.

        Returns:
            The network; `runtime` makes it run.

        Raises:
            FileNotFoundError: If there is no file.
            PackedFileError: If it is no sound packed network of this version.
        """
        try:
            return cls(*read_file(path))
        except PackedFileError as error:
            raise PackedFileError(f"{path}: {error}") from error.__cause__

    def tempered(self, temperature: float) -> PackedNetwork:
        """The network with all outputs divided by a temperature, see `bitbayes.calibration.fit_temperature`.

        Args:
            temperature: Above 1 its probabilities become less sure; the classes stay.

        Returns:
            A new network, with one step more; its `about` has the temperature.

        Raises:
            ValueError: If the temperature is not positive, or the outputs are probabilities already.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False))
            >>> _ = bb.STE([model[0].weight], seed=0)
            >>> network, x = bb.pack(model, torch.zeros(1, 16)), torch.ones(1, 16).numpy()
            >>> network.runtime().outputs(x) / network.tempered(2.0).runtime().outputs(x)
            array([[[2., 2.]]], dtype=float32)
        """
        inverse = np.float32(1 / temperature if temperature else 0)
        if not (temperature > 0 and np.finfo(np.float32).tiny <= inverse < np.inf):
            raise ValueError(f"temperature must be positive and of a usual size, got {temperature}")
        steps = self.program.steps
        kept = [step for step in steps if step.op not in ("reshape", "permute")]
        if kept and kept[-1].op in ("softmax", "sigmoid"):
            raise ValueError(
                f"the outputs are probabilities: the network ends in {kept[-1].op}; temper what is before it"
            )
        name = "temperature"
        while name in self.tensors:
            name += "_"
        last = Step("affine", (len(steps),), "temperature", {}, {"scale": name})
        about = {**self.program.about, "temperature": f"{temperature:.6g}"}
        program = replace(self.program, steps=(*steps, last), about=about)
        return PackedNetwork(program, {**self.tensors, name: np.array([inverse], np.float32)})

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file.

        Args:
            path: Where; an older file is replaced when the new one is whole.

        Raises:
            OSError: If it cannot be written.
        """
        write_file(path, self.program, self.tensors)

    def runtime(self, backend: str = "reference", **options: Any) -> Runtime:
        """Something that runs the network.

        Args:
            backend: "reference" (NumPy alone), "torch", "native" (compiled kernels) or "openvino".
            **options: Of the backend; see `bitbayes.packed.load`.

        Returns:
            A runtime; all backends give the same answer.

        Raises:
            ValueError: For another backend.
        """
        from bitbayes.packed.backends.runtime import make_runtime

        return make_runtime(self, backend, **options)

    def summary(self) -> PackedSummary:
        """Layer by layer: weights, bits, bytes, operations.

        Returns:
            The records; printing them gives a table.

        Example:
            >>> model = torch.nn.Linear(16, 2, bias=False)
            >>> _ = bb.STE([model.weight], seed=0)
            >>> print(bb.pack(model, torch.zeros(1, 16)).summary())
            step    layer   output  weights  bits  bytes  binary ops  real ops
            linear  Linear  2            32    32      4           0        32
            1 network, 4 bytes of tensors; for one input 0 binary and 32 real operations
        """
        return PackedSummary(self.program.samples, summary_rows(self.program, self.values, self.tensors))

    def tensor(self, step: Step, role: str, sample: int) -> Array:
        """A tensor as one of the C networks has it.

        Args:
            step: Of the program.
            role: What the tensor is for; one of `step.tensors`.
            sample: Which network.

        Returns:
            The tensor.
        """
        name = step.tensors[role]
        return self.tensors[name][sample] if self.differs(name) else self.tensors[name]

    def differs(self, name: str) -> bool:
        """Whether a tensor has one part for each of the C networks.

        Args:
            name: Of the tensor.
        """
        return name in self._differing
