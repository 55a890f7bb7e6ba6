"""VGG-like networks for CIFAR: of BayesBiNN, of VISPA, and of LR-nets.

But for `vgg_small` and `narrow_vgg` all layers are binary, the first and the last too; but for `vgg_small` BatchNorm
has no affine parameters. The order
is convolution, factor of each channel (VISPA only), 2x2 max-pooling where there is one, BatchNorm, activation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitbayes.errors import chosen
from bitbayes.nn.activations import BinaryActivation, ChannelScale
from bitbayes.nn.images import ImageInput
from bitbayes.nn.real import keep_real
from bitbayes.nn.scale import LogitScale

__all__ = ["binaryconnect_vgg", "lrnet_cifar", "lrnet_mnist", "narrow_vgg", "vgg16", "vgg_small"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sign": BinaryActivation}

# (width, pooled) of each convolution.
_SIX = [(128, False), (128, True), (256, False), (256, True), (512, False), (512, True)]
_FOUR = [(32, True), (64, True), (128, False), (128, True)]
_THIRTEEN = [
    *[(64, False), (64, True), (128, False), (128, True)],
    *[(256, False), (256, False), (256, True)],
    *[(512, False), (512, False), (512, True)] * 2,
]


def binaryconnect_vgg(
    classes: int, *, width: float = 1.0, activation: str = "relu", logit_scale: bool = False
) -> nn.Sequential:
    """The CIFAR network of the BayesBiNN paper's code: six convolutions of 128 to 512 channels, three linear layers.

    At width 1 it has 14,022,016 binary weights for 10 classes and 14,114,176 for 100.

    Args:
        classes: Number of outputs.
        width: Factor of all channels and hidden widths.
        activation: "relu"; or "sign", which puts `BinaryActivation("approx")` in the place of every ReLU. The images
            stay real.
        logit_scale: Add a learnable scale, which the paper's network has not; see `LogitScale`.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Raises:
        ValueError: For an unknown activation, or a width that leaves no channel.

    Example:
        >>> binaryconnect_vgg(10, width=0.125)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    kind = chosen("activation", activation, _ACTIVATIONS)
    if not width * 128 >= 1:
        raise ValueError(f"width must be at least 1/128, one channel, got {width!r}")
    convolutions = [(round(width * channels), pooled) for channels, pooled in _SIX]
    network = _vgg(convolutions, [round(width * 1024)] * 2, classes, activation=kind)
    return network.append(LogitScale()) if logit_scale else network


def narrow_vgg(classes: int, *, activation: str = "relu") -> nn.Sequential:
    """A network for CIFAR on a laptop: four convolutions of 32 to 128 channels, one hidden layer of 256. Ours.

    It pools early, so that most of its 767,328 weights for 10 classes work on small maps. The first convolution and
    the last layer are real, which leaves 763,904 binary weights. It ends in a learnable `LogitScale`.

    Args:
        classes: Number of outputs.
        activation: "relu"; or "sign", which puts `BinaryActivation("approx")` in the place of every ReLU.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, classes).

    Raises:
        ValueError: For an unknown activation.

    Example:
        >>> bb.summary(narrow_vgg(10)).binary_weights
        763904
    """
    kind = chosen("activation", activation, _ACTIVATIONS)
    return _vgg(_FOUR, [256], classes, activation=kind, real_ends=True).append(LogitScale())


def vgg16(classes: int) -> nn.Sequential:
    """VISPA's VGG16 for CIFAR with real activations: thirteen convolutions, three linear layers.

    It has 15,239,872 binary weights for 10 classes and 15,285,952 for 100; real are only the `ChannelScale`s.

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


def lrnet_mnist() -> nn.Sequential:
    """The MNIST network of LR-nets (Shayer, Levi & Fetaya, ICLR 2018): 32 and 64 channels of 5x5, 512 hidden units.

    The convolutions have no padding, as LeNet's: 28, pooled 12, pooled 4. That gives 581,408 binary weights.
    BatchNorm and its place are the BayesBiNN paper's, which compares on this network.

    Returns:
        The network, input shape (N, 1, 28, 28) or (N, 784), output shape (N, 10).

    Example:
        >>> lrnet_mnist()(torch.randn(2, 784)).shape
        torch.Size([2, 10])
    """
    return _vgg([(32, True), (64, True)], [512], 10, channels=1, size=28, kernel=5, padding=0)


def lrnet_cifar() -> nn.Sequential:
    """The CIFAR-10 network of LR-nets: `binaryconnect_vgg` with one hidden layer of 1024, 12,973,440 binary weights.

    Returns:
        The network, input shape (N, 3, 32, 32), output shape (N, 10).

    Example:
        >>> with torch.device("meta"):
        ...     bb.summary(lrnet_cifar()).binary_weights
        12973440
    """
    return _vgg(_SIX, [1024], 10)


def _vgg(
    convolutions: Sequence[tuple[int, bool]],
    hidden: Sequence[int],
    classes: int,
    *,
    channels: int = 3,
    size: int = 32,
    kernel: int = 3,
    padding: int = 1,
    scale: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    real_ends: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = [ImageInput(channels, size)]
    for width, pooled in convolutions:
        layers.append(nn.Conv2d(channels, width, kernel, padding=padding, bias=False))
        layers += [ChannelScale(width)] if scale else []
        layers += [nn.MaxPool2d(2)] if pooled else []
        # The published momenta: 0.2 after convolutions, torch's own after linear layers.
        layers += [nn.BatchNorm2d(width, eps=1e-5, momentum=0.2, affine=False), activation()]
        channels, size = width, (size + 2 * padding - kernel + 1) // (2 if pooled else 1)
    layers.append(nn.Flatten())
    inputs = channels * size**2
    for outputs in [*hidden, classes]:
        layers.append(nn.Linear(inputs, outputs, bias=False))
        layers += [ChannelScale(outputs)] if scale else []
        layers += [nn.BatchNorm1d(outputs, affine=False), activation()]
        inputs = outputs
    if real_ends:
        weighted = [layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
        for layer in (weighted[0], weighted[-1]):
            keep_real(layer)
    return nn.Sequential(*layers[:-1])  # logits have no activation


def vgg_small(classes: int) -> nn.Sequential:
    """VISPA's VGG-Small for CIFAR-10 with binary activations: five binary convolutions, 4,571,136 binary weights.

    The first convolution and the last linear layer are real, and so are their inputs. BatchNorm is affine; PReLU has a
    slope for every channel.

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
