"""The steps of packed networks in C99: each leaves its result in s, which the writer stores.

Sums run over channels, then over the kernel, in the order of the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bitbayes.packed.backends.c.plan import EACH, Group, words
from bitbayes.packed.backends.c.writer import Writer, loop, nest
from bitbayes.packed.format.ops import fan_in
from bitbayes.packed.format.program import Step

__all__ = ["STEPS", "write_group"]


_NOTHING = re.compile(r" \* 1(?=[ ;)\]])| - 0(?=;)|\b0 \+ ")  # what adds and multiplies nothing


def write_group(code: Writer, group: Group) -> str:
    """The block of a group."""
    block = STEPS[group.step.op](code, group)
    if code.bits(group.value):
        size = 4 * words(code.network.values[group.value].size)
        block = f"memset(&@memory[{code.plan.places[group.value]}], 0, {size});\n{block}"
    return _NOTHING.sub("", block)


class _Window(NamedTuple):
    """Loops over places and, within a window, over the places that it sees; sizes and indices of both."""

    outer: list[str]
    inner: list[str]
    lines: list[str]
    output: list[tuple[int, str]]
    source: list[tuple[int, str]]
    kernel: list[tuple[int, str]]


def _window(settings: Mapping[str, Any], source: Sequence[int], output: Sequence[int]) -> _Window:
    window, guards = _Window([], [], [], [], [], []), list[str]()
    names = list(zip("hw", "ab", ("row", "column"), strict=True))[-(len(source) - 1) :]
    for axis, (out, step, at) in enumerate(names):
        size, places = source[1 + axis], output[1 + axis]
        window.outer.append(loop(out, places))
        window.output.append((places, out))
        window.source.append((size, at))
        if "kernel" not in settings:  # adaptive: the products of sizes may need more than 32 bits
            end = f"(int32_t)((((int64_t){out} + 1) * {size} + {places - 1}) / {places})"
            window.inner.append(loop(at, end, f"(int32_t)((int64_t){out} * {size} / {places})"))
            continue
        kernel, stride, padding = (settings[key][axis] for key in ("kernel", "stride", "padding"))
        dilation = settings.get("dilation", (1, 1))[axis]
        window.inner.append(loop(step, kernel))
        window.kernel.append((kernel, step))
        window.lines.append(f"const int32_t {at} = {out} * {stride} + {step} * {dilation} - {padding};")
        guards += [f"{at} < 0"] if padding else []
        guards += [f"{at} >= {size}"] if (places - 1) * stride + (kernel - 1) * dilation - padding >= size else []
    window.lines.extend([f"if ({' || '.join(guards)}) continue;"] if guards else [])
    return window


def _flat(index: str, axes: Sequence[tuple[int, str]]) -> str:
    """The index of an entry, from that along its first axis and (size, index) of the others."""
    for size, inner in axes:
        index = f"{f'({index})' if ' ' in index else index} * {size} + {inner}"
    return index


def _term(code: Writer, step: Step, index: str, fan: int) -> str:
    """Weight number `index` of output o, times x."""
    if code.network.tensors[step.tensors["weight"]].dtype != np.uint8:
        return f"s += (@sum)x * {code.table(step, 'weight', 'float')}[o * {fan} + {index}];"
    return f"s += @bit({code.table(step, 'weight', 'uint32_t')}[o * {words(fan)} + ({index} >> 5)], {index}) ? x : -x;"


def _linear(code: Writer, group: Group) -> str:
    step, source = group.step, group.step.sources[0]
    (fan,), (outputs,) = code.shape(source), code.shape(group.first)
    if code.network.values[group.first].binary:
        weight = f"{code.table(step, 'weight', 'uint32_t')}[o * {words(fan)} + k]"
        start, differ = f"int32_t s = {fan};", f"s -= 2 * @ones({code.word(source, 'k')} ^ {weight});"
        sums = nest([loop("k", words(fan))], differ)
    else:
        x, start = f"const float x = {code.entry(source, 'j')};", "@sum s = 0;"
        sums = nest([loop("j", fan)], x, _term(code, step, "j", fan))
    return nest([loop("o", outputs)], start, sums, code.store(group, "o", "o"))


def _conv(code: Writer, group: Group) -> str:
    step, source, groups = group.step, group.step.sources[0], group.step.settings["groups"]
    shape, output = code.shape(source), code.shape(group.first)
    window, fan = _window(step.settings, shape, output), fan_in(step.settings, shape)
    inside, each = shape[0] // groups, output[0] // groups
    order = f"const int32_t j = {_flat('c', window.kernel)};"
    target = code.store(group, _flat("o", window.output), "o")
    visited = [loop("c", inside), *window.inner]
    if not code.network.values[group.first].binary:
        at = _flat("c" if groups == 1 else f"o / {each} * {inside} + c", window.source)
        x = [f"const int32_t at = {at};", f"const float x = {code.entry(source, 'at')};"]
        sums = nest(visited, *window.lines, order, *x, _term(code, step, "j", fan))
        return nest([loop("o", output[0]), *window.outer], "@sum s = 0;", sums, target)
    # The window of a place is laid out in words once, with a mask of what is not padding, for all outputs.
    signs, seen = code.plan.windows[group.value], code.plan.windows[group.value] + words(fan)
    at = f"const int32_t at = {_flat('c' if groups == 1 else f'g * {inside} + c', window.source)};"
    layout = nest(
        visited,
        *window.lines,
        order,
        at,
        f"@memory[{signs} + (j >> 5)].w |= {code.bit(source, 'at')} << (j & 31);",
        f"@memory[{seen} + (j >> 5)].w |= (uint32_t)1 << (j & 31);",
        "++inside;",
    )
    weight = f"{code.table(step, 'weight', 'uint32_t')}[o * {words(fan)} + k]"
    differ = f"s -= 2 * @ones((@memory[{signs} + k].w ^ {weight}) & @memory[{seen} + k].w);"
    counted = ["int32_t s = inside;", nest([loop("k", words(fan))], differ), target]
    outputs = loop("o", output[0]) if groups == 1 else loop("o", f"(g + 1) * {each}", f"g * {each}")
    clear = f"memset(&@memory[{signs}], 0, {8 * words(fan)});"
    heads = [*window.outer, *([loop("g", groups)] if groups > 1 else [])]
    return nest(heads, "int32_t inside = 0;", clear, layout, nest([outputs], *counted))


def _pool(code: Writer, group: Group) -> str:
    step, source = group.step, group.step.sources[0]
    shape, output = code.shape(source), code.shape(group.first)
    window = _window(step.settings, shape, output)
    x = f"const float x = {code.entry(source, 'at')};"
    lines = [*window.lines, f"const int32_t at = {_flat('o', window.source)};", x]
    if step.op == "max_pool":
        body = ["float s = -INFINITY;", nest(window.inner, *lines, "if (x > s) s = x;")]
    elif step.settings.get("count_padding"):
        size = math.prod(step.settings["kernel"])
        body = ["@sum s = 0;", nest(window.inner, *lines, "s += x;"), f"s /= {size};"]
    else:
        body = [
            "@sum s = 0;",
            "int32_t seen = 0;",
            nest(window.inner, *lines, "s += x;", "++seen;"),
            "s /= (@sum)seen;",
        ]
    return nest([loop("o", output[0]), *window.outer], *body, code.store(group, _flat("o", window.output), "o"))


def _softmax(code: Writer, group: Group) -> str:
    shape, axis = code.shape(group.first), group.step.settings["axis"] - 1
    count, stride = shape[axis], math.prod(shape[axis + 1 :])
    entry = code.entry(group.step.sources[0], "at")
    at = f"const int32_t at = {_flat('u', [(count, 'k'), (stride, 'v')])};"
    grown = f"(@sum)exp((double){entry} - (double)top)"
    every = [loop("k", count)]
    return nest(
        [loop("u", math.prod(shape[:axis])), loop("v", stride)],
        "float top = -INFINITY;",
        "@sum all = 0;",
        nest(every, at, f"if ({entry} > top) top = {entry};"),
        nest(every, at, f"all += {grown};"),
        nest(every, at, f"const @sum s = {grown} / all;", code.store(group, "at", _channel("at", shape))),
    )


def _each(code: Writer, group: Group) -> str:
    """Entry by entry; a reshaped value that is the output is copied."""
    shape = code.shape(group.first)
    result = " + ".join(code.entry(source, "at") for source in group.step.sources)
    target = code.store(group, "at", _channel("at", shape))
    return nest([loop("at", math.prod(shape))], f"const float s = {result};", target)


def _channel(index: str, shape: Sequence[int]) -> str:
    places = math.prod(shape[1:])
    return f"{index} / {places}" if places > 1 else index


STEPS: Mapping[str, Callable[[Writer, Group], str]] = {
    "linear": _linear,
    "conv": _conv,
    **dict.fromkeys((*EACH, "add", "reshape"), _each),
    **dict.fromkeys(("max_pool", "avg_pool", "adaptive_avg_pool"), _pool),
    "softmax": _softmax,
}
