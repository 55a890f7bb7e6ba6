"""Data sets: sizes, normalisation, reproducible order, and one clear line for what is wrong."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import needs
from bitbayes.lab.data import (
    TensorData,
    batches,
    hub,
    load_breast_cancer,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    load_moons,
    load_snelson,
)
from generated import encoded, write

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = needs.DATA.unless(SHARED.is_dir())


def parquet_folder(path: Path, *, size: int = 28, labels: int = 10, column: str = "image") -> Path:
    return write(path, "mnist", train=50, test=20, size=size, classes=labels, image=column)


def raw_folder(path: Path, pictures: list, labels: list) -> Path:
    import datasets

    table = datasets.Dataset.from_dict({"image": pictures, "label": labels})
    for split in ("train", "test"):
        table.cast_column("image", datasets.Image(decode=False)).to_parquet(str(path / f"{split}-0.parquet"))
    return path


def idx_folder(path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, count in (("train", 50), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0" * 16 + pixels.tobytes()))
        classes = (np.arange(count) % 10).astype(np.uint8)
        (path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0" * 8 + classes.tobytes()))
    return path


@pytest.mark.parametrize("make", [parquet_folder, idx_folder])
@pytest.mark.parametrize("load", [load_mnist, load_fashion_mnist])
def test_both_layouts(tmp_path: Path, make, load) -> None:
    bundle = load(make(tmp_path), validation=0.2, seed=4)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (40, 10, 20)
    assert bundle.train.x.dtype == torch.uint8 and bundle.train.x.shape == (40, 784)
    again = load(tmp_path, validation=0.2, seed=4)
    assert torch.equal(bundle.train.x, again.train.x)
    assert not torch.equal(bundle.train.y, load(tmp_path, validation=0.2, seed=5).train.y)
    x = bundle.train.inputs(torch.tensor([3]))
    expected = (bundle.train.x[3].float() / 255 - bundle.train.mean) / bundle.train.std
    torch.testing.assert_close(x[0], expected)


def test_the_values_of_arrow_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the rows, and whole, although 7 rows at a time do not divide 50."""
    monkeypatch.setattr(hub, "_ROWS", 7)
    layout = hub.Layout("ylecun/mnist")
    folder = parquet_folder(tmp_path)
    table = hub.table_of(folder, "train", layout)
    images, labels = hub.read_split(folder, "train", layout)
    pictures = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in table]
    assert np.array_equal(images.numpy(), np.stack(pictures))
    assert labels.tolist() == [row["label"] for row in table] and len(labels) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 27}, "27 by 27 pixels, not 28 by 28"),
        ({"labels": 12}, "not classes from 0 to 9"),
        ({"column": "img"}, r"has columns \['img', 'label'\], expected image and label"),
    ],
)
def test_wrong_contents(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_mnist(parquet_folder(tmp_path, **options))


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data folder"):
        load_mnist(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"has no train\*.parquet"):
        load_mnist(tmp_path)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="cannot load train"):
        load_mnist(tmp_path)
    with pytest.raises(ValueError, match=r"validation must be a fraction"):
        load_mnist(tmp_path, validation=1.5)


def test_without_a_network_a_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def no_network(*args: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    message = "cannot load train of ylecun/mnist: Couldn't reach the hub; without a network, give a folder of its"
    with pytest.raises(ValueError, match=message):
        load_mnist()


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    import datasets

    rows = {"image": [{"bytes": b"broken", "path": None}], "label": [0]}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False))
    for split in ("train", "test"):
        table.to_parquet(str(tmp_path / f"{split}-0.parquet"))
    with pytest.raises(ValueError, match="image 0 cannot be decoded"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((14, 56), np.uint8), "pixels, not 28 by 28"),
        (np.zeros((28, 28), np.uint16), "has mode I;16, expected one channel of 8 bits"),
        (np.zeros((28, 28), bool), "has mode 1, expected one channel of 8 bits"),
        (np.zeros((28, 28, 3), np.uint8), "has mode RGB, expected one channel of 8 bits"),
    ],
)
def test_pictures_that_would_pass_for_grey_levels(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_mnist(raw_folder(tmp_path, [encoded(pixels)], [0]))


@pytest.mark.parametrize("label", ["seven", None, 1.5])
def test_labels_that_are_not_whole_numbers(tmp_path: Path, label) -> None:
    with pytest.raises(ValueError, match=r"label 0 is .*, expected a whole number from 0 to 9"):
        load_mnist(raw_folder(tmp_path, [encoded(np.zeros((28, 28), np.uint8))], [label]))


def test_missing_and_absent_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 1 is missing"):
        load_mnist(raw_folder(tmp_path, [encoded(np.zeros((28, 28), np.uint8)), None], [0, 1]))
    gone = tmp_path / "gone.png"
    gone.write_bytes(b"")
    folder = raw_folder(tmp_path, [{"bytes": None, "path": str(gone)}], [0])
    gone.unlink()
    with pytest.raises(ValueError, match=r"image 0 cannot be decoded: .*No such file"):
        load_mnist(folder)


def test_a_corrupt_idx_file_is_named(tmp_path: Path) -> None:
    file = idx_folder(tmp_path) / "train-images-idx3-ubyte.gz"
    raw = bytearray(file.read_bytes())
    for broken in (bytes(raw[:40]), bytes(raw[:10]) + b"\xff" * 60 + bytes(raw[70:])):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"idx3-ubyte\.gz cannot be read"):
            load_mnist(tmp_path)


