"""Writing of packed networks as C headers, for microcontrollers.

Each step leaves its result in s, which the writer stores. Sums run over channels, then over the kernel, in the order of
the weights. In the texts of this module, "@" stands for the name of the header and an underscore.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bitbayes.packed.backends.c.inputs import inputs_comment, inputs_functions
from bitbayes.packed.backends.c.plan import EACH, Group, Plan, make_plan, words
from bitbayes.packed.format.bits import Array, float_above
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Step

_NAME = r"[A-Za-z][A-Za-z0-9_]{0,60}"  # compiled on first use, because `import bitbayes` loads this module
_LINE = 8  # numbers

_HEAD = """\
/* A packed network, written by bitbayes. C99; include it in one file.

   int @predict(const float *input, float *logits)

   input    float[{inputs.size}], of shape {inputs.shape}: {how}, and finite
   logits   float[{outputs.size}], of shape {outputs.shape}; returned is the index of the largest, or
            for a single one whether it is above 0
{about}   tables   {tables} bytes, constant
   scratch  {scratch} bytes, static: one call at a time; nothing is allocated

   Sums of signs are counted in integers. Other sums have the type @sum and are taken one term after the other:
   float, or double where the compiler is told -D@sum=double, which is slow on a processor that has none. */
"""
_MATH = "#include <math.h>"
_NEEDS = {
    "INFINITY": _MATH,
    "erfc(": _MATH,
    "tanh(": _MATH,
    "": "#include <stdint.h>",
    "memset": "#include <string.h>",
    "@sum": """
#ifndef @sum
#define @sum float
#endif
""",
    "@bit(": """
static uint32_t @bit(uint32_t word, int32_t i) {
return word >> (i & 31) & 1;
}
""",
    "@ones(": """
static int32_t @ones(uint32_t x) {
x -= x >> 1 & 0x55555555u;
x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
x = (x + (x >> 4)) & 0x0f0f0f0fu;
x += x >> 8;
x += x >> 16;
return (int32_t)(x & 63);
}
""",
    "@memory[": """
