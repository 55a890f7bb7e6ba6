"""Test-time augmentation: logits averaged over several views of every image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bitbayes.lab.choices import Views
from bitbayes.lab.data import DataBundle, TensorData

Outputs = Callable[[Tensor], Tensor]


def recorded(views: Views) -> Views | None:
    """Return the entry of a record: the name of the augmentation, or None if the image alone is seen."""
    return None if views == "one" else views


def check_views(views: Views, data: DataBundle, *, text: bool = False) -> None:
    """Check that test-time augmentation suits the data.

    Raises:
        ValueError: If there are several views, but the data are not images.
    """
    if views == "one":
        return
    if text:
        raise ValueError(f"views {views} need images, but {data.name} is text; leave them out")
    if isinstance(data.train, TensorData) and data.train.x.dim() != 4:
        shape = ", ".join(map(str, data.train.x.shape[1:]))
        raise ValueError(f"views {views} need images (N, C, H, W), got inputs (N, {shape}); leave them out")


def averaged(outputs: Outputs, views: Views) -> Outputs:
    """Return a function that averages the outputs of a network over views of its inputs.

    Moved images are padded by reflection, and weigh half as much as the others, as in airbench (Jordan, 2024).

    Args:
        outputs: Function from images (N, C, H, W) to logits (..., N, K).
        views: Name of the views.

    Example:
        >>> averaged(lambda images: images[:, 0, 0, :1], "mirror")(torch.tensor([[[[1.0, 2.0, 5.0]]]]))
        tensor([[3.]])
    """
    if views == "one":
        return outputs

    def both(images: Tensor) -> Tensor:
        return (outputs(images) + outputs(images.flip(-1))) / 2

    if views == "mirror":
        return both

    def shifted(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, [1] * 4, mode="reflect")
        moved = [both(padded[..., at : at + height, at : at + width]) for at in (0, 2)]
        return (both(images) + torch.stack(moved).mean(0)) / 2

    return shifted
