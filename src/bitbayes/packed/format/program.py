"""The program of a packed network: a list of steps, which is read from untrusted JSON."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitbayes.packed.format.inputs import Inputs, short
from bitbayes.packed.format.sliding import Sliding

MAX_TEXT, MAX_STEPS, MAX_SOURCES, MAX_SAMPLES, MAX_NUMBER = 1 << 18, 4096, 256, 4096, (1 << 31) - 1
# The first version with an operation, where it is not the first of all. Version 1 had no `inputs`.
SINCE: Mapping[str, int] = {
    **dict.fromkeys(("multiply", "slice", "offset", "embed", "norm", "attention"), 3),
    **dict.fromkeys(("mask", "masked_attention", "masked_mean"), 4),
}
OLDEST, VERSION = 2, max(SINCE.values())  # oldest version that is written, and newest version
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,199}", re.ASCII)  # names of tensors, which are never used as paths
CONFORMAL = "conformal "  # what the name of a threshold in `about` begins with, before the level of the conformal sets
LABEL = re.compile(r"[A-Za-z0-9_.,:()\- ]{0,200}", re.ASCII)  # texts that are shown on terminals


class PackedFileError(ValueError):
    """Error for a file that is not a packed network of this version; its message of one line says why."""


@dataclass(frozen=True)
class Step:
    """One step of a program. Value 0 is the program's input, and step i computes value i + 1.

    Args:
        op: Name of the operation.
        sources: Numbers of the values that the operation takes.
        name: Layer that the step comes from.
        settings: Settings of the operation, such as strides.
        tensors: Names of the step's tensors, by role: "weight", "scale" and so on.

    Example:
        >>> Step("clamp", (0,), "relu", {"min": 0, "max": None}).settings["min"]
        0
    """

    op: str
    sources: tuple[int, ...]
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def sliding(self) -> Sliding:
        """Windows of a convolution or a pool."""
        return Sliding.of(self.settings)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of a convolution's kernel; () for other layers."""
        return tuple(self.settings.get("kernel", ()))

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for other layers."""
        return self.settings.get("groups", 1)

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Smallest and largest number of a clamp, as floats, because a file may have integers too large for arrays."""
        low, high = (self.settings[key] for key in ("min", "max"))
        return None if low is None else float(low), None if high is None else float(high)

    def fan_in(self, source: Sequence[int]) -> int:
        """Return the number of weights per output of a layer.

        Args:
            source: Shape of the value that the layer takes.

        Example:
            >>> Step("linear", (0,)).fan_in((16,))
            16
        """
        return source[0] // self.groups * math.prod(self.kernel)