static union {
float f;
uint32_t w;
} @memory[@words];
""",
}
_OPEN = "static int @predict(const float *input, float *logits) {"
_SINGLE = """\
return logits[0] > 0;
}
"""
_SEVERAL = """\
int32_t best = 0;
for (int32_t k = 1; k < {}; ++k) {{
if (logits[k] > logits[best]) best = k;
}}
return (int)best;
}}
"""
_NOTHING = r" \* 1(?=[ ;)\]])| - 0(?=;)|\b0 \+ "  # additions of 0 and multiplications by 1


def c_header(network: PackedNetwork, name: str = "net") -> str:
    """Return a network as a C99 header: constant tables and a function that allocates no memory.

    If the network describes its inputs, the header has a function that converts pixels to inputs (`name_prepare`). If
    the classes have names, it also has a function that returns them (`name_class`).

    Signs are stored as bits, and their products are computed by xnor and popcount. Elementwise steps are fused with the
    step before them, and values that are not needed at the same time share memory.

    Args:
        network: A packed network with C = 1.
        name: Prefix of all names in the header. The function is called `name_predict`.

    Returns:
        The text of the header.

    Raises:
        ValueError: If the file holds several networks, a step cannot be written as C (the message names it), or `name`
            is not a valid C name.

    Example:
        >>> model = torch.nn.Linear(16, 2, bias=False)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> header = c_header(bb.pack(model, torch.zeros(1, 16)), "tiny")
        >>> [line for line in header.splitlines() if "(const float" in line][-1]
        'static int tiny_predict(const float *input, float *logits) {'
    """
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"name must be letters, digits and _ and begin with a letter, got {name!r}")
    if network.program.samples > 1:
        raise ValueError(
            f"a C header holds one network, got {network.program.samples}; pack the mode of a run, without --samples"
        )
    for step in network.program.steps:
        if step.op not in _STEPS:
            supported = ", ".join(_STEPS)
            raise ValueError(f"{step.op!r} of layer {step.name!r} cannot be written as C, only: {supported}")
    plan = make_plan(network)
    code = _Writer(network, plan)
    blocks = []
    for group in plan.groups:
        ops, shape = " + ".join(step.op for step in group.steps), network.values[group.value].shape
        blocks.append(f"/* {ops} of {group.step.name!r}: {shape} */\n{_group(code, group)}")
    inputs, outputs = network.values[0], network.values[-1]
    function = "\n".join([_OPEN, *blocks, _SEVERAL.format(outputs.size) if outputs.size > 1 else _SINGLE])
    about, prepare = inputs_comment(network.inputs, inputs.size), inputs_functions(network.inputs, inputs.size)
    how = "as @prepare makes it" if prepare else "scaled and normalised as in training"
    tables, scratch = sum(table.nbytes for table in code.tables.values()), 4 * plan.words
    # Write only functions that are used, so that no compiler warns.
    parts = [
        _HEAD.format(inputs=inputs, outputs=outputs, tables=tables, scratch=scratch, how=how, about=about),
        f"#ifndef {name.upper()}_H\n#define {name.upper()}_H\n",
        *dict.fromkeys(text for used, text in _NEEDS.items() if used in function),
        *(_table(index, *key, table) for index, (key, table) in enumerate(code.tables.items())),
        *prepare,
        function,
        "#endif\n",
    ]
    return _indented("\n".join(parts).replace("@words", str(plan.words)).replace("@", f"{name}_"))


def _table(index: int, of: str, kind: str, table: Array) -> str:
    numbers = [_literal(number) for number in table.reshape(-1)]
    lines = ",\n".join(", ".join(numbers[i : i + _LINE]) for i in range(0, len(numbers), _LINE))
    return f"/* {of} */\nstatic const {kind} @t{index}[{len(numbers)}] = {{\n{lines}\n}};\n"


def _indented(text: str) -> str:
    """Indent by two blanks per open brace, and merge consecutive empty lines."""
    lines, depth = list[str](), 0
    for line in re.sub(r"\n{3,}", "\n\n", text).split("\n"):
        depth -= line.startswith("}")
        lines.append("  " * depth + line if line and depth else line)
        depth += line.endswith("{")
    return "\n".join(lines)


class _Writer:
    """Writer of the expressions that all steps share; it collects the tables that they read."""

    def __init__(self, network: PackedNetwork, plan: Plan) -> None:
        self.network, self.plan = network, plan
        self.tables: dict[tuple[str, str], Array] = {}

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value, without the batch."""
        return self.network.values[value].shape

    def bits(self, value: int) -> bool:
        """Return whether a value is stored as bits."""
        return self.network.values[value].signs and value in self.plan.places

    def entry(self, value: int, index: str) -> str:
        """Return an entry of a value, as a float."""
        if value not in self.plan.places:
            return f"input[{index}]"
        if self.bits(value):
            return f"({self.bit(value, index)} ? 1.0f : -1.0f)"
        return f"@memory[{self.plan.places[value]} + {index}].f"

    def bit(self, value: int, index: str) -> str:
        """Return an entry of a value of signs, as a bit."""
        return f"@bit({self.word(value, f'({index} >> 5)')}, {index})"

    def word(self, value: int, index: str) -> str:
        """Return 32 entries of a value of signs."""
        return f"@memory[{self.plan.places[value]} + {index}].w"

    def table(self, step: Step, role: str, kind: str) -> str:
        """Return the name of a tensor's table, as numbers of a C type."""
        key = (step.tensors[role], kind)
        if key not in self.tables:
            tensor = self.network.tensors[key[0]]
            if kind == "uint32_t":
                tensor = np.pad(tensor, ((0, 0), (0, -tensor.shape[-1] % 4))).view("<u4")
            self.tables[key] = float_above(tensor) if kind == "float" else tensor
        return f"@t{list(self.tables).index(key)}"

    def store(self, group: Group, index: str, channel: str) -> str:
        """Return lines that compute the chain of a group from s, the result of its step, and store its value."""
        lines, chain = [f"const int32_t i = {index};"], list(group.chain)
        if self.network.values[group.first].binary and chain and chain[0].op == "threshold":
            lines.append(f"const float y = {self._above(chain.pop(0), 's', channel, 'int32_t')};")
        else:
            lines.append(f"{'' if chain else 'const '}float y = (float)s;")
        for step in chain:
            lines += self._each(step, channel)
        if group.value == len(self.network.program.steps):
            lines.append("logits[i] = y;")
        elif self.bits(group.value):
            lines.append(f"if (y > 0) {self.word(group.value, '(i >> 5)')} |= (uint32_t)1 << (i & 31);")
        else:
            lines.append(f"{self.entry(group.value, 'i')} = y;")
        return "\n".join(lines)

    def _each(self, step: Step, channel: str) -> list[str]:
        if step.op == "sign":
            return ["y = y >= 0 ? 1.0f : -1.0f;"]
        if step.op == "threshold":
            return [f"y = {self._above(step, 'y', channel, 'float')};"]
        if step.op == "prelu":
            return [f"if (!(y > 0)) y *= {self._vector(step, 'slope', channel, 'float')};"]
        if step.op == "clamp":
            given = [(s, _literal(np.float32(b))) for s, b in zip("<>", step.bounds, strict=True) if b is not None]
            return [f"if (y {sign} {bound}) y = {bound};" for sign, bound in given]
        if step.op == "gelu":
            if step.settings["tanh"]:
                return ["y = (float)(0.5 * y * (1 + tanh(0.7978845608028654 * (y + 0.044715 * y * y * y))));"]
            return ["y = (float)(0.5 * y * erfc(-0.7071067811865476 * y));"]
        assert step.op == "affine", step.op
        given = [(sign, role) for sign, role in (("*", "scale"), ("+", "shift")) if role in step.tensors]
        terms = [f" {sign} {self._vector(step, role, channel, 'float')}" for sign, role in given]
        return [f"y = (float)((@sum)y{''.join(terms)});"]

    def _above(self, step: Step, subject: str, channel: str, kind: str) -> str:
        if "direction" in step.tensors:
            subject += f" * {self._vector(step, 'direction', channel, 'int8_t')}"
        return f"{subject} >= {self._vector(step, 'threshold', channel, kind)} ? 1.0f : -1.0f"

    def _vector(self, step: Step, role: str, channel: str, kind: str) -> str:
        one = self.network.tensors[step.tensors[role]].size == 1
        return f"{self.table(step, role, kind)}[{0 if one else channel}]"


