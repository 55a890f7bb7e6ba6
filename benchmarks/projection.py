"""Compare VISPA with and without its projection, by learning rate, schedule, step scaling and noise.

    python benchmarks/projection.py --data FOLDER [--epochs 5] [--seeds 1]

The data are MNIST and the network is an MLP 784-512-512-10 with BatchNorm. All settings that were run are printed, and
none is selected. "scaled" divides the gradient of each tensor by its root mean square before the step.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import bitbayes as bb
from bitbayes.lab.data import DataBundle, batches, load_mnist

BATCH = 200


@dataclass(frozen=True)
class Row:
    """One setting of the comparison."""

    name: str
    lr: float
    options: dict[str, Any] = field(default_factory=dict)
    scaled: bool = False
    schedule: str = "cosine"


PROJECTED = {"project": True, "init_noise": 1.0}
ROWS = [
    Row("STE with SGD (K = 0)", 10.0, {"rank": 0, "weight_decay": 5e-5}),
    Row("released", 1.0),
    Row("released", 10.0),
    Row("released, decay 5e-5", 10.0, {"weight_decay": 5e-5}),
    Row("released, decay, network's noise", 10.0, {"weight_decay": 5e-5, "shared": "network"}),
    Row("projected", 1.0, PROJECTED),
    Row("projected", 10.0, PROJECTED),
    Row("projected", 100.0, PROJECTED),
    Row("projected, constant rate", 10.0, PROJECTED, schedule="constant"),
    Row("projected, network's noise", 10.0, PROJECTED | {"shared": "network"}),
    Row("projected, scaled", 0.003, PROJECTED, scaled=True),
    Row("projected, scaled", 0.01, PROJECTED, scaled=True),
    Row("projected, scaled", 0.03, PROJECTED, scaled=True),
    Row("projected, scaled, little noise", 0.01, PROJECTED | {"init_noise": 0.1}, scaled=True),
    Row("projected, S = 100, scaled", 0.01, PROJECTED | {"divisor": 100.0, "init_noise": 0.1}, scaled=True),
    Row("released, scaled", 0.01, {"weight_decay": 0.0}, scaled=True),
]


def accuracy(model: nn.Module, data: DataBundle, posterior: bb.Posterior | None) -> float:
    """Return validation accuracies in percent; every network has BatchNorm statistics of its own."""
    validation = data.validation
    assert validation is not None
    x = validation.inputs(torch.arange(len(validation)))
    inputs = [part for part, _ in _some(data, 10)]
    found = bb.predict(model, x, posterior, 8, batches=inputs)
    return 100 * float((found.probs.argmax(1) == validation.y).float().mean())


def _some(data: DataBundle, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    stream = batches(data.train, 500, shuffle=True)
    return (pair for _, pair in zip(range(count), stream, strict=False))


def run(row: Row, data: DataBundle, epochs: int, seed: int) -> dict[str, float]:
    """Train one setting once."""
    torch.manual_seed(seed)
    model = bb.nn.mlp(784, [512, 512], 10)
    binary, real = bb.split_parameters(model)
    optimizer = bb.VISPA(binary, lr=row.lr, seed=seed, **row.options)
    others = torch.optim.Adam([parameter for _, parameter in real], lr=1e-2)
    steps = epochs * (len(data.train) // BATCH)
    end = row.lr if row.schedule == "constant" else 0.0
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=end)
    flips = 0.0
    for epoch in range(epochs):
        for x, y in batches(data.train, BATCH, seed=seed, epoch=epoch, shuffle=True):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            others.zero_grad()
            loss.backward()
            if row.scaled:
                for _, parameter in binary:
                    assert parameter.grad is not None
                    parameter.grad /= parameter.grad.square().mean().sqrt().clamp(min=1e-30)
            before = binary[0][1].detach().clone()
            optimizer.step()
            flips += float((before != binary[0][1].detach()).float().mean())
            others.step()
            scheduler.step()
    optimizer.eval()
    posterior = optimizer.posterior()
    return {
        "mode": accuracy(model, data, None),
        "mean": accuracy(model, data, posterior),
        "bits": float(posterior.entropy()),
        "flips": 100 * flips / steps,
    }


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="ylecun/mnist", help="folder or hub id of MNIST")
    parser.add_argument("--epochs", type=int, default=5, help="epochs per run")
    parser.add_argument("--seeds", type=int, default=1, help="runs per setting")
    arguments = parser.parse_args()
    data = load_mnist(arguments.data)
    print("| setting | lr | mode | mean of 8 | bits a weight | flips a step, % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in ROWS:
        found = [run(row, data, arguments.epochs, seed) for seed in range(arguments.seeds)]
        mean = {name: statistics.mean(one[name] for one in found) for name in found[0]}
        cells = f"{mean['mode']:.2f} | {mean['mean']:.2f} | {mean['bits']:.3f} | {mean['flips']:.2f}"
        print(f"| {row.name} | {row.lr:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
