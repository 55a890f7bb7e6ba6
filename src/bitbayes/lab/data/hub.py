"""Images of one split, from a folder of parquet or idx files or from the Hugging Face Hub."""

from __future__ import annotations

import glob
import gzip
import io
import logging
import stat
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitbayes.errors import closest, require
from bitbayes.hub.remote import is_id
from bitbayes.packed.format.inputs import MAX_NAME

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
# Formats of real data sets. Pillow reads 40 more formats, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_HUB = "hub:"
_ROWS = 1000  # rows that are taken from Arrow at a time
_OFFLINE = "; without a network, give a folder of its parquet files (--data, or --unlike-data for what --unlike names)"
MOST_BYTES = 2**33  # most bytes of a split's decoded images, which are all in memory; Tiny-ImageNet has 1.2 · 10⁹


@dataclass(frozen=True)
class Layout:
    """Layout of a data set on the Hugging Face Hub.

    Args:
        hub: Hub id.
        image: Column of the images.
        label: Column of the classes.
        classes: Number of classes.
        size: Height and width of every image.
        channels: 1 for 8-bit grey, 3 for RGB.
        grey: Whether grey images among colour images are accepted.
        idx: Whether folders may also hold the original idx files of MNIST.
        names: Names of the classes; () to use those of the data set itself.
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
        where: Folder of parquet files SPLIT-*.parquet or of idx files, or a Hugging Face Hub id.
        split: "train", "test", ...
        layout: Expected layout.

    Returns:
        Images of type uint8, shape (N, H, W) or (N, H, W, 3); and classes, shape (N,).

    Raises:
        ValueError: If the folder, a file, a column, an image or a label is not as expected.
    """
    folder = Path(where)
    if layout.idx and all((folder / file).is_file() for file in _IDX_FILES[split]):
        return _read_idx(folder, split)
    images, labels = _decode(table_of(where, split, layout), where, layout)
    if int(labels.min()) < 0 or int(labels.max()) >= layout.classes:
        raise ValueError(f"{where}: the {split} labels are not classes from 0 to {layout.classes - 1}")
    return images, labels


