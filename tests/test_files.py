"""Files that are written whole or not at all, and digests that find a flipped bit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save

import bitbayes as bb
import needs
from bitbayes.files import DIGEST, replacing, sealed
from bitbayes.lab.train.folder import RunError, RunFolder
from bitbayes.packed import PackedFileError, PackedNetwork, Program, Step


def network() -> PackedNetwork:
    steps = (Step("linear", (0,), "", {}, {"weight": "w"}),)
    return PackedNetwork(Program((16,), 1, steps, {"who": "Zoë"}), {"w": np.arange(8, dtype=np.uint8).reshape(4, 2)})


def posterior() -> bb.BernoulliPosterior:
    return bb.BernoulliPosterior({"w": torch.linspace(-1, 1, 16)}, {"w": torch.tensor(0.5)})


def save_model(path: Path) -> None:
    RunFolder(path.parent).write_tensors(path.name, {"w": torch.ones(4)}, {"recipe": "none"})


KINDS = {
    "packed network": (lambda path: network().save(path), PackedNetwork.read, PackedFileError),
    "posterior": (lambda path: posterior().save(path), bb.load_posterior, ValueError),
    "samples": (
        lambda path: bb.SamplePosterior.of_samples(posterior(), 5).save(path),
        bb.load_posterior,
        ValueError,
    ),
    "model": (save_model, lambda path: RunFolder(path.parent).read_tensors(path.name), RunError),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_a_flipped_bit_is_one_clear_line(kind, tmp_path):
    """Every bit of the tensors, and of the metadata's values."""
    write, read, refusal = KINDS[kind]
    path = tmp_path / "file.safetensors"
    write(path)
    content = path.read_bytes()
    read(path)
    start = 8 + int.from_bytes(content[:8], "little")
    words = {
        "packed network": b"Zo",
        "posterior": b"bitbayes.bernoulli",
        "samples": b"bitbayes.samples",
        "model": b"none",
    }
    for place in [*range(start, len(content)), content.index(words[kind])]:
        for bit in (0, 4):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(refusal, match=re.escape(str(path))) as caught:
                read(path)
            assert "its content does not match its SHA-256 digest; use another copy of the file" in str(caught.value)
            assert "\n" not in str(caught.value)


@every_kind
def test_a_file_of_an_earlier_version_has_no_digest(kind, tmp_path):
    write, read, _ = KINDS[kind]
    path = tmp_path / "file.safetensors"
    write(path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert len(header["__metadata__"].pop(DIGEST)) == 64
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    read(path)


def test_the_digest_is_that_of_the_specification(tmp_path):
    path = tmp_path / "file.safetensors"
    tensors, about = {"b": np.ones(3, np.float32), "a": np.arange(5, dtype=np.int8)}, {"y": "ä", "x": "1"}
    path.write_bytes(b"".join(sealed(save(tensors, metadata=about))))
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0
    with safe_open(str(path), framework="np") as file:
        found = file.metadata()
        assert list(json.loads(content[8:start])["__metadata__"]) == ["x", "y", DIGEST]
        assert found.pop(DIGEST) == hashlib.sha256("x\0001\0y\0ä\0".encode() + content[start:]).hexdigest()
        assert found == about and all(np.array_equal(file.get_tensor(name), tensors[name]) for name in tensors)


@every_kind
def test_a_failed_write_leaves_the_old_file_and_nothing_else(kind, tmp_path):
    """In a real process that may write no more than some bytes of a file, as on a full disk."""
    if not hasattr(os, "fork"):
        needs.UNIX.skip()
    path = tmp_path / "file.safetensors"
    KINDS[kind][0](path)
    content = path.read_bytes()
    code = (
        "import resource, sys, signal; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from test_files import KINDS\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: KINDS[sys.argv[2]][0](Path(sys.argv[3]))\n"
        "except (OSError, RuntimeError) as error: print('refused', error)"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), kind, str(path)]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.stdout.startswith("refused") and result.returncode == 0, result
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {path.name: content}


def test_no_other_file_is_touched(tmp_path):
    """A name that only looks temporary is a file like others."""
    for name in ("net.partial", ".net.partial", "net.safetensors.partial"):
        (tmp_path / name).write_text("precious")
    for name in ("net", "net.safetensors"):
        network().save(tmp_path / name)
        posterior().save(tmp_path / f"{name}-posterior")
    kept = [path for path in tmp_path.iterdir() if path.name.endswith("partial")]
    assert len(kept) == 3 and all(path.read_text() == "precious" for path in kept)
    assert len(list(tmp_path.iterdir())) == 7


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / ("x" * 250)) as partial:  # a long name has room for no more
        partial.write_text("")
    network().save(tmp_path / "net")
    posterior().save(tmp_path / "posterior")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_an_error_names_the_file_of_the_user_and_a_link_is_followed(tmp_path):
    path = tmp_path / "absent" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught, replacing(path) as partial:
        partial.write_text("x")
    assert caught.value.filename == str(path) and ".partial" not in str(caught.value)
    (tmp_path / "link").symlink_to("target")
    with replacing(tmp_path / "link") as partial:
        partial.write_text("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "x"


@needs.UNIX.unless(hasattr(os, "mkfifo"))
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        bb.BernoulliPosterior({"w": torch.ones(1)}).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
