"""Text as bytes: Python's own standard library, a folder of text files, or a data set on the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bitbayes.lab.data.bundle import DataBundle
from bitbayes.lab.data.hub import hub_id, load_hub, nearest_folder

BYTES = 256
"""Number of different bytes."""
BOUNDARY = 0
"""Byte before every file. A text does not contain it."""
WINDOW = 256
"""Number of bytes that a network reads at a time."""
MOST_TEXT = 2**30
"""Most bytes of text that are read, because all of them are in memory."""

Document = tuple[str, bytes]  # name and content

_PLACES = 2**23  # values of a uniform number, at equal distances in (0, 1); see `Noise.uniform`
_EPOCH, _HELD = 4096, 1024  # most windows of an epoch, and of validation and test data
_SHARE = 20  # one file of 20 is for validation, and one for testing
# Folders of the standard library that hold tests, tables, or packages of others.
_SKIPPED = {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages"}
_COLUMNS = ("text", "content", "code")  # of a data set on the hub, the first that is there


@dataclass(frozen=True)
class RandomWindows:
    """Augmentation of text: a window may begin at any byte.

    Args:
        uniforms: Uniform numbers per window. One number of 23 bits tells 8 Mi places apart, and two tell 2⁴⁶.
            `TextData` takes two if its text needs them.

    Example:
        >>> RandomWindows()(torch.tensor([9, 9]), torch.tensor([[0.0], [0.55]]))
        tensor([0, 5])
    """

    uniforms: int = 1

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Return first positions from 0 to the last possible ones, `images`; both of shape (N,)."""
        place = uniform[:, 0].double()
        if self.uniforms == 2:
            place += (uniform[:, 1].double() - 0.5) / _PLACES
        return (place * (images + 1)).long().minimum(images)


