"""AlexNet with binary weights for ImageNet, as VISPA's code lays it out.

The file is not called as its function is: the docs could not tell the two apart.
"""

from __future__ import annotations

from torch import nn

from bitbayes.errors import chosen
from bitbayes.nn.activations import BinaryActivation, ChannelScale
from bitbayes.nn.images import ImageInput
from bitbayes.nn.real import keep_real

__all__ = ["alexnet"]

# (width, kernel, pooled) of the binary convolutions.
_CONVOLUTIONS = [(256, 5, True), (384, 3, False), (384, 3, False), (256, 3, True)]


def alexnet(classes: int = 1000, *, activation: str = "real") -> nn.Sequential:
    """AlexNet with BatchNorm: four binary convolutions and two binary linear layers, 58,236,928 binary weights.

    The first convolution, 11x11 with 96 channels, and the last linear layer are real, and so are all biases. Each
    binary layer has a `ChannelScale` before BatchNorm. There is no dropout.

    Args:
        classes: Number of outputs.
        activation: "real": ReLU after every BatchNorm. "sign": no ReLU, but a `BinaryActivation("approx")` before every
            binary layer.

    Returns:
        The network, input shape (N, 3, 224, 224), output shape (N, classes).

    Raises:
        ValueError: For an unknown activation.

    Example:
        >>> with torch.device("meta"):
        ...     bb.summary(alexnet()).binary_weights
        58236928
    """
    sign = chosen("activation", activation, {"real": False, "sign": True})
    before: list[type[nn.Module]] = [BinaryActivation] if sign else []
    after: list[type[nn.Module]] = [] if sign else [nn.ReLU]

    def layer(linear: nn.Module, norm: nn.Module, width: int, pooled: bool = False) -> list[nn.Module]:
        pool = [nn.MaxPool2d(3, 2)] if pooled else []
        return [*(kind() for kind in before), linear, ChannelScale(width), norm, *(kind() for kind in after), *pool]

    layers: list[nn.Module] = [ImageInput(3, 224), keep_real(nn.Conv2d(3, 96, 11, stride=4, padding=2))]
    layers += [nn.BatchNorm2d(96), *(kind() for kind in after), nn.MaxPool2d(3, 2)]
    inputs = 96
    for width, kernel, pooled in _CONVOLUTIONS:
        convolution = nn.Conv2d(inputs, width, kernel, padding=kernel // 2)
        layers += layer(convolution, nn.BatchNorm2d(width, eps=1e-3), width, pooled)
        inputs = width
    layers.append(nn.Flatten())
    inputs *= 6 * 6
    for width in (4096, 4096):
        layers += layer(nn.Linear(inputs, width), nn.BatchNorm1d(width, eps=1e-3), width)
        inputs = width
    return nn.Sequential(*layers, keep_real(nn.Linear(inputs, classes)))
