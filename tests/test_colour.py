"""CIFAR and Tiny-ImageNet: layout, normalisation, and one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitbayes.data import load_cifar10, load_cifar100, load_tiny_imagenet
from generated import encoded, write
from test_data import SHARED, needs_shared

LOADERS = {"cifar10": load_cifar10, "cifar100": load_cifar100, "tiny": load_tiny_imagenet}


@pytest.mark.parametrize("name", LOADERS)
def test_layout(tmp_path: Path, name: str) -> None:
    bundle = LOADERS[name](write(tmp_path, name), validation=0.25, seed=3)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (30, 10, 10)
    size = 64 if name == "tiny" else 32
    assert bundle.train.x.shape == (30, 3, size, size) and bundle.train.x.dtype == torch.uint8
    assert bundle.train.augment is not None
    assert bundle.validation.augment is None and bundle.test.augment is None
    plain = LOADERS[name](tmp_path, augment=False)
    assert plain.train.augment is None


def test_pixels_keep_their_places(tmp_path: Path) -> None:
    import datasets
    import numpy as np

    picture = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    table = datasets.Dataset.from_dict({"img": [encoded(picture)], "label": [7]})
    for split in ("train", "test"):
        table.cast_column("img", datasets.Image()).to_parquet(str(tmp_path / f"{split}-0.parquet"))
    data = load_cifar10(tmp_path, validation=0.0).test
    assert torch.equal(data.x[0], torch.from_numpy(picture).permute(2, 0, 1))
    assert data.y.tolist() == [7]
    x = data.inputs(torch.tensor([0]))[0, 1, 2, 3]  # green, row 2, column 3
    assert float(x) == pytest.approx((picture[2, 3, 1] / 255 - 0.4822) / 0.1994, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 31}, "the train images are 31 by 31 pixels, not 32 by 32"),
        ({"mode": "L"}, r"image 0 has mode L, expected three channels of 8 bits \(RGB\)"),
        ({"image": "image"}, r"has columns \['image', 'label'\], expected img and label"),
        ({"classes": 11}, "the train labels are not classes from 0 to 9"),
    ],
)
def test_wrong_contents(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_cifar10(write(tmp_path, "cifar10", **changes))


def test_grey_images_are_part_of_tiny_imagenet(tmp_path: Path) -> None:
    bundle = load_tiny_imagenet(write(tmp_path, "tiny", mode="L"))
    assert torch.equal(bundle.test.x[:, 0], bundle.test.x[:, 2])


def test_missing_parts(tmp_path: Path) -> None:
    write(tmp_path, "cifar10")
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no test\*.parquet; expected the layout of the hub's uoft-cs/cifar10"):
        load_cifar10(tmp_path)
    with pytest.raises(ValueError, match="no data folder"):
        load_cifar10(tmp_path / "absent")
    with pytest.raises(ValueError, match="validation must be a share"):
        load_cifar10(tmp_path, validation=-0.1)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    import datasets

    rows = {"img": [{"bytes": b"broken", "path": None}], "label": [0]}
    table = datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image(decode=False))
    for split in ("train", "test"):
        table.to_parquet(str(tmp_path / f"{split}-0.parquet"))
    with pytest.raises(ValueError, match="image 0 cannot be decoded"):
        load_cifar10(tmp_path)


@needs_shared
def test_the_jpeg_copy_of_cifar10() -> None:
    bundle = load_cifar10(SHARED / "cifar10-jpeg")
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (45_000, 5_000, 10_000)
    assert torch.bincount(bundle.test.y).tolist() == [1000] * 10
    x = bundle.train.inputs(torch.arange(2000))
    assert x.mean((0, 2, 3)).abs().max() < 0.1 and (x.std((0, 2, 3)) - 1.23).abs().max() < 0.1
