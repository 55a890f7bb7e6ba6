"""ResNet18 with binary convolutions for CIFAR, Tiny-ImageNet and ImageNet, with the layers of VISPA's code.

The sixteen 3x3 convolutions of the blocks are binary. They have 10,985,472 weights, and each has a `ChannelScale`. The
stem, the convolutions of shortcuts and the head are real. With binary activations, a `BinaryActivation("approx")`
precedes each binary convolution, and Hardtanh replaces ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from bitbayes.errors import chosen
from bitbayes.nn.layers import BinaryActivation, ChannelScale, ImageInput, PadChannels, keep_real

_WIDTHS = (64, 128, 256, 512)
_ACTIVATIONS = {"real": False, "sign": True}
_Layers = OrderedDict[str, nn.Module]


def resnet18(classes: int, *, activation: str = "real", input: str = "cifar") -> nn.Sequential:
    """Return ResNet18 for small images, with a 3x3 stem and BatchNorm before the head.

    Args:
        classes: Number of outputs.
        activation: "real" for ReLU and shortcuts with real 1x1 convolutions; "sign" for binary activations, Hardtanh,
            and shortcuts without parameters (2x2 average pooling and zero channels).
        input: "cifar", or "tiny-imagenet", whose stem halves the image.

    Returns:
        The network, input shape (N, 3, H, W), output shape (N, classes). With "sign", H and W must be multiples of 8,
        or of 16 for "tiny-imagenet".

    Raises:
        ValueError: If the activation or the input is unknown.

    Example:
        >>> resnet18(10, activation="sign")(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    sign = chosen("activation", activation, _ACTIVATIONS)
    stride = chosen("input", input, {"cifar": 1, "tiny-imagenet": 2})

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        if stride == 1:
            shortcut = nn.Identity()
        elif sign:
            shortcut = nn.Sequential(nn.AvgPool2d(2), PadChannels(outputs - inputs))
        else:
            norm = nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.2, affine=False)
            shortcut = nn.Sequential(_real_convolution(inputs, outputs, 1, stride), norm)
        return _Block(inputs, outputs, stride, shortcut, sign=sign, two_skips=False)

    front = _Layers(input=ImageInput(3, multiple=8 * stride if sign else 1))
    front["stem"] = _real_convolution(3, _WIDTHS[0], 3, stride)
    front["norm"] = nn.BatchNorm2d(_WIDTHS[0])
    if not sign:
        front["activation"] = nn.ReLU()
    return _network(front, block, classes)


def resnet18_imagenet(classes: int = 1000, *, activation: str = "real") -> nn.Sequential:
    """Return ResNet18 for ImageNet with a 7x7 stem, standard residual blocks, and BatchNorm before the head.

    Args:
        classes: Number of outputs.
        activation: "real" for ReLU; "sign" for `birealnet18`, the usual ResNet18 with binary activations.

    Returns:
        The network, input shape (N, 3, H, W), output shape (N, classes).

    Raises:
        ValueError: If the activation is unknown.

    Example:
        >>> resnet18_imagenet(10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    sign = chosen("activation", activation, _ACTIVATIONS)
    return birealnet18(classes) if sign else _imagenet(classes, sign=False)


def birealnet18(classes: int = 1000) -> nn.Sequential:
    """Return Bi-Real Net (Liu et al., ECCV 2018) with 18 layers for ImageNet, as ReCU and VISPA train it from scratch.

    Activations are binary. A skip connection around each binary convolution passes real values through the whole
    network. The factors of two-dimensional BatchNorm are initially 1e-8.

    Args:
        classes: Number of outputs.

    Returns:
        The network, input shape (N, 3, H, W), output shape (N, classes).

    Example:
        >>> birealnet18(10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    network = _imagenet(classes, sign=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 1e-8)
    return network


def _imagenet(classes: int, *, sign: bool) -> nn.Sequential:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        shortcut = nn.Identity()
        if stride > 1:
            shortcut = nn.Sequential(_real_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        return _Block(inputs, outputs, stride, shortcut, sign=sign, two_skips=sign)

    front = _Layers(input=ImageInput(3))
    front["stem"] = _real_convolution(3, _WIDTHS[0], 7, 2)
    front["norm"] = nn.BatchNorm2d(_WIDTHS[0])
    front["activation"] = nn.Hardtanh() if sign else nn.ReLU()
    front["maxpool"] = nn.MaxPool2d(3, 2, padding=1)
    return _network(front, block, classes)


def _network(layers: _Layers, block: Callable[[int, int, int], nn.Module], classes: int) -> nn.Sequential:
    """Return the network: the layers in front, then the stages and the head."""
    inputs = _WIDTHS[0]
    for index, width in enumerate(_WIDTHS, start=1):
        stride = 1 if index == 1 else 2
        layers[f"stage{index}"] = nn.Sequential(block(inputs, width, stride), block(width, width, 1))
        inputs = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head_norm"] = nn.BatchNorm1d(inputs)
    layers["head"] = keep_real(nn.Linear(inputs, classes))
    return nn.Sequential(layers)


def _real_convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return keep_real(convolution)


def _branch(inputs: int, outputs: int, stride: int, *, sign: bool) -> nn.Sequential:
    layers = _Layers()
    if sign:
        layers["sign"] = BinaryActivation("approx")
    layers["convolution"] = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    layers["scale"] = ChannelScale(outputs)
    layers["norm"] = nn.BatchNorm2d(outputs)
    return nn.Sequential(layers)


class _Block(nn.Module):
    """Two binary convolutions with one skip connection around both, or one around each (`two_skips`)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, shortcut: nn.Module, *, sign: bool, two_skips: bool
    ) -> None:
        super().__init__()
        self.first = _branch(inputs, outputs, stride, sign=sign)
        self.second = _branch(outputs, outputs, 1, sign=sign)
        self.shortcut = shortcut
        self.activation = nn.Hardtanh() if sign else nn.ReLU()
        self.two_skips = two_skips

    def forward(self, x: Tensor) -> Tensor:
        if self.two_skips:
            middle = self.activation(self.first(x) + self.shortcut(x))
            return self.activation(self.second(middle) + middle)
        return self.activation(self.second(self.activation(self.first(x))) + self.shortcut(x))
