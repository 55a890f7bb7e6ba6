"""Train a binary MLP on MNIST, and compare the mode with the mean over the posterior.

    python examples/mnist.py FOLDER [--epochs 3] [--width 512]

FOLDER holds MNIST as parquet files, like ylecun/mnist on the Hugging Face hub, or as the original idx files.
"""

from __future__ import annotations

import argparse

import torch

import bitbayes as bb
from bitbayes.calibration import probability_figures
from bitbayes.lab.data import batches, load_mnist


def main() -> None:
    """Train, then print accuracy, NLL and calibration of the mode and of the mean."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    o = parser.parse_args()

    torch.manual_seed(0)
    data = load_mnist(o.folder)
    model = bb.nn.mlp(784, [o.width, o.width], 10, logit_scale=True)
    binary, real = bb.split_parameters(model)
    steps = o.epochs * -(-len(data.train) // 100)
    optimizer = bb.BayesBiNN.recommended(binary, steps=steps, examples=len(data.train), seed=0)
    real_optimizer = torch.optim.Adam(real, lr=1e-3)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in (optimizer, real_optimizer)]
    bb.follow(model, optimizer)  # model.eval() puts the mode in place, model.train() a draw

    for epoch in range(o.epochs):
        model.train()
        for x, y in batches(data.train, 100, epoch=epoch, shuffle=True):
            torch.nn.functional.cross_entropy(model(x), y).backward()
            for each, schedule in zip((optimizer, real_optimizer), schedules, strict=True):
                each.step()
                each.zero_grad()
                schedule.step()
        print(f"epoch {epoch + 1} of {o.epochs}")

    some = [x for x, _ in batches(data.train, 500)][:20]
    x, y = (torch.cat(parts) for parts in zip(*batches(data.test, 1000), strict=True))
    model.eval()
    mode = bb.predict(model, x, batches=some, chunk=1000)
    mean = bb.predict(model, x, optimizer.posterior(), samples=16, batches=some, chunk=1000)
    for name, prediction in (("mode", mode), ("mean of 16", mean)):
        figures = probability_figures(prediction.probs, y)
        print(f"{name:>10}: accuracy {figures['accuracy']:.2f} %, NLL {figures['nll']:.4f}, ECE {figures['ece']:.4f}")
    print(bb.summary(model))


if __name__ == "__main__":
    main()
