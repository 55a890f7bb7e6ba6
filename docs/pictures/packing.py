"""Bytes of one network at 32, 8 and 1 bit per weight, and of 32 packed networks, drawn to scale."""

import tempfile
from pathlib import Path

import style
import torch
from matplotlib.figure import Figure
from parts.sizes import size_bars

import bitbayes as bb


def draw() -> Figure:
    """Pack the MNIST network of the paper, 784-2048-2048-2048-10, and draw the bytes of its file beside others."""
    model = bb.nn.mlp(784, [2048, 2048, 2048], 10)
    binary, real = bb.split_parameters(model)
    bb.STE(binary, seed=0).eval()
    path = Path(tempfile.mkdtemp(), "net.safetensors")
    bb.pack(model, torch.zeros(1, 784)).save(path)
    signs, reals = (sum(parameter.numel() for _, parameter in named) for named in (binary, real))
    rest, packed = 4 * reals, path.stat().st_size
    bars = {
        "32 bits per weight\n(float32)": (4 * signs + rest, style.MUTED),
        "8 bits per weight\n(int8)": (signs + rest, style.MUTED),
        "1 bit per weight\n(packed file)": (packed, style.BLUE),
        "32 packed networks\nin one file": (packed + 31 * signs / 8, style.BLUE),
    }
    return size_bars(
        f"A network of {signs / 1e6:.1f} million weights", bars, ("MB", 1e6), lambda size: f"{size / 1e6:.1f} MB"
    )
