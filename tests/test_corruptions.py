"""Corrupted images and printed letters: what a network has not been trained on."""

from __future__ import annotations

import math

import pytest
import torch

from bitbayes.lab.data import CORRUPTIONS, SEVERITIES, TensorData, corrupted, load_digits, printed_letters


def point(row: int, column: int) -> torch.Tensor:
    """Two black images of 41×41 pixels with a white square of 3×3."""
    images = torch.zeros(2, 1, 41, 41, dtype=torch.uint8)
    images[:, :, row - 1 : row + 2, column - 1 : column + 2] = 255
    return images


def centre(image: torch.Tensor) -> tuple[float, float]:
    """The centre of mass, from the middle of the image."""
    weights = image.double() / image.sum()
    places = torch.arange(41, dtype=torch.float64) - 20
    return float((weights.sum(1) * places).sum()), float((weights.sum(0) * places).sum())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_by_ten_degrees_per_severity_to_both_sides(severity: int) -> None:
    angles = [math.degrees(math.atan2(*centre(image[0]))) for image in corrupted(point(20, 32), "rotation", severity)]
    assert sorted(angles) == pytest.approx([-10 * severity, 10 * severity], abs=1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_spreads_a_point_by_its_deviation(severity: int) -> None:
    blurred = corrupted(point(20, 20), "blur", severity)[0, 0].double()
    places = torch.arange(41, dtype=torch.float64) - 20
    variance = float((blurred.sum(0) * places.square()).sum() / blurred.sum())
    assert variance == pytest.approx((0.02 * severity * 41) ** 2 + 2 / 3, rel=0.15)
    assert torch.equal(blurred, blurred.T)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_and_contrast(severity: int) -> None:
    grey = torch.full((4, 3, 50, 50), 128, dtype=torch.uint8)
    noisy = corrupted(grey, "noise", severity).double() / 255
    if severity < 3:  # stronger noise is cut at black and white
        assert float(noisy.std()) == pytest.approx(0.1 * severity, rel=0.05)
    assert abs(float(noisy.mean()) - 0.5) < 0.02
    assert not torch.equal(corrupted(grey, "noise", severity, seed=1), corrupted(grey, "noise", severity))
    halves = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    halves[..., 0] = 200
    found = corrupted(halves, "contrast", severity)[0, 0, 0].tolist()
    assert found[0] - found[1] == pytest.approx(200 * (0.96 - 0.16 * severity), abs=1)
    assert sum(found) == pytest.approx(200, abs=1)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", ["rotation", "blur"])
def test_a_photograph_gets_no_dark_border_and_a_digit_keeps_its_black_background(kind: str, severity: int) -> None:
    """A smooth picture stays smooth up to its edges, where the same picture in grey fades into black."""
    ramp = torch.linspace(100, 200, 32).expand(2, 3, 32, 32).to(torch.uint8)
    changed, grey = (corrupted(images, kind, severity) for images in (ramp, ramp[:, :1]))
    assert 100 <= int(changed.min()) and int(changed.max()) <= 200
    assert int(grey.min()) < 90
    for colour in range(3):  # the middle knows nothing of the edges
        torch.testing.assert_close(changed[:, colour, 15:17, 15:17], grey[:, 0, 15:17, 15:17], atol=1, rtol=0)


def test_what_lies_outside_a_photograph() -> None:
    """Blur repeats the outermost pixels, so that more than half of them stays at the edge; rotation reflects."""
    edge = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    edge[..., 0] = 200
    assert 100 < int(corrupted(edge, "blur", 5)[..., 0].min()) < 130
    half = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    half[..., :10, :7] = 200
    mirrored = torch.cat([half.flip(3), half, half.flip(3)], 3)
    mirrored = torch.cat([mirrored.flip(2), mirrored, mirrored.flip(2)], 2)
    middle = corrupted(mirrored, "rotation", 4)[..., 20:40, 20:40]
    torch.testing.assert_close(corrupted(half, "rotation", 4), middle, atol=1, rtol=0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_rows_are_the_images_that_they_hold(kind: str) -> None:
    rows = load_digits().test.x[:6]  # type: ignore[union-attr]
    found = corrupted(rows, kind, 3)
    assert found.dtype == torch.uint8 and not torch.equal(found, rows)
    assert torch.equal(found.view(6, 1, 8, 8), corrupted(rows.view(6, 1, 8, 8), kind, 3))


def test_refusals() -> None:
    images = torch.zeros(1, 64, dtype=torch.uint8)
    for arguments, message in (
        ((images, "rotate", 1), "corruption"),
        ((images, "noise", 6), "severity must be from 1 to 5, got 6"),
        ((images.float(), "noise", 1), "only images of type uint8 can be corrupted, got torch.float32"),
        ((images[:, :63], "noise", 1), r"images must have the shape \(N, C, H, W\).*got \(1, 63\)"),
    ):
        with pytest.raises(ValueError, match=message):
            corrupted(*arguments)


def test_letters_are_white_on_black_and_differ() -> None:
    found = printed_letters(40)
    assert torch.equal(found, printed_letters(40)) and not torch.equal(found, printed_letters(40, seed=1))
    ink = TensorData(found, torch.zeros(40)).inputs(torch.arange(40)).mean((1, 2, 3))
    assert 0.02 < float(ink.min()) and float(ink.max()) < 0.3
    assert len(found.unique(dim=0)) == 40 and float(found[:, :, 0].float().mean()) < 5
