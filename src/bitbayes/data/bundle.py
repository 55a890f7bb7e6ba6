"""A data set is tensors on a device; a batch is an index into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitbayes.data.augment import Augmentation
from bitbayes.noise import Noise, stream_key

__all__ = ["DataBundle", "TensorData", "batches", "check_share", "held_out"]

_SHUFFLE_STREAM, _AUGMENT_STREAM = 21, 22


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
        return (x - self._for_channels(self.mean)) / self._for_channels(self.std)

    def _for_channels(self, value: float | tuple[float, ...]) -> float | Tensor:
        if not isinstance(value, tuple):
            return value
        return torch.tensor(value, device=self.x.device).view(-1, *[1] * (self.x.dim() - 2))


@dataclass(frozen=True)
class DataBundle:
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
    train: TensorData
    validation: TensorData | None
    test: TensorData | None
    classes: int
    source: str

    def without_validation(self) -> DataBundle:
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
        x, y = torch.cat([self.train.x, held.x]), torch.cat([self.train.y, held.y])
        return dataclasses.replace(self, train=dataclasses.replace(self.train, x=x, y=y), validation=None)


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
    data: TensorData,
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
        noise = Noise(stream_key(seed, _AUGMENT_STREAM, epoch), wide * len(data), data.x.device)
        uniform = noise.uniform().view(len(data), wide)
    for whole in order.to(data.x.device).split(size):
        index = whole.tensor_split(ranks)[rank]
        yield data.inputs(index, None if uniform is None else uniform[index]), data.y[index]
