"""Networks of the published experiments, and the layers that they need beside torch's own."""

from bitbayes.nn.activations import BinaryActivation, ChannelScale, RPReLU, Shift, SpatialScale
from bitbayes.nn.alexnet import alexnet
from bitbayes.nn.images import ImageInput
from bitbayes.nn.mlp import mlp, mnist_mlp, synthetic_mlp
from bitbayes.nn.real import keep_real
from bitbayes.nn.resnet import birealnet18, resnet18, resnet18_imagenet
from bitbayes.nn.scale import LogitScale
from bitbayes.nn.vgg import binaryconnect_vgg, lrnet_cifar, lrnet_mnist, narrow_vgg, vgg16, vgg_small

__all__ = [
    "BinaryActivation",
    "ChannelScale",
    "ImageInput",
    "LogitScale",
    "RPReLU",
    "Shift",
    "SpatialScale",
    "alexnet",
    "binaryconnect_vgg",
    "birealnet18",
    "keep_real",
    "lrnet_cifar",
    "lrnet_mnist",
    "mlp",
    "mnist_mlp",
    "narrow_vgg",
    "resnet18",
    "resnet18_imagenet",
    "synthetic_mlp",
    "vgg16",
    "vgg_small",
]
