"""Packed networks as C headers, for machines too small for anything else."""

from __future__ import annotations

import re
from typing import Any

import numpy.typing as npt

from bitbayes.packed.backends.c.plan import make_plan
from bitbayes.packed.backends.c.steps import STEPS, write_group
from bitbayes.packed.backends.c.writer import Writer, literal
from bitbayes.packed.format.network import PackedNetwork

__all__ = ["c_header"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}", re.ASCII)
_LINE = 8  # numbers

_HEAD = """\
/* A packed network, written by bitbayes. C99; include it in one file.

   int @predict(const float *input, float *logits)

   input    float[{inputs}: scaled and normalised as in training, and finite
   logits   float[{outputs}; returned is the index of the largest, or
            for a single one whether it is above 0
   tables   {tables} bytes, constant
   scratch  {scratch} bytes, static: one call at a time; nothing is allocated

   Sums of signs are counted in integers. Other sums have the type @sum and are taken one term after the other:
   float, or double where the compiler is told -D@sum=double, which is slow on a processor that has none. */
"""
_NEEDS = {
    "INFINITY": "#include <math.h>",
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


def c_header(network: PackedNetwork, name: str = "net") -> str:
    """Writes a network as one C99 header: constant tables, and one function that allocates nothing.

    Signs are bits, and their products xnor and popcount. Steps that go entry by entry are done before anything is
    stored, and values that are not needed at the same time share their memory.

    Args:
        network: One network, not several.
        name: What the function, `name_predict`, and everything else begins with.

    Returns:
        The text of the header.

    Raises:
        ValueError: If there are several networks, a step has no C form (it is named), or `name` is none in C.

    Example:
        >>> model = torch.nn.Linear(16, 2, bias=False)
        >>> _ = bb.STE([model.weight], seed=0)
        >>> header = c_header(bb.pack(model, torch.zeros(1, 16)), "tiny")
        >>> [line for line in header.splitlines() if "(const float" in line][-1]
        'static int tiny_predict(const float *input, float *logits) {'
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits and _ and begin with a letter, got {name!r}")
    if network.program.samples > 1:
        raise ValueError(f"a C header is of one network, got {network.program.samples}; pack the mode")
    for step in network.program.steps:
        if step.op not in STEPS:
            raise ValueError(f"{step.op!r} of layer {step.name!r} has no C form; there are {', '.join(STEPS)}")
    plan = make_plan(network)
    code = Writer(network, plan)
    blocks = []
    for group in plan.groups:
        ops, shape = " + ".join(step.op for step in group.steps), network.values[group.value].shape
        blocks.append(f"/* {ops} of {group.step.name!r}: {shape} */\n{write_group(code, group)}")
    inputs, outputs = network.values[0], network.values[-1]
    function = "\n".join([_OPEN, *blocks, _SEVERAL.format(outputs.size) if outputs.size > 1 else _SINGLE])
    head = _HEAD.format(
        inputs=f"{inputs.size}], of shape {inputs.shape}",
        outputs=f"{outputs.size}], of shape {outputs.shape}",
        tables=sum(table.nbytes for table in code.tables.values()),
        scratch=4 * plan.words,
    )
    # Only what is used, so that no compiler warns.
    parts = [
        head,
        f"#ifndef {name.upper()}_H\n#define {name.upper()}_H\n",
        *(text for used, text in _NEEDS.items() if used in function),
        *(_table(index, *key, table) for index, (key, table) in enumerate(code.tables.items())),
        function,
        "#endif\n",
    ]
    return _indented("\n".join(parts).replace("@words", str(plan.words)).replace("@", f"{name}_"))


def _table(index: int, of: str, kind: str, table: npt.NDArray[Any]) -> str:
    numbers = [literal(number) for number in table.reshape(-1)]
    lines = ",\n".join(", ".join(numbers[i : i + _LINE]) for i in range(0, len(numbers), _LINE))
    return f"/* {of} */\nstatic const {kind} @t{index}[{len(numbers)}] = {{\n{lines}\n}};\n"


def _indented(text: str) -> str:
    """Two blanks for each open brace, and one empty line where there are more."""
    lines, depth = list[str](), 0
    for line in re.sub(r"\n{3,}", "\n\n", text).split("\n"):
        depth -= line.startswith("}")
        lines.append("  " * depth + line if line and depth else line)
        depth += line.endswith("{")
    return "\n".join(lines)
