"""What a belief means, and what evidence of two strengths does to STE's latent weight and to BayesBiNN's belief."""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from style import BLUE, INK, LINE, MUTED, ORANGE, PURPLE, new_figure
from torch import Tensor

import bitbayes as bb

_SLOPES = {"weak": 0.4, "strong": 1.6}  # constant gradients of the loss, both for +1
_STEPS = 200


def _latent(slope: float) -> list[float]:
    """Return the latent weight of STE with SGD after every step."""
    parameter = torch.nn.Parameter(torch.tensor([-0.5]))
    optimizer = bb.STE([parameter], lr=0.03, inner="sgd", momentum=0.0, init="weights", seed=0)
    return _path(parameter, optimizer, slope, lambda: optimizer.state[parameter]["belief"]["latent"])


def _belief(slope: float) -> list[float]:
    """Return λ of BayesBiNN with the straight-through estimator after every step."""
    parameter = torch.nn.Parameter(torch.tensor([-0.5]))
    optimizer = bb.BayesBiNN([parameter], lr=0.03, ess=1.0, init_lambda=0.5, init="weights", seed=0)
    return _path(parameter, optimizer, slope, lambda: optimizer.posterior().natural["0"])


def _path(
    parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, slope: float, read: Callable[[], Tensor]
) -> list[float]:
    path = [float(read())]
    for _ in range(_STEPS):
        (-slope * parameter).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        path.append(float(read()))
    return path


def draw() -> Figure:
    """Return three panels."""
    figure, axes = new_figure(1, 3, width=7.8, height=2.7)
    belief, steps, update = axes[0]
    natural = np.linspace(-3, 3, 241)
    plus = 1 / (1 + np.exp(-2 * natural))
    entropy = -(plus * np.log2(plus) + (1 - plus) * np.log2(1 - plus))
    belief.plot(natural, plus, color=BLUE, label="P[w = +1]")
    belief.plot(natural, entropy, color=PURPLE, label="entropy, bits")
    belief.set(title="A belief", xlabel="λ", ylabel="probability; bits", ylim=(-0.05, 1.4), yticks=[0, 0.5, 1])
    belief.legend(loc="upper left", fontsize=8, labelcolor=MUTED)
    for axis, path, shade in ((steps, _latent, ORANGE), (update, _belief, BLUE)):
        for (name, slope), line in zip(_SLOPES.items(), ("--", "-"), strict=True):
            axis.plot(path(slope), line, color=shade, label=f"{name} evidence, {slope:g}")
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.set(xlabel="step", ylim=(-1.1, 2.4))
        axis.legend(loc="upper left", fontsize=8, labelcolor=MUTED)
    steps.set(title="STE", ylabel="latent weight")
    update.set(title="BayesBiNN", ylabel="λ")
    for axis in axes[0]:
        axis.grid(color=LINE, linewidth=0.7)
    return figure
