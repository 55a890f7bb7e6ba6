"""Images as one uint8 tensor a split: the 8×8 digits of scikit-learn, MNIST, Fashion-MNIST."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitbayes.data.bundle import DataBundle, TensorData
from bitbayes.data.folder import nearest
from bitbayes.functional import require

__all__ = ["load_digits", "load_fashion_mnist", "load_mnist"]

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def load_digits(*, device: torch.device | str = "cpu", seed: int = 0) -> DataBundle:
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
    scale = {"mean": float(pixels.mean()), "std": float(pixels.std())}

    def part(index: np.ndarray) -> TensorData:
        chosen = torch.as_tensor(index)
        return TensorData(images[chosen].to(device), labels[chosen].to(device), **scale)

    return DataBundle("digits", part(train), part(validation), part(test), 10, "scikit-learn")


def load_mnist(
    where: str | Path = "ylecun/mnist",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
) -> DataBundle:
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
    return _load("mnist", where, device, validation, seed, mean=0.1307, std=0.3081)


def load_fashion_mnist(
    where: str | Path = "zalando-datasets/fashion_mnist",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
) -> DataBundle:
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
    return _load("fashion-mnist", where, device, validation, seed, mean=0.2860, std=0.3530)


def _load(
    name: str, where: str | Path, device: torch.device | str, validation: float, seed: int, *, mean: float, std: float
) -> DataBundle:
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share in [0, 1), got {validation}")
    tensors = {split: _read(where, split) for split in ("train", "test")}
    for split, (images, labels) in tensors.items():
        if images.shape[1:] != (28, 28):
            raise ValueError(f"{where}: the {split} images are not 28 by 28 pixels in one channel")
        if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) > 9:
            raise ValueError(f"{where}: the {split} labels are not classes from 0 to 9")
    images, labels = tensors["train"]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    kept = int(validation * len(images))

    def part(x: Tensor, y: Tensor) -> TensorData:
        return TensorData(x.flatten(1).to(device), y.to(device), mean=mean, std=std)

    held = part(images[order[:kept]], labels[order[:kept]]) if kept else None
    train = part(images[order[kept:]], labels[order[kept:]])
    return DataBundle(name, train, held, part(*tensors["test"]), 10, str(where))


def _read(where: str | Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, height, width) uint8 and labels (N,) of one split, from a folder or the hub."""
    folder = Path(where)
    if folder.is_dir():
        if all((folder / file).is_file() for file in _IDX_FILES[split]):
            return _read_idx(folder, split)
        # The hub's own clones keep the files in a folder named data, or one named after the configuration.
        files = sorted(str(f) for place in (".", "*") for f in folder.glob(f"{place}/{split}-*.parquet"))
        if len({Path(file).parent for file in files}) > 1:
            raise ValueError(f"{where} holds several data sets; name one of its folders")
        if not files:
            raise ValueError(
                f"{where} has no {split}*.parquet and no {_IDX_FILES[split][0]}; expected the layout of the hub's "
                "ylecun/mnist (columns image and label) or the original idx files"
            )
        return _decode(_open("parquet", where, split, data_files={split: files}), where)
    # A path like data/mnist is a hub id only if there is no folder data here: a slip of the pen should not go online.
    local = str(where).startswith((".", "/", "~")) or str(where).count("/") != 1 or folder.parent.is_dir()
    if folder.exists() or local:
        near = "it is a file" if folder.exists() else f"the nearest that exists is {nearest(folder)}"
        raise ValueError(
            f"no data folder {where} ({near}); give a folder of parquet or idx files, or a hub id such as ylecun/mnist"
        )
    return _decode(_open(str(where), where, split), where)


def _open(path: str, where: str | Path, split: str, **options: Any) -> Any:
    datasets = require("datasets", "train")
    datasets.disable_progress_bars()
    try:
        with _quiet("datasets", "huggingface_hub"):
            return datasets.load_dataset(path, split=split, **options)
    except Exception as error:  # the hub, the network and the file formats each raise their own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"cannot load {split} of {where}: {first}") from error


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silences loggers for a while, because what goes wrong is in the error that we raise."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _decode(table: Any, where: str | Path) -> tuple[Tensor, Tensor]:
    missing = [column for column in ("image", "label") if column not in table.column_names]
    if missing:
        raise ValueError(f"{where} has columns {table.column_names}, expected image and label")
    image = require("PIL.Image", "train")
    # Raw bytes and one open a picture: several times faster than the library's own decoding row by row.
    rows: Sequence[Any] = table.cast_column("image", require("datasets", "train").Image(decode=False))["image"]
    pixels = []
    for row in rows:
        if row is None:
            raise ValueError(f"{where}: image {len(pixels)} is missing")
        try:
            raw = row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()
            picture = image.open(io.BytesIO(raw))
            array = np.asarray(picture)
        except OSError as error:
            raise ValueError(f"{where}: image {len(pixels)} cannot be decoded: {error}") from None
        if picture.mode != "L":
            # Palette indices, single bits or 16-bit values would pass for grey levels and give wrong numbers.
            raise ValueError(
                f"{where}: image {len(pixels)} has mode {picture.mode}, expected one channel of 8 bits (L)"
            )
        pixels.append(array)
    if len({p.shape for p in pixels}) > 1:
        raise ValueError(f"{where}: images of different sizes")
    if not pixels:
        raise ValueError(f"{where} has no images")
    labels = list(table["label"])
    for index, label in enumerate(labels):
        if not isinstance(label, int):
            raise ValueError(f"{where}: label {index} is {label!r}, expected a whole number from 0 to 9")
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels, dtype=torch.int64)


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
    return torch.from_numpy(images).view(-1, 28, 28), torch.from_numpy(labels).long()
