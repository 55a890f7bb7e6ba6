"""How a C header reads and stores: values, bits, tables. In these texts "@" stands for its name and an underscore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.c.plan import Group, Plan
from bitbayes.packed.format.bits import float_above
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Step

__all__ = ["Writer", "literal", "loop", "nest"]


class Writer:
    """Writes what all steps share, and collects the tables that they read.

    Args:
        network: One network.
        plan: Of it.
    """

    def __init__(self, network: PackedNetwork, plan: Plan) -> None:
        self.network, self.plan = network, plan
        self.tables: dict[tuple[str, str], npt.NDArray[Any]] = {}

    def shape(self, value: int) -> tuple[int, ...]:
        """Of a value, without the batch."""
        return self.network.values[value].shape

    def bits(self, value: int) -> bool:
        """Whether a value is stored as bits."""
        return self.network.values[value].signs and value in self.plan.places

    def entry(self, value: int, index: str) -> str:
        """An entry of a value, as a float."""
        if value not in self.plan.places:
            return f"input[{index}]"
        if self.bits(value):
            return f"({self.bit(value, index)} ? 1.0f : -1.0f)"
        return f"@memory[{self.plan.places[value]} + {index}].f"

    def bit(self, value: int, index: str) -> str:
        """An entry of a value of signs, as a bit."""
        return f"@bit({self.word(value, f'({index} >> 5)')}, {index})"

    def word(self, value: int, index: str) -> str:
        """32 entries of a value of signs."""
        return f"@memory[{self.plan.places[value]} + {index}].w"

    def table(self, step: Step, role: str, kind: str) -> str:
        """The name of a tensor's table, as numbers of a C type."""
        key = (step.tensors[role], kind)
        if key not in self.tables:
            tensor = self.network.tensors[key[0]]
            if kind == "uint32_t":
                tensor = np.pad(tensor, ((0, 0), (0, -tensor.shape[-1] % 4))).view("<u4")
            self.tables[key] = float_above(tensor) if kind == "float" else tensor
        return f"@t{list(self.tables).index(key)}"

    def store(self, group: Group, index: str, channel: str) -> str:
        """From s, the result of the group's step, through its chain into its value."""
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
            bounds = [(sign, step.settings[key]) for sign, key in (("<", "min"), (">", "max"))]
            given = [(sign, literal(np.float32(bound))) for sign, bound in bounds if bound is not None]
            return [f"if (y {sign} {bound}) y = {bound};" for sign, bound in given]
        scale, shift = (
            f" {sign} {self._vector(step, role, channel, 'float')}" if role in step.tensors else ""
            for sign, role in (("*", "scale"), ("+", "shift"))
        )
        return [f"y = (float)((@sum)y{scale}{shift});"]

    def _above(self, step: Step, subject: str, channel: str, kind: str) -> str:
        if "direction" in step.tensors:
            subject += f" * {self._vector(step, 'direction', channel, 'int8_t')}"
        return f"{subject} >= {self._vector(step, 'threshold', channel, kind)} ? 1.0f : -1.0f"

    def _vector(self, step: Step, role: str, channel: str, kind: str) -> str:
        one = self.network.tensors[step.tensors[role]].size == 1
        return f"{self.table(step, role, kind)}[{0 if one else channel}]"


def literal(number: np.generic) -> str:
    """A number in C: a float32 by the fewest decimals that give it back, a word by its digits."""
    if number.dtype.kind == "u":
        return f"0x{number:08x}u"
    return f"{number!s}f" if number.dtype.kind == "f" else str(number)


def loop(variable: str, end: int | str, start: int | str = 0) -> str:
    """The head of a loop."""
    return f"for (int32_t {variable} = {start}; {variable} < {end}; ++{variable})"


def nest(heads: Sequence[str], *lines: str) -> str:
    """Loops in loops around some lines."""
    return "\n".join([*(f"{head} {{" for head in heads), *lines, *("}" for _ in heads)])
