"""Packed networks as safetensors files. Reading them unpickles nothing and checks everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bitbayes.files import DIGEST, check_seal, replacing, sealed
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.program import NAME, PackedFileError, Program, parse_program, program_text

KEY = "bitbayes.packed"  # metadata entry of the program; a digest may stand beside it
MAX_HEADER = 1 << 20
DTYPES = {"U8": np.uint8, "I8": np.int8, "I32": np.int32, "F16": np.float16, "F32": np.float32}


def write_file(path: str | Path, program: Program, tensors: Mapping[str, Array]) -> None:
    """Write a valid program and its tensors with a digest, atomically.

    Raises:
        OSError: If the file cannot be written.
        PackedFileError: If the program is too long for a file, or could not be read back for another reason.
    """
    text = program_text(program)
    parse_program(text)  # refuse to write a program that could not be read back
    with replacing(path) as partial, open(partial, "xb") as file:
        file.writelines(sealed(save(dict(tensors), metadata={KEY: text})))


def read_file(path: str | Path) -> tuple[Program, dict[str, Array]]:
    """Read the program and the tensors of an untrusted file, in no more memory than the size of the file.

    `bitbayes.packed.format.check` decides whether program and tensors fit together.

    Raises:
        FileNotFoundError: If there is no such file.
        PackedFileError: If the file is not a safetensors file with a program of this version.

    Example:
        >>> read_file("absent.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no packed network at absent.safetensors
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no packed network at {path}")
    try:
        _check_header(path)
        with safe_open(str(path), framework="np") as file:
            about = file.metadata() or {}
            if set(about) - {DIGEST} != {KEY}:
                raise PackedFileError(f"not a packed network: its metadata must have the entry {KEY!r} and no others")
            try:
                check_seal(path, about)
            except ValueError as error:
                raise PackedFileError(f"the file is damaged: {error}") from None
            program, names = parse_program(about[KEY]), list(file.keys())
            for name in names:
                if not NAME.fullmatch(name) or file.get_slice(name).get_dtype() not in DTYPES:
                    types = ", ".join(DTYPES)
                    raise PackedFileError(f"tensor {name!a:.60} has a forbidden name, or none of the types {types}")
            return program, {name: file.get_tensor(name) for name in names}
    except PackedFileError:
        raise
    except (SafetensorError, ValueError, OverflowError, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise PackedFileError(f"not a safetensors file: {line}") from error


def _check_header(path: str | Path) -> None:
    """Check the length of the header before anything reads that many bytes."""
    with open(path, "rb") as file:
        first, header = file.read(8), file.read(1)
    length, size = int.from_bytes(first, "little"), os.path.getsize(path)
    if length > size - 8 or not header:
        cut = ": it is shorter than its header says" if header == b"{" else ""
        raise PackedFileError(f"not a safetensors file{cut}")
    if length > MAX_HEADER:
        raise PackedFileError(f"the header has {length} bytes, but at most {MAX_HEADER} are allowed")
