"""Convolutional networks without skip connections: VGG-like networks for CIFAR, and AlexNet for ImageNet.

In the networks for CIFAR, each layer consists of a convolution, a factor per channel (VISPA only), 2x2 max-pooling in
some layers, BatchNorm, and an activation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitbayes.errors import chosen
from bitbayes.nn.layers import BinaryActivation, ChannelScale, ImageInput, LogitScale, keep_real, new_dropout

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sign": BinaryActivation}

# (width, pooled) of each convolution.
_SIX = [(128, False), (128, True), (256, False), (256, True), (512, False), (512, True)]
_FOUR = [(32, True), (64, True), (128, False), (128, True)]
_THIRTEEN = [
    *[(64, False), (64, True), (128, False), (128, True)],
    *[(256, False), (256, False), (256, True)],
    *[(512, False), (512, False), (512, True)] * 2,
]
# (width, kernel, pooled) of AlexNet's binary convolutions.
_ALEXNET = [(256, 5, True), (384, 3, False), (384, 3, False), (256, 3, True)]


def binaryconnect_vgg(
    classes: int, *, width: float = 1.0, activation: str = "relu", logit_scale: bool = False
) -> nn.Sequential:
    """Return the CIFAR network of the BayesBiNN paper's code: six convolutions and three linear layers, all binary.

    The convolutions have 128 to 512 channels. At width 1 the network has 14,022,016 binary weights for 10 classes and
    14,114,176 for 100. BatchNorm has no affine parameters.

    Args:
        classes: Number of outputs.
        width: Factor of all channels and hidden widths.
        activation: "relu", or "sign" for `BinaryActivation("approx")` in place of every ReLU. The images stay real.
        logit_scale: Whether to add a `LogitScale`, which the paper's network does not have.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Raises:
        ValueError: If the activation is unknown, or the width is too small for a single channel.

    Example:
        >>> binaryconnect_vgg(10, width=0.125)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    kind = chosen("activation", activation, _ACTIVATIONS)
    if not width * 128 >= 1:
        raise ValueError(f"width must be at least 1/128, which leaves one channel, got {width!r}")
    convolutions = [(round(width * channels), pooled) for channels, pooled in _SIX]
    network = _vgg(convolutions, [round(width * 1024)] * 2, classes, activation=kind)
    return network.append(LogitScale()) if logit_scale else network


def narrow_vgg(classes: int, *, activation: str = "relu", dropout: float = 0.0) -> nn.Sequential:
    """Return a small CIFAR network for laptops: four convolutions of 32 to 128 channels and 256 hidden units.

    The network pools early, so that most of its 767,328 weights (for 10 classes) act on small feature maps. The first
    convolution and the last layer are real, which leaves 763,904 binary weights. The last layer is followed by a
    learnable `LogitScale`.

    Args:
        classes: Number of outputs.
        activation: "relu", or "sign" for `BinaryActivation("approx")` in place of every ReLU.
        dropout: Dropout probability after the last convolution and after the hidden layer.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Raises:
        ValueError: If the activation is unknown, or the dropout probability is not in [0, 1].

    Example:
        >>> bb.summary(narrow_vgg(10)).binary_weights
        763904
    """
    kind = chosen("activation", activation, _ACTIVATIONS)
    network = _vgg(_FOUR, [256], classes, activation=kind, dropout=dropout)
    weighted = [layer for layer in network if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in (weighted[0], weighted[-1]):
        keep_real(layer)
    return network.append(LogitScale())


def vgg16(classes: int) -> nn.Sequential:
    """Return VISPA's VGG16 for CIFAR with real activations: thirteen convolutions and three linear layers, all binary.

    It has 15,239,872 binary weights for 10 classes and 15,285,952 for 100. Only the `ChannelScale` factors are real.

    Args:
        classes: Number of outputs.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Example:
        >>> with torch.device("meta"):
        ...     bb.summary(vgg16(10)).binary_weights
        15239872
    """
    return _vgg(_THIRTEEN, [512, 512], classes, scale=True)


def _vgg(
    convolutions: Sequence[tuple[int, bool]],
    hidden: Sequence[int],
    classes: int,
    *,
    scale: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    dropout: float = 0.0,
) -> nn.Sequential:
    channels, size = 3, 32
    layers: list[nn.Module] = [ImageInput(channels, size)]
    for width, pooled in convolutions:
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
        layers += [ChannelScale(width)] if scale else []
        layers += [nn.MaxPool2d(2)] if pooled else []
        # The published momenta are 0.2 after convolutions and torch's default after linear layers.
        layers += [nn.BatchNorm2d(width, eps=1e-5, momentum=0.2, affine=False), activation()]
        channels, size = width, size // 2 if pooled else size
    layers.append(nn.Flatten())
    inputs = channels * size**2
    for outputs in [*hidden, classes]:
        layers += [*new_dropout(dropout), nn.Linear(inputs, outputs, bias=False)]
        layers += [ChannelScale(outputs)] if scale else []
        layers += [nn.BatchNorm1d(outputs, affine=False), activation()]
        inputs = outputs
    return nn.Sequential(*layers[:-1])  # logits have no activation


def vgg_small(classes: int) -> nn.Sequential:
    """Return VISPA's VGG-Small for CIFAR-10 with binary activations: 4,571,136 binary weights in five convolutions.

    The first convolution and the last linear layer are real, and so are their inputs. BatchNorm is affine, and PReLU
    has one slope per channel.

    Args:
        classes: Number of outputs.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Example:
        >>> vgg_small(10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    (first, _), *others = _SIX
    layers: list[nn.Module] = [ImageInput(3, 32), keep_real(nn.Conv2d(3, first, 3, padding=1, bias=False))]
    layers += [nn.BatchNorm2d(first), nn.PReLU(first)]
    channels = first
    for width, pooled in others:
        layers += [BinaryActivation("approx"), nn.Conv2d(channels, width, 3, padding=1, bias=False)]
        layers.append(ChannelScale(width))
        layers += [nn.MaxPool2d(2)] if pooled else []
        layers += [nn.BatchNorm2d(width), nn.PReLU(width)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), keep_real(nn.Linear(channels * 4 * 4, classes)))


def alexnet(classes: int = 1000, *, activation: str = "real") -> nn.Sequential:
    """Return VISPA's AlexNet for ImageNet: four binary convolutions and two binary linear layers.

    It has 58,236,928 binary weights. The first convolution (11x11, 96 channels), the last linear layer and all biases
    are real. Each binary layer has a `ChannelScale` before BatchNorm. There is no dropout.

    Args:
        classes: Number of outputs.
        activation: "real" for ReLU after every BatchNorm, or "sign" for a `BinaryActivation("approx")` before every
            binary layer instead.

    Returns:
        The network, input shape (N, 3, 224, 224), output shape (N, classes).

    Raises:
        ValueError: If the activation is unknown.

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
    for width, kernel, pooled in _ALEXNET:
        convolution = nn.Conv2d(inputs, width, kernel, padding=kernel // 2)
        layers += layer(convolution, nn.BatchNorm2d(width, eps=1e-3), width, pooled)
        inputs = width
    layers.append(nn.Flatten())
    inputs *= 6 * 6
    for width in (4096, 4096):
        layers += layer(nn.Linear(inputs, width), nn.BatchNorm1d(width, eps=1e-3), width)
        inputs = width
    return nn.Sequential(*layers, keep_real(nn.Linear(inputs, classes)))
