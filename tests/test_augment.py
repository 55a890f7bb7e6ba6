"""Augmentation on the device against a reference image by image, and shares of batches among processes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from bitbayes.lab.data import CropFlip, Cutout, DataBundle, ResizedCrop, TensorData, batches
from bitbayes.lab.data.augment import augmentation_uniforms
from bitbayes.noise import Noise

COUNT = 2000


def pictures(count: int = COUNT, size: int = 8) -> TensorData:
    """Every image is unlike all others, and no pixel is black."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (count, 3, size, size), generator=generator).to(torch.uint8)
    return TensorData(x, torch.arange(count), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), augment=CropFlip(pad=2))


def reference(image: np.ndarray, top: int, left: int, flip: bool, pad: int = 2) -> np.ndarray:
    """What torchvision's RandomCrop and RandomHorizontalFlip do to one image."""
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return crop[:, :, ::-1] if flip else crop


def test_every_image_is_a_crop_of_its_own_and_places_are_uniform() -> None:
    data = pictures()
    uniform = Noise(1, 3 * COUNT).uniform().view(COUNT, 3)
    changed = CropFlip(pad=2)(data.x, uniform).numpy()
    seen: Counter[tuple[int, int, bool]] = Counter()
    for image, after in zip(data.x.numpy(), changed, strict=True):
        found = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if np.array_equal(reference(image, top, left, flip), after)
        ]
        assert len(found) == 1
        seen[found[0]] += 1
    assert len(seen) == 50
    expected = COUNT / 50
    chi2 = sum((seen[place] - expected) ** 2 / expected for place in seen)
    assert abs(chi2 - 49) < 5 * (2 * 49) ** 0.5


def test_without_a_flip_nothing_is_mirrored() -> None:
    data = pictures(64)
    uniform = torch.full((64, 3), 0.5)
    uniform[:, 2] = 0.99
    assert torch.equal(CropFlip(pad=2, flip=False)(data.x, uniform), data.x)
    assert torch.equal(CropFlip(pad=2)(data.x, uniform), data.x.flip(-1))


def test_an_image_is_augmented_alike_in_every_batch_size_and_process() -> None:
    data = pictures(100)

    def epoch(size: int, number: int, ranks: int = 1) -> torch.Tensor:
        found = torch.zeros(100, 3, 8, 8)
        for rank in range(ranks):
            options = {"seed": 3, "epoch": number, "shuffle": True, "augment": True, "rank": rank, "ranks": ranks}
            for x, y in batches(data, size, **options):
                found[y] = x
        return found

    one = epoch(10, 1)
    assert torch.equal(one, epoch(33, 1)) and torch.equal(one, epoch(10, 1, ranks=3))
    assert not torch.equal(one, epoch(10, 2))


