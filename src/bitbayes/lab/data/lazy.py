"""Images that worker processes decode on demand, for data sets that do not fit into memory: ImageNet."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitbayes.errors import require
from bitbayes.lab.data.augment import ResizedCrop
from bitbayes.lab.data.bundle import DataBundle, check_share, held_out
from bitbayes.lab.data.hub import Layout, class_names, decoded, parquet_files, shown_names, table_of
from bitbayes.packed import Inputs

_LAYOUT = Layout("ILSVRC/imagenet-1k", "image", "label", 1000, 224, 3, grey=True)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CROP = 7 / 8  # fraction of the shorter side in the centre crop of a test image: 224 of 256 pixels


@dataclass(frozen=True)
class LazyImages:
    """Images in files or in an Arrow table, which `batches` decodes.

    Args:
        rows: Rows with encoded image and class: a table of `datasets`, or (path, class) pairs.
        chosen: Positions of the rows that are examples, shape (N,).
        augment: Random crop that `batches(augment=True)` applies. Otherwise, images are cropped at the centre.
        size: Height and width of the decoded images.
        device: Device of the batches.
        workers: Number of worker processes that decode; 0 decodes in the main process.
        layout: Columns and number of classes.

    Example:
        >>> len(LazyImages(["a.jpg", "b.jpg"], torch.tensor([1])))
        1
    """

    rows: Any
    chosen: Tensor
    augment: ResizedCrop | None = None
    size: int = 224
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    layout: Layout = _LAYOUT

    def __len__(self) -> int:
        return len(self.chosen)

    def marks(self) -> list[Tensor]:
        """Return no tensors, because the images are in files; see `Examples.marks`."""
        return []

    def joined(self, other: LazyImages) -> LazyImages:
        """Return these examples followed by those of another part of the same rows."""
        return dataclasses.replace(self, chosen=torch.cat([self.chosen, other.chosen]))

    def batches(self, indices: Iterable[Tensor], uniform: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode batches ahead of their use; see `Examples.batches`."""
        # Plain numbers that are made lazily. Otherwise, an epoch of ImageNet is a million tensors, each of which goes
        # to a worker through its own shared memory.
        wanted = ((index.tolist(), None if uniform is None else uniform[index].tolist()) for index in indices)
        mean, std = (torch.tensor(value, device=self.device).view(3, 1, 1) for value in (_MEAN, _STD))
        loader = DataLoader(
            _Decoder(self),
            batch_size=None,
            sampler=wanted,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed, which must not advance the global generator
        )
        for found in loader:
            if isinstance(found, str):
                raise ValueError(found)
            images, labels = found
            x = images.to(self.device, non_blocking=True).float().div_(255)
            yield (x - mean) / std, labels.to(self.device, non_blocking=True)


class _Decoder(Dataset[Any]):
    """Decoder of batches in a worker: images (B, 3, size, size) of type uint8, and their classes."""

    def __init__(self, data: LazyImages) -> None:
        self.data = data

    def __getitem__(self, wanted: tuple[list[int], list[list[float]] | None]) -> tuple[Tensor, Tensor] | str:
        """Return the batch or an error message, because the loader would wrap an exception in a long traceback."""
        examples, uniform = wanted
        images = torch.empty(len(examples), 3, self.data.size, self.data.size, dtype=torch.uint8)
        labels = torch.empty(len(examples), dtype=torch.int64)
        try:
            for place, example in enumerate(examples):
                numbers = None if uniform is None else torch.tensor(uniform[place])
                images[place], labels[place] = self._one(example, numbers)
        except ValueError as error:
            return str(error)
        return images, labels

    def _one(self, example: int, uniform: Tensor | None) -> tuple[Tensor, int]:
        data = self.data
        index = int(data.chosen[example])
        row = data.rows[index]
        if isinstance(row, tuple):
            path, label = row
            image = {"bytes": None, "path": path}
        else:
            image, label = row[data.layout.image], row[data.layout.label]
        picture = decoded(image, f"image {index}").convert("RGB")
        if not isinstance(label, int) or not 0 <= label < data.layout.classes:
            raise ValueError(f"label {index} is {label!r}, expected a class from 0 to {data.layout.classes - 1}")
        array = _cut(picture, data.size, data.augment, uniform)
        return torch.from_numpy(array).permute(2, 0, 1), label


