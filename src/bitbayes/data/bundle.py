"""A data set is tensors on a device; a batch is an index into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitbayes.noise import stream_key

__all__ = ["DataBundle", "TensorData", "batches"]

_SHUFFLE_STREAM = 21


@dataclass(frozen=True)
class TensorData:
    """Examples as one tensor of inputs and one of targets, on the same device.

    Args:
        x: Inputs, shape (N, ...); uint8 images stay uint8 and are normalised batch by batch.
        y: Targets, shape (N,) for classes or (N, K) for regression and single logits.
        mean: Subtracted from x (uint8: after division by 255).
        std: Divided by.

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
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} inputs but {len(self.y)} targets; give one target for each input")
        if self.x.device != self.y.device:
            raise ValueError(f"inputs on {self.x.device} but targets on {self.y.device}; move both to one device")

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, index: Tensor) -> Tensor:
        """Normalised float32 inputs of some examples.

        Args:
            index: Positions, on the device of the data.

        Returns:
            Shape (len(index), ...).
        """
        x = self.x[index]
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        return (x - self.mean) / self.std


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


def batches(
    data: TensorData, size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch; their order is a function of (seed, epoch) alone, so a resumed run sees the same.

    Args:
        data: The examples.
        size: Examples a batch; the last may be smaller.
        seed: Seed of the shuffle.
        epoch: Number of the epoch.
        shuffle: Whether to shuffle.

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
    order = torch.arange(len(data))
    if shuffle:
        generator = torch.Generator().manual_seed(stream_key(seed, _SHUFFLE_STREAM, epoch))
        order = torch.randperm(len(data), generator=generator)
    for index in order.to(data.x.device).split(size):
        yield data.inputs(index), data.y[index]
