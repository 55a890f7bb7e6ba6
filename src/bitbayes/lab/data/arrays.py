"""A user's own arrays as a data set."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitbayes.lab.data.augment import Augmentation
from bitbayes.lab.data.bundle import DataBundle, TensorData, check_share, held_out
from bitbayes.lab.data.hub import printable_names
from bitbayes.packed import Inputs

_TEST_SEED = 0


def from_arrays(
    x: Any,
    y: Any,
    test: tuple[Any, Any] | None = None,
    *,
    classes: int | Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    validation: float = 0.1,
    held: float = 0.2,
    augment: Augmentation | None = None,
    name: str = "arrays",
) -> DataBundle[TensorData]:
    """Make a data set from arrays of NumPy or tensors, which it checks and normalises.

    Args:
        x: Inputs: vectors (N, D) or images (N, C, H, W) or (N, H, W). Images have the type uint8, or floating-point
            numbers from 0 to 1. Mean and standard deviation of the training inputs are subtracted and divided by: for
            each entry of vectors, for each channel of images.
        y: Targets: whole numbers from 0 for classes, shape (N,); floating-point numbers for a regression, shape (N,) or
            (N, K). The type decides: classes as floating-point numbers make a regression.
        test: Inputs and targets for testing; None to hold out a share of the examples.
        classes: Number of classes, or their names; None for one more than the largest target.
        device: Device of the tensors.
        seed: Seed of the split into training and validation data.
        validation: Share of the training examples that is kept for validation.
        held: Share of the examples that is held out for testing if `test` is None; the seed of this split is always 0.
        augment: Random change of training images; None for none.
        name: Name of the data set.

    Raises:
        ValueError: If shapes, types or numbers cannot be used; the message says what came and what was expected.

    Warns:
        UserWarning: If no example has the class 0, and the classes are not named.

    Example:
        >>> x, y = torch.randn(100, 5), torch.arange(100) % 3
        >>> data = from_arrays(x, y, classes=("red", "green", "blue"))
        >>> data.described()
        '72 training, 8 validation and 20 test examples of 3 classes from arrays'
    """
    for share in (validation, held):
        check_share(share)
    (inputs, targets), fresh = _pair(x, y, "x", "y"), test if test is None else _pair(*test, "test x", "test y")
    if fresh is None:
        kept, chosen = held_out(len(inputs), held, _TEST_SEED)
        fresh, (inputs, targets) = (inputs[chosen], targets[chosen]), (inputs[kept], targets[kept])
    came, wanted = (
        f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}, {a.dtype} and {b.dtype}" for a, b in (fresh, (inputs, targets))
    )
    if came != wanted:
        raise ValueError(f"test inputs and targets must be like those for training ({wanted}), got {came}")
    wished, names = _classes(classes)
    count = 0
    if not targets.is_floating_point():
        largest = int(max(targets.max(), fresh[1].max() if len(fresh[1]) else 0))
        count = largest + 1 if wished is None else wished
        low = min(int(part.min()) for part in (targets, fresh[1]) if len(part))
        if low < 0 or largest >= count:
            raise ValueError(f"y has classes from {low} to {largest}; expected 0 to {count - 1}, for {count} classes")
        if low > 0 and wished is None:
            warnings.warn(
                f"no example has a class below {low}, but classes are numbered from 0, so that {count} are counted; "
                "subtract the lowest number, or name all classes with classes=",
                stacklevel=2,
            )
    elif wished is not None:
        raise ValueError(f"y is of type {targets.dtype}, for a regression; leave classes out, or give whole numbers")
    kept, chosen = held_out(len(inputs), validation, seed)
    if not len(kept):
        raise ValueError(f"x has {len(x)} examples, of which none is left for training; give more")
    about, mean, std = _normalisation(inputs[kept], printable_names(names))
    train = TensorData(inputs.to(device), targets.to(device), mean, std, augment)
    plain = TensorData(inputs.to(device), targets.to(device), mean, std)
    return DataBundle(
        name,
        train.chosen(kept),
        plain.chosen(chosen) if len(chosen) else None,
        TensorData(fresh[0].to(device), fresh[1].to(device), mean, std) if len(fresh[0]) else None,
        count,
        name,
        about,
    )


def _classes(given: Any) -> tuple[int | None, tuple[str, ...]]:
    """Return the number of classes, None if it is not given, and their names."""
    if given is None:
        return None, ()
    try:
        return operator.index(given), ()
    except TypeError:
        pass
    if isinstance(given, set | frozenset):
        raise ValueError("classes is a set, which has no order; give a list of their names, in the order of y")
    names = () if isinstance(given, str | Tensor) or not isinstance(given, Iterable) else tuple(map(str, given))
    if not names:
        raise ValueError(f"classes is {given!r:.60}; expected the number of classes, or a sequence of their names")
    return len(names), names


def _pair(x: Any, y: Any, x_name: str, y_name: str) -> tuple[Tensor, Tensor]:
    inputs, targets = _tensor(x, x_name), _tensor(y, y_name)
    if len(inputs) != len(targets):
        raise ValueError(f"{x_name} has {len(inputs)} examples and {y_name} has {len(targets)}; give as many of both")
    if not len(inputs):
        raise ValueError(f"{x_name} has no examples; give at least one")
    if inputs.dim() == 3:
        inputs = inputs[:, None]
    if inputs.dim() not in (2, 4):
        raise ValueError(f"{x_name} has shape {tuple(inputs.shape)}; expected (N, D), (N, C, H, W) or (N, H, W)")
    if inputs.dim() == 4 and inputs.shape[1] not in (1, 3):
        raise ValueError(
            f"{x_name} has shape {tuple(inputs.shape)}; expected images (N, C, H, W) of C = 1 or 3 channels"
        )
    if inputs.dtype != torch.uint8 or inputs.dim() == 2:
        _check_precision(inputs, x_name)
        inputs = inputs.float()
        if not inputs.isfinite().all():
            raise ValueError(f"{x_name} has numbers that are not finite (nan or inf); remove or replace them")
        if inputs.dim() == 4 and not (inputs.min() >= 0 and inputs.max() <= 1):
            low, high = float(inputs.min()), float(inputs.max())
            raise ValueError(
                f"{x_name} has numbers from {low:.4g} to {high:.4g}; expected images of uint8, or from 0 to 1"
            )
    if targets.is_floating_point():
        if not targets.isfinite().all():
            raise ValueError(f"{y_name} has numbers that are not finite (nan or inf); remove or replace them")
        return inputs, targets.float()[:, None] if targets.dim() == 1 else targets.float()
    if targets.dim() != 1:
        raise ValueError(f"{y_name} has shape {tuple(targets.shape)}; expected one class for each example, shape (N,)")
    return inputs, targets.long()


def _check_precision(inputs: Tensor, name: str) -> None:
    """Raise ValueError for a column whose rounding to float32 is more than a hundredth of its standard deviation."""
    if inputs.dim() != 2 or inputs.dtype not in (torch.float64, torch.int32, torch.int64):
        return
    wide = inputs.double()
    spread = wide.std(0, correction=0)
    coarse = (wide.float().double() - wide).abs().amax(0) > 0.01 * spread
    coarse &= spread > 1e-12 * wide.abs().amax(0)  # else a constant, with the rounding of float64
    if coarse.any():
        column = int(coarse.nonzero()[0])
        low, high = (float(end) for end in wide[:, column].aminmax())
        raise ValueError(
            f"column {column} of {name} has numbers from {low:.10g} to {high:.10g}, which float32 cannot tell apart "
            "well; subtract their mean first"
        )


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array with missing values; fill them in, or leave the examples out")
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    try:
        found = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        kind = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{name} is of type {kind}; expected numbers in an array of NumPy or a tensor") from error
    if found.dim() == 0 or found.is_complex():
        raise ValueError(
            f"{name} is of type {found.dtype} and shape {tuple(found.shape)}; expected an array of numbers"
        )
    return found


def _normalisation(x: Tensor, names: tuple[str, ...]) -> tuple[Inputs, Any, Any]:
    """Return the description of inputs, and their mean and standard deviation for each channel or entry."""
    pixels = (x.double() / 255 if x.dtype == torch.uint8 else x.double()).transpose(0, 1).flatten(1)
    means: tuple[float, ...] = tuple(pixels.mean(1).float().tolist())
    spreads = pixels.std(1, correction=0).float().tolist()
    # A constant entry is left as it is. Its deviation may be a little above 0, by the rounding of float32.
    stds = tuple(std if std > 2.4e-7 * abs(mean) else 1.0 for mean, std in zip(means, spreads, strict=True))
    mean = means[0] if len(means) == 1 else means
    std = stds[0] if len(stds) == 1 else stds
    if x.dim() == 2:
        return Inputs("vector", mean=mean, std=std, classes=names), mean, std
    _, channels, height, width = x.shape
    colour = "grey" if channels == 1 else "rgb"
    return Inputs("image", colour=colour, height=height, width=width, mean=mean, std=std, classes=names), mean, std