@dataclass(frozen=True)
class Program:
    """Computation of a packed network; its last value is the output.

    Args:
        input: Shape of one input, without the batch.
        samples: Number of networks, C.
        steps: Steps in the order of computation.
        about: Further texts to store in the file.
        inputs: Description of the inputs; None if the file has none.

    Example:
        >>> Program((3,), 1, (Step("sign", (0,)),)).steps[0].op
        'sign'
    """

    input: tuple[int, ...]
    samples: int
    steps: tuple[Step, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None


def program_text(program: Program) -> str:
    """Return a program as JSON, which `parse_program` reads, in the oldest version that has its operations.

    Example:
        >>> program_text(Program((3,), 1, (Step("sign", (0,)),)))
        '{"version":2,"input":[3],"samples":1,"steps":[{"op":"sign","from":[0]}]}'
    """
    steps = []
    for step in program.steps:
        optional = {"name": step.name, "settings": dict(step.settings), "tensors": dict(step.tensors)}
        steps.append({"op": step.op, "from": step.sources} | {key: value for key, value in optional.items() if value})
    version = max((SINCE.get(step.op, OLDEST) for step in program.steps), default=OLDEST)
    whole: dict[str, Any] = {"version": version, "input": program.input, "samples": program.samples, "steps": steps}
    whole |= {"about": dict(program.about)} if program.about else {}
    whole |= {"inputs": _entry(program.inputs)} if program.inputs else {}
    return json.dumps(whole, separators=(",", ":"), allow_nan=False)


def parse_program(text: str) -> Program:
    """Read a program from untrusted JSON; every type and every size is checked.

    `bitbayes.packed.format.check` decides whether the steps fit together.

    Raises:
        PackedFileError: If the text is not JSON, is too long, or is not a program.

    Example:
        >>> parse_program('{"version":2,"input":[3],"samples":1,"steps":[]}')
        Traceback (most recent call last):
        ...
        bitbayes.packed.format.program.PackedFileError: steps must be a list of 1 to 4096 entries
    """
    if len(text) > MAX_TEXT:
        raise PackedFileError(f"the program has {len(text)} characters, but at most {MAX_TEXT} are allowed")
    try:
        whole = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise PackedFileError(f"the program is not JSON: {str(error)[:100]}") from None
    version = whole.get("version") if isinstance(whole, dict) else VERSION
    if type(version) is not int or not 1 <= version <= VERSION:
        raise PackedFileError(f"version {short(version)} of the format, but this bitbayes reads only 1 to {VERSION}")
    optional = {"about"} if version == 1 else {"about", "inputs"}
    row = _fields(whole, "the program", {"version", "input", "samples", "steps"}, optional)
    if not isinstance(row["steps"], list) or not 1 <= len(row["steps"]) <= MAX_STEPS:
        raise PackedFileError(f"steps must be a list of 1 to {MAX_STEPS} entries")
    shape = whole_numbers(row["input"], "input", least=1)
    if not shape:
        raise PackedFileError("input must be the shape of one input; got []")
    samples = whole_number(row["samples"], "samples", least=1, most=MAX_SAMPLES)
    about = row.get("about", {})
    check_about(about)
    inputs = _inputs(row["inputs"]) if "inputs" in row else None
    steps = tuple(_step(index, entry) for index, entry in enumerate(row["steps"]))
    newer = next((step.op for step in steps if SINCE.get(step.op, 1) > version), None)
    if newer is not None:
        raise PackedFileError(f"version {version} of the format has no operation {newer!r}")
    return Program(shape, samples, steps, about, inputs)


def check_about(about: Any) -> None:
    """Raise PackedFileError for texts that a file cannot hold."""
    if not isinstance(about, Mapping):
        raise PackedFileError(f"about must map texts to texts, got {short(about)}")
    for key, value in about.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise PackedFileError(f"about must map texts to texts, got {short(value)} for {short(key)}")
    if any("\ud800" <= letter <= "\udfff" for text in (*about, *about.values()) for letter in text):
        raise PackedFileError("about holds half a character (a lone surrogate)")
    if (size := sum(map(len, (*about, *about.values())))) > MAX_TEXT:
        raise PackedFileError(f"about has {size} characters, but a file has at most {MAX_TEXT}")


def whole_number(value: Any, what: str, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return an integer in a range, or raise an error; True is not an integer."""
    if type(value) is not int or not least <= value <= most:
        raise PackedFileError(f"{what} must be an integer from {least} to {most}, got {short(value)}")
    return value


def whole_numbers(value: Any, what: str, least: int = 0, longest: int = 8) -> tuple[int, ...]:
    """Return a short list of integers as a tuple, or raise an error."""
    if not isinstance(value, list) or len(value) > longest:
        raise PackedFileError(f"{what} must be a list of at most {longest} integers, got {short(value)}")
    return tuple(whole_number(number, what, least) for number in value)


def finite_number(value: Any, what: str) -> float:
    """Return a number that float32 can represent, or raise an error."""
    if type(value) not in (int, float) or not abs(value) <= 3.4e38 or not math.isfinite(value):
        raise PackedFileError(f"{what} must be a finite number, got {short(value)}")
    return float(value)


def _entry(inputs: Inputs) -> dict[str, Any]:
    """Return the description of inputs as a JSON object, without fields that have no value."""
    row = {"kind": inputs.kind, "colour": inputs.colour, "height": inputs.height, "width": inputs.width}
    row |= {"crop": inputs.crop, "mean": inputs.means, "std": inputs.stds, "classes": inputs.classes or None}
    return {key: value for key, value in row.items() if value is not None}


def _inputs(entry: Any) -> Inputs:
    row = _fields(entry, "inputs", {"kind", "mean", "std"}, {"colour", "height", "width", "crop", "classes"})
    if not isinstance(row["mean"], list) or not isinstance(row["std"], list):
        raise PackedFileError("inputs: mean and std must be lists of numbers")
    try:
        return Inputs(**row)
    except ValueError as error:
        raise PackedFileError(f"inputs: {error}") from None


def _step(index: int, entry: Any) -> Step:
    row = _fields(entry, f"step {index}", {"op", "from"}, {"name", "settings", "tensors"})
    op, name = row["op"], row.get("name", "")
    if not isinstance(op, str) or not isinstance(name, str) or not LABEL.fullmatch(name):
        raise PackedFileError(f"step {index}: op and name must be texts of letters, digits and .,:()-_")
    sources = whole_numbers(row["from"], f"step {index}: from", longest=MAX_SOURCES)
    if not sources or max(sources) > index:
        raise PackedFileError(f"step {index}: from must name values 0 to {index}, got {list(sources)}")
    settings, tensors = row.get("settings", {}), row.get("tensors", {})
    if not isinstance(settings, dict) or not isinstance(tensors, dict):
        raise PackedFileError(f"step {index}: settings and tensors must be objects")
    for tensor in tensors.values():
        if not isinstance(tensor, str) or not NAME.fullmatch(tensor):
            raise PackedFileError(f"step {index}: {short(tensor)} is not a valid name of a tensor")
    return Step(op, sources, name, settings, tensors)


def _fields(value: Any, what: str, needed: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not needed <= set(value) <= needed | optional:
        raise PackedFileError(f"{what} must be an object with {sorted(needed)} and optionally {sorted(optional)}")
    return value


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice")
    return found