def test_a_frame_that_mirrors_the_border() -> None:
    data, crop = pictures(50), CropFlip(pad=2, reflect=True)
    uniform = Noise(1, 3 * 50).uniform().view(50, 3)
    for image, numbers, after in zip(data.x, uniform, crop(data.x, uniform), strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        top, left = (int(5 * number) for number in numbers[:2])
        cut = padded[:, top : top + 8, left : left + 8]
        assert np.array_equal(after.numpy(), cut[:, :, ::-1] if numbers[2] > 0.5 else cut)


def test_flips_alternate() -> None:
    """Each image is flipped in every other epoch, half of them first in odd epochs; crops are drawn anew."""
    crop = CropFlip(pad=2, alternate=True)
    epochs = [augmentation_uniforms(crop, 1000, seed=4, epoch=epoch) for epoch in range(1, 5)]
    flips = [uniform[:, 2] > 0.5 for uniform in epochs]
    assert torch.equal(flips[0], flips[2]) and torch.equal(flips[1], flips[3]) and torch.equal(flips[0], ~flips[1])
    assert 400 < int(flips[0].sum()) < 600
    assert (epochs[0][:, :2] != epochs[2][:, :2]).all()
    assert not torch.equal(augmentation_uniforms(crop, 1000, seed=5, epoch=1)[:, 2] > 0.5, flips[0])
    usual = [augmentation_uniforms(CropFlip(pad=2), 1000, seed=4, epoch=epoch)[:, 2] > 0.5 for epoch in (1, 2)]
    assert 400 < int((usual[0] == usual[1]).sum()) < 600


def test_a_grey_square_after_the_crop() -> None:
    data, cut = pictures(300), Cutout(CropFlip(pad=2, reflect=True, alternate=True), size=4, grey=0)
    assert cut.uniforms == 5 and cut.alternating == (2,)
    uniform = augmentation_uniforms(cut, 300, seed=1, epoch=3)
    before, after = cut.before(data.x, uniform[:, :3]), cut(data.x, uniform)
    centres = set()
    for image, changed, numbers in zip(before, after, uniform, strict=True):
        row, column = (int(8 * number) for number in numbers[3:])
        centres.add((row, column))
        expected = image.clone()
        expected[:, max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = 0
        assert torch.equal(changed, expected)
    assert len(centres) > 60  # of 64


def test_clean_images_unless_asked() -> None:
    data = pictures(20)
    (x, _), *_ = batches(data, 20)
    expected = (data.x.float() / 255 - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    torch.testing.assert_close(x, expected)


def torchvisions_rule(numbers: np.ndarray) -> tuple[float, float]:
    """Width and height of a random crop of a square: the first of the tries that fits, else the last one cut."""
    for area, aspect in zip(numbers[:5], numbers[5:10], strict=True):
        area, aspect = 0.08 + 0.92 * area, np.exp((2 * aspect - 1) * np.log(4 / 3))
        wide, tall = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if wide <= 1 and tall <= 1:
            break
    return min(wide, 1.0), min(tall, 1.0)


def test_resized_crops_are_parts_of_the_image() -> None:
    """On a ramp from left to right, a crop is a ramp too: its slope says how wide a part it is."""
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(400, 1, 64, 64)
    uniform = Noise(2, ResizedCrop().uniforms * 400).uniform().view(400, -1)
    crops = ResizedCrop(flip=False)(ramp, uniform).float()[:, 0, 32]
    width = (crops[:, -4] - crops[:, 3]) / (255 * 57 / 64)
    expected = torch.tensor([torchvisions_rule(numbers)[0] for numbers in uniform.double().numpy()])
    torch.testing.assert_close(width, expected.float(), atol=0.04, rtol=0)
    assert (crops.diff(dim=1) >= 0).all()


def test_the_box_of_a_crop() -> None:
    uniform = Noise(3, ResizedCrop().uniforms * 3000).uniform().view(3000, -1)
    x, y, wide, tall, mirror = ResizedCrop().box(uniform)
    expected = torch.tensor([torchvisions_rule(numbers) for numbers in uniform.double().numpy()]).float()
    torch.testing.assert_close(torch.stack([wide, tall], 1), expected, atol=1e-4, rtol=0)
    assert ((x.abs() + wide) <= 1 + 1e-5).all() and ((y.abs() + tall) <= 1 + 1e-5).all()
    assert abs(float(mirror.mean())) < 5 / 3000**0.5
    # A wide image: the same shapes in pixels.
    _, _, wide2, tall2, _ = ResizedCrop().box(uniform, 2.0)
    inside = (wide2 < 1) & (tall2 < 1)
    aspect = 2 * wide2[inside] / tall2[inside]
    assert aspect.min() > 3 / 4 - 1e-4 and aspect.max() < 4 / 3 + 1e-4


def test_a_mirrored_crop() -> None:
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(2, 1, 64, 64)
    uniform = torch.full((2, ResizedCrop().uniforms), 0.5)
    uniform[:, -1] = torch.tensor([0.9, 0.1])
    one, other = ResizedCrop()(ramp, uniform)
    assert torch.equal(one, other.flip(-1))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_shares_of_a_batch_are_the_batch(ranks: int) -> None:
    data = pictures(50)
    whole = list(batches(data, 16, seed=1, epoch=2, shuffle=True))
    shares = [list(batches(data, 16, seed=1, epoch=2, shuffle=True, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for index, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([share[index][0] for share in shares]), x)
        assert torch.equal(torch.cat([share[index][1] for share in shares]), y)
        sizes = [len(share[index][1]) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="rank must be from 0 to 1, got 2"):
        next(batches(data, 16, rank=2, ranks=2))


def test_validation_examples_go_back_to_training() -> None:
    data = pictures(30)
    bundle = DataBundle("toy", data, dataclasses.replace(pictures(5), augment=None), None, 30, "generated")
    merged = bundle.without_validation()
    assert len(merged.train) == 35 and merged.validation is None and merged.train.augment == data.augment


def test_a_mean_for_every_channel() -> None:
    with pytest.raises(ValueError, match=r"mean has 2 values, one per channel, but x has shape \(4, 3, 8, 8\)"):
        TensorData(torch.zeros(4, 3, 8, 8), torch.zeros(4), mean=(0.0, 0.0))
