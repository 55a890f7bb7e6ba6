"""Corruptions of test images at five severities, in the manner of MNIST-C and ImageNet-C."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from bitbayes.errors import nearest
from bitbayes.lab.data.outliers import as_images

SEVERITIES = range(1, 6)
"""Severities of a corruption, from the weakest to the strongest."""


def corrupted(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt images of type uint8.

    | kind | severity 1 | severity 5 |
    | --- | --- | --- |
    | rotation, alternately to the left and to the right | 10° | 50° |
    | noise, standard deviation of white noise | 0.1 | 0.5 |
    | blur, standard deviation of a Gaussian in shares of the width | 0.02 | 0.1 |
    | contrast, factor of the distance from the mean of the image | 0.8 | 0.16 |

    The values of white noise refer to pixels in [0, 1]. Rotation and blur take pixels from outside the image. Around an
    image of one channel they are black, as the background of MNIST's digits. An image in colour continues outside as in
    ImageNet-C, so that a photograph gets no dark border: rotation reflects the image, as ImageNet-C's elastic
    transformation does, and blur repeats the outermost pixels, as ImageNet-C's Gaussian blur does.

    Args:
        images: Images, shape (N, C, H, W), or (N, H·W) for square images of one channel.
        kind: "rotation", "noise", "blur" or "contrast".
        severity: Severity from 1 to 5.
        seed: Seed of the noise.

    Returns:
        Images of the same shape and type.

    Raises:
        ValueError: If the kind, the severity, the shape or the type is another one.

    Source:
        Robustness to common corruptions (Hendrycks & Dietterich, ICLR 2019), with fewer kinds and other strengths.

    Example:
        >>> from bitbayes.lab.data import load_digits
        >>> digits = load_digits().test.x
        >>> corrupted(digits, "contrast", 5).float().std() < 0.2 * digits.float().std()
        tensor(True)
    """
    if kind not in CORRUPTIONS:
        raise nearest("corruption", kind, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be from 1 to {SEVERITIES[-1]}, got {severity}")
    if images.dtype != torch.uint8:
        raise ValueError(f"only images of type uint8 can be corrupted, got {images.dtype}")
    pixels = as_images(images).float() / 255
    changed = CORRUPTIONS[kind](pixels, severity, torch.Generator().manual_seed(seed))
    return (255 * changed.clamp(0, 1)).round().to(torch.uint8).view(images.shape)


def _rotation(pixels: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    angle = math.radians(10 * severity) * (1 - 2 * (torch.arange(len(pixels), device=pixels.device) % 2))
    turned = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    turned[:, 0, 0] = turned[:, 1, 1] = angle.cos()
    turned[:, 0, 1], turned[:, 1, 0] = angle.sin(), -angle.sin()
    outside = "zeros" if pixels.shape[1] == 1 else "reflection"
    grid = affine_grid(turned, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, padding_mode=outside, align_corners=False)


def _noise(pixels: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    return pixels + 0.1 * severity * torch.randn(pixels.shape, generator=generator).to(pixels.device)


def _blur(pixels: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = pixels.shape
    deviation = 0.02 * severity * width
    radius = max(1, math.ceil(3 * deviation))
    places = torch.arange(-radius, radius + 1, device=pixels.device)
    window = torch.exp(-0.5 * (places / deviation).square())
    window = (window / window.sum()).view(1, 1, 1, -1)
    frame = 0 if channels == 1 else radius
    single = pad(pixels.reshape(count * channels, 1, height, width), [frame] * 4, mode="replicate")
    across = conv2d(single, window, padding=(0, radius))
    blurred = conv2d(across, window.transpose(2, 3), padding=(radius, 0))
    return blurred[..., frame : frame + height, frame : frame + width].reshape(pixels.shape)


def _contrast(pixels: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return mean + (0.96 - 0.16 * severity) * (pixels - mean)


CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "rotation": _rotation,
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
}
"""Kinds of corruption by name, as functions of pixels in [0, 1], the severity, and a random generator."""
