"""Binarise a network of your own: choose what stays real, train, save the posterior, and load it again.

    python examples/own_network.py [--epochs 20]

The network is an ordinary module, whose weights become ±1. The data are the 8×8 digits that ship with scikit-learn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes.lab.data import batches, load_digits


class Block(nn.Module):
    """A depthwise and a pointwise convolution with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, (N, C, H, W)."""
        return x + self.body(x)


def network() -> nn.Sequential:
    """Return a network for 8×8 digits and ten classes, whose first and last layers stay real."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        bb.nn.keep_real(nn.Conv2d(1, 32, 3, padding=1)),
        *[Block(32) for _ in range(3)],
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        bb.nn.keep_real(nn.Linear(128, 10)),
    )


def main() -> None:
    """Train, save and load the posterior, then print the accuracy of the mode and of the mean."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    o = parser.parse_args()

    torch.manual_seed(0)
    data = load_digits()
    model = network()
    binary, real = bb.split_parameters(model)
    print("binary:", ", ".join(name for name, _ in binary))
    steps = o.epochs * -(-len(data.train) // 50)
    optimizer = bb.BayesBiNN.recommended(binary, steps=steps, examples=len(data.train), seed=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    real_optimizer = torch.optim.Adam(real, lr=5e-3)
    bb.follow(model, optimizer)  # model.eval() puts the mode in place, model.train() a draw
    for epoch in range(o.epochs):
        for x, y in batches(data.train, 50, epoch=epoch, shuffle=True):
            torch.nn.functional.cross_entropy(model(x), y).backward()
            for each in (optimizer, real_optimizer):
                each.step()
                each.zero_grad()
            schedule.step()

    (x, y), *_ = batches(data.test, len(data.test))
    inputs = [x for x, _ in batches(data.train, 200)]
    with tempfile.TemporaryDirectory() as folder:
        optimizer.posterior().save(Path(folder, "posterior.safetensors"))
        posterior = bb.load_posterior(Path(folder, "posterior.safetensors"))
    model.eval()
    mode = bb.predict(model, x, batches=inputs)
    mean = bb.predict(model, x, posterior, samples=16, batches=inputs)
    for name, prediction in (("mode", mode), ("mean of 16", mean)):
        print(f"{name}: {(prediction.probs.argmax(1) == y).float().mean():.1%} right")


if __name__ == "__main__":
    main()
