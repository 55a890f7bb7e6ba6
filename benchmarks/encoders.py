"""Pack a vision transformer and a text classifier, and time them beside int8.

    python benchmarks/encoders.py [--turns 7] [--clock wall|cpu] [--save FOLDER] [--json FILE]

Both are encoders with random weights: four layers of width 256, as `torch.nn.TransformerEncoder` has them. The vision
transformer cuts images of 32×32 pixels into 64 patches and has a class token. The text classifier reads 64 tokens of
8,000. It uses one thread, and engines take turns. On a machine that others load too, `--clock cpu` counts the processor
time of this process. With `--save`, the packed networks stay in a folder, for `bitbayes bench`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes.lab.bench.engines import ENGINES, engines, measure
from bitbayes.packed import PackedNetwork
from bitbayes.table import Table

WIDTH, TOKENS, WORDS = 256, 64, 8000
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BATCHES = (1, 32)
BASE = "OpenVINO int8"
TIMED = tuple(name for name in ENGINES if name != "backend reference")  # which is made to be read


def encoder() -> nn.Module:
    """Return four layers with the norm before attention and MLP."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, an encoder, and a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, TOKENS + 1, WIDTH))
        self.encoder, self.norm, self.head = encoder(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 10) of images (N, 3, 32, 32)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.encoder(x))[:, 0])


class TextClassifier(nn.Module):
    """Embeddings of tokens, positions, an encoder, and a head on the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.encoder, self.head = encoder(), nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (N, 4) of token ids (N, 64)."""
        return self.head(self.encoder(self.words(ids) + self.positions).mean(1))


def networks() -> dict[str, tuple[PackedNetwork, Tensor]]:
    """Return both networks, packed, and inputs for the largest batch."""
    inputs = {
        "vision transformer": (VisionTransformer, torch.randn(max(BATCHES), 3, 32, 32)),
        "text classifier": (TextClassifier, torch.randint(WORDS, (max(BATCHES), TOKENS))),
    }
    found = {}
    for name, (make, x) in inputs.items():
        model = make()
        binary, _ = bb.split_parameters(model)
        bb.STE(binary, scale="fan_in", seed=0).eval()
        found[name] = bb.pack(model.eval(), x[:1]), x
    return found


def main(words: list[str] | None = None) -> None:
    """Print a table of times relative to int8."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=7, help="measurements per engine, of which the median counts")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--save", type=Path, help="folder for the packed networks")
    parser.add_argument("--json", type=Path, help="file for the ratios")
    o = parser.parse_args(words)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ratios: dict[str, dict[str, float]] = {name: {} for name in TIMED}
    for name, (network, x) in networks().items():
        if o.save is not None:
            network.save(o.save / f"{name.replace(' ', '-')}.safetensors")
        for batch in BATCHES:
            calls, missing = engines(network, x[:batch].numpy(), threads=1, names=TIMED)
            if BASE in missing:
                raise SystemExit(f"nothing to compare with: {missing[BASE]}")
            seconds = measure(calls, o.turns, CLOCKS[o.clock])
            for engine in calls:
                ratios[engine][f"{name}, batch {batch}"] = round(seconds[engine] / seconds[BASE], 3)
    columns = list(ratios[BASE])
    rows = [[engine, *(f"{row[c]:.2f}×" if c in row else "–" for c in columns)] for engine, row in ratios.items()]
    print(Table("Time over that of OpenVINO int8, one thread", ["engine", *columns], rows).text())
    if o.json is not None:
        date = datetime.date.today().isoformat()
        content = {"date": date, "clock": o.clock, "turns": o.turns, "encoders": ratios}
        o.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
