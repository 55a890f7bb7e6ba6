"""Networks of the published experiments, and layers that binary networks need besides torch's own."""

from bitbayes.nn.convolutional import alexnet, binaryconnect_vgg, narrow_vgg, vgg16, vgg_small
from bitbayes.nn.layers import (
    BinaryActivation,
    ChannelScale,
    ImageInput,
    LogitScale,
    PadChannels,
    RPReLU,
    Shift,
    keep_real,
)
from bitbayes.nn.llama import Decoder, DecoderConfig, decoder
from bitbayes.nn.perceptron import mlp, mnist_mlp, synthetic_mlp
from bitbayes.nn.resnet import birealnet18, resnet18, resnet18_imagenet
from bitbayes.nn.speed import speed_net, whitening

__all__ = [
    "BinaryActivation",
    "ChannelScale",
    "Decoder",
    "DecoderConfig",
    "ImageInput",
    "LogitScale",
    "PadChannels",
    "RPReLU",
    "Shift",
    "alexnet",
    "binaryconnect_vgg",
    "birealnet18",
    "decoder",
    "keep_real",
    "mlp",
    "mnist_mlp",
    "narrow_vgg",
    "resnet18",
    "resnet18_imagenet",
    "speed_net",
    "synthetic_mlp",
    "vgg16",
    "vgg_small",
    "whitening",
]
