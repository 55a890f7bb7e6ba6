"""Order of computation in a C header, and places of values in its scratch memory."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Step

EACH = ("affine", "sign", "threshold", "clamp", "prelu", "gelu")  # operations on one entry at a time


class Group(NamedTuple):
    """A step and the elementwise steps that follow it; the values between them are not stored."""

    step: Step
    first: int
    chain: tuple[Step, ...]
    value: int

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps of the group."""
        return self.chain if self.step.op in EACH else (self.step, *self.chain)


class Plan(NamedTuple):
    """Groups in order; places of values and of groups' windows in 32-bit words; and the number of words."""

    groups: list[Group]
    places: dict[int, int]
    windows: dict[int, int]
    words: int


def words(bits: int) -> int:
    """Return the number of 32-bit words that hold a number of bits."""
    return -(-bits // 32)


def make_plan(network: PackedNetwork) -> Plan:
    """Fuse steps, and assign each value a place that no other value needs at the same time.

    A reshaped value shares the place of its source. Input and output have no place in the scratch memory.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> _ = bb.STE([model[0].weight], seed=0).eval()
        >>> plan = make_plan(bb.pack(model, torch.zeros(1, 8)))
        >>> [(group.step.op, len(group.chain)) for group in plan.groups], plan.words
        ([('linear', 2), ('linear', 1)], 4)
    """
    steps, values = network.program.steps, network.values
    groups, roots = _groups(steps)
    last_use = {roots[source]: time for time, group in enumerate(groups) for source in group.step.sources}
    places, windows, taken = dict[int, int](), dict[int, int](), list[tuple[int, int, int]]()
    for time, group in enumerate(groups):
        if group.value < len(steps):
            size = values[group.value].size
            size = words(size) if values[group.value].signs else size
            places[group.value] = _reserve(taken, time, last_use.get(group.value, time), size)
        if group.step.op == "conv" and values[group.first].binary:
            source = values[group.step.sources[0]]
            windows[group.value] = _reserve(taken, time, time, 2 * words(group.step.fan_in(source.shape)))
    places |= {value: places[root] for value, root in roots.items() if root in places}
    return Plan(groups, places, windows, max((end for _, end, _ in taken), default=0))


def _groups(steps: tuple[Step, ...]) -> tuple[list[Group], dict[int, int]]:
    """Return the groups, and for each value the value whose place it shares."""
    users = Counter(source for step in steps for source in step.sources)
    after = {source: index for index, step in enumerate(steps) for source in step.sources}
    groups, done, roots = [], set[int](), {0: 0}
    for index, step in enumerate(steps):
        roots.setdefault(index + 1, index + 1)
        if index in done:
            continue
        if step.op == "reshape" and index + 1 < len(steps):
            roots[index + 1] = roots[step.sources[0]]
            continue
        value, chain = index + 1, [step] if step.op in EACH else []
        while users[value] == 1 and steps[after[value]].op in EACH:
            done.add(after[value])
            chain.append(steps[after[value]])
            value = after[value] + 1
        groups.append(Group(step, index + 1, tuple(chain), value))
    return groups, roots


def _reserve(taken: list[tuple[int, int, int]], born: int, last: int, size: int) -> int:
    """Return the lowest gap among the places (start, end, last use) that are still needed."""
    start = 0
    for begin, end, until in sorted(taken):
        if until >= born and begin < start + size and start < end:
            start = end
    taken.append((start, start + size, last))
    return start
