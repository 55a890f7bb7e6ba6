"""Validation of a program and its tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.file import DTYPES
from bitbayes.packed.format.ops import OPS, Op, Tensors, Value, bounded, scores_shape
from bitbayes.packed.format.program import PackedFileError, Program, Step
from bitbayes.packed.format.sliding import Sliding

MAX_WORK = 1 << 38  # most operations of all C networks together for one input
MAX_HELD = 1 << 27  # most numbers of all C networks that are needed at the same time for one input
MAX_RUNS = 1 << 20  # most steps of all C networks together
MAX_AGAIN = 1 << 26  # most weights that steps share with earlier steps; a runtime prepares them for each step
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_REAL = ("F32", "F16")
_VECTORS = {
    **dict.fromkeys(("scale", "shift", "slope", "offset"), _REAL),
    **{"threshold": ("I32",), "direction": ("I8",)},
}


def check_program(program: Program, tensors: Tensors) -> tuple[list[Value], set[str]]:
    """Check that steps, shapes and tensors fit together, without allocating anything but the result.

    Returns:
        All values, starting with the input, and the names of the tensors that differ between the C networks.

    Raises:
        PackedFileError: If something does not fit. The message names the step.

    Example:
        >>> check_program(Program((2, 4), 1, (Step("sign", (0,)),)), {})[0][1]
        Value(shape=(2, 4), signs=True, binary=0, real=8, mask=False)
    """
    values, differing, used = [bounded(Value(program.input))], dict[str, bool](), set[str]()
    for index, step in enumerate(program.steps):
        try:
            op = OPS.get(step.op)
            if op is None:
                raise PackedFileError(f"unknown operation; expected one of {', '.join(OPS)}")
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
    takers = {step.op for step in program.steps if 0 in step.sources}
    if "embed" in takers and not takers <= {"embed", "mask"}:
        raise PackedFileError("the input is token ids, so no operations but embed and mask may take it")
    if "mask" in takers and "embed" not in takers:
        raise PackedFileError("a mask takes token ids, but no embed says how many there are")
    names = {name for name, differs in differing.items() if differs}
    _check_cost(program, values, names)
    _check_tied(program, values, tensors)
    _check_inputs(program, values[-1])
    return values, names


def token_steps(program: Program) -> list[Step]:
    """Return the steps that look token ids up; the input is token ids if there are any."""
    return [step for step in program.steps if step.op == "embed"]


def _check_cost(program: Program, values: Sequence[Value], differing: set[str]) -> None:
    """Check the cost of one input, so that reading a small file can neither take long nor exhaust memory."""
    samples = program.samples
    if samples * len(program.steps) > MAX_RUNS:
        raise PackedFileError(f"{samples} networks of {len(program.steps)} steps; the limit is {MAX_RUNS} in total")
    if samples * sum(value.size + value.binary + value.real for value in values) > MAX_WORK:
        raise PackedFileError(f"the program takes more than {MAX_WORK} operations for one input")
    if held(program, values, differing) > MAX_HELD:
        raise PackedFileError(f"the program needs more than {MAX_HELD} numbers at the same time for one input")


def _check_tied(program: Program, values: Sequence[Value], tensors: Tensors) -> None:
    """Check how many weights are shared between steps."""
    seen, again = set[str](), 0
    for step in program.steps:
        for role in ("weight", "table", "offset"):
            name = step.tensors.get(role)
            if name is not None:
                size = tensors[name].size
                if tensors[name].dtype == np.uint8:
                    size = math.prod(tensors[name].shape[:-1]) * step.fan_in(values[step.sources[0]].shape)
                again += size if name in seen else 0
                seen.add(name)
    if again > MAX_AGAIN:
        raise PackedFileError(f"steps reuse more than {MAX_AGAIN} weights of earlier steps")


def held(program: Program, values: Sequence[Value], differing: set[str]) -> int:
    """Return the largest count of numbers that are needed at the same time for one input.

    A value is needed from the step that makes it to the last step that takes it. Steps with sliding windows also need a
    padded copy of their source, and attention needs its scores. If a value differs between the networks, the values of
    all networks count.

    Example:
        >>> program = Program((4,), 1, (Step("tanh", (0,)), Step("tanh", (0,)), Step("add", (1, 2))))
        >>> held(program, [Value((4,))] * 4, set())
        12
    """
    own, last = own_values(program, differing) | {len(program.steps)}, {0: 0}  # every network has an output
    for index, step in enumerate(program.steps):
        last |= dict.fromkeys((*step.sources, index + 1), index)
    sizes = [value.size * (program.samples if place in own else 1) for place, value in enumerate(values)]
    ends = Counter[int]()
    for value, step in last.items():
        ends[step] += sizes[value]
    now = most = sizes[0]
    for index, (step, size) in enumerate(zip(program.steps, sizes[1:], strict=True)):
        now += size
        sources = [values[source] for source in step.sources]
        copies = scratch(step, sources) * (program.samples if not own.isdisjoint(step.sources) else 1)
        most = max(most, now + copies)
        now -= ends[index]
    return most


def scratch(step: Step, sources: Sequence[Value]) -> int:
    """Return the number of entries that a step needs beside its sources and result: a padded source, or scores."""
    if step.op in ("attention", "masked_attention"):
        return math.prod(scores_shape(sources, step))
    shape = sources[0].shape
    if "padding" not in step.settings:
        return 0
    sliding = Sliding.of(step.settings)
    channels, sizes = shape[: -len(sliding.kernel)], shape[-len(sliding.kernel) :]
    pads = [sum(pair) for pair in sliding.pads(sizes)]
    return math.prod(channels) * math.prod(map(sum, zip(sizes, pads, strict=True))) if any(pads) else 0


def own_values(program: Program, differing: set[str]) -> set[int]:
    """Return the values that differ between the networks, from the names of the tensors that differ."""
    own = set[int]()
    for index, step in enumerate(program.steps):
        if not differing.isdisjoint(step.tensors.values()) or not own.isdisjoint(step.sources):
            own.add(index + 1)
    return own


def check_tensors(program: Program, values: Sequence[Value], tensors: Tensors) -> None:
    """Check the numbers in the tensors of a program that `check_program` has accepted.

    Raises:
        PackedFileError: If numbers are not finite, directions are not ±1, or unused bits are not 0.
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
                raise PackedFileError(f"tensor {step.tensors['weight']!r} has ones in its unused bits")


