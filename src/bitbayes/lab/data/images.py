"""Images as one uint8 tensor per split: scikit-learn's digits, MNIST, Fashion-MNIST, CIFAR, Tiny-ImageNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitbayes.errors import require
from bitbayes.lab.data.augment import Augmentation, CropFlip, ResizedCrop
from bitbayes.lab.data.bundle import DataBundle, TensorData, check_share, held_out
from bitbayes.lab.data.hub import Layout, class_names, read_split, table_of
from bitbayes.packed import Inputs

_DIGITS = tuple(map(str, range(10)))
_CLOTHES = (
    *("T-shirt or top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_CIFAR100 = tuple(
    name.replace("_", " ")
    for name in (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
        "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
        "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
        "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
        "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
        "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
        "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ).split()
)


def load_digits(*, device: torch.device | str = "cpu", seed: int = 0, flat: bool = True) -> DataBundle[TensorData]:
    """Load the 1,797 handwritten digits that ship with scikit-learn, 8×8 pixels, as uint8 inputs of shape (N, 64).

    `seed` determines the split into 1,197 training, 200 validation and 400 test images, stratified by class. Without
    `flat` the inputs have shape (N, 1, 8, 8).
    """
    raw = require("sklearn.datasets", "train").load_digits()
    split = require("sklearn.model_selection", "train").train_test_split
    images = torch.tensor(raw.data * (255 / 16)).round().to(torch.uint8)
    images = images if flat else images.view(-1, 1, 8, 8)
    labels = torch.tensor(raw.target, dtype=torch.int64)
    rest, test = split(np.arange(len(labels)), test_size=400, stratify=raw.target, random_state=seed)
    train, validation = split(rest, test_size=200, stratify=raw.target[rest], random_state=seed)
    pixels = images[torch.as_tensor(train)].float() / 255
    mean, std = float(pixels.mean()), float(pixels.std())
    everything = TensorData(images.to(device), labels.to(device), mean, std)
    fitted, held, fresh = (everything.chosen(torch.as_tensor(index)) for index in (train, validation, test))
    inputs = Inputs("image", colour="grey", height=8, width=8, mean=mean, std=std, classes=_DIGITS)
    return DataBundle("digits", fitted, held, fresh, 10, "scikit-learn", inputs)


@dataclass(frozen=True)
class ImageLoader:
    """Loader of a data set from the Hugging Face Hub.

    Args:
        name: Name of the data set.
        layout: Columns, classes and sizes on the hub.
        mean: Mean of the pixels in [0, 1], or of each channel.
        std: Standard deviation of the pixels, or of each channel.
        splits: Names of the training and test splits.
        augment: Default augmentation of training images.
    """

    name: str
    layout: Layout
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    splits: tuple[str, str] = ("train", "test")
    augment: Augmentation | None = None

    def __call__(
        self,
        where: str | Path | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        *,
        validation: float = 0.1,
        augment: Augmentation | Literal["usual"] | None = "usual",
    ) -> DataBundle[TensorData]:
        """Load the data set.

        Args:
            where: Folder of parquet files, TRAIN-*.parquet and TEST-*.parquet with the hub's columns and split names,
                or a Hugging Face Hub id; None for the data set's own id. For MNIST and Fashion-MNIST, the folder may
                also hold the original idx files (*.gz).
            device: Device of the tensors.
            seed: Seed of the split.
            validation: Fraction of the training images to hold out for validation.
            augment: Augmentation of training images, which `batches(augment=True)` applies; None for no augmentation.

        Returns:
            Data with inputs of type uint8: (N, 3, H, W) for colour images, (N, H·W) for grey images.

        Raises:
            ValueError: If the folder or its files are not as expected. The message says what is expected.
        """
        check_share(validation)
        where = self.layout.hub if where is None else where
        (images, labels), test = (read_split(where, split, self.layout) for split in self.splits)
        kept, held = held_out(len(labels), validation, seed)

        def part(x: Tensor, y: Tensor, change: Augmentation | None = None) -> TensorData:
            pixels = x.flatten(1) if self.layout.channels == 1 else x.permute(0, 3, 1, 2).contiguous()
            return TensorData(pixels.to(device), y.to(device), mean=self.mean, std=self.std, augment=change)

        layout = self.layout
        inputs = Inputs(
            "image",
            colour="grey" if layout.channels == 1 else "rgb",
            height=layout.size,
            width=layout.size,
            mean=self.mean,
            std=self.std,
            classes=layout.names or class_names(table_of(where, self.splits[0], layout), layout),
        )
        return DataBundle(
            self.name,
            part(images[kept], labels[kept], self.augment if augment == "usual" else augment),
            part(images[held], labels[held]) if len(held) else None,
            part(*test),
            layout.classes,
            str(where),
            inputs,
        )


load_mnist = ImageLoader("mnist", Layout("ylecun/mnist", idx=True, names=_DIGITS), 0.1307, 0.3081)
"""Loader of MNIST: 60,000 grey images of 28×28 pixels for training and validation, and 10,000 test images."""

load_fashion_mnist = ImageLoader(
    "fashion-mnist", Layout("zalando-datasets/fashion_mnist", idx=True, names=_CLOTHES), 0.2860, 0.3530
)
"""Loader of Fashion-MNIST, which has the sizes and layout of MNIST."""

load_cifar10 = ImageLoader(
    "cifar10",
    Layout("uoft-cs/cifar10", "img", "label", 10, 32, 3, names=_CIFAR10),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    augment=CropFlip(),
)
"""Loader of CIFAR-10: 50,000 images of 32×32 pixels and 10,000 test images, normalised as in the BayesBiNN paper.

Augmentation crops the image with 4 pixels of padding and flips it at random.
"""

load_cifar100 = ImageLoader(
    "cifar100",
    Layout("uoft-cs/cifar100", "img", "fine_label", 100, 32, 3, names=_CIFAR100),
    mean=(0.507, 0.487, 0.441),
    std=(0.267, 0.256, 0.276),
    augment=CropFlip(),
)
"""Loader of CIFAR-100, with the sizes and the augmentation of CIFAR-10."""

load_tiny_imagenet = ImageLoader(
    "tiny-imagenet",
    Layout("zh-plus/tiny-imagenet", "image", "label", 200, 64, 3, grey=True),  # about two thousand images are grey
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    splits=("train", "valid"),
    augment=ResizedCrop(),
)
"""Loader of Tiny-ImageNet: 100,000 images of 200 classes, 64×64 pixels. Its validation images are the test data.

Augmentation resizes a random crop of the image and flips it at random.
"""
