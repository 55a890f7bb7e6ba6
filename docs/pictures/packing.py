"""Bytes of one network at 32, 8 and 1 bit per weight, and of 32 packed networks, drawn to scale."""

import tempfile
from pathlib import Path

import style
import torch
from matplotlib.figure import Figure

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
    figure, ((axis,),) = style.new_figure(height=2.6)
    for place, (size, colour) in enumerate(bars.values()):
        axis.barh(place, size / 1e6, color=colour, height=0.6)
        axis.annotate(f"{size / 1e6:.1f} MB", (size / 1e6, place), (5, 0), textcoords="offset points", va="center")
    axis.set(yticks=range(len(bars)), yticklabels=bars, xlim=(0, 46), xlabel="size, MB", ylim=(3.6, -0.6))
    axis.tick_params(axis="y", length=0, labelcolor=style.INK)
    axis.set_title(f"A network of {signs / 1e6:.1f} million weights", loc="left")
    return figure
