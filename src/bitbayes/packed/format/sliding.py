"""Windows that slide over one or two axes, as those of convolutions and pools do."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sliding:
    """A window and how it slides, with one number for each axis.

    Args:
        kernel: Taps of the window.
        stride: Distance between neighbouring windows.
        padding: Entries that are added at both ends.
        dilation: Distance between neighbouring taps.
        ceil: Whether a last window may lie partly outside (torch's `ceil_mode`).

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
        """Return the windows that the settings of a step describe."""
        kernel, stride, padding = (tuple(settings[key]) for key in ("kernel", "stride", "padding"))
        dilation = tuple(settings.get("dilation", (1,) * len(kernel)))
        return cls(kernel, stride, padding, dilation, settings.get("ceil", False))

    @classmethod
    def covering(cls, sizes: Sequence[int]) -> Sliding:
        """Return a single window that sees everything, as an output of a linear layer does."""
        one, zero = (1,) * len(sizes), (0,) * len(sizes)
        return cls(tuple(sizes), one, zero, one)

    def in_two_axes(self) -> Sliding:
        """Return the same windows over two axes, the first of which have size 1 where there were fewer."""
        missing = 2 - len(self.kernel)
        one = {key: (1,) * missing + getattr(self, key) for key in ("kernel", "stride", "dilation")}
        return replace(self, **one, padding=(0,) * missing + self.padding)

    @functools.cached_property
    def span(self) -> tuple[int, ...]:
        """Entries from the first tap to the last, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the number of windows along each axis of an input (torch's formula)."""
        found = []
        for size, span, s, p in zip(sizes, self.span, self.stride, self.padding, strict=True):
            count = (size + 2 * p - span + (s - 1 if self.ceil else 0)) // s + 1
            # The last window must begin inside the input or its left padding.
            found.append(count - 1 if self.ceil and (count - 1) * s >= size + p else count)
        return tuple(found)

    def pads(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the entries to add before and after each axis, so that all windows lie inside."""
        axes = zip(sizes, self.places(sizes), self.span, self.stride, self.padding, strict=True)
        return [(p, max(p, (count - 1) * s + span - size - p)) for size, count, span, s, p in axes]

    def inside(self, sizes: Sequence[int]) -> Iterator[npt.NDArray[np.bool_]]:
        """Yield, for each axis, which taps of each window lie inside the input: shape (places, kernel)."""
        axes = zip(sizes, self.places(sizes), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        for size, count, k, s, p, d in axes:
            at = np.arange(count)[:, None] * s - p + np.arange(k) * d
            yield (at >= 0) & (at < size)

    def windows(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what all windows see of (N, C, *sizes), padding included: (N, C, *places, *kernel), without a copy."""
        axes = tuple(range(2, padded.ndim))
        view = np.lib.stride_tricks.sliding_window_view(padded, self.span, axis=axes)
        every = slice(None)
        return view[(every, every, *(slice(None, None, step) for step in (*self.stride, *self.dilation)))]
