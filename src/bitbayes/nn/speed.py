"""Network for fast training on CIFAR: a whitening convolution, three groups of two convolutions, and a linear layer.

The architecture is that of airbench94 (Jordan, 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"), with binary
convolutions. The whitening convolution and the linear layer stay real. With binary activations, the network also has
skip connections, shifts and RPReLU, as in ReActNet (Liu et al., ECCV 2020).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitbayes.errors import chosen
from bitbayes.nn.layers import BinaryActivation, ImageInput, LogitScale, PadChannels, RPReLU, Shift, keep_real

_ACTIVATIONS: dict[str, type[nn.Module] | None] = {"gelu": nn.GELU, "relu": nn.ReLU, "sign": None}
_WIDTHS = (64, 256, 256)
_PATCH = 2  # height and width of the patches that are whitened
_EPSILON = 5e-4  # added to the eigenvalues, of which the smallest are those of noise
_LOGIT_SCALE = 1 / 9
_MOMENTUM = 0.4  # of BatchNorm in torch's convention


def speed_net(
    classes: int = 10, *, width: float = 1.0, activation: str = "gelu", images: Tensor | None = None
) -> nn.Sequential:
    """Return a CIFAR network that reaches a high accuracy in few epochs: six binary convolutions of 3x3.

    A real 2x2 convolution first whitens the image. Its weights are computed from training images and stay fixed, and
    its bias is learned. Three groups of 64, 256 and 256 channels follow, with two binary convolutions in each group. At
    width 1, the six convolutions have 1,967,616 weights. BatchNorm learns a bias but no factor. The last layer is real,
    and its logits are divided by nine.

    Args:
        classes: Number of outputs.
        width: Factor of all channels after the first layer, whose numbers are rounded to even numbers.
        activation: "gelu", "relu", or "sign". With "sign", a skip connection passes around every binary convolution,
            and `RPReLU` follows. Each binary convolution except the first is preceded by a `Shift` and a
            `BinaryActivation("approx")`. The first takes the whitened image after Hardtanh as real numbers, because
            its signs alone lose too much.
        images: Training images for `whitening`, normalised, shape (N, 3, 32, 32); 5,000 images suffice. None leaves
            random weights in the first layer, for a network whose weights will be loaded.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Raises:
        ValueError: If the activation is unknown, or the width is not finite or too small for 24 channels.

    Example:
        >>> network = speed_net(images=torch.randn(20, 3, 32, 32))
        >>> bb.summary(network).binary_weights
        1967616
    """
    kind = chosen("activation", activation, _ACTIVATIONS)
    first = nn.Conv2d(3, 2 * 3 * _PATCH**2, _PATCH)
    if not first.out_channels <= width * _WIDTHS[0] < float("inf"):
        raise ValueError(f"width must be at least 3/8, which leaves {first.out_channels} channels, got {width!r}")
    widths = [2 * round(width * channels / 2) for channels in _WIDTHS]
    first.weight.requires_grad_(False)
    nn.init.zeros_(first.bias)  # pyright: ignore[reportArgumentType]
    if images is not None:
        first.weight.data.copy_(whitening(images, _PATCH))
    layers: list[nn.Module] = [ImageInput(3, 32), keep_real(first), nn.Hardtanh() if kind is None else kind()]
    inputs = first.out_channels
    for index, (outputs, pooled) in enumerate((outputs, pooled) for outputs in widths for pooled in (True, False)):
        if kind is None:
            layers.append(_SignBlock(inputs, outputs, pooled, signs=index > 0))
        else:
            layers += [*_convolution(inputs, outputs, pooled), kind()]
        inputs = outputs
    head = keep_real(nn.Linear(inputs, classes, bias=False))
    scale = LogitScale(_LOGIT_SCALE).requires_grad_(False)
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), head, scale)


def _convolution(inputs: int, outputs: int, pooled: bool) -> list[nn.Module]:
    """Return a binary convolution, max-pooling if `pooled`, and BatchNorm without a factor."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:inputs])  # a float network starts near the identity
    norm = nn.BatchNorm2d(outputs, momentum=_MOMENTUM)
    norm.weight.requires_grad_(False)
    return [convolution, *([nn.MaxPool2d(2)] if pooled else []), norm]


class _SignBlock(nn.Module):
    """Binary convolution of signs, or of real numbers, with a skip connection around it."""

    def __init__(self, inputs: int, outputs: int, pooled: bool, *, signs: bool) -> None:
        super().__init__()
        before = [Shift(inputs), BinaryActivation("approx")] if signs else []
        self.body = nn.Sequential(*before, *_convolution(inputs, outputs, pooled))
        smaller = [nn.AvgPool2d(2)] if pooled else []
        wider = [PadChannels(outputs - inputs)] if outputs > inputs else []
        self.shortcut = nn.Sequential(*smaller, *wider)
        self.activation = RPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


@torch.no_grad()
def whitening(images: Tensor, size: int = 2) -> Tensor:
    """Return the filters that whiten the patches of images: their principal directions, with both signs.

    Each filter is an eigenvector of the patches' second moments, divided by the square root of the eigenvalue (plus
    5e-4). In each half, the filter of the largest eigenvalue comes last.

    Args:
        images: Normalised images, shape (N, C, H, W).
        size: Height and width of a patch, in pixels.

    Returns:
        Weights of a convolution, shape (2·C·size², C, size, size).

    Example:
        >>> whitening(torch.randn(10, 3, 8, 8)).shape
        torch.Size([24, 3, 2, 2])
    """
    moments = torch.zeros(images.shape[1] * size**2, images.shape[1] * size**2, dtype=torch.float64)
    count = 0
    for part in images.split(500):
        patches = F.unfold(part.float(), size).transpose(1, 2).flatten(0, 1)
        moments += (patches.T @ patches).double().cpu()
        count += len(patches)
    values, vectors = torch.linalg.eigh(moments / count)
    filters = (vectors / (values + _EPSILON).sqrt()).T.reshape(-1, images.shape[1], size, size)
    return torch.cat([filters, -filters]).to(images)
