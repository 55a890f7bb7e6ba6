"""The one place that decides whether a program and its tensors are sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.ops import OPS, Layout, Op, Tensors, Value, bounded
from bitbayes.packed.format.program import PackedFileError, Program, Step

MAX_WORK = 1 << 38  # operations and numbers that a program may take for one input
_REAL = ("F32", "F16")
_VECTORS = {"scale": _REAL, "shift": _REAL, "slope": _REAL, "threshold": ("I32",), "direction": ("I8",)}


def check_program(program: Program, layouts: Tensors) -> tuple[list[Value], set[str]]:
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
            tensors = _tensors(op, step, layouts, program.samples, differing)
            sources = [values[source] for source in step.sources]
            if op.sources and len(sources) != op.sources:
                raise PackedFileError(f"takes {op.sources} values, got {len(sources)}")
            values.append(bounded(op.infer(sources, _checked(op, step), tensors)))
        except PackedFileError as error:
            raise PackedFileError(f"step {index} ({step.op[:40]!a} of {step.name!r}): {error}") from None
        used.update(step.tensors.values())
    if set(layouts) != used:
        raise PackedFileError(f"{len(set(layouts) - used)} tensors belong to no step")
    if sum(value.size + value.binary + value.real for value in values) > MAX_WORK:
        raise PackedFileError(f"the program takes more than {MAX_WORK} operations for one input")
    return values, {name for name, differs in differing.items() if differs}


def check_tensors(program: Program, values: Sequence[Value], tensors: Mapping[str, Array]) -> None:
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


def _checked(op: Op, step: Step) -> Step:
    """Return the step with settings of the right types."""
    if set(step.settings) != set(op.settings):
        raise PackedFileError(f"needs the settings {sorted(op.settings)}")
    return replace(step, settings={key: check(step.settings[key], key) for key, check in op.settings.items()})


def _tensors(op: Op, step: Step, layouts: Tensors, samples: int, differing: dict[str, bool]) -> dict[str, Layout]:
    """Return layouts by role, without the axis of networks, and note which tensors have that axis."""
    if not op.needed <= set(step.tensors) <= op.needed | op.optional:
        raise PackedFileError(f"needs the tensors {sorted(op.needed)} and perhaps {sorted(op.optional)}")
    found = {}
    for role, name in step.tensors.items():
        if name not in layouts:
            raise PackedFileError(f"there is no tensor {name!r}")
        dtype, shape = layouts[name]
        if dtype not in _VECTORS.get(role, ("U8", *_REAL)):
            raise PackedFileError(f"{role} cannot have the type {dtype}")
        rank = 1 if role in _VECTORS else 2
        if role == "weight" and dtype in _REAL and step.op == "conv":
            kernel = step.settings.get("kernel")
            rank += len(kernel) if isinstance(kernel, list | tuple) else 0
        differs = samples > 1 and len(shape) == rank + 1 and shape[0] == samples
        if differing.setdefault(name, differs) != differs:  # readers keep this by name
            raise PackedFileError(f"tensor {name!r} has an axis of the networks in one step, and none in another")
        shape = shape[1:] if differs else shape
        found[role] = Layout(dtype, shape)
    return found
