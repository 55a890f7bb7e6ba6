"""Data augmentation of images, for a whole batch at once on its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bitbayes.noise import Noise, stream_key

_TRIES = 5
_AUGMENT_STREAM = 22  # keeps its numbers apart from those of the shuffle


class Augmentation(Protocol):
    """Interface of an augmentation: a function of images and of `uniforms` uniform numbers per image.

    It may have an attribute `alternating`, the positions of numbers that alternate; see `augmentation_uniforms`.
    """

    @property
    def uniforms(self) -> int:
        """Number of uniform numbers per image."""
        ...

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment uint8 images of shape (N, C, H, W) with numbers in [0, 1) of shape (N, uniforms)."""
        ...


def augmentation_uniforms(augment: Augmentation, count: int, *, seed: int, epoch: int) -> Tensor:
    """Return the numbers that determine the augmentation of every example in an epoch.

    Numbers are drawn anew for every epoch. Those at the positions `alternating` are drawn once, and ½ is added to them,
    modulo 1, in every other epoch.

    Args:
        augment: Augmentation.
        count: Number of examples, N.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        Uniform numbers in [0, 1), shape (N, augment.uniforms).

    Example:
        >>> numbers = [augmentation_uniforms(CropFlip(alternate=True), 3, seed=0, epoch=epoch) for epoch in (1, 2, 3)]
        >>> first, second, third = (uniform[:, 2] > 0.5 for uniform in numbers)
        >>> torch.equal(first, ~second), torch.equal(first, third)
        (True, True)
    """

    def numbers(epoch: int) -> Tensor:
        key = stream_key(seed, _AUGMENT_STREAM, epoch)
        return Noise(key, augment.uniforms * count).uniform().view(count, augment.uniforms)

    uniform = numbers(epoch)
    if places := list(getattr(augment, "alternating", ())):
        uniform[:, places] = (numbers(0)[:, places] + 0.5 * (epoch % 2)) % 1
    return uniform


@dataclass(frozen=True)
class CropFlip:
    """Random crop of the padded image and random horizontal flip, as is usual for CIFAR.

    Args:
        pad: Width of the frame around the image, in pixels.
        flip: Whether to flip.
        reflect: Whether to pad by reflection at the border; otherwise, the frame is black.
        alternate: Whether an image is flipped in every other epoch, beginning at random with the first or the second.
            Otherwise, each epoch draws anew. Two consecutive epochs then show every image from both sides (Jordan,
            2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU").

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
        >>> CropFlip(pad=1)(images, torch.tensor([[0.5, 0.5, 0.9]]))[0, 0]  # in the middle, flipped
        tensor([[1, 0],
                [3, 2]], dtype=torch.uint8)
    """

    pad: int = 4
    flip: bool = True
    reflect: bool = False
    alternate: bool = False

    @property
    def uniforms(self) -> int:
        """Number of uniform numbers per image: two for the place of the crop, and one for the flip."""
        return 3

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment images; see `Augmentation`."""
        count, channels, height, width = images.shape
        top, left = (uniform[:, :2] * (2 * self.pad + 1)).long().unbind(1)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.flip:
            columns = torch.where(uniform[:, 2:] > 0.5, width - 1 - columns, columns)
        columns = left[:, None] + columns
        if self.reflect:
            rows, columns = (_reflected(at - self.pad, size) for at, size in ((rows, height), (columns, width)))
        else:
            images = F.pad(images, [self.pad] * 4)
        each = torch.arange(count, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[:, None, None]
        return images[each, channel, rows[:, None, :, None], columns[:, None, None, :]]

    @property
    def alternating(self) -> tuple[int, ...]:
        """Positions of the numbers that alternate; see `augmentation_uniforms`."""
        return (2,) if self.alternate else ()


def _reflected(at: Tensor, size: int) -> Tensor:
    """Return the positions in 0 ... size - 1 that positions outside reflect to, without repeating the border."""
    at = at.abs()
    return torch.minimum(at, 2 * (size - 1) - at)


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
        >>> ResizedCrop()(images, torch.full((2, ResizedCrop().uniforms), 0.5)).shape
        torch.Size([2, 3, 8, 8])
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    @property
    def uniforms(self) -> int:
        """Number of uniform numbers per image: two for each try, two for the place, and one for the flip."""
        return 2 * _TRIES + 3

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


@dataclass(frozen=True)
class Cutout:
    """Another augmentation, followed by a grey square at a random place (DeVries & Taylor, 2017).

    The centre of the square is uniform over the image, so that a part of the square may lie outside.

    Args:
        before: Augmentation that comes first.
        size: Height and width of the square, in pixels.
        grey: Value of its pixels. The default is near the mean of CIFAR.

    Example:
        >>> images = torch.zeros(1, 1, 2, 3, dtype=torch.uint8)
        >>> Cutout(CropFlip(pad=0, flip=False), size=1)(images, torch.tensor([[0.0, 0.0, 0.0, 0.9, 0.9]]))[0, 0]
        tensor([[  0,   0,   0],
                [  0,   0, 121]], dtype=torch.uint8)
    """

    before: Augmentation
    size: int
    grey: int = 121

    @property
    def uniforms(self) -> int:
        """Number of uniform numbers per image: those of `before`, and two for the centre of the square."""
        return self.before.uniforms + 2

    @property
    def alternating(self) -> tuple[int, ...]:
        """Positions of the numbers that alternate; see `augmentation_uniforms`."""
        return getattr(self.before, "alternating", ())

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment images; see `Augmentation`."""
        images = self.before(images, uniform[:, :-2])

        def inside(extent: int, number: Tensor) -> Tensor:
            first = (number * extent).long() - self.size // 2
            at = torch.arange(extent, device=images.device)
            return (at >= first[:, None]) & (at < first[:, None] + self.size)

        rows, columns = (inside(extent, uniform[:, at]) for extent, at in zip(images.shape[2:], (-2, -1), strict=True))
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.grey)


AUGMENTATIONS: Mapping[str, Augmentation | None] = {
    "none": None,
    "flip": CropFlip(pad=0),
    "crop": CropFlip(),
    "shift": CropFlip(pad=2, reflect=True),
    "alternate": CropFlip(pad=2, reflect=True, alternate=True),
    "cutout": Cutout(CropFlip(pad=4, reflect=True, alternate=True), size=12),
    "resize": ResizedCrop(),
}
"""Augmentations by their names on the command line; None is no augmentation."""
