"""Data that somebody else has made: one line for what is wrong, before memory, time or the network is spent on it."""

from __future__ import annotations

import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bitbayes
import needs
from bitbayes.lab.data import LazyImages, batches, hub, load_mnist, load_snelson
from generated import encoded, write

GOOD = encoded(np.zeros((28, 28), np.uint8))


def folder_of(path: Path, rows: dict) -> Path:
    """Parquet files with columns as they are given, without the types of the hub."""
    import datasets

    path.mkdir(exist_ok=True)
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows).to_parquet(str(path / f"{split}-0.parquet"))
    return path


def header_of(wide: int, high: int) -> bytes:
    """A PNG that claims a size, and has almost no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    about = struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fails instead of waiting for ever."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def lazily(*images: dict | str) -> None:
    """Decodes images as ImageNet's are: of any size."""
    rows = [(image, 0) if isinstance(image, str) else {"image": image, "label": 0} for image in images]
    list(batches(LazyImages(rows, torch.arange(len(rows))), 8))


OFFLINE = """
import socket, sys

asked = []

def refused(*address, **_):
    asked.append(address)
    raise OSError("there is no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
from bitbayes.lab.data import load_imagenet, load_mnist
print(len(load_mnist(sys.argv[1]).train), len(load_imagenet(sys.argv[2], workers=0).train), asked)
"""


def test_local_files_are_read_without_asking_anybody(tmp_path: Path) -> None:
    """Attempts are counted, because a library that fails to reach a host may keep silent about it."""
    mnist, imagenet = write(tmp_path / "mnist", "mnist"), write(tmp_path / "imagenet", "imagenet")
    source = str(Path(bitbayes.__file__).parents[1])
    paths = {"PYTHONPATH": source, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", OFFLINE, str(mnist), str(imagenet)]
    done = subprocess.run(words, env={**os.environ, **paths}, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.returncode) == ("36 40 []\n", 0), done.stderr


@pytest.mark.parametrize("name", ["my[mnist]", "mnist*", "mnist?", "a [b] {c}"])
def test_names_of_folders_are_no_patterns(tmp_path: Path, name: str) -> None:
    assert len(load_mnist(write(tmp_path / name, "mnist")).train) == 36


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9000, 9000), "image 1 has 9000 by 9000 pixels, not 28 by 28"),
        ((12000, 9000), "image 1 has more than the [0-9,]+ pixels that Pillow decodes"),
        ((60000, 60000), "image 1 has more than the [0-9,]+ pixels that Pillow decodes"),
    ],
)
def test_the_size_is_checked_before_the_pixels_are_decoded(tmp_path: Path, size, message: str) -> None:
    large = {"bytes": header_of(*size), "path": None}
    with pytest.raises(ValueError, match=message) as caught:
        load_mnist(folder_of(tmp_path, {"image": [GOOD, large], "label": [0, 1]}))
    assert "\n" not in str(caught.value)
    if size != (9000, 9000):
        with pytest.raises(ValueError, match=message):
            lazily(GOOD, large)


def test_the_images_of_a_split_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_BYTES", 36 * 784)
    folder = write(tmp_path / "fits", "mnist", train=36, test=10)
    assert len(load_mnist(folder, validation=0).train) == 36
    # Pixels that no decoder would take: the count is checked first.
    broken = folder_of(tmp_path / "large", {"image": [{"bytes": b"broken", "path": None}] * 37, "label": [0] * 37})
    with pytest.raises(ValueError, match="37 images take 29,008 bytes, more than the limit of 28,224"):
        load_mnist(broken)


def test_a_small_archive_that_unpacks_to_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_BYTES", 10_000)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0" * 1_000_000))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz unpacks to more than the limit of 10,000 bytes"):
        load_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0" * 3))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz cannot be read: it ends after 3 bytes"):
        load_mnist(tmp_path)


@needs.UNIX.unless(sys.platform != "win32")
def test_paths_that_are_no_files(tmp_path: Path) -> None:
    """A pipe would block for ever, and /dev/zero would be read for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for path in (str(tmp_path / "pipe.png"), "/dev/zero", str(tmp_path / "folder.png")):
        for load in (load_mnist, lambda _, path=path: lazily(path)):
            rows = {"image": [{"bytes": None, "path": path}], "label": [0]}
            with (
                within(20),
                pytest.raises(ValueError, match=f"image 0 cannot be decoded: {path} is not a regular file"),
            ):
                load(folder_of(tmp_path / "data", rows))


def test_rows_with_neither_bytes_nor_path(tmp_path: Path) -> None:
    import datasets

    rows = {"image": [{"bytes": None, "path": None}], "label": [0]}
    table = datasets.Dataset.from_dict(rows).cast(
        datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    )
    for split in ("train", "test"):
        table.to_parquet(str(tmp_path / f"{split}-0.parquet"))
    for load in (load_mnist, lambda _: lazily({"bytes": None, "path": None})):
        with pytest.raises(ValueError, match="image 0 has neither bytes nor a path"):
            load(tmp_path)


@pytest.mark.parametrize(("column", "kind"), [([1, 2], "int64"), ([1.5, 2.5], "float64"), ([True, False], "bool")])
def test_columns_that_hold_no_images(tmp_path: Path, column: list, kind: str) -> None:
    message = f"column image holds values of type {kind}, expected encoded images"
    with pytest.raises(ValueError, match=message) as caught:
        load_mnist(folder_of(tmp_path, {"image": column, "label": [0, 1]}))
    assert "\n" not in str(caught.value)


def test_formats_that_start_other_programs_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, format="EPS")
    with pytest.raises(ValueError, match="image 0 cannot be decoded"):
        load_mnist(folder_of(tmp_path, {"image": [{"bytes": file.getvalue(), "path": None}], "label": [0]}))


@pytest.mark.parametrize("flat", ["train_inputs.txt", "train_outputs.txt"])
@pytest.mark.parametrize("value", ["1.5", "3e38"])
def test_constant_columns_cannot_be_standardised(tmp_path: Path, flat: str, value: str) -> None:
    for name in ("train_inputs.txt", "train_outputs.txt"):
        (tmp_path / name).write_text(" ".join([value] * 200 if name == flat else map(str, range(200))))
    what = flat[len("train_") : -len(".txt")]
    with pytest.raises(ValueError, match=f"the training {what} cannot be standardised, because their mean is"):
        load_snelson(tmp_path)
