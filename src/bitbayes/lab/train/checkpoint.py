"""Format of checkpoint.pt: the archive of torch.save with a SHA-256 of all preceding bytes as its comment."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from typing import IO, Any, Protocol

import torch

# A zip archive ends with a comment and its length before it. Zip readers, including torch's, skip the comment.
_LENGTH = struct.Struct("<H")
_END = struct.Struct("<4s4H2LH")  # the last record of an archive: signature, numbers, sizes, length of the comment
_NAME = b"sha256 "
_COMMENT = len(_NAME) + 2 * hashlib.sha256().digest_size
_CHUNK = 1 << 20
_FOLDER = 0x10  # attribute of an entry


class _Sink(Protocol):
    def write(self, data: Any) -> int: ...

    def flush(self) -> None: ...


class _Signer:
    """File that hashes what is written to it, except for the comment's length at the end of the archive."""

    def __init__(self, file: _Sink) -> None:
        self.file, self.digest, self.last = file, hashlib.sha256(), b""

    def write(self, data: Any) -> int:
        piece, size = memoryview(data).cast("B"), len(data)
        if len(piece) < _LENGTH.size:
            piece, self.last = memoryview(self.last + bytes(piece)), b""
        self._pass(self.last)
        self._pass(piece[: -_LENGTH.size])
        self.last = bytes(piece[-_LENGTH.size :])
        return size

    def _pass(self, piece: bytes | memoryview) -> None:
        self.digest.update(piece)
        self.file.write(piece)

    def flush(self) -> None:
        self.file.flush()

    def sign(self) -> None:
        """Write the comment, which torch left empty, and its length."""
        self.file.write(_LENGTH.pack(_COMMENT) + _NAME + self.digest.hexdigest().encode())


def save(state: dict[str, Any], file: _Sink) -> None:
    """Write tensors and plain values, and a SHA-256 of all preceding bytes as the comment of the archive."""
    signer = _Signer(file)
    try:
        torch.save(state, signer)  # type: ignore[arg-type]
    except RuntimeError as error:
        # After Ctrl-C torch still closes its archive, which fails because the archive is not whole.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    signer.sign()


def load(file: IO[bytes], device: torch.device | str = "cpu") -> Any:
    """Read what `save` wrote, after comparing its SHA-256 and before unpickling anything.

    Files of earlier versions have no SHA-256. In such files, the CRCs of the entries are checked, and no entry may have
    the attribute of a folder, because torch would leave its tensor uninitialised.

    Raises:
        ValueError: If the file is damaged. A file without SHA-256 may raise another error.
    """
    if not _signed(file):
        _check_archive(file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location=device, weights_only=True)


def _signed(file: IO[bytes]) -> bool:
    """Return whether a file has a SHA-256; raise ValueError if it does not match the file."""
    size = file.seek(0, io.SEEK_END)
    content = size - _LENGTH.size - _COMMENT
    file.seek(max(content, 0))
    length, comment = file.read(_LENGTH.size), file.read()
    if length != _LENGTH.pack(_COMMENT) or not comment.startswith(_NAME):
        return False
    file.seek(0)
    digest, left = hashlib.sha256(), content
    while left and (piece := file.read(min(left, _CHUNK))):
        digest.update(piece)
        left -= len(piece)
    if comment != _NAME + digest.hexdigest().encode():
        raise ValueError("its bytes do not match the SHA-256 at its end")
    return True


def _check_archive(file: IO[bytes]) -> None:
    """Check an archive without a SHA-256 as far as possible."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _END.size, 0))
    end = file.read()
    if len(end) != _END.size or not end.startswith(b"PK\x05\x06") or _END.unpack(end)[-1]:
        raise ValueError("it does not end like a checkpoint")
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or entry.external_attr & _FOLDER:
                raise ValueError(f"{entry.filename} is marked as a folder")
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"in {broken}")