@dataclass(frozen=True)
class TextData:
    """Windows of a text as examples: the bytes of a window, and for each of them the byte that follows.

    Args:
        text: All bytes, type uint8, shape (B,).
        window: Number of bytes of a window, T.
        most: Largest number of windows. Those of a longer text lie at equal distances.
        augment: `RandomWindows()` to draw the windows anew in each epoch, or None for the same windows.

    Raises:
        ValueError: If the text is shorter than a window and the byte after it.

    Example:
        >>> data = TextData(torch.tensor([10, 11, 12, 13, 14], dtype=torch.uint8), window=2)
        >>> len(data), next(data.batches([torch.tensor([1])]))
        (2, (tensor([[12, 13]]), tensor([[13, 14]])))
    """

    text: Tensor
    window: int = WINDOW
    most: int = _EPOCH
    augment: RandomWindows | None = None

    def __post_init__(self) -> None:
        if len(self.text) <= self.window:
            raise ValueError(f"a window needs {self.window + 1} bytes of text, got {len(self.text)}")
        if self.augment is not None and len(self.text) > _PLACES:
            object.__setattr__(self, "augment", RandomWindows(uniforms=2))

    def __len__(self) -> int:
        return min((len(self.text) - 1) // self.window, self.most)

    def joined(self, other: TextData) -> TextData:
        """Return the windows of this text followed by another text."""
        return dataclasses.replace(self, text=torch.cat([self.text, other.text]))

    def marks(self) -> list[Tensor]:
        """Return the whole text; see `Examples.marks`."""
        return [self.text]

    def batches(self, indices: Iterable[Tensor], uniform: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield bytes and the bytes that follow them, int64 of shape (N, T); see `Examples.batches`."""
        device, last = self.text.device, len(self.text) - self.window - 1
        along = torch.arange(self.window + 1, device=device)
        for index in indices:
            at = index.to(device)
            if uniform is not None and self.augment is not None:
                first = self.augment(torch.full_like(at, last), uniform.to(device)[at])
            else:
                first = at * last // max(len(self) - 1, 1)
            found = self.text[first[:, None] + along].long()
            yield found[:, :-1], found[:, 1:]


def load_text(where: str | None, device: torch.device | str = "cpu", seed: int = 0) -> DataBundle[TextData]:
    """Load text as windows of 256 bytes.

    The hash of a file's name puts one file of twenty into the validation data and one into the test data. Where this
    leaves too little, as for a single file, the text is divided by position: nine tenths for training, one twentieth
    for validation, and the last twentieth for testing. Byte 0 is put before every file.

    An epoch has as many windows as the training text, but at most 4,096 (1 MiB), drawn anew for each epoch. Validation
    and test data have at most 1,024 windows each.

    Args:
        where: Folder of text files, a single text file, or hub id as "hub:OWNER/NAME". Hidden files are left out. None
            reads the programs of Python's standard library, without tests and tables.
        device: Device of the tensors.
        seed: Not used: all runs on a text have the same validation data.

    Raises:
        ValueError: If there is no such folder, a file is not text, or the text is too short or too long.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "play.txt")
        >>> _ = file.write_text("to be or not to be, " * 500)
        >>> data = load_text(str(file))
        >>> len(data.train), len(data.validation), len(data.test)
        (35, 1, 1)
    """
    name, documents = ("Python's standard library", _library()) if where is None else (str(where), _documents(where))
    parts = _divided(documents)
    if min(map(len, parts)) <= WINDOW:
        total, least = sum(map(len, parts)), _SHARE * (WINDOW + 1)
        raise ValueError(f"{name} has {total:,} bytes of text; expected {least:,} or more, so give more text")
    train, validation, test = (torch.frombuffer(part, dtype=torch.uint8).to(device) for part in parts)
    return DataBundle(
        "text",
        TextData(train, augment=RandomWindows()),
        TextData(validation, most=_HELD),
        TextData(test, most=_HELD),
        BYTES,
        name,
    )


def _divided(documents: Iterable[Document]) -> list[bytearray]:
    """Return the bytes for training, validation and testing, each text after a boundary."""
    parts, every = [bytearray(), bytearray(), bytearray()], bytearray()
    for name, content in documents:
        number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) % _SHARE
        for part in (parts[{0: 1, 1: 2}.get(number, 0)], every):
            part.append(BOUNDARY)
            part += content
    # Training gets less than half, another part less than a quarter of what is meant, or a part less than a window.
    least = min(map(len, parts))
    if 2 * len(parts[0]) < len(every) or least * 4 * _SHARE < len(every) or least <= WINDOW:
        held = len(every) // _SHARE
        cuts = len(every) - 2 * held, len(every) - held
        return [every[: cuts[0]], every[cuts[0] : cuts[1]], every[cuts[1] :]]
    return parts


def _library() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    # A file of build settings differs between machines with the same Python.
    return _read(root, lambda path: path.suffix == ".py" and not path.name.startswith("_sysconfigdata"), _SKIPPED)


def _documents(where: str) -> Iterator[Document]:
    if (name := hub_id(where)) is not None:
        return _rows(dict(load_hub(where, name)), where)
    path = Path(where)
    if path.is_file():
        return iter([(path.name, _content(path))])
    if not path.is_dir():
        what = "is no file" if path.exists() else f"does not exist; the nearest that exists is {nearest_folder(path)}"
        raise ValueError(f"{where} {what}; give a folder of text files, a text file, or hub:OWNER/NAME")
    return _read(path, lambda path: True, {"__pycache__"})


def _read(root: Path, wanted: Callable[[Path], bool], skipped: set[str]) -> Iterator[Document]:
    """Yield the regular files below a folder that are not hidden, in the order of their names."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped]
        paths = (Path(place, name) for name in names if not name.startswith("."))
        found |= {path.relative_to(root).as_posix(): path for path in paths if wanted(path) and _is_regular(path)}
    if not found:
        raise ValueError(f"{root} holds no files; give a folder of text files")
    _check_size(sum(path.stat().st_size for path in found.values()), str(root))
    return ((name, _content(found[name])) for name in sorted(found))


def _is_regular(path: Path) -> bool:  # to open a pipe would block forever
    return path.exists() and stat.S_ISREG(path.stat().st_mode)


def _content(path: Path) -> bytes:
    _check_size(path.stat().st_size, str(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if BOUNDARY in content:
        raise ValueError(f"{path} is no text, because it contains the byte 0; convert it, or move it out of the folder")
    return content


def _rows(tables: dict[str, object], where: str) -> Iterator[Document]:
    """Yield the rows of all splits of a data set on the hub."""
    total = 0
    for split, table in sorted(tables.items()):
        names = getattr(table, "column_names", [])
        column = next((name for name in _COLUMNS if name in names), None)
        if column is None:
            raise ValueError(f"{where} has the columns {', '.join(names)}; expected one of {', '.join(_COLUMNS)}")
        for index, row in enumerate(table[column]):  # type: ignore[index]
            if not isinstance(row, str):
                raise ValueError(f"{where}: row {index} of {split} holds {type(row).__name__}, expected text")
            content = row.replace("\0", "").encode("utf-8", "surrogatepass")
            total += len(content)
            _check_size(total, where)
            yield f"{split}/{index}", content


def _check_size(size: int, where: str) -> None:
    if size > MOST_TEXT:
        raise ValueError(f"{where} has {size:,} bytes or more; at most {MOST_TEXT:,} are read, so give less text")
