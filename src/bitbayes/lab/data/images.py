"""Images as one uint8 tensor a split: the 8×8 digits of scikit-learn, MNIST, Fashion-MNIST."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitbayes.errors import require
from bitbayes.lab.data.bundle import DataBundle, TensorData, check_share, held_out
from bitbayes.lab.data.hub import Layout, parquet_files, read_split

__all__ = ["load_digits", "load_fashion_mnist", "load_mnist"]

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def load_digits(*, device: torch.device | str = "cpu", seed: int = 0) -> DataBundle[TensorData]:
    """The 1,797 scans of handwritten digits that ship with scikit-learn, 8×8 pixels.

    Args:
        device: Where the tensors go.
        seed: Seed of the split into 1,197 to train, 200 for validation and 400 for test (each class in proportion).

    Returns:
        Inputs of shape (N, 64), uint8.
    """
    raw = require("sklearn.datasets", "train").load_digits()
    split = require("sklearn.model_selection", "train").train_test_split
    images = torch.tensor(raw.data * (255 / 16)).round().to(torch.uint8)
    labels = torch.tensor(raw.target, dtype=torch.int64)
    rest, test = split(np.arange(len(labels)), test_size=400, stratify=raw.target, random_state=seed)
    train, validation = split(rest, test_size=200, stratify=raw.target[rest], random_state=seed)
    pixels = images[torch.as_tensor(train)].float() / 255
    mean, std = float(pixels.mean()), float(pixels.std())

    def part(index: np.ndarray) -> TensorData:
        chosen = torch.as_tensor(index)
        return TensorData(images[chosen].to(device), labels[chosen].to(device), mean, std)

    return DataBundle("digits", part(train), part(validation), part(test), 10, "scikit-learn")


def load_mnist(
    where: str | Path = "ylecun/mnist",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
) -> DataBundle[TensorData]:
    """MNIST: 60,000 images to train on, of which a part is kept for validation, and 10,000 to test.

    Args:
        where: A folder of parquet files (train-*.parquet, test-*.parquet with columns image and label), a folder of
            the original idx files (*.gz), or a hub id.
        device: Where the tensors go.
        validation: Share of the training images kept for validation, drawn by `seed`.
        seed: Seed of that draw.

    Returns:
        Inputs of shape (N, 784), uint8.

    Raises:
        ValueError: If the folder or its files are not what is expected; the message says what is.
    """
    return _load(Layout("ylecun/mnist"), where, device, validation, seed, 0.1307, 0.3081)


def load_fashion_mnist(
    where: str | Path = "zalando-datasets/fashion_mnist",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
) -> DataBundle[TensorData]:
    """Fashion-MNIST: the same sizes and layouts as `load_mnist`.

    Args:
        where: Folder or hub id, as for `load_mnist`.
        device: Where the tensors go.
        validation: Share of the training images kept for validation.
        seed: Seed of that draw.

    Returns:
        Inputs of shape (N, 784), uint8.

    Raises:
        ValueError: If the folder or its files are not what is expected.
    """
    layout = Layout("zalando-datasets/fashion_mnist")
    return _load(layout, where, device, validation, seed, 0.2860, 0.3530)


def _load(
    layout: Layout, where: str | Path, device: torch.device | str, validation: float, seed: int, mean: float, std: float
) -> DataBundle[TensorData]:
    check_share(validation)
    train, test = (_read(where, split, layout) for split in ("train", "test"))

    def part(x: Tensor, y: Tensor) -> TensorData:
        return TensorData(x.flatten(1).to(device), y.to(device), mean=mean, std=std)

    kept, held = held_out(len(train[1]), validation, seed)
    return DataBundle(
        layout.hub.partition("/")[2].replace("_", "-"),
        part(*(tensor[kept] for tensor in train)),
        part(*(tensor[held] for tensor in train)) if len(held) else None,
        part(*test),
        layout.classes,
        str(where),
    )


def _read(where: str | Path, split: str, layout: Layout) -> tuple[Tensor, Tensor]:
    """Images (N, height, width) uint8 and labels (N,) of one split, from idx files, parquet files or the hub."""
    folder = Path(where)
    if folder.is_dir():
        if all((folder / file).is_file() for file in _IDX_FILES[split]):
            return _read_idx(folder, split)
        if not parquet_files(folder, split):
            raise ValueError(
                f"{where} has no {split}*.parquet and no {_IDX_FILES[split][0]}; expected the layout of the hub's "
                f"{layout.hub} (columns image and label) or the original idx files"
            )
    return read_split(where, split, layout)


def _read_idx(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    arrays = []
    for file, header in zip(_IDX_FILES[split], (16, 8), strict=True):
        try:
            raw = gzip.decompress((folder / file).read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{folder / file} cannot be read: {error}") from None
        arrays.append(np.frombuffer(raw, dtype=np.uint8, offset=header).copy())
    images, labels = arrays
    if len(labels) == 0 or len(images) != len(labels) * 784:
        raise ValueError(f"{folder}: {len(images)} pixels do not make {len(labels)} images of 28 by 28")
    if labels.max() > 9:
        raise ValueError(f"{folder}: the {split} labels are not classes from 0 to 9")
    return torch.from_numpy(images).view(-1, 28, 28), torch.from_numpy(labels).long()
