"""The file of a checkpoint: no bit of it can change unseen."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from bitbayes.lab.train import RunError, RunFolder, checkpoint
from nested import equal

FOLDER = 8 * 38 + 4  # bit of an entry of the central directory: "this is a folder"


@pytest.fixture
def state():
    parts = {"w": torch.randn(40, 25), "lr": 0.1, "steps": torch.arange(3)}
    return {"format": 1, "epoch": 3, "parts": parts, "history": [{"epoch": 1, "loss": None}]}


def directory(content: bytes) -> int:
    """First byte of the central directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.start_dir


def flip(path: Path, content: bytes, bits: Iterable[int], state: dict) -> tuple[int, int]:
    """Refused and restored, after one bit was flipped; nothing else may happen."""
    refused = restored = 0
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = RunFolder(path.parent).read_checkpoint()
        except RunError as error:
            assert str(error).startswith(f"{path} is damaged") and "\n" not in str(error)
            refused += 1
        else:
            assert equal(found, state), f"bit {bit}"
            restored += 1
    return refused, restored


def test_every_flipped_bit_is_refused(tmp_path, state):
    folder, path = RunFolder(tmp_path), tmp_path / "checkpoint.pt"
    folder.write_checkpoint(state)
    content = path.read_bytes()
    assert equal(RunFolder(tmp_path).read_checkpoint(), state)
    assert equal(torch.load(path, weights_only=True), state)  # without us, too
    first, last = 8 * directory(content), 8 * len(content)
    bits = [*range(first, last), *random.Random(0).sample(range(first), 500)]
    assert flip(path, content, bits, state) == (len(bits), 0)
    for damaged in (content[:-1], content + b"\0", content[:100], b"", content + content):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="is damaged"):
            folder.read_checkpoint()


def test_a_flipped_bit_of_an_old_checkpoint_is_refused_or_harmless(tmp_path, state):
    """It has no digest: its CRCs, and the attributes that torch obeys, must do."""
    path = tmp_path / "checkpoint.pt"
    torch.save(state, path)
    content = path.read_bytes()
    assert equal(RunFolder(tmp_path).read_checkpoint(), state)
    start = directory(content)
    refused, restored = flip(path, content, range(8 * start, 8 * len(content), 5), state)
    assert refused > restored > 0
    entries = [8 * at + FOLDER for at in range(start, len(content)) if content[at : at + 4] == b"PK\1\2"]
    assert len(entries) > 3 and flip(path, content, entries, state) == (len(entries), 0)


def test_large_tensors_are_signed_piece_by_piece(tmp_path):
    """And read so: pieces are of a mebibyte."""
    state = {"epoch": 0, "w": torch.randn(700, 700), "b": torch.arange(300_000, dtype=torch.uint8)}
    RunFolder(tmp_path).write_checkpoint(state)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    assert len(content) > 2**21
    assert equal(RunFolder(tmp_path).read_checkpoint(), state)
    bits = [8 * byte for byte in (0, 2**20 - 1, 2**20, 2**21, len(content) // 2)]
    assert flip(tmp_path / "checkpoint.pt", content, bits, state) == (len(bits), 0)


class Interrupted(io.BytesIO):
    """A file during whose third write the user presses Ctrl-C."""

    writes = 0

    def write(self, data):
        self.writes += 1
        if self.writes == 3:
            raise KeyboardInterrupt
        return super().write(data)


def test_ctrl_c_while_a_checkpoint_is_written_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"weights": torch.zeros(100_000)}, Interrupted())
