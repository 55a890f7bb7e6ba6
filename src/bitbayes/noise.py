"""Counter-based noise: a pure function of (seed, stream, step, sample, tensor index).

There is no generator state to save. A resumed run, every rank of a data-parallel job and every device compute the same
bits. Word j of a stream is SplitMix64's output function at counter `key + j·golden` (Steele, Lea & Flood 2014). The key
is a hash of the path, so streams start 2⁶⁴ / (number of streams) apart on average. Each 64-bit word provides 32 bits
for each of two weights.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from typing import overload

import torch
from torch import Tensor

from bitbayes.functional import sign

# Values per piece. A float32 tensor of 1 MiB fits into a second-level cache and is large enough to hide dispatch.
CHUNK = 1 << 18

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits, because torch multiplies signed words."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GOLDEN, _MULTIPLY1, _MULTIPLY2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * _MULTIPLY1) & _MASK
    word = ((word ^ (word >> 27)) * _MULTIPLY2) & _MASK
    return word ^ (word >> 31)


@functools.lru_cache(maxsize=4096)
def _hash(seed: int, path: tuple[int, ...]) -> int:
    """Return the hash of a path, cached because the streams of a step share all but the end of their path."""
    if not path:
        return _mix((seed + _GOLDEN) & _MASK)
    # Two rounds per counter: one xor-multiply round of small integers is too regular to chain.
    return _mix((_mix((_hash(seed, path[:-1]) ^ path[-1]) & _MASK) + _GOLDEN) & _MASK)


@overload
def stream_key(seed: int, *path: int) -> int: ...
@overload
def stream_key(seed: int, *path: int | Tensor) -> int | Tensor: ...
def stream_key(seed: int, *path: int | Tensor) -> int | Tensor:
    """Hash a seed and a path of counters into the 64-bit key of a noise stream.

    Args:
        seed: Any integer.
        path: Numbers that identify the stream, such as purpose, step, sample and tensor index. They are integers or
            int64 tensors, whose values are not read on the host.

    Returns:
        A signed 64-bit integer. If the path contains tensors, an int64 tensor of their broadcast shape, with the keys
        of as many streams.

    Example:
        >>> stream_key(0, 1, 2) == stream_key(0, 1, 2), stream_key(0, 1, 2) == stream_key(0, 2, 1)
        (True, False)
        >>> bool(stream_key(0, 1, torch.tensor(2)) == stream_key(0, 1, 2))
        True
    """
    known = tuple(itertools.takewhile(lambda place: isinstance(place, int), path))
    key: int | Tensor = _signed(_hash(seed, known))
    for place in path[len(known) :]:
        key = _scramble(_scramble(torch.as_tensor(key ^ place)).add_(_signed(_GOLDEN)))
    return key


def _scramble(word: Tensor) -> Tensor:
    """Apply SplitMix64's output function in place; masks turn torch's arithmetic shift into a logical one."""
    word = word.bitwise_xor_((word >> 30).bitwise_and_((1 << 34) - 1)).mul_(_signed(_MULTIPLY1))
    word = word.bitwise_xor_((word >> 27).bitwise_and_((1 << 37) - 1)).mul_(_signed(_MULTIPLY2))
    return word.bitwise_xor_((word >> 31).bitwise_and_((1 << 33) - 1))


def spans(count: int, device: torch.device, rows: int = 1) -> Iterator[slice]:
    """Yield even-aligned pieces of a flat tensor that fit into a CPU's cache; a GPU gets the whole tensor.

    Args:
        count: Length of the tensor.
        device: Device of the tensor.
        rows: Number of such tensors that are processed at once. The pieces become shorter by this factor.

    Yields:
        Slices that cover the tensor in order.

    Example:
        >>> [span.stop for span in spans(600_000, torch.device("cpu"))]
        [262144, 524288, 600000]
    """
    size = 2 * max(CHUNK // (2 * rows), 1) if device.type == "cpu" else max(count, 1)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class Noise:
    """Noise of one tensor, or of a contiguous piece of a tensor, at one draw.

    Args:
        key: Key from `stream_key`: an int, or a 0-d int64 tensor inside a compiled function.
        count: Number of values to draw.
        device: Device of the values.
        start: Position of the first value in the stream; a 0-d tensor inside a compiled function.
        shared_key: Key of the values that all weights share; see `shared_normal`.

    Example:
        >>> whole, tail = Noise(7, 8), Noise(7, 4, start=4)
        >>> torch.equal(whole.uniform()[4:], tail.uniform())
        True
    """

    def __init__(
        self,
        key: int | Tensor,
        count: int,
        device: torch.device | str = "cpu",
        *,
        start: int | Tensor = 0,
        shared_key: int | Tensor = 0,
    ) -> None:
        self.key, self.count, self.device, self.start, self.shared_key = key, count, device, start, shared_key
        self._shared: dict[int, Tensor] = {}

    def part(self, span: slice) -> Noise:
        """Return the noise of a piece of the tensor.

        Args:
            span: Positions within this noise.

        Returns:
            Noise of `span.stop - span.start` values. Values that all weights share are computed once for all pieces.

        Example:
            >>> torch.equal(Noise(7, 8).part(slice(4, 8)).uniform(), Noise(7, 8).uniform()[4:])
            True
        """
        piece = copy.copy(self)
        piece.start, piece.count = self.start + span.start, span.stop - span.start
        return piece

    def bits(self) -> Tensor:
        """Return 32 random bits per value.

        Returns:
            An int32 tensor of shape (count,).

        Example:
            >>> Noise(7, 3).bits().dtype
            torch.int32
        """
        if torch.compiler.is_compiling():
            # Inductor cannot fuse a view to another dtype, and hashing every word twice is cheaper than storing it.
            index = torch.arange(self.count, device=self.device) + self.start
            word = _scramble((index >> 1) * _signed(_GOLDEN) + self.key)
            return (word >> (32 * (index & 1))).to(torch.int32)
        first, odd = divmod(int(self.start), 2)
        word = torch.arange(first, first + (odd + self.count + 1) // 2, device=self.device)
        return _scramble(word.mul_(_signed(_GOLDEN)).add_(self.key)).view(torch.int32)[odd : odd + self.count]

    def moved_key(self) -> tuple[int, int]:
        """Return where the values begin in the form that the kernels expect, which count from 0.

        Returns:
            The key of the stream that begins with the first value's word, and the position of that value in its word.

        Example:
            >>> piece = Noise(7, 8).part(slice(5, 8))
            >>> key, place = piece.moved_key()
            >>> torch.equal(Noise(key, 4).bits()[place:], piece.bits())
            True
        """
        first, place = divmod(int(self.start), 2)
        return _signed(int(self.key) + first * _GOLDEN), place

    def uniform(self) -> Tensor:
        """Return uniform values in the open interval (0, 1), symmetric about ½, with 23 bits.

        Returns:
            A float32 tensor of shape (count,).

        Example:
            >>> u = Noise(7, 1000).uniform()
            >>> bool(0 < u.min()), bool(u.max() < 1)
            (True, True)
        """
        # k + ½ with k < 2²³ is exact in float32, so neither 0 nor 1 can occur and no logit is infinite.
        return (self.bits() & 0x7FFFFF).to(torch.float32).add_(0.5).mul_(2.0**-23)

    def logistic(self) -> Tensor:
        """Return half-logistic noise δ = ½·log(u / (1 − u)) of the binary Concrete (BayesBiNN, eq. 10).

        Returns:
            A float32 tensor of shape (count,); λ + δ > 0 with probability σ(2λ).

        Example:
            >>> Noise(7, 1000).logistic().abs().max() < 10
            tensor(True)
        """
        return torch.logit(self.uniform()).mul_(0.5)

    def normal(self) -> Tensor:
        """Return standard normal values (Box & Muller 1958) with |r| < 5.8.

        Returns:
            A float32 tensor of shape (count,).

        Example:
            >>> Noise(7, 3).normal().shape
            torch.Size([3])
        """
        pairs = Noise(self.key, 2 * self.count, self.device, start=2 * self.start).uniform().view(-1, 2)
        first, second = pairs.unbind(1)
        return torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * torch.pi * second)

    def shared_normal(self, count: int) -> Tensor:
        """Return standard normal values that all weights of the draw share, such as r of a low-rank Gaussian.

        Args:
            count: Number of values, which is the same for every piece of the tensor.

        Returns:
            A float32 tensor of shape (count,).

        Example:
            >>> whole = Noise(7, 8, shared_key=3)
            >>> torch.equal(whole.shared_normal(4), whole.part(slice(4, 8)).shared_normal(4))
            True
        """
        if count not in self._shared:
            self._shared[count] = Noise(self.shared_key, count, self.device).normal()
        return self._shared[count]

    def signs(self, probability: Tensor) -> Tensor:
        """Return hard draws: +1 with the given probability, else −1.

        Args:
            probability: P[+1], float32, shape (count,). The frequency of +1 is exact to 2⁻²⁴.

        Returns:
            A float32 tensor of −1 and +1.

        Example:
            >>> Noise(7, 4).signs(torch.tensor([0.0, 1.0, 0.0, 1.0]))
            tensor([-1.,  1., -1.,  1.])
        """
        # Signed bits are uniform on [−2³¹, 2³¹): compare with the probability on that scale.
        return sign((probability * 2.0**32 - 2.0**31).sub_(self.bits()))
