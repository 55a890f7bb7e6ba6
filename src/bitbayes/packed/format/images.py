"""Pictures and arrays as the images that a packed network takes. Nothing is decoded before its size is known."""

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
MAX_PIXELS = 1 << 26  # of a picture before it is resized: 67 million, 270 MB when decoded
_ORIENTATION = 0x0112  # number of an EXIF entry


def is_picture(value: Any) -> bool:
    """Return whether a value is a path, or an image of Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return isinstance(value, str | Path) or (pillow is not None and isinstance(value, pillow.Image))


def images_of(given: Any, inputs: Inputs) -> Array:
    """Return pictures, or an array of images, as one array (N, channels, height, width).

    Args:
        given: Path or image of Pillow, or a list of them; or an array of uint8 or of floating-point numbers in [0, 1].
        inputs: Description of the inputs that the network takes.

    Raises:
        ValueError: If a file is no picture that can be read, or the array is not as `inputs` says.
    """
    pictures = [given] if is_picture(given) else given
    if isinstance(pictures, list | tuple) and pictures and all(map(is_picture, pictures)):
        return np.stack([read_picture(picture, inputs) for picture in pictures])
    return stacked_images(np.asarray(given), inputs)


def stacked_images(array: Array, inputs: Inputs, name: str = "the array") -> Array:
    """Return an array of images as (N, channels, height, width): of one image or several, channels first or last.

    Raises:
        ValueError: If its type, its shape or its numbers are not those of images; `name` begins the message.
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
            f"{name} has shape {array.shape}, expected {wanted}; pictures of another size are resized if they are "
            "PNG or JPEG files"
        )
    if array.dtype != np.uint8:
        _check_shares(array, name)
    if found == last and found != whole:
        return array.transpose(0, 3, 1, 2)
    return array.reshape(len(array), *whole)


def _check_shares(array: Array, name: str) -> None:
    """Refuse numbers that are not shares of full brightness."""
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has the type {array.dtype}, expected uint8, or floating-point numbers from 0 to 1")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # also where a number is NaN
        raise ValueError(
            f"{name} has numbers from {array.min():.4g} to {array.max():.4g}, expected uint8, or floating-point "
            "numbers from 0 to 1, which are normalised here; do not normalise them before"
        )


def vectors_of(given: Any, size: int, name: str = "the array") -> Array:
    """Return one vector or several as an array (N, size), not yet normalised.

    Raises:
        ValueError: If the type or the shape is another.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} has the type {array.dtype}, expected numbers")
    array = array[None] if array.shape == (size,) else array
    if array.ndim != 2 or array.shape[1] != size:
        raise ValueError(f"{name} has shape {array.shape}, expected (N, {size})")
    return array


def read_picture(source: Any, inputs: Inputs) -> npt.NDArray[np.uint8]:
    """Return a picture in the size and the colours that the network takes.

    A picture is turned as its EXIF data say, put on white where it is transparent, converted to grey (ITU-R 601-2) or
    RGB, cut if `inputs` has a share to keep, and resized with Pillow's antialiased bilinear filter.

    Args:
        source: Path of a PNG or JPEG file, or an image of Pillow.
        inputs: Description of the inputs that the network takes.

    Returns:
        Shape (channels, height, width).

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If Pillow is not installed.
        ValueError: If it is no regular file, no picture that can be decoded, or has too many pixels.
    """
    pillow = require("PIL.Image", "train")
    if not isinstance(source, str | Path):
        return _fitted(pillow, source, inputs, "the image")
    check_regular(source)
    try:
        with open(source, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata; the size is checked here
            with pillow.open(file, formats=("PNG", "JPEG")) as picture:
                return _fitted(pillow, picture, inputs, str(source))
    except _Refusal:
        raise
    except Exception as error:  # Pillow raises whatever its readers meet
        line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        reason = "it is no PNG or JPEG picture" if "cannot identify" in line else line
        raise ValueError(f"{source} cannot be read: {reason}") from error


class _Refusal(ValueError):
    """Why a picture that can be decoded is not used."""


def check_regular(path: str | Path) -> None:
    """Raise an error for what is no regular file: reading a device or a pipe might never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!a} cannot be read: {error}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is no regular file; give PNG or JPEG pictures, folders of them, or .npy files")


def picture_files(folder: str | Path) -> list[Path]:
    """Return the pictures of a folder and of the folders inside it, in the order of their names.

    Raises:
        ValueError: If there are none.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, n) for n in sorted(names) if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    if not found:
        raise ValueError(f"{folder} has no pictures; expected files whose names end in {', '.join(SUFFIXES)}")
    return found


def _fitted(pillow: Any, picture: Any, inputs: Inputs, name: str) -> npt.NDArray[np.uint8]:
    wide, high = picture.size
    if wide * high > MAX_PIXELS:
        raise _Refusal(f"{name} has {wide} by {high} pixels; at most {MAX_PIXELS} are decoded, so make it smaller")
    if not wide * high:
        raise _Refusal(f"{name} has no pixels")
    if picture.getexif().get(_ORIENTATION, 1) != 1:  # else it would be copied
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
    """Return for each axis: its size, the other's size, and the sizes of the input along both."""
    return (wide, high, width, height), (high, wide, height, width)


def _converted(pillow: Any, picture: Any, mode: str, name: str) -> Any:
    """Return a picture with one channel of 8 bits or three."""
    if picture.mode.startswith("I"):  # Pillow cuts 16 bits off at 255 instead of scaling them
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