def test_a_missing_folder_names_the_nearest_and_stays_offline(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    for where in (tmp_path / "data" / "mnsit", "data/mnsit"):
        with pytest.raises(ValueError, match=r"no data folder .*nearest that exists is .*data/mnist\)"):
            load_mnist(where)
    with pytest.raises(ValueError, match=rf"nearest that exists is {tmp_path}\)"):
        load_mnist(tmp_path / "other" / "deep")
    with pytest.raises(ValueError, match=r"nearest that exists is .*data"):
        load_snelson(tmp_path / "date")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        load_mnist(tmp_path / "file")


@needs_shared
def test_mnist_itself() -> None:
    bundle = load_mnist(SHARED / "mnist")
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (54_000, 6_000, 10_000)
    pixels = bundle.train.x.float() / 255
    assert abs(pixels.mean() - 0.1307) < 1e-3 and abs(pixels.std() - 0.3081) < 1e-3
    assert bundle.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_digits_are_stratified_and_disjoint() -> None:
    bundle = load_digits(seed=1)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (1197, 200, 400)
    assert bundle.validation.y.bincount().min() >= 18
    rows = torch.cat([bundle.train.x, bundle.validation.x, bundle.test.x])
    assert len(rows) == 1797
    x = bundle.train.inputs(torch.arange(1197))
    assert abs(x.mean()) < 1e-3 and abs(x.std() - 1) < 1e-3


def test_moons_are_fresh_and_standardised() -> None:
    bundle = load_moons()
    assert bundle.train.x.shape == (200, 2) and bundle.test.x.shape == (1000, 2)
    torch.testing.assert_close(bundle.train.x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert not any((bundle.test.x == row).all(1).any() for row in bundle.train.x[:20])


@pytest.mark.parametrize("folder", [None, pytest.param(SHARED / "snelson", marks=needs_shared)])
def test_snelson_splits(folder: Path | None) -> None:
    bundle = load_snelson(folder, split=2)
    assert bundle.train.x.shape == (150, 1) and bundle.test.y.shape == (50, 1)
    assert torch.equal(bundle.train.x, load_snelson(folder, split=2).train.x)
    assert not torch.equal(bundle.train.x, load_snelson(folder, split=3).train.x)
    everything = load_snelson(folder, split=None)
    assert len(everything.train) == 200 and everything.test is None
    assert bundle.source == ("generated" if folder is None else str(folder))


def test_the_table_of_breast_cancer_is_standardised_and_complete() -> None:
    data = load_breast_cancer(seed=3)
    assert data.validation is not None and data.test is not None and data.inputs is not None
    assert [len(part) for part in (data.train, data.validation, data.test)] == [411, 45, 113]
    x = data.train.inputs(torch.arange(411))
    torch.testing.assert_close(x.mean(0), torch.zeros(30), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.std(0), torch.ones(30), rtol=0, atol=1e-2)
    assert data.inputs.classes == ("malignant", "benign")
    other = load_breast_cancer(seed=4)
    assert other.test is not None and torch.equal(data.test.y, other.test.y)
    assert not torch.equal(data.train.y, other.train.y)


def test_snelson_stand_in_has_a_gap() -> None:
    x = load_snelson(split=None).train.x.flatten().sort().values
    gaps = x.diff()
    assert gaps.max() > 0.5 and gaps.max() > 5 * gaps.sort().values[-2]


def test_snelson_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no train_inputs.txt"):
        load_snelson(tmp_path)
    (tmp_path / "train_inputs.txt").write_text("1 2 x")
    with pytest.raises(ValueError, match="not a column of numbers"):
        load_snelson(tmp_path)
    (tmp_path / "train_inputs.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="holds 3 numbers, expected 200"):
        load_snelson(tmp_path)
    (tmp_path / "train_inputs.txt").write_text("nan " + "1 " * 199)
    with pytest.raises(ValueError, match="not finite"):
        load_snelson(tmp_path)


def test_as_many_targets_as_inputs_on_one_device() -> None:
    with pytest.raises(ValueError, match="3 inputs but 5 targets"):
        TensorData(torch.zeros(3, 1), torch.zeros(5))
    with pytest.raises(ValueError, match="inputs on meta but targets on cpu"):
        TensorData(torch.zeros(3, 1, device="meta"), torch.zeros(3))


def test_batches_cover_an_epoch_in_an_order_of_their_own() -> None:
    data = TensorData(torch.arange(10.0)[:, None], torch.arange(10))

    def order(**options) -> list[int]:
        return torch.cat([y for _, y in batches(data, 3, **options)]).tolist()

    assert order() == list(range(10))
    first = order(seed=1, epoch=1, shuffle=True)
    assert sorted(first) == list(range(10)) and first == order(seed=1, epoch=1, shuffle=True)
    assert first != order(seed=1, epoch=2, shuffle=True) and first != order(seed=2, epoch=1, shuffle=True)
    with pytest.raises(ValueError, match="at least 1 example"):
        next(batches(data, 0))