def _cut(picture: Any, size: int, crop: ResizedCrop | None, uniform: Tensor | None) -> np.ndarray:
    """Return a resized random crop of the image, or its centre: 224 of 256 pixels of the shorter side."""
    wide, high = picture.size
    if crop is None or uniform is None:
        side = min(wide, high) * _CROP
        box = ((wide - side) / 2, (high - side) / 2, (wide + side) / 2, (high + side) / 2)
        mirrored = False
    else:
        x, y, half_wide, half_high, mirror = (float(v) for v in crop.box(uniform[None], wide / high).flatten())
        across, down = (1 + x) * wide / 2, (1 + y) * high / 2
        dx, dy = half_wide * wide / 2, half_high * high / 2
        box = (max(across - dx, 0), max(down - dy, 0), min(across + dx, wide), min(down + dy, high))
        mirrored = mirror < 0
    bilinear = require("PIL.Image", "train").Resampling.BILINEAR
    array = np.asarray(picture.resize((size, size), bilinear, box=box))
    return np.array(array[:, ::-1] if mirrored else array, order="C")  # a writable copy for torch


def load_imagenet(
    where: str | Path | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    validation: float = 0.02,
    augment: bool = True,
    workers: int | None = None,
) -> DataBundle[LazyImages]:
    """Load ImageNet (ILSVRC 2012), whose images of shape (3, 224, 224) are decoded on demand.

    Its validation images serve as test data. Training images are cropped to 10 to 100 % of their area with aspect
    ratios of 0.8 to 1.25, resized to 224 and flipped, as in VISPA's code. Test images are the central 224 of 256
    pixels.

    Args:
        where: Folder of parquet files (train-*.parquet, validation-*.parquet with columns image and label), folder with
            train/CLASS/*.JPEG and val/CLASS/*.JPEG, or a Hugging Face Hub id; None for ILSVRC/imagenet-1k.
        device: Device of the batches.
        seed: Seed of the split.
        validation: Share of the training images that is kept for validation.
        augment: Whether to crop training images at random and flip them.
        workers: Number of worker processes that decode; None for one per core, at most 8.

    Raises:
        ValueError: If the folder or its files are not what is expected; the message says what is.
    """
    check_share(validation)
    count = min(8, _cores()) if workers is None else workers
    where = _LAYOUT.hub if where is None else where
    folder = Path(where)
    if (folder / "train").is_dir() and not parquet_files(folder, "train"):
        rows, names = _folders(folder)
    else:
        rows = [table_of(where, split, _LAYOUT) for split in ("train", "validation")]
        names = class_names(rows[0], _LAYOUT)
    parts = [LazyImages(r, torch.arange(len(r)), device=torch.device(device), workers=count) for r in rows]
    kept, held = held_out(len(parts[0]), validation, seed)
    crop = ResizedCrop((0.1, 1.0), (0.8, 1.25)) if augment else None
    return DataBundle(
        "imagenet",
        dataclasses.replace(parts[0], chosen=kept, augment=crop),
        dataclasses.replace(parts[0], chosen=held) if len(held) else None,
        parts[1],
        _LAYOUT.classes,
        str(where),
        Inputs("image", colour="rgb", height=224, width=224, crop=_CROP, mean=_MEAN, std=_STD, classes=names),
    )


def _cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _folders(folder: Path) -> tuple[list[list[tuple[str, int]]], tuple[str, ...]]:
    """Return (path, class) of every image under train and val, and the folder names, which number the classes."""
    val = next((folder / name for name in ("val", "validation") if (folder / name).is_dir()), None)
    if val is None:
        raise ValueError(f"{folder} has a folder train but neither val nor validation; add one of them")
    names = [sorted(entry.name for entry in place.iterdir() if entry.is_dir()) for place in (folder / "train", val)]
    for mine, theirs, place in ((names[0], names[1], val), (names[1], names[0], folder / "train")):
        missing = sorted(set(mine) - set(theirs))
        if missing:
            raise ValueError(f"{place} has no folder for {len(missing)} of its classes, such as {missing[0]}")
    found = []
    for place in (folder / "train", val):
        rows = [
            (str(file), index)
            for index, name in enumerate(names[0])
            for file in sorted((place / name).iterdir())
            if file.suffix.lower() in (".jpg", ".jpeg", ".png")
        ]
        if not rows:
            raise ValueError(f"{place} has no images; expected CLASS/*.JPEG")
        empty = sorted(set(range(len(names[0]))) - {label for _, label in rows})
        if empty:
            raise ValueError(f"{place} has no images of {len(empty)} classes, such as {names[0][empty[0]]}")
        found.append(rows)
    return found, shown_names(names[0], _LAYOUT)
