"""A data set is tensors on a device; a batch is an index into them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from bitbayes.lab.data.augment import Augmentation
from bitbayes.noise import Noise, stream_key

__all__ = ["DataBundle", "Examples", "TensorData", "batches", "check_share", "held_out"]

_SHUFFLE_STREAM, _AUGMENT_STREAM = 21, 22
_LOOKED_AT = 64  # examples of a part, for its fingerprint


@dataclass(frozen=True)
class TensorData:
    """Examples as one tensor of inputs and one of targets, on the same device.

    Args:
        x: Inputs, shape (N, ...); uint8 images stay uint8 and are normalised batch by batch.
        y: Targets, shape (N,) for classes or (N, K) for regression and single logits.
        mean: Subtracted from x (uint8: after division by 255); a number, or one for each channel of (N, C, H, W).
        std: Divided by; likewise.
        augment: Random change of images (N, C, H, W), which `batches` makes where it is asked to.

    Raises:
        ValueError: If there are not as many targets as inputs, or they are on different devices.

    Example:
        >>> data = TensorData(torch.tensor([[255], [0]], dtype=torch.uint8), torch.tensor([1, 0]), mean=0.5, std=0.5)
        >>> data.inputs(torch.tensor([0, 1]))
        tensor([[ 1.],
                [-1.]])
    """

    x: Tensor
    y: Tensor
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} inputs but {len(self.y)} targets; give one target for each input")
        if self.x.device != self.y.device:
            raise ValueError(f"inputs on {self.x.device} but targets on {self.y.device}; move both to one device")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and (self.x.dim() < 2 or len(value) != self.x.shape[1]):
                shape = tuple(self.x.shape)
                raise ValueError(f"{name} has {len(value)} values, one for each channel, but x has shape {shape}")

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, index: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Normalised float32 inputs of some examples.

        Args:
            index: Positions, on the device of the data.
            uniform: Numbers in (0, 1) by which to augment, shape (len(index), augment.uniforms); None leaves them out.

        Returns:
            Shape (len(index), ...).
        """
        x = self.x[index]
        if uniform is not None and self.augment is not None:
            x = self.augment(x, uniform)
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        x = (x - self._for_channels(self.mean)) / self._for_channels(self.std)
        # Channels last in memory: convolutions of narrow networks take a quarter to two thirds of the time on a CPU.
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def joined(self, other: TensorData) -> TensorData:
        """These examples, then others of the same kind.

        Args:
            other: The others.

        Returns:
            All of them, with the normalisation and augmentation of these.

        Example:
            >>> len(TensorData(torch.zeros(2, 1), torch.zeros(2)).joined(TensorData(torch.ones(3, 1), torch.ones(3))))
            5
        """
        return dataclasses.replace(self, x=torch.cat([self.x, other.x]), y=torch.cat([self.y, other.y]))

    def stream(self, indices: Iterable[Tensor], uniform: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of chosen examples.

        Args:
            indices: Positions of the examples of every batch.
            uniform: Numbers in (0, 1) to augment every example by, shape (N, augment.uniforms); None for clean ones.

        Yields:
            Normalised inputs and targets.
        """
        uniform = None if uniform is None else uniform.to(self.x.device)
        for index in indices:
            at = index.to(self.x.device)
            yield self.inputs(at, None if uniform is None else uniform[at]), self.y[at]

    def _for_channels(self, value: float | tuple[float, ...]) -> float | Tensor:
        if not isinstance(value, tuple):
            return value
        return torch.tensor(value, device=self.x.device).view(-1, *[1] * (self.x.dim() - 2))


class Examples(Protocol):
    """What training needs of a data set: `TensorData` in memory, or `bitbayes.lab.data.StreamData` from files."""

    @property
    def augment(self) -> Augmentation | None:
        """Random change of the inputs."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def joined(self, other: Any) -> Any:
        """These examples, then others of the same kind."""
        ...

    def stream(self, indices: Iterable[Tensor], uniform: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of chosen examples, augmented by `uniform`."""
        ...


E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class DataBundle(Generic[E]):
    """What an experiment needs to know of its data.

    Args:
        name: Of the data set.
        train: For learning.
        validation: For choosing; None where the experiment has none.
        test: For the figure that is reported.
        classes: Number of classes; 0 for regression.
        source: Where the examples come from: a folder, a hub id, "generated", ...

    Example:
        >>> DataBundle("toy", TensorData(torch.zeros(2, 1), torch.zeros(2)), None, None, 2, "generated").classes
        2
    """

    name: str
    train: E
    validation: E | None
    test: E | None
    classes: int
    source: str

    def fingerprint(self) -> str:
        """Tells data apart, wherever they lie: of the sizes of all parts, and of examples of those in memory.

        Returns:
            16 hexadecimal digits; real numbers count to three decimals, as they may be computed anew elsewhere.

        Example:
            >>> data = TensorData(torch.zeros(5, 2), torch.arange(5))
            >>> one, other = (DataBundle("toy", data, None, part, 5, "here").fingerprint() for part in (None, data))
            >>> one == other, len(one)
            (False, 16)
        """
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            count = -1 if part is None else len(part)
            digest.update(f"{count};".encode())
            if isinstance(part, TensorData) and count > 0:
                chosen = torch.arange(_LOOKED_AT, device=part.x.device) * (count - 1) // (_LOOKED_AT - 1)
                for tensor in (part.x[chosen], part.y[chosen]):
                    plain = tensor.float().round(decimals=3) if tensor.is_floating_point() else tensor
                    digest.update(plain.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def without_validation(self) -> DataBundle[E]:
        """The same data with the validation examples given back to training (at its end).

        Returns:
            A bundle without validation data.

        Example:
            >>> part = TensorData(torch.zeros(2, 1), torch.zeros(2))
            >>> bundle = DataBundle("toy", part, part, None, 2, "generated").without_validation()
            >>> len(bundle.train), bundle.validation
            (4, None)
        """
        held = self.validation
        if held is None:
            return self
        return dataclasses.replace(self, train=self.train.joined(held), validation=None)


def check_share(share: float) -> None:
    """Refuses a share of validation examples that is not in [0, 1).

    Args:
        share: Part of the training examples.

    Raises:
        ValueError: If it is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a share in [0, 1), got {share}")


def held_out(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits training examples at random.

    Args:
        count: Number of examples.
        share: Part of them that is held out for validation.
        seed: Seed of the draw.

    Returns:
        Positions to train on, and positions held out.

    Raises:
        ValueError: If the share is not in [0, 1).

    Example:
        >>> [len(part) for part in held_out(10, 0.2, seed=0)]
        [8, 2]
    """
    check_share(share)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept = int(share * count)
    return order[kept:], order[:kept]


def batches(
    data: Examples,
    size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    augment: bool = False,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch; their order is a function of (seed, epoch) alone, so a resumed run sees the same.

    Args:
        data: The examples.
        size: Examples a batch, of all ranks together; the last may be smaller.
        seed: Seed of the shuffle and of the augmentation.
        epoch: Number of the epoch.
        shuffle: Whether to shuffle.
        augment: Whether to augment, if the data says how: a function of (seed, epoch, example), whatever the batch.
        rank: Which process asks, of those that share each batch.
        ranks: How many they are. Shares are as equal as can be, in order, so together they are the whole batch.

    Yields:
        Normalised inputs and targets.

    Raises:
        ValueError: If `size` is less than 1.

    Example:
        >>> data = TensorData(torch.arange(5.0)[:, None], torch.arange(5))
        >>> [len(y) for _, y in batches(data, 2, seed=1, epoch=3, shuffle=True)]
        [2, 2, 1]
    """
    if size < 1:
        raise ValueError(f"a batch needs at least 1 example, got size={size}")
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must be from 0 to {ranks - 1}, got {rank}")
    order = torch.arange(len(data))
    if shuffle:
        generator = torch.Generator().manual_seed(stream_key(seed, _SHUFFLE_STREAM, epoch))
        order = torch.randperm(len(data), generator=generator)
    uniform = None
    if augment and data.augment is not None:
        wide = data.augment.uniforms
        uniform = Noise(stream_key(seed, _AUGMENT_STREAM, epoch), wide * len(data)).uniform().view(len(data), wide)
    yield from data.stream((whole.tensor_split(ranks)[rank] for whole in order.split(size)), uniform)
