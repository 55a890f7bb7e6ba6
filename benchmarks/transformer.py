"""Train a small transformer encoder with binary weights, and count the signs that flip.

    python benchmarks/transformer.py [--steps 500] [--seeds 3]

The task: which of two symbols comes first in a sequence of 16? It needs positions and attention, and a float network
learns it in 500 steps. The network is `torch.nn.TransformerEncoder` with two layers of width 64, whose norm is
LayerNorm. Its four matrices per layer are binary; embeddings, norms and the head are real. The first table compares
settings of the rules, and the second makes only one kind of matrix binary.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import bitbayes as bb
from bitbayes.table import Table, spread

WIDTH, LENGTH, SYMBOLS, EXAMPLES, BATCH = 64, 16, 12, 8000, 32
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
        self.head = bb.nn.keep_real(nn.Linear(WIDTH, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (N, 2), of symbols of shape (N, 16)."""
        return self.head(self.norm(self.encoder(self.embedding(x) + self.positions).mean(1)))


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return sequences with one symbol 0 and one symbol 1, and whether 0 comes first."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(2, SYMBOLS, (count, LENGTH), generator=generator)
    first, second = torch.rand(count, LENGTH, generator=generator).argsort(1)[:, :2].unbind(1)
    x[torch.arange(count), first], x[torch.arange(count), second] = 0, 1
    return x, (first < second).long()


@dataclass(frozen=True)
class Setting:
    """A row of a table: how to make the optimizer of the binary weights, and which matrices are binary."""

    label: str
    make: Make | None
    binary: tuple[str, ...] = ("in_proj", "out_proj", "linear1", "linear2")


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
    """Return the test accuracy of the mode in percent, and the share of signs that flip in a step in percent."""
    torch.manual_seed(seed)
    model = Encoder()
    x, y = data(EXAMPLES, 1)
    every, real = bb.split_parameters(model)
    binary = [(name, parameter) for name, parameter in every if any(kind in name for kind in setting.binary)]
    known = {name for name, _ in binary}
    real = [parameter for name, parameter in model.named_parameters() if name not in known]
    rule = (setting.make or float_network)(binary, steps, seed)
    if isinstance(rule, bb.BinaryOptimizer):
        bb.follow(model, rule)
    optimizers = [rule, torch.optim.Adam(real, lr=1e-3)]
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


def table(title: str, settings: Sequence[Setting], steps: int, seeds: int) -> Table:
    """Train every setting with every seed, and return a row for each setting."""
    rows = []
    for setting in settings:
        found = [trained(setting, steps, seed) for seed in range(seeds)]
        accuracies, flips = zip(*found, strict=True)
        rows.append([setting.label, spread(accuracies, 1), spread(flips, 3)])
    return Table(title, ["binary weights", "test accuracy, %", "signs that flip in a step, %"], rows)


SETTINGS = (
    Setting("none: Adam, lr 1e-3", None),
    Setting("STE, lr 1e-2", ste(1e-2)),
    Setting("STE, lr 1e-3", ste(1e-3)),
    *(Setting(f"BayesBiNN, first |λ| {value:g}", bayesbinn(value)) for value in (15.0, 150.0, 1500.0)),
)
KINDS = {
    "queries, keys and values": "in_proj",
    "output of attention": "out_proj",
    "first matrix of the MLP": "linear1",
    "second matrix of the MLP": "linear2",
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row")
    o = parser.parse_args()
    torch.set_num_threads(1)
    print(table("Settings", SETTINGS, o.steps, o.seeds).markdown())
    each = [
        Setting(f"{label}: {rule}", make, (kind,))
        for label, kind in KINDS.items()
        for rule, make in (("STE, lr 1e-2", ste(1e-2)), ("BayesBiNN, first |λ| 15", bayesbinn(15.0)))
    ]
    print(table("One kind of matrix", each, o.steps, o.seeds).markdown())


if __name__ == "__main__":
    main()