def _literal(number: np.generic) -> str:
    """Return a number in C: a float32 by the fewest decimals that reproduce it, a word by its digits."""
    if number.dtype.kind == "u":
        return f"0x{number:08x}u"
    return f"{number!s}f" if number.dtype.kind == "f" else str(number)


def _loop(variable: str, end: int | str, start: int | str = 0) -> str:
    """Return the head of a loop."""
    return f"for (int32_t {variable} = {start}; {variable} < {end}; ++{variable})"


def _nest(heads: Sequence[str], *lines: str) -> str:
    """Return loops in loops around some lines."""
    return "\n".join([*(f"{head} {{" for head in heads), *lines, *("}" for _ in heads)])


def _group(code: _Writer, group: Group) -> str:
    """Return the block of a group."""
    block = _STEPS[group.step.op](code, group)
    if code.bits(group.value):
        size = 4 * words(code.network.values[group.value].size)
        block = f"memset(&@memory[{code.plan.places[group.value]}], 0, {size});\n{block}"
    return re.sub(_NOTHING, "", block)


class _Window(NamedTuple):
    """Loops over output places and over the places in each window, with sizes and indices of both."""

    outer: list[str]
    inner: list[str]
    lines: list[str]
    output: list[tuple[int, str]]
    source: list[tuple[int, str]]
    kernel: list[tuple[int, str]]


