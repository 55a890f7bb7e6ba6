"""Train on three tasks in turn, with and without the posterior of one task as the prior of the next.

    python examples/continual.py [--epochs 30]

The tasks are the 8×8 digits with their pixels in another order. docs/continual.md describes the command that does the
same on MNIST, and other methods against forgetting.
"""

from __future__ import annotations

import argparse

import torch

import bitbayes as bb
from bitbayes.continual import advance_prior
from bitbayes.lab.continual import AccuracyMatrix, permuted_tasks
from bitbayes.lab.data import batches, load_digits


def learn(prior: bool, epochs: int) -> AccuracyMatrix:
    """Return the accuracy on every task after every task."""
    torch.manual_seed(0)
    model = bb.nn.mlp(64, [100, 100], 10, logit_scale=False).append(bb.nn.LogitScale(6.0))
    binary, real = bb.split_parameters(model)
    optimizer = bb.BayesBiNN(binary, lr=1e-2, ess=1200, seed=0)
    real_optimizer = torch.optim.Adam(real, lr=1e-3)
    matrix, seen = AccuracyMatrix(), []
    for index, task in enumerate(permuted_tasks(load_digits(), 3)):
        if prior and index > 0:
            advance_prior(optimizer)
        for epoch in range(epochs):
            for x, y in batches(task.data.train, 50, epoch=epoch, shuffle=True):
                torch.nn.functional.cross_entropy(model(x), y).backward()
                for each in (optimizer, real_optimizer):
                    each.step()
                    each.zero_grad()
        seen.append((task.data.test, [x for x, _ in batches(task.data.train, 200)]))
        row = []
        for test, inputs in seen:
            (x, y), *_ = batches(test, len(test))
            # The BatchNorm statistics of a task are estimated from its own inputs.
            probs = bb.predict(model, x, optimizer.posterior(), samples=16, batches=inputs).probs
            row.append(100 * float((probs.argmax(1) == y).float().mean()))
        matrix.append(row)
    return matrix


def main() -> None:
    """Print both matrices."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    o = parser.parse_args()
    for prior in (True, False):
        matrix = learn(prior, o.epochs)
        print("each task's posterior is the prior of the next" if prior else "the uniform prior for every task")
        for count, row in enumerate(matrix.rows, 1):
            print(f"  after task {count}: " + "  ".join(f"{value:5.1f}" for value in row))
        print(f"  mean {matrix.average[-1]:.1f}, forgetting {matrix.forgetting:.1f}")


if __name__ == "__main__":
    main()
