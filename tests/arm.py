"""Runs the inference kernels as a 64-bit ARM processor would: cross-compiled, and emulated by qemu."""

from __future__ import annotations

import ctypes
import functools
import math
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitbayes.kernels import build, variants

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MISSING = next((f"no {program}" for program in (COMPILER, EMULATOR) if shutil.which(program) is None), "")
BLOCK = 32  # outputs

_MAIN = """
#include KERNEL
#include <stdio.h>
#define GET(to, size) if (fread(to, 1, size, stdin) != (size_t)(size)) return 2
int main(void) {
    int64_t counts[2], numbers[32], size;
    void *blobs[8];
    GET(counts, sizeof counts);
    GET(numbers, 8 * counts[0]);
    for (int i = 0; i < counts[1]; i++) {
        GET(&size, sizeof size);
        blobs[i] = malloc(size + 64);
        GET(blobs[i], size);
    }
    GET(&size, sizeof size);
    void *out = calloc(size, 1);
    int64_t *n = numbers;
    int failed = 0;
    CALL;
    return failed || fwrite(out, 1, size, stdout) != (size_t)size;
}
"""
_CALLS = {
    "bitbayes_signs": "for (int i = 1; i < 6; i++) n[counts[0] - 6 + i] = (int64_t)(intptr_t)blobs[i];"
    "failed = bitbayes_signs((shape *)n, blobs[0], out)",
    "bitbayes_numbers": "failed = bitbayes_numbers(n[0], n[1], n[2], n[3], n[4], n[5], n[6],"
    "blobs[0], blobs[1], blobs[2], blobs[3], out)",
    "bitbayes_real": "bitbayes_real(n[0], n[1], n[2], n[3], blobs[0], blobs[1], blobs[2], blobs[3], out)",
}


@functools.cache
def _program(name: str, function: str) -> Path:
    """The executable of one function of a file of kernels."""
    folder = Path(tempfile.mkdtemp())
    source = Path(build.__file__).with_name(f"{name}.c")
    (folder / "main.c").write_text(_MAIN, encoding="utf-8")
    what = [f'-DKERNEL="{source}"', f"-DCALL={_CALLS[function]}", str(folder / "main.c"), "-o", str(folder / "program")]
    flags = [flag for flag in variants.FLAGS if flag not in ("-shared", "-fPIC")]
    subprocess.run([COMPILER, *flags, "-include", "stdlib.h", "-static", *what, "-lm"], check=True)
    return folder / "program"


def _call(
    name: str, function: str, numbers: Sequence[int], blobs: Sequence[tuple[int, int]], out: tuple[int, int]
) -> int:
    """Copies what is at the addresses there, and the result back."""
    sent = [struct.pack(f"<2q{len(numbers)}q", len(numbers), len(blobs), *numbers)]
    for where, size in blobs:
        sent += [struct.pack("<q", size), ctypes.string_at(where, size)]
    sent.append(struct.pack("<q", out[1]))
    run = subprocess.run(
        [EMULATOR, str(_program(name, function))], input=b"".join(sent), capture_output=True, check=True
    )
    ctypes.memmove(out[0], run.stdout, out[1])
    return 0


class Library:
    """In the place of the compiled library of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def bitbayes_path(self) -> bytes:
        return b"neon"

    def bitbayes_signs(self, shape: int, x: int, out: int) -> int:
        n = np.frombuffer(ctypes.string_at(shape, 8 * 26), np.int64).tolist()
        (sources, networks, inputs, height, width, channels), places, taps = n[:6], n[6] * n[7], n[8] * n[9]
        outputs, blocks, classes, bits = n[16:20]
        every = sources * networks
        wide = 8 * -(-outputs // 64) if bits else 4 * outputs
        sizes = [
            8 * every * blocks * BLOCK * taps * channels,
            8 * every * classes * blocks * BLOCK,
            4 * places,
            *[4 * every * blocks * BLOCK] * 2,
        ]
        given = [(x, 8 * sources * inputs * height * width * channels), *zip(n[-5:], sizes, strict=True)]
        return _call(self.name, "bitbayes_signs", n, given, (out, every * inputs * places * wide))

    def bitbayes_numbers(self, *arguments: int) -> int:
        n, (x, weights, scale, shift, out) = arguments[:7], arguments[7:]
        sources, networks, rows, count, outputs, blocks, _ = n
        every = sources * networks
        given = [(x, 128 * sources * rows * count), (weights, 4 * every * blocks * count * BLOCK)]
        given += [(scale, 4 * every * blocks * BLOCK), (shift, 4 * every * blocks * BLOCK)]
        return _call(self.name, "bitbayes_numbers", n, given, (out, 4 * every * rows * outputs))

    def bitbayes_real(self, *arguments: int) -> int:
        n, (x, weights, scale, shift, out) = arguments[:4], arguments[4:]
        rows, count, outputs, _ = n
        whole = BLOCK * math.ceil(outputs / BLOCK)
        given = [(x, 4 * rows * count), (weights, 4 * whole * count), (scale, 4 * whole), (shift, 4 * whole)]
        return _call(self.name, "bitbayes_real", n, given, (out, 4 * rows * outputs))


def library(name: str) -> Any:
    """As `bitbayes.packed.backends.native.products.library`."""
    return Library(name)
