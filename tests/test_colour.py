"""CIFAR, Tiny-ImageNet and ImageNet: layout, normalisation, and one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitbayes.lab.data import batches, load_cifar10, load_cifar100, load_imagenet, load_tiny_imagenet
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
    plain = LOADERS[name](tmp_path, augment=None)
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
        ({"size": 31}, "image 0 has 31 by 31 pixels, not 32 by 32"),
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
    with pytest.raises(ValueError, match="validation must be a fraction"):
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


def imagenet(folder: Path, *, classes: int = 3, shape: tuple[int, int] = (40, 30)) -> Path:
    """A folder per class, as ImageNet is unpacked; every class has its own colour."""
    import numpy as np
    from PIL import Image

    for split, count in (("train", 4), ("val", 2)):
        for index in range(classes):
            place = folder / split / f"n{index:04d}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((*shape, 3), 60 * index + number, np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.JPEG")
    return folder


class TestStream:
    def test_batches_are_those_of_any_data(self, tmp_path: Path) -> None:
        bundle = load_imagenet(imagenet(tmp_path), validation=0.25, workers=0)
        assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (9, 3, 6)
        assert len(bundle.without_validation().train) == 12
        found = list(batches(bundle.test, 4))
        assert [x.shape for x, _ in found] == [(4, 3, 224, 224), (2, 3, 224, 224)]
        assert torch.cat([y for _, y in found]).tolist() == [0, 0, 1, 1, 2, 2]
        level = (found[1][0][-1] * 0.229 + 0.485)[0].mean() * 255  # red of the last: 60·2 + 1
        assert float(level) == pytest.approx(121, abs=2)

    def test_order_and_crops_depend_on_the_epoch_alone(self, tmp_path: Path) -> None:
        import numpy as np
        from PIL import Image

        folder = imagenet(tmp_path)
        ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
        for file in (folder / "train").rglob("*.JPEG"):
            Image.fromarray(ramp).save(file, quality=95)
        train = load_imagenet(folder, validation=0.0, workers=0).train

        def epoch(number: int, size: int, ranks: int = 1) -> torch.Tensor:
            options = {"seed": 1, "epoch": number, "shuffle": True, "augment": True, "ranks": ranks}
            parts = [[x for x, _ in batches(train, size, rank=rank, **options)] for rank in range(ranks)]
            return torch.cat([x for group in zip(*parts, strict=True) for x in group])

        one = epoch(1, 4)
        assert torch.equal(one, epoch(1, 12)) and torch.equal(one, epoch(1, 4, ranks=2))
        assert not torch.equal(one, epoch(2, 4))
        clean = torch.cat([x for x, _ in batches(train, 4)])
        assert torch.equal(clean[0], clean[-1])
        # Crops of a ramp from dark to bright go up, or down where they are mirrored.
        slopes = one[:, 0, 112, -1] - one[:, 0, 112, 0]
        assert (slopes > 0.3).any() and (slopes < -0.3).any()

    def test_worker_processes_give_the_same(self, tmp_path: Path) -> None:
        folder = imagenet(tmp_path)
        alone, helped = (load_imagenet(folder, workers=workers).test for workers in (0, 2))
        for (x, y), (x2, y2) in zip(batches(alone, 3), batches(helped, 3), strict=True):
            assert torch.equal(x, x2) and torch.equal(y, y2)

    def test_the_hubs_layout(self, tmp_path: Path) -> None:
        bundle = load_imagenet(write(tmp_path, "imagenet"), workers=0)
        (x, y), *_ = batches(bundle.test, 5)
        assert x.shape == (5, 3, 224, 224) and y.tolist() == [0, 1, 2, 3, 4]

    def test_what_is_wrong_is_one_line(self, tmp_path: Path) -> None:
        folder = imagenet(tmp_path / "a")
        for file in (folder / "val" / "n0001").iterdir():
            file.unlink()
        (folder / "val" / "n0001").rmdir()
        with pytest.raises(ValueError, match="val has no folder for 1 of its classes, such as n0001"):
            load_imagenet(folder)
        folder = imagenet(tmp_path / "b")
        (folder / "val").rename(folder / "other")
        with pytest.raises(ValueError, match="neither val nor validation"):
            load_imagenet(folder)
        folder = imagenet(tmp_path / "c")
        (folder / "val" / "n0000" / "0.JPEG").write_bytes(b"broken")
        with pytest.raises(ValueError, match="image 0 cannot be decoded"):
            list(batches(load_imagenet(folder, workers=0).test, 2))
        with pytest.raises(ValueError, match="no data folder"):
            load_imagenet(tmp_path / "absent")