def _check_inputs(program: Program, output: Value) -> None:
    """Raise PackedFileError if a program does not match its description of inputs and classes."""
    if program.inputs is not None:
        if token_steps(program):
            raise PackedFileError("inputs: the input is token ids, which have no description")
        try:
            program.inputs.check_shape(program.input)
            program.inputs.check_outputs(output.shape)
        except ValueError as error:
            raise PackedFileError(f"inputs: {error}") from None


def _tensors(op: Op, step: Step, tensors: Tensors, samples: int, differing: dict[str, bool]) -> dict[str, Array]:
    """Return tensors by role, as in one network, and note which tensors have an axis of networks."""
    if not op.needed <= set(step.tensors) <= op.needed | op.optional:
        raise PackedFileError(f"needs the tensors {sorted(op.needed)} and optionally {sorted(op.optional)}")
    found = {}
    for role, name in step.tensors.items():
        if name not in tensors:
            raise PackedFileError(f"there is no tensor {name!r}")
        tensor = tensors[name]
        dtype = _NAMES.get(tensor.dtype, str(tensor.dtype))
        if dtype not in _VECTORS.get(role, _REAL if role == "table" else ("U8", *_REAL)):
            raise PackedFileError(f"{role} cannot have the type {dtype}")
        rank = 1 if role in _VECTORS else 2  # without the axis of networks
        if role == "weight" and dtype in _REAL and step.op == "conv":
            kernel = step.settings.get("kernel")
            rank += len(kernel) if isinstance(kernel, list | tuple) else 0
        differs = samples > 1 and tensor.ndim == rank + 1 and len(tensor) == samples
        if differing.setdefault(name, differs) != differs:  # readers store this by name
            raise PackedFileError(f"tensor {name!r} has an axis of networks in one step but not in another")
        found[role] = tensor[0] if differs else tensor
    return found
