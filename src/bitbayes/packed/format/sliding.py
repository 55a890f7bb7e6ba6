"""Sliding windows over one or two axes, as in convolutions and pools."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sliding:
    """Sliding window, described by one number per axis.

    Args:
        kernel: Number of taps of the window.
        stride: Distance between neighbouring windows.
        padding: Number of entries that are added at both ends.
        dilation: Distance between neighbouring taps.
        ceil: Whether the last window may lie partly outside (torch's `ceil_mode`).

    Example:
        >>> Sliding((3,), (2,), (1,), (1,)).places((8,))
        (4,)
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Sliding:
        """Return the sliding window that the settings of a step describe."""
        kernel, stride, padding = (tuple(settings[key]) for key in ("kernel", "stride", "padding"))
        dilation = tuple(settings.get("dilation", (1,) * len(kernel)))
        return cls(kernel, stride, padding, dilation, settings.get("ceil", False))

    @classmethod
    def covering(cls, sizes: Sequence[int]) -> Sliding:
        """Return a single window that sees the whole input, as an output of a linear layer does."""
        one, zero = (1,) * len(sizes), (0,) * len(sizes)
        return cls(tuple(sizes), one, zero, one)

    def in_two_axes(self) -> Sliding:
        """Return the same windows over two axes, with leading axes of size 1 if there were fewer."""
        missing = 2 - len(self.kernel)
        one = {key: (1,) * missing + getattr(self, key) for key in ("kernel", "stride", "dilation")}
        return replace(self, **one, padding=(0,) * missing + self.padding)

    @functools.cached_property
    def span(self) -> tuple[int, ...]:
        """Number of entries from the first tap to the last, inclusive."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the number of windows along each axis of an input (torch's formula)."""
        found = []
        for size, span, s, p in zip(sizes, self.span, self.stride, self.padding, strict=True):
            count = (size + 2 * p - span + (s - 1 if self.ceil else 0)) // s + 1
            # The last window must start inside the input or its left padding.
            found.append(count - 1 if self.ceil and (count - 1) * s >= size + p else count)
        return tuple(found)

    def pads(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the number of entries to add before and after each axis, so that all windows lie inside."""
        axes = zip(sizes, self.places(sizes), self.span, self.stride, self.padding, strict=True)
        return [(p, max(p, (count - 1) * s + span - size - p)) for size, count, span, s, p in axes]

    def seen(self, sizes: Sequence[int]) -> list[npt.NDArray[np.int64]]:
        """Return, for each axis, which taps of each window lie inside the input: the first, and the one after the last.

        Example:
            >>> Sliding((3,), (1,), (1,), (1,)).seen((4,))[0].tolist()
            [[1, 3], [0, 3], [0, 3], [0, 2]]
        """
        axes = zip(sizes, self.places(sizes), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        found = []
        for size, count, k, s, p, d in axes:
            start = np.arange(count) * s - p  # position of the first tap; tap t is inside from -start / d on
            ends = [np.clip(-((start - edge) // d), 0, k) for edge in (0, size)]
            found.append(np.stack(ends, axis=-1))
        return found

    def boxes(self, sizes: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
        """Split the positions of windows into boxes of at most `most` positions, or of one.

        Example:
            >>> list(Sliding((1,), (1,), (0,), (1,)).boxes((3,), 2))
            [(slice(0, 2, None),), (slice(2, 3, None),)]
        """
        places, steps = self.places(sizes), []
        for count in reversed(places):
            steps.append(max(1, min(count, most)))
            most //= count
        axes = zip(places, reversed(steps), strict=True)
        cuts = ([slice(at, min(at + step, count)) for at in range(0, count, step)] for count, step in axes)
        yield from itertools.product(*cuts)

    def windows(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of all windows of padded inputs (N, C, *sizes), shape (N, C, *places, *kernel)."""
        axes = tuple(range(2, padded.ndim))
        view = np.lib.stride_tricks.sliding_window_view(padded, self.span, axis=axes)
        every = slice(None)
        return view[(every, every, *(slice(None, None, step) for step in (*self.stride, *self.dilation)))]
