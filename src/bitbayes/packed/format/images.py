"""Conversion of image files and arrays to the inputs of a packed network. Sizes are checked before decoding."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.errors import require
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.inputs import Inputs

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 1 << 26  # most pixels of an image before resizing: 67 million, 270 MB when decoded
_ORIENTATION = 0x0112  # number of the EXIF entry


def is_picture(value: Any) -> bool:
    """Return whether a value is a path or a Pillow image."""
    pillow = sys.modules.get("PIL.Image")
    return isinstance(value, str | Path) or (pillow is not None and isinstance(value, pillow.Image))


def images_of(given: Any, inputs: Inputs) -> Array:
    """Return image files, or an array of images, as one array (N, channels, height, width).

    Args:
        given: Path, Pillow image, or a list of these; or an array of uint8 or of floating-point numbers in [0, 1].
        inputs: Description of the inputs that the network takes.

    Raises:
        ValueError: If a file is not a readable image, or the array does not match `inputs`.
    """
    pictures = [given] if is_picture(given) else given
    if isinstance(pictures, list | tuple) and pictures and all(map(is_picture, pictures)):
        return np.stack([read_picture(picture, inputs) for picture in pictures])
    return stacked_images(np.asarray(given), inputs)


def stacked_images(array: Array, inputs: Inputs, name: str = "the array") -> Array:
    """Return an array of one or several images, channels first or last, as (N, channels, height, width).

    Raises:
        ValueError: If the type, shape or numbers are not those of images. The message starts with `name`.
    """
    channels, height, width = inputs.shape
    whole, last = (channels, height, width), (height, width, channels)
    grey = [(height, width)] if channels == 1 else []
    shapes = [whole, last, *grey, (channels * height * width,)]
    found = next((shape for shape in shapes if array.shape[1:] == shape), None)
    if found is None and array.shape in shapes:
        found, array = array.shape, array[None]
    if found is None:
        wanted = ", ".join("(" + ", ".join(map(str, ("N", *shape))) + ")" for shape in dict.fromkeys(shapes))
        raise ValueError(
            f"{name} has shape {array.shape}, expected {wanted}; images of another size are resized only if they are "
            "PNG or JPEG files"
        )
    if array.dtype != np.uint8:
        _check_shares(array, name)
    if found == last and found != whole:
        return array.transpose(0, 3, 1, 2)
    return array.reshape(len(array), *whole)


def _check_shares(array: Array, name: str) -> None:
    """Raise ValueError for numbers that are neither uint8 nor in [0, 1]."""
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has type {array.dtype}, expected uint8, or floating-point numbers from 0 to 1")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # also true if a number is NaN
        raise ValueError(
            f"{name} has numbers from {array.min():.4g} to {array.max():.4g}, expected uint8, or floating-point "
            "numbers from 0 to 1, which are normalised here; do not normalise them before"
        )


def vectors_of(given: Any, size: int, name: str = "the array") -> Array:
    """Return one or several vectors as an array (N, size), not yet normalised.

    Raises:
        ValueError: If the type or the shape is wrong.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} has type {array.dtype}, expected numbers")
    array = array[None] if array.shape == (size,) else array
    if array.ndim != 2 or array.shape[1] != size:
        raise ValueError(f"{name} has shape {array.shape}, expected (N, {size})")
    return array


def read_picture(source: Any, inputs: Inputs) -> npt.NDArray[np.uint8]:
    """Return an image in the size and colours that the network takes.

    The image is rotated according to its EXIF data, and transparent pixels become white. It is converted to grey (ITU-R
    601-2) or RGB, cropped if `inputs` has `crop`, and resized with Pillow's antialiased bilinear filter.

    Args:
        source: Path of a PNG or JPEG file, or a Pillow image.
        inputs: Description of the inputs that the network takes.

    Returns:
        Array of shape (channels, height, width).

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If Pillow is not installed.
        ValueError: If the source is not a regular file, cannot be decoded, or has too many pixels.
    """
    pillow = require("PIL.Image", "train")
    if not isinstance(source, str | Path):
        return _fitted(pillow, source, inputs, "the image")
    check_regular(source)
    try:
        with open(source, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about damaged metadata; the size is checked here
            with pillow.open(file, formats=("PNG", "JPEG")) as picture:
                return _fitted(pillow, picture, inputs, str(source))
    except _Refusal:
        raise
    except Exception as error:  # Pillow raises any error that its readers meet
        line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        reason = "it is not a PNG or JPEG image" if "cannot identify" in line else line
        raise ValueError(f"{source} cannot be read: {reason}") from error


class _Refusal(ValueError):
    """Reason why an image that can be decoded is not used."""


def check_regular(path: str | Path) -> None:
    """Raise an error unless a path is a regular file; reading a device or a pipe might never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!a} cannot be read: {error}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a regular file; give PNG or JPEG images, folders of them, or .npy files")


def picture_files(folder: str | Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by name.

    Raises:
        ValueError: If there are none.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, n) for n in sorted(names) if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    if not found:
        raise ValueError(f"{folder} has no images; expected files whose names end in {', '.join(SUFFIXES)}")
    return found


def _fitted(pillow: Any, picture: Any, inputs: Inputs, name: str) -> npt.NDArray[np.uint8]:
    wide, high = picture.size
    if wide * high > MAX_PIXELS:
        raise _Refusal(f"{name} has {wide} by {high} pixels; at most {MAX_PIXELS} are decoded; make the image smaller")
    if not wide * high:
        raise _Refusal(f"{name} has no pixels")
    if picture.getexif().get(_ORIENTATION, 1) != 1:  # avoids a copy
        picture = require("PIL.ImageOps", "train").exif_transpose(picture)
    picture = _converted(pillow, picture, "L" if inputs.channels == 1 else "RGB", name)
    (_, height, width), (wide, high) = inputs.shape, picture.size
    box = (0.0, 0.0, wide, high)
    if inputs.crop is not None:
        across, down = (min(a, b * x / y) * inputs.crop for a, b, x, y in _sides(wide, high, width, height))
        box = ((wide - across) / 2, (high - down) / 2, (wide + across) / 2, (high + down) / 2)
    if (wide, high) != (width, height) or inputs.crop not in (None, 1.0):
        picture = picture.resize((width, height), pillow.Resampling.BILINEAR, box=box)
    array = np.array(picture, np.uint8).reshape(height, width, inputs.channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _sides(wide: int, high: int, width: int, height: int) -> Sequence[tuple[int, int, int, int]]:
    """Return for each axis: its size, the size of the other axis, and the sizes of the input along both."""
    return (wide, high, width, height), (high, wide, height, width)


def _converted(pillow: Any, picture: Any, mode: str, name: str) -> Any:
    """Return an image with one or three channels of 8 bits."""
    if picture.mode.startswith("I"):  # Pillow clips 16-bit values at 255 instead of scaling them
        numbers = np.asarray(picture).astype(np.int64)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise _Refusal(f"{name} has numbers beyond 16 bits")
        picture = pillow.fromarray(((numbers + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise _Refusal(f"{name} has floating-point pixels; give an array of numbers from 0 to 1 instead")
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture, white = picture.convert("RGBA"), pillow.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        picture = white
    return picture if picture.mode == mode else picture.convert(mode)
