"""A user's own pictures as a data set, in the sizes and colours in which `bitbayes run` will read pictures, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from bitbayes.errors import require
from bitbayes.lab.data.augment import Augmentation
from bitbayes.lab.data.bundle import DataBundle, TensorData, check_share
from bitbayes.lab.data.hub import MOST_BYTES, printable_names
from bitbayes.lab.data.rows import Rows, Splits, find_pictures
from bitbayes.packed import Inputs
from bitbayes.packed.format.images import read_picture

T = TypeVar("T")

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")  # modes of Pillow
_TEST_SEED, _TEST_SHARE = 0, 0.2


def load_pictures(
    where: str | Path,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    size: int | tuple[int, int] | None = None,
    colour: Literal["grey", "rgb"] | None = None,
    validation: float = 0.1,
    test: float = _TEST_SHARE,
    augment: Augmentation | None = None,
) -> DataBundle[TensorData]:
    """Load pictures of one's own, PNG or JPEG, as uint8 inputs of shape (N, channels, height, width).

    Folders are classes: FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png, or FOLDER/CLASS/*.png alone, of which a
    share is then held out for testing. A folder `val` or `validation` beside `train` and `test` has the validation
    data; without `test` it has the test data. Pictures are read as `bitbayes run` reads them: turned as their EXIF
    data say, put on white where they are transparent, and resized. Mean and standard deviation are those of the
    training and validation pixels.

    Args:
        where: Folder of pictures, folder of parquet files (train-*.parquet, test-*.parquet), folder that `datasets`
            has saved, or hub id as "hub:OWNER/NAME". A table has one column of pictures and one of classes.
        device: Device of the tensors.
        seed: Seed of the split into training and validation data.
        size: Height and width to resize the pictures to; None where all have the same size.
        colour: "grey" or "rgb"; None for grey if all pictures are grey, otherwise rgb.
        validation: Share of the training pictures of each class that is kept for validation.
        test: Share of the pictures of each class that is held out for testing where there is no folder of test
            pictures. The seed of this split is always 0, so that every run has the same test data.
        augment: Random change of training pictures, such as `CropFlip()`; None for none.

    Raises:
        ValueError: If the folder or its pictures are not what is expected; the message says what is.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     for index in range(10):
        ...         Image.new("L", (8, 8), 20 * index).save(folder / name / f"{index}.png")
        >>> data = load_pictures(folder)
        >>> data.train.x.shape, len(data.test), data.inputs.classes
        (torch.Size([14, 1, 8, 8]), 4, ('cat', 'dog'))
    """
    for name, share in (("validation", validation), ("test", test)):
        try:
            check_share(share)
        except ValueError as error:
            raise ValueError(str(error).replace("validation", name)) from None
    found = find_pictures(where)
    inputs = _inputs(found, size, colour)
    parts = [None if rows is None else _decoded(rows, inputs) for rows in (found.train, found.validation, found.test)]
    (x, y), held, fresh, source = _existing(parts[0]), parts[1], parts[2], str(where)
    if fresh is None:
        kept, chosen = _test_part(y, test, where)
        (x, y), fresh = (x[kept], y[kept]), (x[chosen], y[chosen])
        source += _of_which(test)
    mean, std = _moments(x if held is None else torch.cat([x, held[0]]))
    if held is None:
        kept, chosen = _stratified(y, validation, seed)
        (x, y), held = (x[kept], y[kept]), (x[chosen], y[chosen]) if len(chosen) else None

    def part(pair: tuple[Tensor, Tensor], change: Augmentation | None = None) -> TensorData:
        return TensorData(pair[0].to(device), pair[1].to(device), mean, std, change)

    names = printable_names(found.classes)
    about = Inputs(
        "image", colour=inputs.colour, height=inputs.height, width=inputs.width, mean=mean, std=std, classes=names
    )
    return DataBundle(
        Path(where).name,
        part((x, y), augment),
        None if held is None else part(held),
        part(fresh),
        len(found.classes),
        source,
        about,
    )


def labelled_pictures(where: str | Path, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the test pictures of a folder as a packed network takes them, and their classes.

    Args:
        where: As for `load_pictures`. Without a test part, the pictures are those that it holds out by default. The
            network was trained on the others, unless it was given another share.
        inputs: Description of the inputs in the network's file.

    Returns:
        Normalised inputs, shape (N, channels, height, width); the number of each one's class; and words for which
        pictures these are.

    Raises:
        ValueError: If the pictures are not there, or their classes are not those of the network.
    """
    found = find_pictures(where)
    names = printable_names(found.classes)
    if inputs.classes and set(names) - set(inputs.classes):
        wrong = min(set(names) - set(inputs.classes))
        raise ValueError(f"{where} has the class {wrong}, but the network knows {', '.join(inputs.classes[:10])}")
    rows, which = found.test, f"the test part of {where}"
    if rows is None:
        _, chosen = _test_part(torch.tensor(found.train.labels), _TEST_SHARE, where)
        rows = found.train.chosen(chosen.tolist())
        which = f"the {_TEST_SHARE:.0%} of {where} that load_pictures holds out by default (seed {_TEST_SEED})"
    x, y = _decoded(rows, inputs)
    numbers = [inputs.classes.index(name) for name in names] if inputs.classes else list(range(len(names)))
    return inputs.normalised(x.numpy()), np.array(numbers)[y.numpy()], which


def _existing(value: T | None) -> T:
    assert value is not None
    return value


def _inputs(found: Splits, size: int | tuple[int, int] | None, colour: Literal["grey", "rgb"] | None) -> Inputs:
    """Return size and colours, looked up in the heads of all pictures where they are not given."""
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    if size is None or colour is None:
        every = [rows for rows in (found.train, found.validation, found.test) if rows is not None]
        heads = [head for rows in every for head in _each(lambda index, rows=rows: _head(rows, index), len(rows))]
        colour = colour or ("grey" if all(mode in _GREY for _, mode, _ in heads) else "rgb")
        if size is None:
            (height, width), _, first = heads[0]
            other = next((head for head in heads if head[0] != (height, width)), None)
            if other is not None:
                raise ValueError(
                    f"pictures have different sizes: {first} has {width} by {height} pixels, {other[2]} has "
                    f"{other[0][1]} by {other[0][0]}; choose one with load_pictures(..., size={_near(height, width)})"
                )
    return Inputs("image", colour=colour, height=height, width=width)


def _near(height: int, width: int) -> int:
    return max(8, min(64, height, width))


def _head(rows: Rows, index: int) -> tuple[tuple[int, int], str, str]:
    """Return height and width as displayed, mode, and name of a picture."""
    pillow, name = require("PIL.Image", "train"), rows.name(index)
    picture = rows.picture(index)
    if isinstance(picture, Path):
        try:
            with pillow.open(picture, formats=("PNG", "JPEG")) as opened:
                return _displayed(opened), opened.mode, name
        except Exception as error:  # Pillow raises whatever its readers meet
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            reason = "it is no PNG or JPEG picture" if "cannot identify" in reason else reason
            raise ValueError(f"{picture} cannot be read: {reason}; repair or remove it") from error
    return _displayed(picture), picture.mode, name


def _displayed(picture: Any) -> tuple[int, int]:
    wide, high = picture.size
    return (wide, high) if picture.getexif().get(0x0112, 1) in (5, 6, 7, 8) else (high, wide)


def _decoded(rows: Rows, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return all pictures, shape (N, channels, height, width), and their classes."""
    shape = (len(rows), *inputs.shape)
    if (size := int(np.prod(shape))) > MOST_BYTES:
        raise ValueError(f"{rows.where}: {len(rows):,} pictures take {size:,} bytes; at most {MOST_BYTES:,} are read")
    images = np.empty(shape, np.uint8)

    def read(index: int) -> None:
        images[index] = read_picture(rows.picture(index), inputs)

    _each(read, len(rows))
    return torch.from_numpy(images), torch.tensor(rows.labels, dtype=torch.int64)


def _each(work: Callable[[int], T], count: int) -> list[T]:
    """Do the work of every index in threads, because decoding lets go of the interpreter; the first error is raised."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, range(count)))


def _test_part(labels: Tensor, share: float, where: str | Path) -> tuple[Tensor, Tensor]:
    """Return the positions of the pictures for training and for testing, which are the same in every run."""
    kept, chosen = _stratified(labels, share, _TEST_SEED)
    if not len(chosen):
        raise ValueError(
            f"{where}: {share:g} of {len(labels)} pictures of each class is none; give more, or a test folder"
        )
    return kept, chosen


def _of_which(share: float) -> str:
    return f", of which {share:.0%} were held out for testing (seed {_TEST_SEED})"


def _stratified(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions that are kept, at least one of each class, and those of a share of each class, in order."""
    generator, chosen = torch.Generator().manual_seed(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        order = torch.randperm(len(places), generator=generator)
        chosen[places[order[: min(int(share * len(places) + 0.5), len(places) - 1)]]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def _moments(x: Tensor) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """Return mean and standard deviation of the pixels in [0, 1] for each channel, computed from exact counts."""
    levels, found = torch.arange(256, dtype=torch.float64) / 255, []
    for channel in range(x.shape[1]):
        counts = sum(torch.bincount(piece[:, channel].flatten(), minlength=256) for piece in x.split(1000))
        share = torch.as_tensor(counts, dtype=torch.float64) / x[:, channel].numel()
        mean = (share * levels).sum()
        std = (share * (levels - mean) ** 2).sum().sqrt()
        found.append((round(float(mean), 4), max(round(float(std), 4), 1e-3)))
    means, stds = zip(*found, strict=True)
    return (means[0], stds[0]) if len(found) == 1 else (means, stds)
