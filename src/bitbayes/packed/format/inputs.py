"""Description of a packed network's inputs: size, colours, normalisation, and class names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bitbayes.packed.format.bits import Array

MAX_NAME = 100  # most characters of a class name
_CHANNELS = {"grey": 1, "rgb": 3}
_LIMITS = {"image": (1e-6, 1e6), "vector": (1e-30, 1e30)}  # of a standard deviation; float32 holds what comes out


@dataclass(frozen=True)
class Inputs:
    """Description of a network's inputs, by which `PackedNetwork.prepare` converts images or raw vectors.

    Args:
        kind: "image", or "vector" for rows of numbers.
        colour: Channels of an image: "grey", or "rgb" in this order.
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        crop: Fraction in (0, 1] for a centre crop: the largest central rectangle with the aspect ratio of the input is
            scaled by this fraction. None keeps the whole image, so that resizing may change its aspect ratio.
        mean: Number that is subtracted from pixels in [0, 1], or one number per channel. For vectors, one number for
            all entries or one per entry.
        std: Number by which the difference is divided, or one number per channel or entry.
        classes: Names of the classes, in the order of the outputs; () if they have no names.

    Raises:
        ValueError: If a field is missing, does not belong to this kind, or has an invalid value.

    Example:
        >>> Inputs("image", colour="grey", height=28, width=28, mean=0.1307, std=0.3081).shape
        (1, 28, 28)
    """

    kind: Literal["image", "vector"]
    _: KW_ONLY
    colour: Literal["grey", "rgb"] | None = None
    height: int | None = None
    width: int | None = None
    crop: float | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("image", "vector"):
            raise ValueError(f"kind must be 'image' or 'vector', got {short(self.kind)}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(getattr(self, name), name))
        if self.kind == "image":
            self._check_image()
        elif any(value is not None for value in (self.colour, self.height, self.width, self.crop)):
            raise ValueError("only images have colour, height, width and crop; leave them out for vectors")
        least, most = _LIMITS[self.kind]
        if min(self.stds) < least or max(map(abs, (*self.means, *self.stds))) > most:
            raise ValueError(f"mean must be within ±{most:g}, and std from {least:g} to {most:g}")
        object.__setattr__(self, "classes", _names(self.classes))

    def _check_image(self) -> None:
        if not isinstance(self.colour, str) or self.colour not in _CHANNELS:
            raise ValueError(f"colour must be 'grey' or 'rgb', got {short(self.colour)}")
        for name, size in (("height", self.height), ("width", self.width)):
            if type(size) is not int or not 1 <= size <= 1 << 24:
                raise ValueError(f"{name} must be a whole number of pixels from 1 to {1 << 24}, got {short(size)}")
        if self.crop is not None:
            crop = _numbers(self.crop, "crop")
            if isinstance(crop, tuple) or not 0 < crop <= 1:
                raise ValueError(f"crop must be a fraction in (0, 1], got {short(crop)}")
            object.__setattr__(self, "crop", crop)
        for name, values in (("mean", self.means), ("std", self.stds)):
            if len(values) not in (1, self.channels):
                given = "one" if self.channels == 1 else f"one, or {self.channels}, one per channel"
                raise ValueError(f"{name} has {len(values)} numbers; for {self.colour} images give {given}")

    def __str__(self) -> str:
        mean, std = map(_few, (self.means, self.stds))
        what = f"{self.colour} images of {self.height} by {self.width} pixels" if self.kind == "image" else "vectors"
        classes = f"; {len(self.classes)} named classes" if self.classes else ""
        return f"{what}, mean {mean}, standard deviation {std}{classes}"

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return _CHANNELS[self.colour or "grey"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (channels, height, width)."""
        return self.channels, self.height or 0, self.width or 0

    @property
    def means(self) -> tuple[float, ...]:
        """Means: one for all channels or entries, or one for each."""
        return _tuple(self.mean)

    @property
    def stds(self) -> tuple[float, ...]:
        """Standard deviations: one for all channels or entries, or one for each."""
        return _tuple(self.std)

    def name(self, index: int) -> str:
        """Return the name of a class, or its number if it has no name.

        Example:
            >>> Inputs("vector", classes=("cat", "dog")).name(1), Inputs("vector").name(1)
            ('dog', '1')
        """
        return self.classes[index] if self.classes else str(index)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError if a network with inputs of this shape (without the batch) cannot take these inputs."""
        shape, size = tuple(shape), math.prod(shape)
        if self.kind == "image":
            allowed = {self.shape, (math.prod(self.shape),), *([self.shape[1:]] if self.channels == 1 else [])}
            if shape not in allowed:
                texts = " or ".join(map(str, sorted(allowed, key=len, reverse=True)))
                raise ValueError(
                    f"{self.colour} images of {self.height} by {self.width} pixels have shape {texts}, "
                    f"but the network takes {shape}"
                )
        elif len(shape) != 1:
            raise ValueError(f"vectors have one axis, but the network takes inputs of shape {shape}")
        elif any(len(values) not in (1, size) for values in (self.means, self.stds)):
            counts = f"{len(self.means)} and {len(self.stds)}"
            raise ValueError(f"mean and std have {counts} numbers, but the network takes {size}; give one or {size}")

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the numbers of classes and outputs differ; a single output stands for two classes."""
        outputs = math.prod(shape)
        if self.classes and len(self.classes) != (2 if outputs == 1 else outputs):
            raise ValueError(f"{len(self.classes)} classes have names, but the network has {outputs} outputs")

    def normalised(self, values: Array) -> npt.NDArray[np.float32]:
        """Return the network's inputs in float32, with the same rounding as torch.

        Args:
            values: Images (N, channels, height, width) of type uint8 or with numbers in [0, 1], or vectors (N,
                entries).

        Example:
            >>> Inputs("vector", mean=1.0, std=2.0).normalised(np.array([[3.0, 1.0]]))
            array([[1., 0.]], dtype=float32)
        """
        if self.kind == "vector":  # in float64, because raw numbers may be large and differ little
            with np.errstate(over="ignore"):  # runtimes refuse infinities
                return ((values.astype(np.float64) - np.array(self.means)) / np.array(self.stds)).astype(np.float32)
        x = values.astype(np.float32)
        if values.dtype == np.uint8:
            x /= np.float32(255)
        mean, std = (np.array(each, np.float32)[:, None, None] for each in (self.means, self.stds))
        return (x - mean) / std


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _few(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers[:4]) + (", …" if len(numbers) > 4 else "")


def _numbers(value: Any, what: str) -> float | tuple[float, ...]:
    """Return one finite number, or a tuple of several; lists, arrays and tensors are also accepted."""
    value = value.tolist() if hasattr(value, "tolist") else value
    several = list(value) if isinstance(value, list | tuple) else [value]
    if not several:
        raise ValueError(f"{what} must be a number or a list of numbers, got none")
    for number in several:
        if isinstance(number, bool) or not isinstance(number, Real) or not _finite(number):
            raise ValueError(f"{what} must be a finite number or a list of them, got {short(number)}")
    return float(several[0]) if len(several) == 1 else tuple(map(float, several))


def _finite(number: Real) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:  # an integer too large for a float
        return False


def _names(value: Any) -> tuple[str, ...]:
    """Return class names that are safe to show on terminals and pages, or raise ValueError."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"classes must be a list of names, got {short(value)}")
    for name in value:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name.isspace():
            raise ValueError(f"a class name must have 1 to {MAX_NAME} printable characters, got {short(name)}")
    return tuple(value)


def short(value: Any) -> str:
    """Return a value as a few ASCII characters, for an error message."""
    return ascii(value)[:60] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
