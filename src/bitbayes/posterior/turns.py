"""The order in which samples take the members of a discrete distribution, spread evenly over the members."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bitbayes.noise import Noise, stream_key
from bitbayes.posterior.base import Parts

_TURN_STREAM = 7  # keeps the order of the members apart from the noise of samples
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
        kind: Word for a member in error messages.

    Raises:
        ValueError: If the number of weights differs, or a weight is negative or not finite, or all are zero.

    Example:
        >>> sorted(Turns(3).at(index, seed=0)[0] for index in range(6))
        [0, 0, 1, 1, 2, 2]
        >>> [Turns(2, [3.0, 1.0]).at(index, seed=0)[0] for index in range(8)].count(0)
        6
    """

    def __init__(self, count: int, weights: Tensor | Sequence[float] | None = None, *, kind: str = "member") -> None:
        self.count, self.given, self._bounds = count, None, list[int]()
        if weights is not None:
            if isinstance(weights, Tensor) and weights.is_complex():
                raise ValueError(f"weights must be real numbers, got {weights.dtype}")
            self.given = torch.as_tensor(weights, dtype=torch.float64).detach().cpu().clone()
            if self.given.shape != (count,):
                raise ValueError(f"weights have shape {tuple(self.given.shape)}, expected ({count},), one per {kind}")
            if not self.given.isfinite().all() or (self.given < 0).any() or not self.given.sum() > 0:
                raise ValueError("weights must be finite, not negative, and not all zero")
            # By a power of two, which is exact, so that sums and squares neither overflow nor vanish.
            self.given *= 2.0 ** -max(math.frexp(float(self.given.max()))[1], -1000)
            self._bounds = _bounds(self.given.tolist())

    @property
    def weights(self) -> Tensor:
        """Probabilities of the members, float64, on the CPU."""
        given = torch.ones(self.count, dtype=torch.float64) if self.given is None else self.given
        return given / given.sum()

    def parts(self) -> Parts:
        """Return the weights, if there are any, as a part of a saved posterior."""
        return {} if self.given is None else {"weights": {"members": self.given}}

    @staticmethod
    def weights_of(parts: Parts) -> Tensor | None:
        """Return the weights among the parts of a saved posterior."""
        given = parts.get("weights")
        if given is not None and set(given) != {"members"}:
            raise ValueError(f"the weights must be called 'members', got {sorted(given)!s:.60}")
        return None if given is None else given["members"]

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


def _bounds(weights: list[float]) -> list[int]:
    """Return where the arc of each member begins and ends on the circle, or nothing if all arcs are equally long."""
    if len(set(weights)) == 1:
        return []
    total = math.fsum(weights)
    bounds = [0, *(min(int(end / total * 2.0**_WORD), 1 << _WORD) for end in itertools.accumulate(weights))]
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    return bounds[: last + 1] + [1 << _WORD] * (len(weights) - last)  # the last arc ends there despite rounding


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
