"""Data sets as tensors on a device; a batch is an index into them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from bitbayes.lab.data.augment import Augmentation, augmentation_uniforms
from bitbayes.noise import stream_key
from bitbayes.packed import Inputs

_SHUFFLE_STREAM = 21
_FINGERPRINTED = 64  # number of examples per part


@dataclass(frozen=True)
class TensorData:
    """Examples as one tensor of inputs and one of targets on the same device.

    Args:
        x: Inputs, shape (N, ...). Images of type uint8 are divided by 255 and normalised batch by batch.
        y: Targets, shape (N,) for classes, or (N, K) for regression and single logits.
        mean: Number that is subtracted from the inputs, or one number per channel of (N, C, H, W).
        std: Number by which the inputs are divided, or one number per channel.
        augment: Augmentation of images (N, C, H, W), which `batches(..., augment=True)` applies.

    Raises:
        ValueError: If numbers of examples, devices, or numbers of channels differ.

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
            raise ValueError(f"got {len(self.x)} inputs but {len(self.y)} targets; give one target per input")
        if self.x.device != self.y.device:
            raise ValueError(f"got inputs on {self.x.device} but targets on {self.y.device}; move both to one device")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and (self.x.dim() < 2 or len(value) != self.x.shape[1]):
                shape = tuple(self.x.shape)
                raise ValueError(f"{name} has {len(value)} values, one per channel, but x has shape {shape}")

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, index: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Return the normalised float32 inputs of the examples at some positions.

        Args:
            index: Positions, on the device of the data.
            uniform: Numbers in (0, 1) that determine the augmentation, shape (len(index), augment.uniforms); None for
                no augmentation.
        """
        x = self.x[index]
        if uniform is not None and self.augment is not None:
            x = self.augment(x, uniform)
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        x = (x - self._for_channels(self.mean)) / self._for_channels(self.std)
        # With channels last in memory, convolutions of narrow networks take 0.25× to 0.67× the time on a CPU.
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def chosen(self, index: Tensor) -> TensorData:
        """Return a copy of the examples at some positions, on any device, or where a mask is true."""
        index = index.to(self.x.device)
        return dataclasses.replace(self, x=self.x[index], y=self.y[index])

    def marks(self) -> list[Tensor]:
        """Return some inputs and targets; see `Examples.marks`."""
        if not len(self):
            return []
        chosen = torch.arange(_FINGERPRINTED, device=self.x.device) * (len(self) - 1) // (_FINGERPRINTED - 1)
        return [self.x[chosen], self.y[chosen]]

    def joined(self, other: TensorData) -> TensorData:
        """Return these examples followed by others, with the augmentation of these examples.

        Where their normalisations differ, the inputs of the result are normalised already.

        Raises:
            ValueError: If the normalisations differ and one part has an augmentation, which needs images as they are.

        Example:
            >>> len(TensorData(torch.zeros(2, 1), torch.zeros(2)).joined(TensorData(torch.ones(3, 1), torch.ones(3))))
            5
        """
        y = torch.cat([self.y, other.y])
        if (self.mean, self.std) == (other.mean, other.std):
            return dataclasses.replace(self, x=torch.cat([self.x, other.x]), y=y)
        if self.augment is not None or other.augment is not None:
            raise ValueError("examples with different means or deviations cannot be joined and augmented")
        x = torch.cat([part.inputs(torch.arange(len(part), device=part.x.device)) for part in (self, other)])
        return TensorData(x, y)

    def batches(self, indices: Iterable[Tensor], uniform: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised inputs and targets; see `Examples.batches`."""
        uniform = None if uniform is None else uniform.to(self.x.device)
        for index in indices:
            at = index.to(self.x.device)
            yield self.inputs(at, None if uniform is None else uniform[at]), self.y[at]

    def _for_channels(self, value: float | tuple[float, ...]) -> float | Tensor:
        if not isinstance(value, tuple):
            return value
        return torch.tensor(value, device=self.x.device).view(-1, *[1] * (self.x.dim() - 2))