def _read_idx(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    arrays = []
    for file, header in zip(_IDX_FILES[split], (16, 8), strict=True):
        try:
            with gzip.open(folder / file) as unpacked:
                raw = unpacked.read(MOST_BYTES + 1)  # a small file may unpack to any size
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{folder / file} cannot be read: {error}") from None
        if len(raw) > MOST_BYTES:
            raise ValueError(f"{folder / file} unpacks to more than the limit of {MOST_BYTES:,} bytes")
        if len(raw) < header:
            raise ValueError(f"{folder / file} cannot be read: it ends after {len(raw)} bytes")
        arrays.append(np.frombuffer(raw, dtype=np.uint8, offset=header).copy())
    images, labels = arrays
    if len(labels) == 0 or len(images) != len(labels) * 784:
        raise ValueError(f"{folder}: {len(images)} pixels do not make {len(labels)} images of 28 by 28")
    if labels.max() > 9:
        raise ValueError(f"{folder}: the {split} labels are not classes from 0 to 9")
    return torch.from_numpy(images).view(-1, 28, 28), torch.from_numpy(labels).long()


def parquet_files(folder: Path, split: str) -> list[str]:
    """Return the sorted paths of a split's parquet files.

    Clones of the hub keep the files in a subfolder that is named data or after the configuration.

    Raises:
        ValueError: If several subfolders have such files.
    """
    files = sorted(str(f) for place in (".", "*") for f in folder.glob(f"{place}/{split}-*.parquet"))
    if len({Path(file).parent for file in files}) > 1:
        raise ValueError(f"{folder} holds several data sets; give one of its subfolders")
    return files


def table_of(where: str | Path, split: str, layout: Layout) -> Any:
    """Return the rows of a split as a table of `datasets`, with encoded images; see `read_split`."""
    table = _found(where, split, layout)
    missing = [column for column in (layout.image, layout.label) if column not in table.column_names]
    if missing:
        raise ValueError(f"{where} has columns {table.column_names}, expected {layout.image} and {layout.label}")
    try:
        return table.cast_column(layout.image, require("datasets", "train").Image(decode=False))
    except Exception as error:  # the error depends on the type of the column
        held = getattr(table.features[layout.image], "dtype", table.features[layout.image])
        raise ValueError(
            f"{where}: column {layout.image} holds values of type {held}, expected encoded images (bytes) or paths"
        ) from error


def class_names(table: Any, layout: Layout) -> tuple[str, ...]:
    """Return the class names of a table, or () if it has none that can be shown."""
    return shown_names(getattr(table.features[layout.label], "names", None) or (), layout)


def shown_names(names: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Return class names, shortened if long, or () if some are missing or cannot be shown."""
    return printable_names(names) if len(names) == layout.classes else ()


def printable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names, shortened if long, or () if one of them cannot be shown.

    Raises:
        ValueError: If two names, or what is shown of them, are equal.
    """
    sound = all(name.isprintable() and not name.isspace() for name in names)
    shown = tuple(name[:MAX_NAME] for name in names)
    twice, count = Counter(shown).most_common(1)[0] if shown and sound else ("", 1)
    if count > 1:
        raise ValueError(
            f"two classes have the name {twice!r}, of which {MAX_NAME} characters are kept; give each class its own"
        )
    return shown if sound and all(names) else ()


def hub_id(where: str | Path) -> str | None:
    """Return the id in "hub:OWNER/NAME", which stands for the hub whatever folders there are; None for other places.

    Example:
        >>> hub_id("hub:ylecun/mnist"), hub_id("data/mnist")
        ('ylecun/mnist', None)
    """
    return str(where)[len(_HUB) :] if str(where).startswith(_HUB) else None


def load_hub(where: str | Path, name: str, split: str | None = None) -> Any:
    """Return a split of a data set on the hub, or all its splits.

    Args:
        where: Name that the user gave, for messages.
        name: Id, from `hub_id`.
        split: "train", "test", ...; None for a dict of all.

    Raises:
        ValueError: If the id is none, or stands for a local folder, or the data set cannot be loaded.
    """
    if not is_id(name):
        raise ValueError(f"{where} is no data set on the hub; give hub:OWNER/NAME")
    if Path(name).exists():  # which `datasets` would read
        raise ValueError(
            f"{where} would be read from the folder {name} here; start from another folder, or give {name}"
        )
    return _loaded(where, name, split)


def read_parquet(paths: Sequence[str], where: str | Path, split: str) -> Any:
    """Return the rows of parquet files.

    `load_dataset` would report to a host that the package's parquet reader was used. The library treats the names of
    files as patterns, so a folder called my[mnist] would match nothing.
    """
    read = require("datasets", "train").Dataset.from_parquet
    return tried(lambda: read(list(map(glob.escape, paths)), split=split), where, split)


def _loaded(where: str | Path, name: str, split: str | None) -> Any:
    load = require("datasets", "train").load_dataset
    return tried(lambda: load(name, split=split), where, split or "all splits", _OFFLINE)


def _found(where: str | Path, split: str, layout: Layout) -> Any:
    folder = Path(where)
    if (name := hub_id(where)) is not None:
        return load_hub(where, name, split)
    if folder.is_dir():
        files = parquet_files(folder, split)
        if not files:
            absent = f" and no {_IDX_FILES[split][0]}" if layout.idx else ""
            raise ValueError(
                f"{where} has no {split}*.parquet{absent}; expected the layout of the hub's {layout.hub} (columns "
                f"{layout.image} and {layout.label})" + (" or the original idx files" if layout.idx else "")
            )
        return read_parquet(files, where, split)
    # A path like data/mnist is a hub id only if there is no folder data here, so that a typing error does not go
    # online.
    local = str(where).startswith((".", "/", "~")) or str(where).count("/") != 1 or folder.parent.is_dir()
    if folder.exists() or local:
        near = "it is a file" if folder.exists() else f"the nearest that exists is {nearest_folder(folder)}"
        raise ValueError(
            f"no data folder {where} ({near}); give a folder of parquet files, or a hub id such as {layout.hub}"
        )
    return _loaded(where, str(where), split)


def nearest_folder(path: Path) -> str:
    """Return the folder with the most similar name to a missing one, or its deepest existing parent, for messages.

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


def tried(read: Callable[[], Any], where: str | Path, split: str, hint: str = "") -> Any:
    """Return what `read` returns, without output; every failure becomes a one-line error."""
    require("datasets", "train").disable_progress_bars()
    try:
        with _quiet("datasets", "huggingface_hub"):
            return read()
    except Exception as error:  # the hub, the network and the file formats raise many types of errors
        raise ValueError(f"cannot load {split} of {where}: {_first_line(error)}{hint}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence loggers temporarily, because the raised error says what went wrong."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _values(table: Any, column: str) -> Iterator[Any]:
    """Yield the values of a column from Arrow, because `datasets` takes half as long as Pillow to format a row."""
    for part in table.select_columns(column).with_format("arrow").iter(_ROWS):
        yield from part[column].to_pylist()


def _decode(table: Any, where: str | Path, layout: Layout) -> tuple[Tensor, Tensor]:
    count, side = len(table), layout.size
    shape = (count, side, side) if layout.channels == 1 else (count, side, side, layout.channels)
    if not count:
        raise ValueError(f"{where} has no images")
    if (size := count * side * side * layout.channels) > MOST_BYTES:
        raise ValueError(f"{where}: {count:,} images take {size:,} bytes, more than the limit of {MOST_BYTES:,}")
    images = np.empty(shape, dtype=np.uint8)
    # Opening raw bytes is several times faster than the library's own decoding row by row.
    for index, row in enumerate(_values(table, layout.image)):
        images[index] = _pixels(row, f"{where}: image {index}", layout)
    labels = list(_values(table, layout.label))
    for index, label in enumerate(labels):
        if not isinstance(label, int):
            last = layout.classes - 1
            raise ValueError(f"{where}: label {index} is {label!r}, expected a whole number from 0 to {last}")
    return torch.from_numpy(images), torch.tensor(labels, dtype=torch.int64)


def decoded(row: Any, which: str, side: int | None = None) -> Any:
    """Decode the image in a row of the hub, after checking its size.

    Args:
        row: Encoded "bytes" of the image, or its "path".
        which: Name of the image in error messages.
        side: Required height and width of the image; None for any size up to Pillow's `MAX_IMAGE_PIXELS`.

    Returns:
        The Pillow image.

    Raises:
        ValueError: If the image is missing, has another size, or cannot be decoded.
    """
    pillow = require("PIL.Image", "train")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few images of ImageNet have damaged metadata
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            picture = pillow.open(_source(row, which), formats=_FORMATS)
            wide, high = picture.size
            if side is not None and (high, wide) != (side, side):
                raise _Refused(f"{which} has {high} by {wide} pixels, not {side} by {side}")
            picture.load()
    except _Refused:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning):
        most = f"more than the {pillow.MAX_IMAGE_PIXELS:,} pixels that Pillow decodes"
        raise ValueError(f"{which} has {most}; make it smaller or leave it out") from None
    except Exception as error:  # every format raises its own errors
        raise ValueError(f"{which} cannot be decoded: {_first_line(error)}") from None
    return picture


class _Refused(ValueError):
    """Error whose message is complete."""


def _source(row: Any, which: str) -> Any:
    """Return encoded bytes or the path of a regular file for Pillow; a pipe would block forever."""
    if row is None:
        raise _Refused(f"{which} is missing")
    if row["bytes"] is not None:
        return io.BytesIO(row["bytes"])
    path = row["path"]
    if path is None:
        raise _Refused(f"{which} has neither bytes nor a path")
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise _Refused(f"{which} cannot be decoded: {path} is not a regular file")
    return path


def _pixels(row: Any, which: str, layout: Layout) -> np.ndarray:
    picture = decoded(row, which, layout.size)
    wanted = {1: "L", 3: "RGB"}[layout.channels]
    if picture.mode == "L" and layout.grey:
        picture = picture.convert(wanted)
    if picture.mode != wanted:
        # Palette indices, single bits or 16-bit values would be read as grey levels and give wrong numbers.
        expected = {1: "one channel of 8 bits (L)", 3: "three channels of 8 bits (RGB)"}[layout.channels]
        raise ValueError(f"{which} has mode {picture.mode}, expected {expected}")
    return np.asarray(picture)
