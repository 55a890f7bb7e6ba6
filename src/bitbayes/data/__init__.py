"""Data sets as tensors on the training device."""

from bitbayes.data.bundle import DataBundle, TensorData, batches
from bitbayes.data.images import load_digits, load_fashion_mnist, load_mnist
from bitbayes.data.toy import load_moons, load_snelson

__all__ = [
    "DataBundle",
    "TensorData",
    "batches",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "load_moons",
    "load_snelson",
]
