"""Packed networks in memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.conformal import ConformalSets
from bitbayes.hub import Description, Pretrained
from bitbayes.packed.format.bits import Array, crossing, float_above, unpack_signs
from bitbayes.packed.format.check import check_program, check_tensors, own_values, token_steps
from bitbayes.packed.format.describe import described
from bitbayes.packed.format.file import read_file, write_file
from bitbayes.packed.format.images import images_of, vectors_of
from bitbayes.packed.format.inputs import Inputs, short
from bitbayes.packed.format.program import CONFORMAL, PackedFileError, Program, Step
from bitbayes.packed.format.summary import PackedRow, PackedSummary

_SHOWN = 5  # number of levels that an error message names


class Comparison(NamedTuple):
    """Signs as one comparison: +1 where value · direction ≥ threshold, else −1.

    Args:
        value: Number of the value that is compared.
        threshold: Thresholds, one for each channel or one for all.
        direction: −1 or +1, one for each channel or one for all.
    """

    value: int
    threshold: npt.NDArray[np.float32]
    direction: npt.NDArray[np.int8]


class PackedNetwork(Pretrained):
    """Packed network: a program and its tensors, with one bit per binary weight. `bitbayes.pack` creates it.

    `bitbayes.packed.load` runs it. `save_pretrained`, `from_pretrained` and `push_to_hub` of `bitbayes.hub.Pretrained`
    keep it in a folder with a model card, and share it on the Hugging Face Hub.

    Args:
        program: Steps of the network.
        tensors: Tensors by name: uint8 for bits, float32 for real numbers, and integers for thresholds.

    Raises:
        PackedFileError: If program and tensors do not fit together.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False), bb.nn.LogitScale(2.0))
        >>> _ = bb.STE([model[0].weight], seed=0).eval()
        >>> network = bb.pack(model, torch.zeros(1, 16))
        >>> network
        PackedNetwork(input (16,), output (2,), 1 network, 2 steps, 8 bytes of tensors)
        >>> bb.packed.load(network).outputs(torch.ones(3, 16).numpy()).shape
        (1, 3, 2)
    """

    PRETRAINED: ClassVar[str] = "model.safetensors"

    def __init__(self, program: Program, tensors: Mapping[str, Array]) -> None:
        self.program, self.tensors = program, dict(tensors)
        self.values, self._differing = check_program(program, self.tensors)
        check_tensors(program, self.values, tensors)

    def __repr__(self) -> str:
        count, size = self.program.samples, sum(tensor.nbytes for tensor in self.tensors.values())
        return (
            f"PackedNetwork(input {self.program.input}, output {self.values[-1].shape}, {count} "
            f"network{'s' if count > 1 else ''}, {len(self.program.steps)} steps, {size} bytes of tensors)"
        )

    @classmethod
    def read(cls, path: str | Path) -> PackedNetwork:
        """Read a file that `save` wrote, after checking it.

        Args:
            path: File to read, which need not be trusted.

        Returns:
            The network; `bitbayes.packed.load` runs it.

        Raises:
            FileNotFoundError: If there is no such file.
            PackedFileError: If the file is not a valid packed network of this version.
        """
        try:
            return cls(*read_file(path))
        except PackedFileError as error:
            raise PackedFileError(f"{path}: {error}") from error.__cause__

    @functools.cached_property
    def tokens(self) -> int | None:
        """Number of token ids, from 0, that inputs may hold; None if the inputs are real numbers."""
        tables = [self.tensors_of(step)["table"] for step in token_steps(self.program)]
        return min(map(len, tables), default=None)

    @property
    def inputs(self) -> Inputs | None:
        """Description of the inputs; None if the file has none."""
        return self.program.inputs

    def prepare(self, given: Any) -> npt.NDArray[np.float32]:
        """Convert images or raw numbers to the network's inputs as its description `inputs` says.

        Args:
            given: For images, the path of a PNG or JPEG file, a Pillow image, or a list of these, which are resized and
                converted; or an array of uint8 or of floating-point numbers from 0 to 1 that holds one or several
                images of the network's size, with shape (N, C, H, W), (N, H, W, C), (N, C·H·W) or, if grey, (N, H, W).
                For vectors, an array (N, n) or (n,) of numbers that are not yet normalised.

        Returns:
            Inputs of shape (N, ...), float32, for `outputs` and `predict` of a runtime.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the network does not describe its inputs, a file is not an image, or an array has another
                type or shape.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2, bias=False))
            >>> _ = bb.STE([model[1].weight], seed=0).eval()
            >>> about = bb.packed.Inputs("image", colour="grey", height=8, width=8, mean=0.5, std=0.25)
            >>> network = bb.pack(model, torch.zeros(1, 1, 8, 8), inputs=about)
            >>> x = network.prepare(torch.full((3, 8, 8), 255, dtype=torch.uint8))
            >>> x.shape, float(x.max())
            ((3, 1, 8, 8), 2.0)
            >>> bb.packed.load(network).predict(x).probs.shape
            (3, 2)
        """
        inputs, shape = self.described(), self.program.input
        if inputs.kind == "vector":
            return inputs.normalised(vectors_of(given, shape[0]))
        return inputs.normalised(images_of(given, inputs)).reshape(-1, *shape)

    def described(self) -> Inputs:
        """Return the description of the inputs.

        Raises:
            ValueError: If the network has no description of its inputs.
        """
        if self.tokens is not None:
            raise ValueError("the network takes token ids; give integers of shape (N, tokens) as they are")
        if self.inputs is None:
            raise ValueError(
                "the network does not say what its inputs are; pack it again with bitbayes pack, or with "
                "bb.pack(..., inputs=bb.packed.Inputs(...))"
            )
        return self.inputs

    def tempered(self, temperature: float) -> PackedNetwork:
        """Return the network with all outputs divided by a temperature, see `bitbayes.calibration.fit_temperature`.

        Args:
            temperature: Divisor of the outputs. Values above 1 make probabilities less confident. The predicted classes
                stay the same.

        Returns:
            A new network with one more step. `about` in its file records the temperature. Thresholds of conformal sets
            are left out, because they belong to the probabilities before.

        Raises:
            ValueError: If the temperature is not positive, or the outputs are already probabilities.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False))
            >>> _ = bb.STE([model[0].weight], seed=0).eval()
            >>> network, x = bb.pack(model, torch.zeros(1, 16)), torch.ones(1, 16).numpy()
            >>> bb.packed.load(network).outputs(x) / bb.packed.load(network.tempered(2.0)).outputs(x)
            array([[[2., 2.]]], dtype=float32)
        """
        inverse = np.float32(1 / temperature if temperature else 0)
        if not (temperature > 0 and np.finfo(np.float32).tiny <= inverse < np.inf):
            raise ValueError(f"temperature must be positive and representable in float32, got {temperature}")
        steps = self.program.steps
        end = next((step.op for step in reversed(steps) if step.op not in ("reshape", "permute")), None)
        if end in ("softmax", "sigmoid"):
            raise ValueError(f"the outputs are already probabilities, as the network ends in {end}; leave out {end}")
        name = "temperature"
        while name in self.tensors:
            name += "_"
        last = Step("affine", (len(steps),), "temperature", {}, {"scale": name})
        about = {name: text for name, text in self.program.about.items() if not name.startswith(CONFORMAL)}
        about["temperature"] = f"{temperature:.6g}"
        program = replace(self.program, steps=(*steps, last), about=about)
        return PackedNetwork(program, {**self.tensors, name: np.array([inverse], np.float32)})

    def with_conformal(self, sets: ConformalSets) -> PackedNetwork:
        """Return the network with a threshold of conformal sets in `about`, for `conformal` of the same level.

        Args:
            sets: Conformal sets that were calibrated with predictions of this network.

        Example:
            >>> model = torch.nn.Linear(16, 3, bias=False)
            >>> _ = bb.STE([model.weight], seed=0).eval()
            >>> network = bb.pack(model, torch.zeros(1, 16))
            >>> network.with_conformal(bb.conformal.ConformalSets(0.9, 0.25)).conformal(0.9)
            ConformalSets(level=0.9, threshold=0.25)
        """
        about = {**self.program.about, f"{CONFORMAL}{float(sets.level)!r}": repr(float(sets.threshold))}
        return PackedNetwork(replace(self.program, about=about), self.tensors)

    def conformal(self, level: float, name: str = "the network") -> ConformalSets:
        """Return the conformal sets of a level, which `with_conformal` or `bitbayes pack --conformal` has stored.

        Args:
            level: Fraction of the sets that hold the true class.
            name: What an error message calls the network.

        Raises:
            PackedFileError: If the stored threshold is not a probability.
            ValueError: If the level is not in (0, 1), or the network has no conformal sets of this level.
        """
        ConformalSets(level, 1.0)  # refuses a level that is none
        key = f"{CONFORMAL}{float(level)!r}"
        if key not in self.program.about:
            found = [
                short(each.removeprefix(CONFORMAL)).strip("'")
                for each in self.program.about
                if each.startswith(CONFORMAL)
            ]
            *most, last = [*found[:_SHOWN], "more"] if len(found) > _SHOWN else found or ["none"]
            levels = f"levels {', '.join(most)} and {last}" if most else f"level {last}"
            has = f"has conformal sets of {levels}" if found else "has no conformal sets"
            advice = f"{'choose one of these, or ' * bool(found)}pack a run of your own with --conformal {level}"
            raise ValueError(f"{name} {has}, got level {level}; {advice}")
        try:
            return ConformalSets(float(level), float(self.program.about[key]))
        except ValueError as error:
            raise PackedFileError(f"{key}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write a safetensors file.

        Args:
            path: File to write. An existing file is replaced only after the new one is complete.

        Raises:
            OSError: If the file cannot be written.
        """
        write_file(path, self.program, self.tensors)

    def summary(self) -> PackedSummary:
        """Count weights, bits, bytes and operations layer by layer.

        Returns:
            The counts, which print as a table.

        Example:
            >>> model = torch.nn.Linear(16, 2, bias=False)
            >>> _ = bb.STE([model.weight], seed=0).eval()
            >>> print(bb.pack(model, torch.zeros(1, 16)).summary())
            step    layer   output  weights  bits  bytes  binary ops  real ops
            linear  Linear  2            32    32      4           0        32
            1 network, 4 bytes of tensors; for one input: 0 binary and 32 real operations
        """
        rows, seen = [], set[str]()
        for step, value in zip(self.program.steps, self.values[1:], strict=True):
            weights = bits = size = 0
            for name in step.tensors.values():
                tensor = self.tensors[name]
                count, width = tensor.size, 8 * tensor.itemsize
                if tensor.dtype == np.uint8:
                    count, width = math.prod(tensor.shape[:-1]) * step.fan_in(self.source_shape(step)), 1
                weights, bits = weights + count, bits + width * count
                size += 0 if name in seen else tensor.nbytes
                seen.add(name)
            rows.append(PackedRow(step.op, step.name, value.shape, weights, bits, size, value.binary, value.real))
        return PackedSummary(self.program.samples, tuple(rows))

    @classmethod
    def _of_file(cls, path: Path) -> PackedNetwork:
        return cls.read(path)

    def _description(self, source: str) -> Description:
        """Return what a model card says of the network."""
        return described(self.summary(), self.program, self.values[-1].shape, source, self.tokens)

    @functools.cached_property
    def own_values(self) -> set[int]:
        """Values that differ between the C networks; all other values are common to them."""
        return own_values(self.program, self._differing)

    def source_shape(self, step: Step) -> tuple[int, ...]:
        """Return the shape of a step's first source, without the batch."""
        return self.values[step.sources[0]].shape

    def made_by(self, value: int) -> Step | None:
        """Return the step that makes a value; None for the input."""
        return self.program.steps[value - 1] if value else None

    def unflattened(self, value: int) -> int:
        """Return the value before a reshape, which has the same entries in the same order, or the value itself."""
        step = self.made_by(value)
        return step.sources[0] if step is not None and step.op == "reshape" else value

    def stacked(self, step: Step) -> dict[str, Array]:
        """Return a step's tensors by role with a leading axis of networks: size C, or 1 if all networks agree."""
        named = {role: (name, self.tensors[name]) for role, name in step.tensors.items()}
        return {role: tensor if name in self._differing else tensor[None] for role, (name, tensor) in named.items()}

    def tensors_of(self, step: Step, sample: int = 0) -> dict[str, Array]:
        """Return a step's tensors by role, as in one of the C networks."""
        return {role: tensor[sample % len(tensor)] for role, tensor in self.stacked(step).items()}

    def comparison(self, step: Step, sample: int = 0) -> Comparison:
        """Return the comparison that computes a sign or a threshold in one of the C networks.

        The sign of x · scale + shift becomes a comparison of x, whose result does not depend on how a backend rounds
        the product and the sum.

        Args:
            step: Step `sign` or `threshold` of the program.
            sample: Index of the network.

        Example:
            >>> steps = (Step("affine", (0,), "", {}, {"scale": "s"}), Step("sign", (1,)))
            >>> network = PackedNetwork(Program((2,), 1, steps), {"s": np.array([-2, -1], np.float32)})
            >>> found = network.comparison(steps[1])
            >>> found.value, found.direction
            (0, array([-1, -1], dtype=int8))
        """
        value, tensors = step.sources[0], self.tensors_of(step, sample)
        before = self.made_by(value)
        if step.op == "sign" and before is not None and before.op == "affine":
            affine = self.tensors_of(before, sample)
            return Comparison(
                before.sources[0], *crossing(affine.get("scale", np.ones(1)), affine.get("shift", np.zeros(1)))
            )
        threshold = float_above(tensors.get("threshold", np.zeros(1)))
        return Comparison(value, threshold, tensors.get("direction", np.ones(1, np.int8)))

    def weight_shape(self, step: Step) -> tuple[int, ...]:
        """Return the shape of a layer's weight: (outputs, inputs / groups, *kernel)."""
        inputs = self.source_shape(step)[0] // step.groups
        return (len(self.tensors_of(step)["weight"]), inputs, *step.kernel)

    def weight(self, step: Step, sample: int = 0) -> npt.NDArray[np.float32]:
        """Return a layer's weight in one of the C networks: −1 and +1, or real numbers.

        Args:
            step: Linear step or convolution of the program.
            sample: Index of the network.

        Returns:
            A float32 array of shape (outputs, inputs / groups, *kernel).

        Example:
            >>> model = torch.nn.Linear(3, 1, bias=False)
            >>> _ = model.weight.data.copy_(torch.tensor([[0.5, -0.5, 0.5]]))
            >>> network = bb.pack(model, torch.zeros(1, 3))
            >>> network.weight(network.program.steps[0])
            array([[ 1., -1.,  1.]], dtype=float32)
        """
        tensor = self.tensors_of(step, sample)["weight"]
        if tensor.dtype == np.uint8:
            tensor = unpack_signs(tensor, step.fan_in(self.source_shape(step)))
        return tensor.astype(np.float32, copy=False).reshape(self.weight_shape(step))
