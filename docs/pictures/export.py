"""Bytes of one small network as a packed file, as tables of a C header, and as an ONNX model."""

import re

import style
import torch
from matplotlib.figure import Figure
from parts.sizes import size_bars

import bitbayes as bb


def network() -> bb.packed.PackedNetwork:
    """Pack the network of the guide: two convolutions and a linear layer, 12,752 binary weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, bias=False),
        torch.nn.BatchNorm2d(16),
        bb.nn.BinaryActivation(),
        torch.nn.Conv2d(16, 32, 3, stride=2, bias=False),
        torch.nn.BatchNorm2d(32),
        bb.nn.BinaryActivation(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 5 * 5, 10, bias=False),
        torch.nn.BatchNorm1d(10),
    )
    binary, _ = bb.split_parameters(model)
    bb.STE(binary, seed=0).eval()
    x = torch.randn(100, 1, 14, 14)
    bb.refresh_batchnorm(model, [x])
    return bb.pack(model, x)


def draw() -> Figure:
    """Export the network in every way, and draw the bytes of what comes out."""
    packed = network()
    tables, memory = (
        int(n) for n in re.findall(r"(\d+) bytes, (?:constant|static)", bb.packed.c_header(packed, "net"))
    )
    bars = {
        "C header: static memory": (memory, style.GREEN),
        "C header: constant tables": (tables, style.GREEN),
        "packed network: tensors": (sum(tensor.nbytes for tensor in packed.tensors.values()), style.BLUE),
        "ONNX model": (len(bb.packed.onnx_model(packed).SerializeToString()), style.ORANGE),
    }
    return size_bars("One network of 12,752 binary weights", bars, ("kB", 1e3), lambda size: f"{size:,} bytes")
