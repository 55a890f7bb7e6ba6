"""Atomic writing of files, and safetensors files with a digest that detects damage."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

DIGEST = "sha256"  # entry of a safetensors file's metadata
_PIECE = 1 << 20  # bytes to read at a time

Piece = bytes | memoryview


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, and afterwards replace `path` by the file that was written there.

    The temporary path is in the same folder and does not exist yet. If writing fails, the old file stays and the
    temporary file is removed. The new file is flushed to disk before it replaces the old one. Symbolic links are
    followed.

    Args:
        path: File to write.

    Raises:
        OSError: If the file cannot be written, or `path` is a device or a pipe, which a file would replace. The error
            names `path`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.txt")
        >>> with replacing(path) as partial:
        ...     _ = partial.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    target = Path(os.path.realpath(path))
    check_replaceable(path)
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        if error.filename != str(partial):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def check_replaceable(path: str | Path) -> None:
    """Raise OSError for a device or a pipe, which a file would replace."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def check_owner(path: Path, variable: str) -> None:
    """Refuse a folder or file that another user owns or may write to, because its content decides what is run.

    Args:
        path: Folder or file inside the folder that the variable names.
        variable: Environment variable, for the message.

    Raises:
        OSError: If it is not the user's own.
    """
    if hasattr(os, "getuid"):
        about = path.lstat()
        if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(about.st_mode):
            raise OSError(f"{path} is not yours alone; remove it, or set {variable} to a folder of your own")


def sealed(content: bytes) -> list[Piece]:
    """Return a safetensors file with a digest in its metadata, as pieces to write in order.

    The digest is the SHA-256 of the other metadata, in order of their names, and of all tensors.

    Args:
        content: Bytes of a file that `safetensors` has serialised.

    Example:
        >>> import numpy as np
        >>> from safetensors.numpy import load, save
        >>> load(b"".join(sealed(save({"a": np.ones(2)}, metadata={"x": "y"}))))
        {'a': array([1., 1.])}
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:start]), memoryview(content)[start:]
    about = header.pop("__metadata__", {})
    about = dict(sorted(about.items())) | {DIGEST: _digest(about, [body])}
    text = json.dumps({"__metadata__": about, **header}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return [len(text).to_bytes(8, "little"), text, body]


def check_seal(path: str | Path, about: Mapping[str, str]) -> None:
    """Check a safetensors file against its digest, if it has one; files of earlier versions have none.

    Args:
        path: The file.
        about: Metadata of the file.

    Raises:
        ValueError: If the metadata or the tensors differ from what was written.
    """
    if DIGEST not in about:
        return
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        found = _digest(about, iter(lambda: file.read(_PIECE), b""))
    if found != about[DIGEST]:
        raise ValueError("its content does not match its SHA-256 digest; use another copy of the file")


def _digest(about: Mapping[str, str], pieces: Iterable[Piece]) -> str:
    found = hashlib.sha256()
    for key in sorted(set(about) - {DIGEST}):
        found.update(f"{key}\0{about[key]}\0".encode())
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
