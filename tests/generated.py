"""Tiny data sets in the layouts of the hub, for tests that run a recipe from end to end."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

# Columns, classes, size, splits and PIL's mode by the first word of a recipe's name.
LAYOUTS = {
    "mnist": ("image", "label", 10, 28, ("train", "test"), "L"),
    "fashion": ("image", "label", 10, 28, ("train", "test"), "L"),
    "cifar10": ("img", "label", 10, 32, ("train", "test"), "RGB"),
    "cifar100": ("img", "fine_label", 100, 32, ("train", "test"), "RGB"),
    "imagenet": ("image", "label", 1000, 64, ("train", "validation"), "RGB"),
    "tiny": ("image", "label", 200, 64, ("train", "valid"), "RGB"),
}


def encoded(array: np.ndarray) -> dict:
    """One image as the hub stores it."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(folder: Path, name: str, *, train: int = 40, test: int = 10, **changes) -> Path:
    """Writes a data set; `changes` may give other `size`, `mode`, `image` or `classes` than it should have."""
    import datasets

    image, label, classes, size, splits, mode = LAYOUTS[name]
    image, classes = changes.get("image", image), changes.get("classes", classes)
    size, mode = changes.get("size", size), changes.get("mode", mode)
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in zip(splits, (train, test), strict=True):
        shape = (size, size) if mode == "L" else (size, size, 3)
        rows = {
            image: [encoded(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)],
            label: [i % classes for i in range(count)],
        }
        table = datasets.Dataset.from_dict(rows).cast_column(image, datasets.Image())
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder
