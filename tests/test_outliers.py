"""Images of no class, and the loss that teaches a network to doubt them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

import bitbayes as bb
from bitbayes.calibration import separation
from bitbayes.lab.data import OUTLIER, batches, framed, load_digits, shuffled_tiles, with_outliers
from bitbayes.lab.recipes import find_recipe, ours
from bitbayes.lab.train.losses import OUTLIER_EXPOSURE


def test_tiles_are_those_of_a_few_images() -> None:
    """Each image is one number, so every tile says whence it is; what is left over at the edge is black."""
    images = torch.arange(1, 101, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 10, 13)
    made = shuffled_tiles(images, 50, seed=3)
    assert made.shape == (50, 3, 10, 13) and made.dtype == torch.uint8
    tiles = made[..., :8, :12].unfold(2, 2, 2).unfold(3, 3, 3)  # 4 by 4 tiles of 2 by 3 pixels
    assert (tiles == tiles[..., :1, :1]).all() and (made[..., 8:, :] == 0).all() and (made[..., 12:] == 0).all()
    assert (made[:, :1] == made).all()  # a tile is moved with all of its channels
    counts = [len(each.unique()) for each in tiles[:, 0, :, :, 0, 0]]
    assert max(counts) <= 4 < sum(counts) / 10


def test_no_tile_is_there_twice() -> None:
    """Sixteen of the 64 tiles that four images have, wherever they were."""
    images = torch.arange(64).view(4, 1, 4, 4)
    made = shuffled_tiles(images, 30)
    for each, chosen in zip(made, torch.randint(4, (30, 4), generator=torch.Generator().manual_seed(0)), strict=True):
        values, counts = each.unique(return_counts=True)
        assert all(count <= (chosen == value // 16).sum() for value, count in zip(values, counts, strict=True))
    assert not torch.equal(made[:, 0], (made[:, 0] // 16 * 16) + torch.arange(16).view(4, 4))


def test_the_seed_decides() -> None:
    digits = load_digits().train.x
    assert torch.equal(shuffled_tiles(digits, 9, 1), shuffled_tiles(digits, 9, 1))
    assert not torch.equal(shuffled_tiles(digits, 9, 1), shuffled_tiles(digits, 9, 2))


def test_grey_images_are_framed() -> None:
    """Smaller grey images are shown on black with all channels equal, as out-of-distribution data."""
    grey = torch.randint(1, 255, (4, 1, 5, 6), dtype=torch.uint8)
    colour = torch.zeros(2, 3, 8, 9, dtype=torch.uint8)
    found = framed(grey, colour)
    assert found.shape == (4, 3, 8, 9)
    assert torch.equal(found[:, :, 1:6, 1:7], grey.expand(-1, 3, -1, -1))
    assert found.sum() == 3 * grey.sum(), "black around them"
    flat = torch.randint(1, 255, (4, 64), dtype=torch.uint8)
    on_flat = framed(flat, torch.zeros(1, 100, dtype=torch.uint8))
    assert torch.equal(on_flat.view(4, 10, 10)[:, 1:9, 1:9], flat.view(4, 8, 8))
    assert framed(grey, grey[:1]) is grey
    larger = r"expected the shape \(3, 8, 9\) of type torch.uint8, or grey images that are not larger, got"
    for images, message in (
        (torch.zeros(4, 1, 9, 9, dtype=torch.uint8), larger),
        (torch.zeros(4, 1, 8, 10, dtype=torch.uint8), larger),
        (torch.zeros(4, 3, 5, 5, dtype=torch.uint8), larger),  # in colour
        (torch.zeros(4, 63, dtype=torch.uint8), r"got \(4, 63\)"),  # not square
        (grey.float(), r"got \(1, 5, 6\) of type torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            framed(images, colour)
    numbers = torch.zeros(4, 16)
    with pytest.raises(ValueError, match=r"expected the shape \(25,\) of type torch.float32, got \(16,\)"):
        framed(numbers, torch.zeros(2, 25))  # numbers are not images
    assert framed(numbers, torch.zeros(2, 16)) is numbers


def test_refusals() -> None:
    for images in (torch.zeros(5, 63), torch.zeros(5)):
        with pytest.raises(ValueError, match=r"images must have the shape \(N, C, H, W\)"):
            shuffled_tiles(images, 3)
    for images in (torch.zeros(5, 1, 3, 9), torch.zeros(0, 1, 8, 8)):
        with pytest.raises(ValueError, match="outliers need at least one image, and 4 pixels per side"):
            shuffled_tiles(images, 3)
    with pytest.raises(ValueError, match="share must be positive, got 0"):
        with_outliers(load_digits(), 0)


def test_the_loss() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 3, 1, 2, 2, 0])
    torch.testing.assert_close(OUTLIER_EXPOSURE.mean(output, target), F.cross_entropy(output, target))
    unknown = torch.full((6,), OUTLIER)
    uniform = F.cross_entropy(output, torch.full((6, 4), 0.25))
    torch.testing.assert_close(OUTLIER_EXPOSURE.mean(output, unknown), uniform)
    mixed = torch.where(torch.arange(6) < 3, target, unknown)
    halves = [OUTLIER_EXPOSURE.mean(output[part], mixed[part]) for part in (slice(3), slice(3, 6))]
    torch.testing.assert_close(OUTLIER_EXPOSURE.mean(output, mixed), sum(halves) / 2)
    flat = torch.zeros(1, 4, requires_grad=True)
    OUTLIER_EXPOSURE.mean(flat, unknown[:1]).backward()
    assert flat.grad is not None and flat.grad.abs().max() < 1e-7  # no doubt is better than all of it
    assert OUTLIER_EXPOSURE.mean(flat, unknown[:1]).item() == pytest.approx(math.log(4))


def test_what_counts_as_right() -> None:
    sure, unsure = [9.0, 0.0, 0.0], [0.1, 0.0, 0.0]
    output, target = torch.tensor([sure, unsure, sure, unsure]), torch.tensor([0, 1, OUTLIER, OUTLIER])
    assert OUTLIER_EXPOSURE.hit_count(output, target) == 2


def test_a_network_learns_to_doubt_new_shuffled_tiles() -> None:
    data, found = load_digits(), []
    assert data.test is not None
    unlike = dataclasses.replace(data.test, x=shuffled_tiles(data.test.x, 300, seed=9), y=torch.zeros(300))
    for train in (data.train, with_outliers(data, 0.2).train):
        torch.manual_seed(0)
        model = bb.nn.mlp(64, [128], 10, logit_scale=True)
        binary, real = bb.split_parameters(model)
        optimizers = bb.BayesBiNN(binary, lr=1e-2, ess=100 * len(train), seed=0), torch.optim.Adam(real, lr=1e-2)
        for epoch in range(10):
            for x, y in batches(train, 50, epoch=epoch, shuffle=True):
                OUTLIER_EXPOSURE.mean(model(x), y).backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        optimizers[0].eval()
        entropies = (bb.predict(model, part.inputs(torch.arange(300))).entropy for part in (data.test, unlike))
        found.append(separation(*entropies))
    assert found[0] < 0.97 < found[1]


@pytest.mark.parametrize(("name", "share"), [("mnist-outliers", 0.1), ("mnist-few-outliers", 0.01)])
def test_the_recipes(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, digits = find_recipe(name), load_digits()
    monkeypatch.setattr(ours, "MNIST", dataclasses.replace(recipe, load=lambda *_: digits))
    train = recipe.load(None, torch.device("cpu"), 0).train
    assert int((train.y == OUTLIER).sum()) == round(share * len(digits.train))
    assert recipe.loss is OUTLIER_EXPOSURE and set(recipe.rules) == set(find_recipe("mnist-trust").rules)
