"""Where a user's pictures and their classes are: in folders, in tables of `datasets`, or on the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.data.hub import decoded, hub_id, load_hub, nearest_folder, read_parquet, tried
from bitbayes.packed.format.images import SUFFIXES, picture_files

_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("validation", "valid", "val")
_LABELS = ("label", "labels", "class", "target")
# Pictures that are not read.
_OTHERS = (".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jfif", ".jpe", ".jp2", ".ppm")
_LAYOUTS = "FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png"


@dataclass(frozen=True)
class Rows:
    """Pictures of one split, which are not yet decoded.

    Args:
        pictures: Path of each picture, or its row in a table of `datasets`.
        labels: Number of the class of each.
        where: Place of the pictures, for messages.
    """

    pictures: Sequence[Any]
    labels: Sequence[int]
    where: str

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, places: Sequence[int]) -> Rows:
        """Return the pictures at some places."""
        return Rows([self.pictures[at] for at in places], [self.labels[at] for at in places], self.where)

    def picture(self, index: int) -> Any:
        """Return what `read_picture` takes: a path, or a decoded image of Pillow."""
        row = self.pictures[index]
        return decoded(row, self.name(index)) if isinstance(row, dict) else row

    def name(self, index: int) -> str:
        """Return what a message calls a picture."""
        row = self.pictures[index]
        return f"{self.where}: picture {index}" if isinstance(row, dict) else str(row)


@dataclass(frozen=True)
class Splits:
    """Pictures of all splits, and the names of their classes in the order of their numbers."""

    classes: tuple[str, ...]
    train: Rows
    validation: Rows | None = None
    test: Rows | None = None


def find_pictures(where: str | Path) -> Splits:
    """Find a user's pictures.

    Args:
        where: Folder of pictures, folder of parquet files SPLIT-*.parquet, folder that `datasets` has saved, or
            "hub:OWNER/NAME".

    Raises:
        ValueError: If there are none, or they are not in folders or columns that say their classes.
    """
    folder = Path(where)
    if (name := hub_id(where)) is not None:
        return _of_tables(dict(load_hub(where, name)), str(where))
    if not folder.is_dir():
        near = f"; the nearest that exists is {nearest_folder(folder)}" if not folder.exists() else ""
        what = "is no folder" if folder.exists() else "does not exist"
        raise ValueError(f"{where} {what}{near}; give a folder ({_LAYOUTS}) or hub:OWNER/NAME")
    if (folder / "dataset_dict.json").is_file():
        load = require("datasets", "train").load_from_disk
        return _of_tables(dict(tried(lambda: load(str(folder)), where, "all splits")), str(where))
    if files := _parquet(folder):
        return _of_tables({split: read_parquet(paths, where, split) for split, paths in files.items()}, str(where))
    return _of_folders(folder)


def _parquet(folder: Path) -> dict[str, list[str]]:
    """Return the parquet files of each split, which may be in one folder inside."""
    found: dict[str, list[str]] = {}
    every = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    if len({path.parent for path in every}) > 1:
        raise ValueError(f"{folder} holds several data sets; name one of its folders")
    for path in sorted(every):
        found.setdefault(path.stem.partition("-")[0], []).append(str(path))
    return found


def _one(names: Sequence[str], present: Iterable[str]) -> str | None:
    """Return the first of some names that is present, in whatever case."""
    known = {name.casefold(): name for name in present} | {name: name for name in present}
    return next((known[name] for name in names if name in known), None)


# Folders. -----------------------------------------------------------------------------------------------------------


def _of_folders(folder: Path) -> Splits:
    inside = _folders(folder)
    parts = [name for name in inside if _folders(folder / name) and name != "__MACOSX"]  # others may be classes
    train = _one(_TRAIN, parts)
    if train is None:
        if part := _one((*_TEST, *_VALIDATION), parts):
            raise ValueError(f"{folder} has a folder {part} of classes, but none called train; expected {_LAYOUTS}")
        names = tuple(inside)
        _check_classes(folder, names)
        return Splits(names, _in_classes(folder, names))
    validation, test = _one(_VALIDATION, parts), _one(_TEST, parts)
    if test is None:
        validation, test = None, validation
    if unused := sorted(set(parts) - {train, validation, test}):
        raise ValueError(
            f"{folder} has a folder {unused[0]} beside {train}; name a part train, validation or test, or move it away"
        )
    names = tuple(_folders(folder / train))
    _check_classes(folder / train, names)
    found = []
    for part in (validation, test):
        if part is not None and (other := set(_folders(folder / part)) ^ set(names)):
            only = ", ".join(sorted(other))
            raise ValueError(f"{folder / train} and {folder / part} have different classes: {only} in only one of them")
        found.append(None if part is None else _in_classes(folder / part, names))
    return Splits(names, _in_classes(folder / train, names), *found)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _check_classes(folder: Path, names: Sequence[str]) -> None:
    if len(names) > 1:
        return
    if len(names) == 1 and len(_folders(folder / names[0])) > 1:
        raise ValueError(f"{folder} has one folder; its classes seem to be in {folder / names[0]}, so give that one")
    held = f"one class, {names[0]}" if names else "no folders of classes"
    raise ValueError(f"{folder} has {held}; expected two or more: {_LAYOUTS}")


def _in_classes(folder: Path, names: Sequence[str]) -> Rows:
    pictures, labels = [], []
    for label, name in enumerate(names):
        try:
            files = picture_files(folder / name)
        except ValueError:
            raise ValueError(
                f"{folder / name} has no pictures ({', '.join(SUFFIXES)}); every folder beside it is a class, so add "
                "some, or remove the folder"
            ) from None
        for path in sorted((folder / name).rglob("*")):
            if path.suffix.lower() in _OTHERS:  # to leave it out silently would train on less than the user has
                raise ValueError(f"{path} is neither PNG nor JPEG; convert it, or move it out of {folder}")
        pictures += files
        labels += [label] * len(files)
    return Rows(pictures, labels, str(folder))


# Tables. ------------------------------------------------------------------------------------------------------------


def _of_tables(tables: dict[str, Any], where: str) -> Splits:
    train = _one(_TRAIN, tables)
    if train is None:
        raise ValueError(f"{where} has the splits {', '.join(tables)}; expected train")
    validation, test = _one(_VALIDATION, tables), _one(_TEST, tables)
    if test is None:
        validation, test = None, validation
    image, label = _columns(tables[train], where)
    known = _numbers(tables[train], label)
    if len(known) < 2:
        raise ValueError(f"{where} has {len(known)} classes in its column {label}; expected two or more")

    def rows(split: str) -> Rows:
        return _of_table(tables[split], image, label, known, f"{where} ({split})")

    parts = [None if split is None else rows(split) for split in (validation, test)]
    return Splits(tuple(known), rows(train), *parts)


def _numbers(table: Any, label: str) -> dict[str, int]:
    """Return the number of each class by its name; classes without names are called by their numbers."""
    feature = table.features[label]
    names = list(getattr(feature, "names", None) or ())
    if not names and getattr(feature, "dtype", "") == "string":
        names = sorted(set(filter(None, table[label])))
    elif not names:
        numbers = [number for number in table[label] if isinstance(number, int)]
        names = [str(number) for number in range(max(numbers, default=-1) + 1)]
    return {name: index for index, name in enumerate(names)}


def _columns(table: Any, where: str) -> tuple[str, str]:
    """Return the names of the columns of pictures and of classes."""
    kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [name for name in _LABELS if name in kinds]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{where} has columns {', '.join(kinds)}; expected one of pictures (found: {', '.join(images) or 'none'}) "
            f"and one of classes (found: {', '.join(labels) or 'none'})"
        )
    return images[0], labels[0]


def _of_table(table: Any, image: str, label: str, known: dict[str, int], where: str) -> Rows:
    encoded = table.cast_column(image, require("datasets", "train").Image(decode=False))
    labels = []
    for index, value in enumerate(table[label]):
        number = known.get(value) if isinstance(value, str) else value
        if not isinstance(number, int) or not 0 <= number < len(known):
            raise ValueError(f"{where}: label {index} is {value!r}, expected a class from 0 to {len(known) - 1}")
        labels.append(number)
    return Rows(list(encoded[image]), labels, where)
