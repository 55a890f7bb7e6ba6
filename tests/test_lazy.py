"""Images decoded as they are needed: the same batches whatever the processes, and one line for what is wrong."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitbayes.lab.data import LazyImages, batches, load_imagenet
from generated import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of images of several sizes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in "abc":
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                high, wide = generator.integers(40, 90, 2)
                pixels = generator.integers(0, 256, (high, wide, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.JPEG")
    return tmp_path / "images"


def epoch(data: LazyImages, size: int = 5, number: int = 1, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(batches(data, size, seed=3, epoch=number, shuffle=True, augment=True, **options))


def small(data: LazyImages, **changes) -> LazyImages:
    return dataclasses.replace(data, **({"size": 32, "workers": 0} | changes))


def test_folders_and_parquet(folder: Path, tmp_path: Path) -> None:
    bundle = load_imagenet(folder, validation=0.25, workers=0)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (18, 6, 6)
    x, y = next(batches(bundle.test, 6))
    assert x.shape == (6, 3, 224, 224) and y.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(bundle.without_validation().train) == 24
    table = load_imagenet(write(tmp_path / "table", "imagenet"), validation=0.25, workers=0)
    assert (len(table.train), len(table.validation), len(table.test)) == (30, 10, 10)
    assert next(batches(table.test, 3))[1].tolist() == [0, 1, 2]


def test_the_middle_of_a_test_image(tmp_path: Path) -> None:
    """Of 256 by 256 pixels the middle 224 need no resizing, so the pixels are the original's."""
    pixels = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = LazyImages([(str(tmp_path / "a.png"), 7)], torch.tensor([0]))
    ((x, y),) = batches(data, 1)
    middle = torch.from_numpy(pixels[16:240, 16:240]).permute(2, 0, 1) / 255
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    torch.testing.assert_close(x[0], (middle - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert y.tolist() == [7]


def test_the_same_in_every_batch_size_and_process(folder: Path) -> None:
    data = small(load_imagenet(folder, validation=0.0).train)
    images, labels = (torch.cat(part) for part in zip(*epoch(data), strict=True))
    for changes, size, ranks in (({"workers": 2}, 5, 1), ({}, 7, 1), ({}, 5, 3)):
        shares = [epoch(dataclasses.replace(data, **changes), size, rank=r, ranks=ranks) for r in range(ranks)]
        together = [share[index] for index in range(len(shares[0])) for share in shares]
        assert torch.equal(torch.cat([x for x, _ in together]), images)
        assert torch.equal(torch.cat([y for _, y in together]), labels)
    assert not torch.equal(torch.cat([x for x, _ in epoch(data, number=2)]), images)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_last_batch_with_fewer_examples_than_ranks(folder: Path, workers: int) -> None:
    data = small(load_imagenet(folder, validation=0.0).train, workers=workers)
    sizes = [[len(y) for _, y in batches(data, 23, rank=rank, ranks=3)] for rank in range(3)]
    assert sizes == [[8, 1], [8, 0], [7, 0]]


def test_the_global_generator_is_left_alone(folder: Path) -> None:
    state = torch.get_rng_state()
    epoch(small(load_imagenet(folder).train))
    assert torch.equal(state, torch.get_rng_state())


def test_a_large_epoch_starts_at_once(folder: Path) -> None:
    data = small(load_imagenet(folder).train, chosen=torch.zeros(1_281_167, dtype=torch.int64))
    started = time.process_time()
    next(batches(data, 4, shuffle=True, augment=True))
    assert time.process_time() - started < 3  # listing every example takes over ten seconds


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_one_line(folder: Path, workers: int) -> None:
    (folder / "train" / "a" / "0.JPEG").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"^image 0 cannot be decoded: .*a/0\.JPEG") as caught:
        epoch(small(load_imagenet(folder).train, chosen=torch.arange(3), workers=workers))
    assert "\n" not in str(caught.value)


def test_missing_classes(folder: Path) -> None:
    for file in (folder / "train" / "b").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="train has no images of 1 classes, such as b"):
        load_imagenet(folder)
    shutil.rmtree(folder / "train" / "b")
    with pytest.raises(ValueError, match="train has no folder for 1 of its classes, such as b"):
        load_imagenet(folder)
    shutil.rmtree(folder / "val")
    with pytest.raises(ValueError, match="neither val nor validation"):
        load_imagenet(folder)


def test_a_label_out_of_range(folder: Path) -> None:
    data = small(load_imagenet(folder).test, rows=[(str(folder / "val" / "a" / "0.JPEG"), 1000)])
    with pytest.raises(ValueError, match="label 0 is 1000, expected a class from 0 to 999"):
        next(batches(dataclasses.replace(data, chosen=torch.tensor([0])), 1))
