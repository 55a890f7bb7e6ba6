"""The one place that decides whether a program and its tensors are sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.file import DTYPES
from bitbayes.packed.format.ops import OPS, Op, Tensors, Value, bounded
from bitbayes.packed.format.program import PackedFileError, Program, Step

MAX_WORK = 1 << 38  # operations and numbers that a program may take for one input
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_REAL = ("F32", "F16")
_VECTORS = {"scale": _REAL, "shift": _REAL, "slope": _REAL, "threshold": ("I32",), "direction": ("I8",)}


def check_program(program: Program, tensors: Tensors) -> tuple[list[Value], set[str]]:
    """Check that steps, shapes and tensors fit together; allocate nothing but the answer.

    Returns:
        All values, the input first, and the names of the tensors that differ between the C networks.

    Raises:
        PackedFileError: If something does not fit; names the step.

    Example:
        >>> check_program(Program((2, 4), 1, (Step("sign", (0,)),)), {})[0][1]
        Value(shape=(2, 4), signs=True, binary=0, real=8)
    """
    values, differing, used = [bounded(Value(program.input))], dict[str, bool](), set[str]()
    for index, step in enumerate(program.steps):
        try:
            op = OPS.get(step.op)
            if op is None:
                raise PackedFileError(f"there is no such operation; there are {', '.join(OPS)}")
            mine = _tensors(op, step, tensors, program.samples, differing)
            sources = [values[source] for source in step.sources]
            if op.sources and len(sources) != op.sources:
                raise PackedFileError(f"takes {op.sources} values, got {len(sources)}")
            if set(step.settings) != set(op.settings):
                raise PackedFileError(f"needs the settings {sorted(op.settings)}")
            settings = {key: check(step.settings[key], key) for key, check in op.settings.items()}
            values.append(bounded(op.infer(sources, replace(step, settings=settings), mine)))
        except PackedFileError as error:
            raise PackedFileError(f"step {index} ({step.op[:40]!a} of {step.name!r}): {error}") from None
        used.update(step.tensors.values())
    if set(tensors) != used:
        raise PackedFileError(f"{len(set(tensors) - used)} tensors belong to no step")
    if sum(value.size + value.binary + value.real for value in values) > MAX_WORK:
        raise PackedFileError(f"the program takes more than {MAX_WORK} operations for one input")
    _check_inputs(program, values[-1])
    return values, {name for name, differs in differing.items() if differs}


def check_tensors(program: Program, values: Sequence[Value], tensors: Tensors) -> None:
    """Check that the numbers are what the steps of a program that `check_program` accepted need.

    Raises:
        PackedFileError: For numbers that are not finite, directions other than ±1, and ones in the bits left over.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise PackedFileError(f"tensor {name!r} has numbers that are not finite")
        if tensor.dtype == np.int8 and not (np.abs(tensor) == 1).all():
            raise PackedFileError(f"tensor {name!r} has directions other than -1 and 1")
    for step in program.steps:
        weight = tensors[step.tensors["weight"]] if "weight" in step.tensors else None
        if weight is not None and weight.dtype == np.uint8:
            over = step.fan_in(values[step.sources[0]].shape) % 8
            if over and (weight[..., -1] >> over).any():
                raise PackedFileError(f"tensor {step.tensors['weight']!r} has ones in the bits that are left over")


def _check_inputs(program: Program, output: Value) -> None:
    """Refuse a program whose inputs or classes are not those that it describes."""
    if program.inputs is not None:
        try:
            program.inputs.check_shape(program.input)
            program.inputs.check_outputs(output.shape)
        except ValueError as error:
            raise PackedFileError(f"inputs: {error}") from None


def _tensors(op: Op, step: Step, tensors: Tensors, samples: int, differing: dict[str, bool]) -> dict[str, Array]:
    """Return tensors by role, as one of the networks has them, and note which have an axis of networks."""
    if not op.needed <= set(step.tensors) <= op.needed | op.optional:
        raise PackedFileError(f"needs the tensors {sorted(op.needed)} and perhaps {sorted(op.optional)}")
    found = {}
    for role, name in step.tensors.items():
        if name not in tensors:
            raise PackedFileError(f"there is no tensor {name!r}")
        tensor = tensors[name]
        dtype = _NAMES.get(tensor.dtype, str(tensor.dtype))
        if dtype not in _VECTORS.get(role, ("U8", *_REAL)):
            raise PackedFileError(f"{role} cannot have the type {dtype}")
        rank = 1 if role in _VECTORS else 2
        if role == "weight" and dtype in _REAL and step.op == "conv":
            kernel = step.settings.get("kernel")
            rank += len(kernel) if isinstance(kernel, list | tuple) else 0
        differs = samples > 1 and tensor.ndim == rank + 1 and len(tensor) == samples
        if differing.setdefault(name, differs) != differs:  # readers keep this by name
            raise PackedFileError(f"tensor {name!r} has an axis of the networks in one step, and none in another")
        found[role] = tensor[0] if differs else tensor
    return found