class Examples(Protocol):
    """Interface of training data: `TensorData` and `TextData` in memory, or `LazyImages` from files."""

    @property
    def augment(self) -> Augmentation | None:
        """Augmentation of the inputs, if there is one."""
        ...

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def joined(self, other: Any) -> Any:
        """Return these examples followed by others of the same kind."""
        ...

    def marks(self) -> list[Tensor]:
        """Return tensors that identify the examples, as far as they are in memory."""
        ...

    def batches(self, indices: Iterable[Tensor], uniform: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised inputs and targets, batch by batch.

        Args:
            indices: Positions of the examples of each batch.
            uniform: Numbers in (0, 1) that determine the augmentation of every example, shape (N, augment.uniforms);
                None for no augmentation.
        """
        ...


E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class DataBundle(Generic[E]):
    """Training, validation and test data of an experiment.

    Args:
        name: Name of the data set.
        train: Training examples.
        validation: Validation examples, if the experiment has any.
        test: Test examples, if the experiment has any.
        classes: Number of classes; 0 for regression.
        source: Origin of the examples: a folder, a hub id, "generated", ...
        inputs: Size, colours, normalisation and class names, for packed networks; None if they are unknown.

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
    inputs: Inputs | None = None

    def described(self) -> str:
        """Return the sizes of all parts in words.

        Example:
            >>> part = TensorData(torch.zeros(3, 1), torch.zeros(3))
            >>> DataBundle("toy", part, None, part, 2, "generated").described()
            '3 training and 3 test examples of 2 classes from generated'
        """
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        counts = [f"{len(part):,} {name}" for name, part in parts.items() if part is not None]
        listed = ", ".join(counts[:-1]) + " and " + counts[-1] if len(counts) > 1 else counts[0]
        return f"{listed} examples{f' of {self.classes} classes' if self.classes else ''} from {self.source}"

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify the data, independently of its location.

        The digits depend on the sizes of all parts and on some examples of the parts in memory. Real numbers are
        rounded to three decimals, because another machine may compute them slightly differently.

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
            for tensor in () if part is None else part.marks():
                # Adding 0 turns −0 into 0.
                plain = tensor.float().round(decimals=3) + 0.0 if tensor.is_floating_point() else tensor
                digest.update(plain.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def without_validation(self) -> DataBundle[E]:
        """Return the data with the validation examples appended to the training examples.

        Example:
            >>> part = TensorData(torch.zeros(2, 1), torch.zeros(2))
            >>> bundle = DataBundle("toy", part, part, None, 2, "generated").without_validation()
            >>> len(bundle.train), bundle.validation
            (4, None)
        """
        if self.validation is None:
            return self
        return dataclasses.replace(self, train=self.train.joined(self.validation), validation=None)


def check_share(share: float) -> None:
    """Raise ValueError for a fraction of validation examples that is not in [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a fraction in [0, 1), got {share}")


def held_out(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a random fraction of examples, and return the positions of training and validation examples.

    Example:
        >>> [len(part) for part in held_out(10, 0.2, seed=0)]
        [8, 2]
    """
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
    """Yield the normalised inputs and targets of one epoch, batch by batch.

    The order depends only on (seed, epoch), and the augmentation of an example only on (seed, epoch, example), so a
    resumed run sees the same batches.

    Args:
        data: Examples.
        size: Number of examples per batch over all ranks. The last batch may be smaller.
        seed: Seed of the shuffle and of the augmentation.
        epoch: Number of the epoch.
        shuffle: Whether to shuffle.
        augment: Whether to augment, if the data has an augmentation.
        rank: Rank of this process among the processes that share each batch.
        ranks: Number of processes that share each batch. Their shares, in order, form the whole batch.

    Raises:
        ValueError: If `size` is less than 1, or the rank is out of range.

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
        uniform = augmentation_uniforms(data.augment, len(data), seed=seed, epoch=epoch)
    yield from data.batches((whole.tensor_split(ranks)[rank] for whole in order.split(size)), uniform)