def _window(step: Step, source: Sequence[int], output: Sequence[int]) -> _Window:
    window, guards = _Window([], [], [], [], [], []), list[str]()
    names = list(zip("hw", "ab", ("row", "column"), strict=True))[-(len(source) - 1) :]
    for axis, (out, tap, at) in enumerate(names):
        size, places = source[1 + axis], output[1 + axis]
        window.outer.append(_loop(out, places))
        window.output.append((places, out))
        window.source.append((size, at))
        if step.op == "adaptive_avg_pool":  # products of sizes may need more than 32 bits
            end = f"(int32_t)((((int64_t){out} + 1) * {size} + {places - 1}) / {places})"
            window.inner.append(_loop(at, end, f"(int32_t)((int64_t){out} * {size} / {places})"))
            continue
        s = step.sliding
        kernel, stride, padding, span = s.kernel[axis], s.stride[axis], s.padding[axis], s.span[axis]
        window.inner.append(_loop(tap, kernel))
        window.kernel.append((kernel, tap))
        window.lines.append(f"const int32_t {at} = {out} * {stride} + {tap} * {s.dilation[axis]} - {padding};")
        guards += [f"{at} < 0"] if padding else []
        guards += [f"{at} >= {size}"] if (places - 1) * stride + span - 1 - padding >= size else []
    window.lines.extend([f"if ({' || '.join(guards)}) continue;"] if guards else [])
    return window


def _flat(index: str, axes: Sequence[tuple[int, str]]) -> str:
    """Return the flat index of an entry, from its index along the first axis and (size, index) of the others."""
    for size, inner in axes:
        index = f"{f'({index})' if ' ' in index else index} * {size} + {inner}"
    return index


def _term(code: _Writer, step: Step, index: str, fan: int) -> str:
    """Return the line that adds weight number `index` of output o, times x."""
    if code.network.tensors[step.tensors["weight"]].dtype != np.uint8:
        return f"s += (@sum)x * {code.table(step, 'weight', 'float')}[o * {fan} + {index}];"
    return f"s += @bit({code.table(step, 'weight', 'uint32_t')}[o * {words(fan)} + ({index} >> 5)], {index}) ? x : -x;"


def _linear(code: _Writer, group: Group) -> str:
    step, source = group.step, group.step.sources[0]
    (fan,), (outputs,) = code.shape(source), code.shape(group.first)
    if code.network.values[group.first].binary:
        weight = f"{code.table(step, 'weight', 'uint32_t')}[o * {words(fan)} + k]"
        start, differ = f"int32_t s = {fan};", f"s -= 2 * @ones({code.word(source, 'k')} ^ {weight});"
        sums = _nest([_loop("k", words(fan))], differ)
    else:
        x, start = f"const float x = {code.entry(source, 'j')};", "@sum s = 0;"
        sums = _nest([_loop("j", fan)], x, _term(code, step, "j", fan))
    return _nest([_loop("o", outputs)], start, sums, code.store(group, "o", "o"))


