"""Printed letters in the size and place of MNIST's digits, as out-of-distribution data that needs no download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitbayes.errors import require

LETTERS = "letters"
"""Name of the printed letters among the out-of-distribution data."""

_NAMES = "ABCDEFGHJ"  # as in notMNIST, without I, which many fonts draw like a one
_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)  # that Matplotlib brings
_SIDE = 28


def printed_letters(count: int, seed: int = 0) -> Tensor:
    """Draw capital letters from A to J, except I, in 14 fonts, with random sizes, slants and places.

    Args:
        count: Number of images.
        seed: Seed of the random choices.

    Returns:
        Images of type uint8, white on black, shape (count, 1, 28, 28).

    Source:
        The letters of notMNIST (Bulatov, 2011), drawn in the fonts of Matplotlib.

    Example:
        >>> printed_letters(3).shape
        torch.Size([3, 1, 28, 28])
    """
    data_path = require("matplotlib", "train").get_data_path()
    image, draw = require("PIL.Image", "train"), require("PIL.ImageDraw", "train")
    fonts = require("PIL.ImageFont", "train")
    random = np.random.default_rng(seed)
    found = np.empty((count, 1, _SIDE, _SIDE), np.uint8)
    for index in range(count):
        name, size = random.choice(_FONTS), int(random.integers(18, 25))
        font = fonts.truetype(f"{data_path}/fonts/ttf/{name}.ttf", size)
        canvas = image.new("L", (_SIDE, _SIDE))
        place = tuple(_SIDE / 2 + random.uniform(-1.5, 1.5, 2))
        draw.Draw(canvas).text(place, str(random.choice(list(_NAMES))), 255, font=font, anchor="mm")
        found[index, 0] = canvas.rotate(random.uniform(-10, 10), image.Resampling.BILINEAR)
    return torch.from_numpy(found)
