"""Data sets as tensors on the training device."""

from bitbayes.lab.data.arrays import from_arrays
from bitbayes.lab.data.augment import AUGMENTATIONS, Augmentation, CropFlip, Cutout, ResizedCrop
from bitbayes.lab.data.bundle import DataBundle, Examples, TensorData, batches
from bitbayes.lab.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from bitbayes.lab.data.images import (
    ImageLoader,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    load_tiny_imagenet,
)
from bitbayes.lab.data.lazy import LazyImages, load_imagenet
from bitbayes.lab.data.letters import LETTERS, printed_letters
from bitbayes.lab.data.outliers import OUTLIER, framed, shuffled_tiles, with_outliers
from bitbayes.lab.data.pictures import load_pictures
from bitbayes.lab.data.text import TextData, load_text
from bitbayes.lab.data.toy import load_breast_cancer, load_moons, load_snelson

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTIONS",
    "LETTERS",
    "OUTLIER",
    "SEVERITIES",
    "Augmentation",
    "CropFlip",
    "Cutout",
    "DataBundle",
    "Examples",
    "ImageLoader",
    "LazyImages",
    "ResizedCrop",
    "TensorData",
    "TextData",
    "batches",
    "corrupted",
    "framed",
    "from_arrays",
    "load_breast_cancer",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_imagenet",
    "load_mnist",
    "load_moons",
    "load_pictures",
    "load_snelson",
    "load_text",
    "load_tiny_imagenet",
    "printed_letters",
    "shuffled_tiles",
    "with_outliers",
]
