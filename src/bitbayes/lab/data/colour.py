"""Colour images as one uint8 tensor a split: CIFAR-10, CIFAR-100, Tiny-ImageNet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bitbayes.lab.data.augment import Augmentation, CropFlip, ResizedCrop
from bitbayes.lab.data.bundle import DataBundle, TensorData, check_share, held_out
from bitbayes.lab.data.hub import Layout, read_split

__all__ = ["load_cifar10", "load_cifar100", "load_tiny_imagenet"]

_CROP_FLIP, _RESIZED_CROP = CropFlip(), ResizedCrop()
_CIFAR10 = Layout("uoft-cs/cifar10", "img", "label", 10, 32, 3)
_CIFAR100 = Layout("uoft-cs/cifar100", "img", "fine_label", 100, 32, 3)
# Some two thousand of its images are grey.
_TINY = Layout("zh-plus/tiny-imagenet", "image", "label", 200, 64, 3, grey=True)


def load_cifar10(
    where: str | Path = "uoft-cs/cifar10",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
    augment: Augmentation | None = _CROP_FLIP,
) -> DataBundle[TensorData]:
    """CIFAR-10: 50,000 images to train on, of which a part is kept for validation, and 10,000 to test.

    Args:
        where: A folder of parquet files (train-*.parquet, test-*.parquet with columns img and label), or a hub id.
        device: Where the tensors go.
        validation: Share of the training images kept for validation, drawn by `seed`.
        seed: Seed of that draw.
        augment: What `batches(augment=True)` does to training images: crops of 4 pixels of padding, and flips.

    Returns:
        Inputs of shape (N, 3, 32, 32), uint8, normalised as in the BayesBiNN paper.

    Raises:
        ValueError: If the folder or its files are not what is expected; the message says what is.
    """
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return _load(_CIFAR10, "cifar10", where, ("train", "test"), device, validation, seed, mean, std, augment)


def load_cifar100(
    where: str | Path = "uoft-cs/cifar100",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
    augment: Augmentation | None = _CROP_FLIP,
) -> DataBundle[TensorData]:
    """CIFAR-100: as CIFAR-10, with columns img and fine_label.

    Args:
        where: Folder or hub id, as for `load_cifar10`.
        device: Where the tensors go.
        validation: Share of the training images kept for validation.
        seed: Seed of that draw.
        augment: Of training images; None for none.

    Returns:
        Inputs of shape (N, 3, 32, 32), uint8.

    Raises:
        ValueError: If the folder or its files are not what is expected.
    """
    mean, std = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
    return _load(_CIFAR100, "cifar100", where, ("train", "test"), device, validation, seed, mean, std, augment)


def load_tiny_imagenet(
    where: str | Path = "zh-plus/tiny-imagenet",
    *,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
    augment: Augmentation | None = _RESIZED_CROP,
) -> DataBundle[TensorData]:
    """Tiny-ImageNet: 100,000 images of 200 classes, 64 by 64; its validation images are what papers test on.

    Args:
        where: A folder of parquet files (train-*.parquet, valid-*.parquet with columns image and label), or a hub id.
        device: Where the tensors go.
        validation: Share of the training images kept for validation.
        seed: Seed of that draw.
        augment: Of training images: a random part, resized and flipped; None for none.

    Returns:
        Inputs of shape (N, 3, 64, 64), uint8.

    Raises:
        ValueError: If the folder or its files are not what is expected.
    """
    mean, std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    return _load(_TINY, "tiny-imagenet", where, ("train", "valid"), device, validation, seed, mean, std, augment)


def _load(
    layout: Layout,
    name: str,
    where: str | Path,
    splits: tuple[str, str],
    device: torch.device | str,
    validation: float,
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augmentation | None,
) -> DataBundle[TensorData]:
    check_share(validation)
    (images, labels), test = (read_split(where, split, layout) for split in splits)
    kept, held = held_out(len(labels), validation, seed)

    def part(x: Tensor, y: Tensor, change: Augmentation | None = None) -> TensorData:
        pixels = x.permute(0, 3, 1, 2).contiguous().to(device)
        return TensorData(pixels, y.to(device), mean=mean, std=std, augment=change)

    return DataBundle(
        name,
        part(images[kept], labels[kept], augment),
        part(images[held], labels[held]) if len(held) else None,
        part(*test),
        layout.classes,
        str(where),
    )
