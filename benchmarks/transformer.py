"""Train a small transformer encoder with binary weights, and count the signs that flip.

    python benchmarks/transformer.py [--steps 800] [--seeds 3] [--json FILE]

The task: six symbols stand somewhere in a sequence of 16 symbols. Which symbol of each of the three pairs comes first?
There are eight answers. The task needs positions and attention, and a float network learns it in 800 steps. The network
is `torch.nn.TransformerEncoder` with two layers of width 64, whose norm is LayerNorm. Its four matrices per layer are
binary; embeddings, norms and the head are real. Random signs that never flip show what the real parameters learn alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import bitbayes as bb
from bitbayes.table import Table, spread

WIDTH, LENGTH, SYMBOLS, EXAMPLES, BATCH = 64, 16, 12, 8000, 32
WEIGHTS = torch.tensor([1, 2, 4])  # of the three pairs in the number of the answer
FOREVER = 1e7  # first |λ| of signs that never flip
Pairs = list[tuple[str, nn.Parameter]]
Make = Callable[[Pairs, int, int], torch.optim.Optimizer]


class Encoder(nn.Module):
    """Embeddings, two encoder layers, the mean over the positions, and a real head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) / 10)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = bb.nn.keep_real(nn.Linear(WIDTH, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (N, 8), of symbols of shape (N, 16)."""
        return self.head(self.norm(self.encoder(self.embedding(x) + self.positions).mean(1)))


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return sequences in which symbols 0 to 5 stand once each, and the number of the answer, from 0 to 7."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(6, SYMBOLS, (count, LENGTH), generator=generator)
    places = torch.rand(count, LENGTH, generator=generator).argsort(1)[:, :6]
    x.scatter_(1, places, torch.arange(6).expand(count, 6))
    return x, (places[:, ::2] < places[:, 1::2]).long() @ WEIGHTS


@dataclass(frozen=True)
class Setting:
    """A row of the table, and how to make the optimizer of the matrices."""

    label: str
    make: Make


def float_network(binary: Pairs, steps: int, seed: int) -> torch.optim.Optimizer:
    """Return Adam."""
    return torch.optim.Adam([parameter for _, parameter in binary], lr=1e-3)


def ste(lr: float) -> Make:
    """Return a maker of STE."""
    return lambda binary, steps, seed: bb.STE(binary, lr=lr, scale="fan_in", seed=seed)


def bayesbinn(init_lambda: float) -> Make:
    """Return a maker of BayesBiNN with the recommended setting and a first |λ|."""
    return lambda binary, steps, seed: bb.BayesBiNN.recommended(
        binary, steps=steps, examples=EXAMPLES, init_lambda=init_lambda, scale="fan_in", seed=seed
    )


def trained(setting: Setting, steps: int, seed: int) -> tuple[float, float]:
    """Return the test accuracy of the mode in percent, and the share of signs that a step flips in percent."""
    torch.manual_seed(seed)
    model = Encoder()
    x, y = data(EXAMPLES, 1)
    binary, real = bb.split_parameters(model)
    rule = setting.make(binary, steps, seed)
    if isinstance(rule, bb.BinaryOptimizer):
        bb.follow(model, rule)
    optimizers = [rule, torch.optim.Adam(real, lr=3e-3)]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in optimizers]
    generator = torch.Generator().manual_seed(seed)
    flips = []
    for _ in range(steps):
        before = [parameter.detach() > 0 for _, parameter in binary]
        batch = torch.randint(EXAMPLES, (BATCH,), generator=generator)
        cross_entropy(model(x[batch]), y[batch]).backward()
        for each in (*optimizers, *schedules):
            each.step()
        model.zero_grad()
        changed = sum(int(((p > 0) != old).sum()) for (_, p), old in zip(binary, before, strict=True))
        flips.append(100 * changed / sum(p.numel() for _, p in binary))
    model.eval()
    test, answers = data(2000, 2)
    with torch.no_grad():
        right = model(test).argmax(1) == answers
    return 100 * float(right.float().mean()), statistics.mean(flips)


Rows = dict[str, dict[str, list[float]]]


def measured(settings: Sequence[Setting], steps: int, seeds: int) -> Rows:
    """Train every setting with every seed, and print and return a row for each setting."""
    rows: Rows = {}
    for setting in settings:
        accuracies, flips = zip(*(trained(setting, steps, seed) for seed in range(seeds)), strict=True)
        rows[setting.label] = {"accuracy": list(accuracies), "flips": list(flips)}
    shown = [[label, spread(row["accuracy"], 1), spread(row["flips"], 2)] for label, row in rows.items()]
    print(Table("", ["binary weights", "test accuracy, %", "signs that a step flips, %"], shown).markdown())
    return rows


SETTINGS = (
    Setting("none: Adam, lr 1e-3", float_network),
    Setting("random signs that never flip", bayesbinn(FOREVER)),
    Setting("STE, lr 1e-2", ste(1e-2)),
    Setting("STE, lr 1e-3", ste(1e-3)),
    *(Setting(f"BayesBiNN, first |λ| {value:g}", bayesbinn(value)) for value in (15.0, 150.0, 1500.0)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=800, help="training steps")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row")
    parser.add_argument("--json", type=Path, help="file for the figures of every seed")
    o = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(SETTINGS, o.steps, o.seeds)
    if o.json is not None:
        content = {"date": datetime.date.today().isoformat(), "steps": o.steps, "seeds": o.seeds, "transformers": found}
        o.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