def _conv(code: _Writer, group: Group) -> str:
    step, source, groups = group.step, group.step.sources[0], group.step.groups
    shape, output = code.shape(source), code.shape(group.first)
    window, fan = _window(step, shape, output), step.fan_in(shape)
    inside, each = shape[0] // groups, output[0] // groups
    order = f"const int32_t j = {_flat('c', window.kernel)};"
    target = code.store(group, _flat("o", window.output), "o")
    visited = [_loop("c", inside), *window.inner]
    if not code.network.values[group.first].binary:
        at = _flat("c" if groups == 1 else f"o / {each} * {inside} + c", window.source)
        x = [f"const int32_t at = {at};", f"const float x = {code.entry(source, 'at')};"]
        sums = _nest(visited, *window.lines, order, *x, _term(code, step, "j", fan))
        return _nest([_loop("o", output[0]), *window.outer], "@sum s = 0;", sums, target)
    # The window of a place is gathered into words once for all outputs, with a mask of entries that are not padding.
    signs, seen = code.plan.windows[group.value], code.plan.windows[group.value] + words(fan)
    at = f"const int32_t at = {_flat('c' if groups == 1 else f'g * {inside} + c', window.source)};"
    sign = f"@memory[{signs} + (j >> 5)].w |= {code.bit(source, 'at')} << (j & 31);"
    mask = f"@memory[{seen} + (j >> 5)].w |= (uint32_t)1 << (j & 31);"
    layout = _nest(visited, *window.lines, order, at, sign, mask, "++inside;")
    weight = f"{code.table(step, 'weight', 'uint32_t')}[o * {words(fan)} + k]"
    differ = f"s -= 2 * @ones((@memory[{signs} + k].w ^ {weight}) & @memory[{seen} + k].w);"
    counted = ["int32_t s = inside;", _nest([_loop("k", words(fan))], differ), target]
    outputs = _loop("o", output[0]) if groups == 1 else _loop("o", f"(g + 1) * {each}", f"g * {each}")
    clear = f"memset(&@memory[{signs}], 0, {8 * words(fan)});"
    heads = [*window.outer, *([_loop("g", groups)] if groups > 1 else [])]
    return _nest(heads, "int32_t inside = 0;", clear, layout, _nest([outputs], *counted))


def _pool(code: _Writer, group: Group) -> str:
    step, source = group.step, group.step.sources[0]
    shape, output = code.shape(source), code.shape(group.first)
    window = _window(step, shape, output)
    x = f"const float x = {code.entry(source, 'at')};"
    lines = [*window.lines, f"const int32_t at = {_flat('o', window.source)};", x]
    if step.op == "max_pool":
        body = ["float s = -INFINITY;", _nest(window.inner, *lines, "if (x > s) s = x;")]
    elif step.settings.get("count_padding"):
        size = math.prod(step.kernel)
        body = ["@sum s = 0;", _nest(window.inner, *lines, "s += x;"), f"s /= {size};"]
    else:
        sums = _nest(window.inner, *lines, "s += x;", "++seen;")
        body = ["@sum s = 0;", "int32_t seen = 0;", sums, "s /= (@sum)seen;"]
    return _nest([_loop("o", output[0]), *window.outer], *body, code.store(group, _flat("o", window.output), "o"))


def _softmax(code: _Writer, group: Group) -> str:
    shape, axis = code.shape(group.first), group.step.settings["axis"] - 1
    count, stride = shape[axis], math.prod(shape[axis + 1 :])
    entry = code.entry(group.step.sources[0], "at")
    at = f"const int32_t at = {_flat('u', [(count, 'k'), (stride, 'v')])};"
    grown = f"(@sum)exp((double){entry} - (double)top)"
    target = code.store(group, "at", _channel("at", shape))
    each = [[f"if ({entry} > top) top = {entry};"], [f"all += {grown};"], [f"const @sum s = {grown} / all;", target]]
    passes = [_nest([_loop("k", count)], at, *lines) for lines in each]
    heads = [_loop("u", math.prod(shape[:axis])), _loop("v", stride)]
    return _nest(heads, "float top = -INFINITY;", "@sum all = 0;", *passes)


def _each(code: _Writer, group: Group) -> str:
    """Return lines for an elementwise step; a reshaped value that is the output is copied."""
    shape = code.shape(group.first)
    sign = " * " if group.step.op == "multiply" else " + "
    result = sign.join(code.entry(source, "at") for source in group.step.sources)
    target = code.store(group, "at", _channel("at", shape))
    return _nest([_loop("at", math.prod(shape))], f"const float s = {result};", target)


def _channel(index: str, shape: Sequence[int]) -> str:
    places = math.prod(shape[1:])
    return f"{index} / {places}" if places > 1 else index


_STEPS: Mapping[str, Callable[[_Writer, Group], str]] = {
    "linear": _linear,
    "conv": _conv,
    **dict.fromkeys((*EACH, "add", "multiply", "reshape"), _each),
    **dict.fromkeys(("max_pool", "avg_pool", "adaptive_avg_pool"), _pool),
    "softmax": _softmax,
}
