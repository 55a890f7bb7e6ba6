"""Text as data: windows, the standard library, folders, the hub, and what is refused."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path

import pytest
import torch

from bitbayes.lab.data import DataBundle, TextData, batches, load_text, text
from bitbayes.lab.data.text import RandomWindows
from bitbayes.lab.recipes.check import check_data
from bitbayes.lab.train import NEXT_BYTE
from needs import UNIX


def numbers(count: int, window: int = 4, **options) -> TextData:
    return TextData(torch.arange(count, dtype=torch.uint8), window, **options)


def firsts(data: TextData, **order) -> list[int]:
    """The first byte of each window, which is its position in `numbers`."""
    return [int(row[0]) for x, _ in batches(data, 3, **order) for row in x]


def content(data: TextData) -> bytes:
    return data.text.numpy().tobytes()


def write(folder: Path, count: int = 200, size: int = 300) -> Path:
    """Files of different letters, some of them in folders inside."""
    for index in range(count):
        place = folder / f"part{index % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.txt").write_text(f"{index} " + chr(97 + index % 26) * size)
    return folder


# Windows. -----------------------------------------------------------------------------------------------------------


def test_targets_are_the_next_bytes() -> None:
    x, y = next(iter(batches(numbers(21), 2)))
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)
    assert firsts(numbers(21)) == [0, 4, 8, 12, 16]  # byte 20 is the last target
    assert firsts(numbers(24)) == [0, 4, 9, 14, 19]  # from the first byte to the last


def test_a_long_text_has_windows_at_equal_distances() -> None:
    assert firsts(numbers(101, most=5)) == [0, 24, 48, 72, 96]
    assert firsts(numbers(101, most=1)) == [0]


def test_windows_are_drawn_anew_in_every_epoch() -> None:
    data = numbers(200, most=20, augment=RandomWindows())
    order = {"seed": 3, "shuffle": True, "augment": True}
    epochs = [firsts(data, epoch=epoch, **order) for epoch in range(30)]
    assert epochs[4] == firsts(data, epoch=4, **order)
    assert epochs[4] != epochs[5]
    assert {*range(196)} >= {first for epoch in epochs for first in epoch} >= {0, 195}
    assert len({first for epoch in epochs for first in epoch}) > 150
    assert firsts(data) == firsts(numbers(200, most=20))  # not augmented


def test_the_ends_can_be_drawn() -> None:
    last = torch.tensor([195, 195])
    assert RandomWindows()(last, torch.tensor([[0.0], [1 - 2**-24]])).tolist() == [0, 195]


def test_a_window_of_a_long_text_can_begin_at_any_byte() -> None:
    """A uniform number has 23 bits, which alone would tell only every fourth byte of 32 MiB from its neighbours."""
    half = TextData(torch.arange(4, dtype=torch.uint8).repeat(2**22), 1, 64, RandomWindows())
    first = next(iter(batches(half.joined(half), 64, seed=3, augment=True)))[0][:, 0]
    assert torch.bincount(first, minlength=4).min() > 5
    last = torch.full((4,), 2**25 - 1)
    ends = torch.tensor([[2**-24, 2**-24], [2**-24, 1 - 2**-24], [1 - 2**-24, 2**-24], [1 - 2**-24, 1 - 2**-24]])
    assert RandomWindows(uniforms=2)(last, ends).tolist() == [0, 3, 2**25 - 4, 2**25 - 1]


def test_a_text_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="a window needs 5 bytes of text, got 4"):
        numbers(4)
    assert len(numbers(5)) == 1


def test_the_fingerprint_depends_on_every_byte() -> None:
    one, two = numbers(200), numbers(200)
    two.text[77] = 0
    prints = [DataBundle("text", data, None, None, 256, "here").fingerprint() for data in (one, numbers(200), two)]
    assert prints[0] == prints[1] != prints[2]


def test_validation_data_joins_the_training_data() -> None:
    bundle = DataBundle("text", numbers(9, augment=RandomWindows()), numbers(5), None, 256, "here")
    joined = bundle.without_validation()
    assert joined.validation is None
    assert content(joined.train) == bytes(range(9)) + bytes(range(5))
    assert joined.train.augment == RandomWindows()


# The standard library. ----------------------------------------------------------------------------------------------


def test_the_standard_library_is_the_same_every_time_and_split_by_file() -> None:
    data, again = load_text(None), load_text(None)
    assert data.fingerprint() == again.fingerprint()
    check_data(data, NEXT_BYTE, torch.device("cpu"))
    parts = [content(part) for part in (data.train, data.validation, data.test)]
    root, seen = Path(sysconfig.get_paths()["stdlib"]), set()
    for path in sorted([*root.glob("*.py"), *root.glob("json/*.py"), *root.glob("asyncio/*.py")]):
        if path.name.startswith("_sysconfigdata"):
            continue
        place = hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
        number = int.from_bytes(place[:8], "big") % 20
        which = {0: 1, 1: 2}.get(number, 0)
        inside = [b"\0" + path.read_bytes() in part for part in parts]
        assert inside[which], path
        assert path.stat().st_size < 100 or sum(inside) == 1, path
        seen.add(which)
    assert seen == {0, 1, 2}
    sizes = list(map(len, parts))
    assert sizes[0] > 5_000_000
    assert all(100_000 < size < 0.1 * sizes[0] for size in sizes[1:])
    assert (len(data.train), len(data.validation) <= 1024, len(data.test) <= 1024) == (4096, True, True)
    joined = b"".join(parts)
    assert b"class TestCase(object):" in joined  # of unittest itself
    assert (root / "test" / "test_json" / "test_dump.py").is_file() == (root / "test").is_dir()
    assert b"class TestDump:" not in joined  # of the tests of json


# Folders and the hub. -----------------------------------------------------------------------------------------------


def test_a_folder_is_split_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_text(str(write(tmp_path / "data")))
    names = [[], [], []]
    for part, found in zip((data.train, data.validation, data.test), names, strict=True):
        found += content(part).split(b"\0")[1:]
    assert all(len(document) > 300 for found in names for document in found)  # no file is cut
    assert sum(map(len, names)) == 200
    assert 4 <= len(names[1]) <= 20 and 4 <= len(names[2]) <= 20
    assert data.source == str(tmp_path / "data")
    # Another place and another order of writing give the same data.
    other = tmp_path / "other" / "place"
    for path in reversed(sorted((tmp_path / "data").rglob("*.txt"))):
        copied = other / path.relative_to(tmp_path / "data")
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    (other / ".hidden").write_bytes(b"\0")
    (other / ".git").mkdir()
    (other / ".git" / "index").write_bytes(b"\0")
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "a.pyc").write_bytes(b"\0")
    assert load_text(str(other)).fingerprint() == data.fingerprint()
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((place, some, more[::-1]) for place, some, more in walk(top)))
    assert load_text(str(other)).fingerprint() == data.fingerprint()


def test_few_files_are_split_by_position(tmp_path: Path) -> None:
    words = " ".join(map(str, range(3000)))
    (tmp_path / "play.txt").write_text(words)
    for where in (tmp_path, tmp_path / "play.txt"):
        data = load_text(str(where))
        parts = [content(part) for part in (data.train, data.validation, data.test)]
        assert b"".join(parts) == b"\0" + words.encode()
        assert len(parts[1]) == len(parts[2]) == (len(words) + 1) // 20


def test_bytes_that_are_no_utf_8_are_text(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 9000)
    assert 0xE9 in load_text(str(tmp_path)).train.text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no files; give a folder of text files"),
        ({"a.txt": b""}, "has 1 bytes of text; expected 5,140 or more"),
        ({"a.txt": b"short"}, "has 6 bytes of text; expected 5,140 or more"),
        ({"a.txt": b"x" * 9999, "b.png": b"\x89PNG\0\1"}, "b.png is no text, because it contains the byte 0"),
        ({"garbage": bytes(range(256)) * 99}, "garbage is no text, because it contains the byte 0"),
        ({"wide.txt": "text".encode("utf-16") * 999}, "wide.txt is no text"),
    ],
)
def test_a_folder_that_is_no_text_gets_one_line(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=words) as error:
        load_text(str(tmp_path))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_text_just_long_enough_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 5138)
    with pytest.raises(ValueError, match="has 5,139 bytes of text; expected 5,140 or more"):
        load_text(str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"x" * 5139)
    assert len(load_text(str(tmp_path)).validation) == 1


def test_files_that_leave_a_part_less_than_a_window_are_divided_by_position(tmp_path: Path) -> None:
    """Together they are long enough."""
    names = {0: [], 1: [], 2: []}
    for number in range(200):
        place = int.from_bytes(hashlib.sha256(f"{number}.txt".encode()).digest()[:8]) % 20
        names[min(place, 2)].append(f"{number}.txt")
    sizes = [*((name, 1000) for name in names[2][:10]), (names[0][0], 200), (names[1][0], 500)]
    for name, size in sizes:
        (tmp_path / name).write_bytes(b"x" * size)
    data = load_text(str(tmp_path))
    total = sum(size + 1 for _, size in sizes)
    assert [len(content(part)) for part in (data.validation, data.test)] == [total // 20] * 2


def test_a_huge_folder_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(600 * 2**20)  # sparse
    with pytest.raises(ValueError, match="has 1,258,291,200 bytes or more; at most 1,073,741,824 are read"):
        load_text(str(tmp_path))


def test_places_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(ValueError, match=r"corpsu does not exist; the nearest that exists is .*corpus; give a folder"):
        load_text(str(tmp_path / "corpsu"))
    with pytest.raises(ValueError, match="hub:nonsense is no data set on the hub; give hub:OWNER/NAME"):
        load_text("hub:nonsense")


@UNIX.unless(hasattr(os, "mkfifo"))
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "data")
    os.mkfifo(tmp_path / "data" / "pipe")
    os.symlink(tmp_path / "nowhere", tmp_path / "data" / "dangling")
    assert len(load_text(str(tmp_path / "data")).train) > 100
    with pytest.raises(ValueError, match="pipe is no file; give a folder"):
        load_text(str(tmp_path / "data" / "pipe"))


def test_rows_of_the_hub_are_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = {"train": [f"{index} " + "a" * 99 for index in range(400)], "test": ["zero\0 byte " + "b" * 99] * 3}
    tables = {split: datasets.Dataset.from_dict({"id": [0] * len(t), "text": t}) for split, t in rows.items()}
    monkeypatch.setattr(text, "load_hub", lambda where, name: datasets.DatasetDict(tables))
    data = load_text("hub:owner/name")
    joined = b"".join(content(part) for part in (data.train, data.validation, data.test))
    assert joined.count(b"\0") == 403
    assert b"\0" + b"399 aaa" in joined and joined.count(b"zero byte") == 3
    assert len(data.validation) >= 4
    monkeypatch.setattr(text, "MOST_TEXT", 1000)
    with pytest.raises(ValueError, match=r"hub:owner/name has 1,0.. bytes or more; at most 1,000 are read"):
        load_text("hub:owner/name")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": ["a"], "label": ["b"]}, "has the columns image, label; expected one of text, content, code"),
        ({"text": [3]}, "row 0 of train holds int, expected text"),
    ],
)
def test_a_data_set_without_text_is_refused(columns: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(text, "load_hub", lambda where, name: {"train": datasets.Dataset.from_dict(columns)})
    with pytest.raises(ValueError, match=words):
        load_text("hub:owner/name")
