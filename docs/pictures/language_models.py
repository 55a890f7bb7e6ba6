"""Bytes of a small Llama as a GGUF file of each type."""

import tempfile
from pathlib import Path

import style
import torch
from matplotlib.figure import Figure
from parts.sizes import size_bars
from transformers import LlamaConfig, LlamaForCausalLM

import bitbayes as bb
from bitbayes.packed.gguf.write import GGUFType


def draw() -> Figure:
    """Write the network of the guide in every type, and draw the bytes of the files."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config)
    binary, _ = bb.split_parameters(model, real=["lm_head.*"])
    bb.STE(binary, scale="fan_in", seed=0).eval()
    colours: dict[GGUFType, str] = {"F16": style.ORANGE, "Q8_0": style.BLUE, "Q1_0": style.GREEN}
    bars = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, colour in colours.items():
            path = Path(folder, "net.gguf")
            bb.packed.write_gguf(model, path, kind)
            bars[kind] = path.stat().st_size, colour
    weights = sum(parameter.numel() for _, parameter in binary)
    return size_bars(f"A decoder of {weights:,} binary weights", bars, ("MB", 1e6), lambda size: f"{size:,} bytes")
