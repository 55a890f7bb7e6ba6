"""Data augmentation of images, for a whole batch at once on its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_TRIES = 5


class Augmentation(Protocol):
    """Interface of an augmentation: a function of images and of `uniforms` uniform numbers per image."""

    uniforms: ClassVar[int]

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment uint8 images of shape (N, C, H, W) with numbers in (0, 1) of shape (N, uniforms)."""
        ...


@dataclass(frozen=True)
class CropFlip:
    """Random crop of the padded image and random horizontal flip, as is usual for CIFAR.

    Args:
        pad: Width of the black frame around the image, in pixels.
        flip: Whether to flip.

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
        >>> CropFlip(pad=1)(images, torch.tensor([[0.5, 0.5, 0.9]]))[0, 0]  # in the middle, flipped
        tensor([[1, 0],
                [3, 2]], dtype=torch.uint8)
    """

    uniforms: ClassVar[int] = 3
    pad: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment images; see `Augmentation`."""
        count, channels, height, width = images.shape
        padded = F.pad(images, [self.pad] * 4)
        top, left = (uniform[:, :2] * (2 * self.pad + 1)).long().unbind(1)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.flip:
            columns = torch.where(uniform[:, 2:] > 0.5, width - 1 - columns, columns)
        columns = left[:, None] + columns
        each = torch.arange(count, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[:, None, None]
        return padded[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class ResizedCrop:
    """Random part of the image, of random area and aspect ratio, resized to the size of the image.

    As in torchvision, a crop that does not fit into the image is drawn again. After five tries, it is clipped to the
    image.

    Args:
        scale: Smallest and largest fraction of the area.
        ratio: Smallest and largest aspect ratio (width over height), whose logarithm is uniform.
        flip: Whether to flip images at random.

    Example:
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> ResizedCrop()(images, torch.full((2, ResizedCrop.uniforms), 0.5)).shape
        torch.Size([2, 3, 8, 8])
    """

    uniforms: ClassVar[int] = 2 * _TRIES + 3
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def box(self, uniform: Tensor, shape: float = 1.0) -> Tensor:
        """Return the position of the crop in units in which the image is [-1, 1] in both directions.

        Args:
            uniform: Numbers in (0, 1), shape (N, uniforms).
            shape: Aspect ratio (width over height) of the image.

        Returns:
            Centre (x, y), half sizes (horizontal, vertical), and -1 if the crop is mirrored, else 1; shape (5, N).
        """
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * uniform[:, :_TRIES]
        low, high = torch.tensor(self.ratio, device=uniform.device).log()
        aspect = (low + (high - low) * uniform[:, _TRIES : 2 * _TRIES]).exp() / shape
        sizes = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()])
        fits = (sizes <= 1).all(0)
        first = torch.where(fits.any(1), fits.float().argmax(1), _TRIES - 1)
        wide, tall = sizes.gather(2, first.expand(2, -1)[:, :, None])[:, :, 0].clamp(max=1)
        x, y = ((1 - size) * (2 * uniform[:, k] - 1) for size, k in ((wide, -3), (tall, -2)))
        mirror = torch.where(uniform[:, -1] > 0.5, -1.0, 1.0) if self.flip else torch.ones_like(x)
        return torch.stack([x, y, wide, tall, mirror])

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment images; see `Augmentation`."""
        x, y, wide, tall, mirror = self.box(uniform, images.shape[3] / images.shape[2])
        zero = torch.zeros_like(x)
        move = torch.stack([torch.stack([mirror * wide, zero, x], 1), torch.stack([zero, tall, y], 1)], 1)
        grid = F.affine_grid(move, list(images.shape), align_corners=False)
        found = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return found.round().to(images.dtype)
