"""Images of one split, from a folder of parquet or idx files or from the Hugging Face hub."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitbayes.errors import closest, require
from bitbayes.packed.format.inputs import MAX_NAME

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclass(frozen=True)
class Layout:
    """Layout of a data set on the hub.

    Args:
        hub: Hub id.
        image: Column of the images.
        label: Column of the classes.
        classes: Number of classes.
        size: Height and width of every image.
        channels: 1 for 8-bit grey, 3 for RGB.
        grey: Whether grey images among colour ones are accepted.
        idx: Whether folders may also hold the original idx files of MNIST.
        names: Names of the classes; () to take those that the data set itself has.
    """

    hub: str
    image: str = "image"
    label: str = "label"
    classes: int = 10
    size: int = 28
    channels: int = 1
    grey: bool = False
    idx: bool = False
    names: tuple[str, ...] = ()


def read_split(where: str | Path, split: str, layout: Layout) -> tuple[Tensor, Tensor]:
    """Decode every image of a split.

    Args:
        where: Folder of parquet files SPLIT-*.parquet or of idx files, or a hub id.
        split: "train", "test", ...
        layout: Layout to expect.

    Returns:
        Images, shape (N, H, W) or (N, H, W, 3), uint8; and classes, shape (N,).

    Raises:
        ValueError: If the folder, a file, a column, an image or a label is not as expected.
    """
    folder = Path(where)
    if layout.idx and all((folder / file).is_file() for file in _IDX_FILES[split]):
        return _read_idx(folder, split)
    images, labels = _decode(table_of(where, split, layout), where, layout)
    high, wide = images.shape[1:3]
    if (high, wide) != (layout.size, layout.size):
        raise ValueError(f"{where}: the {split} images are {high} by {wide} pixels, not {layout.size} by {layout.size}")
    if int(labels.min()) < 0 or int(labels.max()) >= layout.classes:
        raise ValueError(f"{where}: the {split} labels are not classes from 0 to {layout.classes - 1}")
    return images, labels


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


def parquet_files(folder: Path, split: str) -> list[str]:
    """Return the sorted paths of a split's parquet files.

    Clones of the hub keep them in a folder inside, named data or after the configuration.

    Raises:
        ValueError: If several folders inside have such files.
    """
    files = sorted(str(f) for place in (".", "*") for f in folder.glob(f"{place}/{split}-*.parquet"))
    if len({Path(file).parent for file in files}) > 1:
        raise ValueError(f"{folder} holds several data sets; name one of its folders")
    return files


def table_of(where: str | Path, split: str, layout: Layout) -> Any:
    """Return the rows of a split as a table of `datasets`, with encoded images; see `read_split`."""
    table = _found(where, split, layout)
    missing = [column for column in (layout.image, layout.label) if column not in table.column_names]
    if missing:
        raise ValueError(f"{where} has columns {table.column_names}, expected {layout.image} and {layout.label}")
    return table.cast_column(layout.image, require("datasets", "train").Image(decode=False))


def class_names(table: Any, layout: Layout) -> tuple[str, ...]:
    """Return the names that a table gives to its classes, or () if it has none that can be shown."""
    return shown_names(getattr(table.features[layout.label], "names", None) or (), layout)


def shown_names(names: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Return names of classes, cut if they are long, or () if they are not those of all classes or cannot be shown."""
    sound = len(names) == layout.classes and all(name.isprintable() and not name.isspace() for name in names)
    return tuple(name[:MAX_NAME] for name in names) if sound and all(names) else ()


def _found(where: str | Path, split: str, layout: Layout) -> Any:
    folder = Path(where)
    if folder.is_dir():
        files = parquet_files(folder, split)
        if not files:
            absent = f" and no {_IDX_FILES[split][0]}" if layout.idx else ""
            raise ValueError(
                f"{where} has no {split}*.parquet{absent}; expected the layout of the hub's {layout.hub} (columns "
                f"{layout.image} and {layout.label})" + (" or the original idx files" if layout.idx else "")
            )
        return _open("parquet", where, split, data_files={split: files})
    # A path like data/mnist is a hub id only if there is no folder data here: a slip of the pen should not go online.
    local = str(where).startswith((".", "/", "~")) or str(where).count("/") != 1 or folder.parent.is_dir()
    if folder.exists() or local:
        near = "it is a file" if folder.exists() else f"the nearest that exists is {nearest_folder(folder)}"
        raise ValueError(
            f"no data folder {where} ({near}); give a folder of parquet files, or a hub id such as {layout.hub}"
        )
    return _open(str(where), where, split, "; without a network, give a folder of its parquet files")


def nearest_folder(path: Path) -> str:
    """Return the folder whose name is most like a missing one's, or else the deepest that exists, for error messages.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "mnist").mkdir()
        >>> nearest_folder(root / "mnsit") == str(root / "mnist")
        True
    """
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    present = {entry.name: str(entry) for entry in missing.parent.iterdir() if entry.is_dir()}
    alike = closest(missing.name, present, 0.6)
    return str(missing.parent.absolute()) if alike is None else present[alike]


def _open(path: str, where: str | Path, split: str, hint: str = "", **options: Any) -> Any:
    datasets = require("datasets", "train")
    datasets.disable_progress_bars()
    try:
        with _quiet("datasets", "huggingface_hub"):
            return datasets.load_dataset(path, split=split, **options)
    except Exception as error:  # the hub, the network and the file formats each raise their own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"cannot load {split} of {where}: {first}{hint}") from error


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence loggers for a while, because the error that is raised says what goes wrong."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _decode(table: Any, where: str | Path, layout: Layout) -> tuple[Tensor, Tensor]:
    # Opening raw bytes is several times faster than the library's own decoding row by row.
    rows: Sequence[Any] = table[layout.image]
    pixels = [_pixels(row, f"{where}: image {index}", layout) for index, row in enumerate(rows)]
    if len({p.shape for p in pixels}) > 1:
        raise ValueError(f"{where}: images of different sizes")
    if not pixels:
        raise ValueError(f"{where} has no images")
    labels = list(table[layout.label])
    for index, label in enumerate(labels):
        if not isinstance(label, int):
            last = layout.classes - 1
            raise ValueError(f"{where}: label {index} is {label!r}, expected a whole number from 0 to {last}")
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels, dtype=torch.int64)


def decoded(row: Any, which: str) -> Any:
    """Return the picture of Pillow in a row of the hub, or raise ValueError, where `which` names the picture."""
    if row is None:
        raise ValueError(f"{which} is missing")
    try:
        source = row["path"] if row["bytes"] is None else io.BytesIO(row["bytes"])
        picture = require("PIL.Image", "train").open(source)
        picture.load()
    except OSError as error:
        raise ValueError(f"{which} cannot be decoded: {error}") from None
    return picture


def _pixels(row: Any, which: str, layout: Layout) -> np.ndarray:
    picture = decoded(row, which)
    wanted = {1: "L", 3: "RGB"}[layout.channels]
    if picture.mode == "L" and layout.grey:
        picture = picture.convert(wanted)
    if picture.mode != wanted:
        # Palette indices, single bits or 16-bit values would pass for grey levels and give wrong numbers.
        expected = {1: "one channel of 8 bits (L)", 3: "three channels of 8 bits (RGB)"}[layout.channels]
        raise ValueError(f"{which} has mode {picture.mode}, expected {expected}")
    return np.asarray(picture)
