"""Initialisation of beliefs from trained weights, with warnings where trained weights are at risk."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from bitbayes.rules import shards
from bitbayes.rules.marks import stacked_inputs

_ITERATIONS = 20
_MARGIN = 2.5  # random matrices of a dozen kinds with 15 to 260,000 entries exceed the bound by a factor of at most 1.2


@torch.no_grad()
def looks_trained(weights: Tensor) -> bool:
    """Return whether weights look trained rather than drawn at random.

    Training adds a few strong directions to a weight matrix. The largest singular value of an m × n matrix with
    independent entries of standard deviation s is close to s·(√m + √n), whatever their distribution (Bai & Yin, Annals
    of Probability, 1988). The weights look trained if their largest singular value is clearly larger. Orthogonal,
    constant and sparse matrices stay below this bound, and so do matrices that are too small to tell.

    Args:
        weights: Weights of one layer, of shape (out, in, *kernel).

    Example:
        >>> weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> looks_trained(weights), looks_trained(weights + torch.linspace(-2, 2, 64))
        (False, True)
    """
    if weights.dim() < 2 or weights.numel() == 0 or weights.is_meta:
        return False
    matrix = weights.detach().float().flatten(1)
    matrix = matrix - matrix.mean()
    spread = matrix.square().mean().sqrt()
    rows, columns = matrix.shape
    if not (spread > 0 and math.isfinite(spread)):
        return False
    # Power iteration never exceeds the largest singular value. It leaves torch's global random state unchanged.
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(columns, generator=generator, dtype=torch.float32, device="cpu").to(matrix.device)
    image = matrix @ vector
    for _ in range(_ITERATIONS):
        vector = torch.nn.functional.normalize(matrix.T @ image, dim=0)
        image = matrix @ vector
    return bool(image.norm() > spread * (math.sqrt(rows) + math.sqrt(columns) + _MARGIN))


def first_trained(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first parameter that looks trained, or None; one expert that does is enough.

    All processes that share the parameters must call this together.
    """
    for name, parameter in named:
        weights = whole_weights(parameter).view(parameter.shape)
        # Experts of different sizes would look like one trained matrix.
        if any(map(looks_trained, weights if stacked_inputs(parameter) else [weights])):
            return name
    return None


def whole_weights(parameter: Tensor) -> Tensor:
    """Return the weights of the whole tensor in float32, flat; all processes that share it must call this together."""
    return shards.whole(parameter, shards.local(parameter).float().reshape(-1)).reshape(-1)


def relative_size(weights: Tensor, layers: int = 1) -> Tensor:
    """Return signs and relative sizes of trained weights, flat: w / mean|w|, with the mean of each stacked layer.

    Raises:
        ValueError: If all weights of a layer are zero, or one is not finite.
    """
    each = weights.view(layers, -1)
    sizes = each.abs().mean(1, keepdim=True)
    for expert, size in enumerate(sizes.flatten().tolist()):
        if not (size > 0 and math.isfinite(size)):
            where = f" of expert {expert}" if layers > 1 else ""
            raise ValueError(
                f'init="weights" needs finite weights that are not all zero; the mean of |w|{where} is {size:g}. '
                'Load the pretrained weights first, or use init="random"'
            )
    return (each / sizes).view(-1)


def warn_of_start(rule: str, name: str) -> None:
    """Warn that a rule has initialised its beliefs from the weights that it got."""
    _warn(
        f'{name!r} looked trained, so {rule} began with the signs and sizes of the weights (init="weights"). Pass '
        'init="weights" to silence this, or init="random" to train from scratch'
    )


def warn_of_change(rule: str, name: str) -> None:
    """Warn that weights were changed after the optimizer wrote them, so that no belief reflects them."""
    _warn(
        f"the values of {name!r} were changed after {rule} wrote them; they are overwritten, because its beliefs do "
        'not know them. Load pretrained weights before you construct the optimizer, with init="weights"; to resume a '
        "run or to return to an earlier network, load its optimizer.state_dict(), too"
    )


def _warn(message: str) -> None:
    """Warn at the user's line, below the stack frames of torch and of this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("bitbayes", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
