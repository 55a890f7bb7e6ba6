"""The order in which samples take the members of a discrete distribution, spread evenly over the members."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence

from bitbayes.noise import Noise, stream_key

_TURN_STREAM = 5  # keeps the order of the members apart from the noise of samples
_WORD = 64  # bits of a point on the circle


class Turns:
    """Sampling of a member by (seed, index) so that every run of samples from index 0 on is stratified.

    Without weights, every block of K samples takes each of the K members once, in an order that the seed determines.
    With weights, the samples are the points of a van der Corput sequence, shifted by a random amount, in a circle that
    is divided among the members. Over all seeds, a sample takes each member with its probability.

    Args:
        count: Number of members.
        weights: Non-negative numbers, one per member, that are proportional to the probabilities. None, or equal
            numbers, make all members equally likely.

    Example:
        >>> sorted(Turns(3).at(index, seed=0)[0] for index in range(6))
        [0, 0, 1, 1, 2, 2]
        >>> [Turns(2, [3.0, 1.0]).at(index, seed=0)[0] for index in range(8)].count(0)
        6
    """

    def __init__(self, count: int, weights: Sequence[float] | None = None) -> None:
        self.count, self._bounds = count, list[int]()
        if weights is not None and len(set(weights)) > 1:
            total = math.fsum(weights)
            ends = (min(int(end / total * 2.0**_WORD), 1 << _WORD) for end in itertools.accumulate(weights))
            self._bounds = [0, *ends]
            last = max(index for index, weight in enumerate(weights) if weight > 0)
            self._bounds[last + 1 :] = [1 << _WORD] * (count - last)  # despite rounding

    def at(self, index: int, seed: int) -> tuple[int, int]:
        """Return the member that a sample takes, and how many samples before it took the same member."""
        if not self._bounds:
            block, place = divmod(index, self.count)
            return _order(seed, self.count)[place], block
        shift = stream_key(seed, _TURN_STREAM) % (1 << _WORD)
        point = (_reversed(index) + shift) % (1 << _WORD)
        member = bisect.bisect_right(self._bounds, point) - 1
        low, high = self._bounds[member : member + 2]
        return member, _points_below(high, index, shift) - _points_below(low, index, shift)


@functools.lru_cache(maxsize=16)
def _order(seed: int, count: int) -> tuple[int, ...]:
    """Return a random permutation of the members."""
    noise = Noise(stream_key(seed, _TURN_STREAM), count).bits()
    return tuple(noise.argsort(stable=True).tolist())


def _reversed(index: int) -> int:
    """Return point number `index` of the van der Corput sequence: its bits in reverse order."""
    return int(f"{index % (1 << _WORD):0{_WORD}b}"[::-1], 2)


def _points_below(limit: int, count: int, shift: int) -> int:
    """Return how many of the first `count` points of the shifted sequence are below a limit."""
    found = first = 0
    for power in reversed(range(count.bit_length())):
        if count >> power & 1:
            step = 1 << (_WORD - power)  # the next 2^power points are this far apart on the circle
            found += max(-(((_reversed(first) + shift) % step - limit) // step), 0)
            first += 1 << power
    return found
