"""Outliers: images of no class, made from images of known classes, to train networks to be unsure of them."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bitbayes.lab.data.bundle import DataBundle, TensorData

OUTLIER = -1
"""Target of an example that belongs to no class, for the loss `OUTLIER_EXPOSURE`."""

_TILES = 4  # tiles along each side
_SOURCES = 4  # number of images from which the tiles of one outlier come


def as_images(images: Tensor) -> Tensor:
    """Return a view of images with the shape (N, C, H, W).

    Args:
        images: Images, shape (N, C, H, W), or (N, H·W) for square images of one channel.

    Raises:
        ValueError: If the tensor has another shape.

    Example:
        >>> as_images(torch.zeros(3, 64)).shape
        torch.Size([3, 1, 8, 8])
    """
    side = math.isqrt(images.shape[1]) if images.dim() == 2 else 0
    whole = images.view(len(images), 1, side, side) if side and side**2 == images.shape[1] else images
    if whole.dim() != 4:
        raise ValueError(
            "images must have the shape (N, C, H, W), or (N, H·W) if they are square and of one channel; got "
            f"{tuple(images.shape)}"
        )
    return whole


def framed(images: Tensor, like: Tensor) -> Tensor:
    """Give images the shape of others: grey ones of at most their size are centred on black, in every channel.

    Args:
        images: Images of type uint8, shape (N, C, H, W), or (N, H·W) for square images of one channel; or any inputs
            that have the shape and type of `like`.
        like: Inputs of the required shape and type, (M, ...).

    Returns:
        Images of shape (N, ...).

    Raises:
        ValueError: If they differ in more than the size and the channels of grey images.

    Example:
        >>> framed(torch.ones(5, 64, dtype=torch.uint8), torch.zeros(1, 3, 10, 10, dtype=torch.uint8))[0, 2].sum(1)
        tensor([0, 8, 8, 8, 8, 8, 8, 8, 8, 0])
    """
    if images.dtype == like.dtype and images.shape[1:] == like.shape[1:]:
        return images
    came, wanted = (f"{tuple(each.shape[1:])} of type {each.dtype}" for each in (images, like))
    if not images.dtype == like.dtype == torch.uint8:
        raise ValueError(f"expected the shape {wanted}, got {came}")
    small, whole = as_images(images), as_images(like)
    rows, columns = (have - need for have, need in zip(whole.shape[2:], small.shape[2:], strict=True))
    if small.shape[1] != 1 or min(rows, columns) < 0:
        raise ValueError(f"expected the shape {wanted}, or grey images that are not larger, got {came}")
    on_black = F.pad(small, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return on_black.expand(-1, whole.shape[1], -1, -1).reshape(len(images), *like.shape[1:])


def shuffled_tiles(images: Tensor, count: int, seed: int = 0) -> Tensor:
    """Make images of no class from 4×4 tiles, which are cut from four images and joined in random order.

    The images have the edges, strokes and colours of the known classes, but none of their shapes. Real
    out-of-distribution data looks different, so measure whether the network is unsure of such data, too.

    Args:
        images: Images of known classes, shape (N, C, H, W), or (N, H·W) for square images of one channel.
        count: Number of images to make.
        seed: Seed of the random choice.

    Returns:
        Images of the same type and shape, (count, ...). Pixels at the lower and right edges that do not fill a tile are
        black.

    Raises:
        ValueError: If there are no images, or they do not have at least 4×4 pixels.

    Example:
        >>> from bitbayes.lab.data import load_digits
        >>> shuffled_tiles(load_digits().train.x, 7).shape
        torch.Size([7, 64])
    """
    whole = as_images(images)
    if not len(whole) or min(whole.shape[2:]) < _TILES:
        raise ValueError(
            f"outliers need at least one image, and {_TILES} pixels per side; got a tensor of shape "
            f"{tuple(images.shape)}"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (count, _SOURCES), generator=generator)
    order = torch.rand(count, _SOURCES * _TILES**2, generator=generator).argsort(1)[:, : _TILES**2]
    channels, (height, width) = whole.shape[1], (size // _TILES for size in whole.shape[2:])
    inside = (..., slice(_TILES * height), slice(_TILES * width))
    tiles = whole[chosen.to(images.device)][inside]
    tiles = tiles.reshape(count, _SOURCES, channels, _TILES, height, _TILES, width).permute(0, 1, 3, 5, 2, 4, 6)
    tiles = tiles.flatten(1, 3)[torch.arange(count)[:, None], order.to(images.device)]
    tiles = tiles.view(count, _TILES, _TILES, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    result = whole.new_zeros(count, *whole.shape[1:])
    result[inside] = tiles.reshape(count, channels, _TILES * height, _TILES * width)
    return result.view(count, *images.shape[1:])


def with_outliers(bundle: DataBundle[TensorData], share: float = 0.1, seed: int = 0) -> DataBundle[TensorData]:
    """Add images of no class (target −1) to the training examples, for training with the loss `OUTLIER_EXPOSURE`.

    This is outlier exposure (Hendrycks, Mazeika & Dietterich, ICLR 2019), whose outliers are other data sets.

    Args:
        bundle: Images of classes.
        share: Number of outliers per training example.
        seed: Seed of the random choice.

    Raises:
        ValueError: If `share` is not positive, or `shuffled_tiles` cannot use the data.

    Example:
        >>> from bitbayes.lab.data import load_digits
        >>> digits = load_digits()
        >>> len(with_outliers(digits).train) - len(digits.train)
        120
    """
    if not share > 0:
        raise ValueError(f"share must be positive, got {share}; do not call with_outliers for no outliers")
    train = bundle.train
    extra = shuffled_tiles(train.x, round(share * len(train)), seed)
    y = torch.cat([train.y, train.y.new_full((len(extra),), OUTLIER)])
    return dataclasses.replace(bundle, train=dataclasses.replace(train, x=torch.cat([train.x, extra]), y=y))
