"""Train a posterior over binary networks on two moons, and draw where its mean is uncertain.

    python examples/two_moons.py [--out two_moons.png] [--steps 2000]

BayesBiNN keeps a probability for every weight. The picture shows the entropy of the mean of 50 networks drawn from it.
"""

from __future__ import annotations

import argparse

import torch
from matplotlib.figure import Figure

import bitbayes as bb
from bitbayes.lab.data import batches, load_moons


def main() -> None:
    """Train, print accuracy and entropy, and draw the entropy over the plane."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="two_moons.png")
    parser.add_argument("--steps", type=int, default=2000)
    o = parser.parse_args()

    torch.manual_seed(0)
    data = load_moons()
    (x, y), *_ = batches(data.train, len(data.train))
    model = bb.nn.mlp(2, [64, 64], 2, logit_scale=True)
    binary, real = bb.split_parameters(model)
    # A smaller `ess` than the recommended 300·N gives a more uncertain posterior.
    optimizer = bb.BayesBiNN(binary, lr=1e-2, ess=10 * len(x), seed=0)
    real_optimizer = torch.optim.Adam(real, lr=1e-2)
    for _ in range(o.steps):
        torch.nn.functional.cross_entropy(model(x), y.flatten().long()).backward()
        for each in (optimizer, real_optimizer):
            each.step()
            each.zero_grad()

    # `batches` gives every drawn network BatchNorm statistics of its own.
    (test, truth), *_ = batches(data.test, len(data.test))
    prediction = bb.predict(model, test, optimizer.posterior(), samples=50, batches=[x])
    print(f"accuracy of the mean of 50 networks: {(prediction.probs.argmax(1) == truth.flatten()).float().mean():.3f}")
    print(f"per-weight entropy: {optimizer.posterior().entropy():.2f} bits")

    line = torch.linspace(-3, 3, 100)
    plane = torch.cartesian_prod(line, line)
    entropy = bb.predict(model, plane, optimizer.posterior(), samples=50, batches=[x]).entropy
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    shade = axes.pcolormesh(line.numpy(), line.numpy(), entropy.view(100, 100).T.numpy(), cmap="Blues")
    axes.scatter(x[:, 0], x[:, 1], c=y.flatten(), cmap="coolwarm", s=8)
    axes.set(title="Entropy of the mean prediction, nats", aspect="equal")
    figure.colorbar(shade)
    figure.savefig(o.out, dpi=150)
    print(f"written: {o.out}")


if __name__ == "__main__":
    main()
