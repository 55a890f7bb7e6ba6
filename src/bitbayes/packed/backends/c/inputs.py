"""Functions of a C header that convert pixels to inputs and name classes, for networks with a description of inputs."""

from __future__ import annotations

import math
import string

import numpy as np

from bitbayes.packed.format.inputs import Inputs

_PREPARE = """
   void @prepare({source}, float *input)

   {name:9}{of}[{size}]: {what}
   input    float[{size}], for @predict
"""
_CLASS = """
   const char *@class(int index)

   index    what @predict returned; returned is the name of the class in UTF-8, or "" if there is none
"""
_LOOP = """\
static inline void @prepare({source}, float *input) {{
static const float mean[] = {{{mean}}};
static const float deviation[] = {{{std}}};
for (int32_t c = 0; c < {channels}; ++c) {{
for (int32_t i = 0; i < {places}; ++i) {{
input[c * {places} + i] = ({value} - mean[{c_mean}]) / deviation[{c_std}];
}}
}}
}}
"""
_NAMES = """\
static inline const char *@class(int index) {{
static const char *const names[] = {{
{names}
}};
return index >= 0 && index < {count} ? names[index] : "";
}}
"""


def inputs_comment(inputs: Inputs | None, size: int) -> str:
    """Return the lines of a header's comment on these functions; "@" stands for the name of the header."""
    if inputs is None:
        return ""
    parts = {"source": _source(inputs), "name": "pixels", "of": "uint8_t", "size": size, "what": _pixels(inputs)}
    if inputs.kind == "vector":
        parts |= {"name": "values", "of": "float", "what": "not normalised; may be the same array as input"}
    return _PREPARE.format(**parts) + (_CLASS if inputs.classes else "") + "\n"


def inputs_functions(inputs: Inputs | None, size: int) -> list[str]:
    """Return the functions, for which compilers do not warn if they are unused.

    Example:
        >>> "static inline" in inputs_functions(Inputs("vector", mean=1.0), 4)[0]
        True
    """
    if inputs is None:
        return []
    image = inputs.kind == "image"
    channels, places = (inputs.channels, math.prod(inputs.shape[1:])) if image else (size, 1)
    pixel = "i" if inputs.channels == 1 else f"i * {channels} + c"
    loop = _LOOP.format(
        source=_source(inputs),
        mean=_floats(inputs.means),
        std=_floats(inputs.stds),
        channels=channels,
        places=places,
        value=f"(float)pixels[{pixel}] / 255.0f" if image else "values[c]",
        c_mean="c" if len(inputs.means) > 1 else "0",
        c_std="c" if len(inputs.stds) > 1 else "0",
    )
    names = ",\n".join(map(_literal, inputs.classes))
    return [loop, *([_NAMES.format(names=names, count=len(inputs.classes))] if inputs.classes else [])]


def _source(inputs: Inputs) -> str:
    return "const uint8_t *pixels" if inputs.kind == "image" else "const float *values"


def _pixels(inputs: Inputs) -> str:
    bytes_of = "a byte of grey" if inputs.channels == 1 else "three bytes of red, green and blue"
    return f"{inputs.height} rows of {inputs.width} pixels, the upper first, each {bytes_of}"


def _floats(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{np.float32(number)!s}f" for number in numbers)


def _literal(text: str) -> str:
    """Return a text as an ASCII literal in C; octal escapes cannot run into the next character."""
    plain = string.ascii_letters + string.digits + " -_.,:;()"
    return '"' + "".join(chr(byte) if chr(byte) in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'
