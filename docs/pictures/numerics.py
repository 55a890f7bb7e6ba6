"""The scale that the released code puts before a gradient, and how often its signs are those of a moving average."""

import numpy as np
import torch
from matplotlib.figure import Figure
from style import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE, new_figure
from torch import Tensor

_EPS0 = 1e-10
_COLOURS = {1.0: ORANGE, 1e-2: PURPLE, 1e-6: GREEN, 1e-10: BLUE}


def _scale(natural: Tensor, tau: float, uniform: Tensor) -> Tensor:
    """Return the released scale over N, in float32, with the draw that belongs to it."""
    noise = 0.5 * torch.log(uniform / (1 - uniform))
    w = torch.tanh((natural + noise) / tau)
    return (1 - w**2 + _EPS0) / tau / (1 - torch.tanh(natural) ** 2 + _EPS0)


def _agreement(tau: float, steps: int = 300, count: int = 2_000, features: int = 200, lr: float = 1e-2) -> float:
    """Return the share of signs that the moving average of −g has too, on the problem of the page."""
    torch.manual_seed(0)
    x = torch.randn(count, features) / features**0.5
    y = (x @ torch.randn(features) > 0).float()
    natural, average = 10 * torch.randn(features).sign(), torch.zeros(features)
    mean = torch.tanh(natural)
    for _ in range(steps):
        batch = torch.randint(count, (100,))
        u = torch.rand(features).clamp(min=2**-24)
        w = torch.tanh((natural + 0.5 * torch.log(u / (1 - u))) / tau).requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x[batch] @ w, y[batch])
        (g,) = torch.autograd.grad(loss, w)
        w = w.detach()
        scale = (1 - w**2 + _EPS0) / tau / (1 - mean**2 + _EPS0)
        mean = torch.tanh(natural)
        natural = (1 - lr) * natural - lr * count * scale * g
        average = (1 - lr) * average - lr * g
    return float((natural.sign() == average.sign()).float().mean())


def draw() -> Figure:
    """Return two panels: median scale by belief and temperature, and agreement by temperature."""
    figure, axes = new_figure(1, 2, width=7.6, height=3.0)
    left, right = axes[0]
    natural = torch.linspace(0, 14, 141)
    uniform = torch.rand(4001, 1, generator=torch.Generator().manual_seed(0)).clamp(min=2**-24)
    for tau, shade in _COLOURS.items():
        label = "τ = 1" if tau == 1 else f"τ = 1e{int(np.log10(tau))}"
        left.plot(natural, _scale(natural, tau, uniform).median(0).values, color=shade, label=label)
    left.axvline(9.02, color=INK, linewidth=0.8, linestyle=":")
    left.text(9.3, 1e-6, "tanh λ is 1\nin float32", color=MUTED, fontsize=8)
    left.set(yscale="log", xlabel="|λ|", ylabel="median scale of a gradient / N", title="The scale ends at 1/τ")
    left.legend(loc="upper left", fontsize=8, labelcolor=MUTED)
    taus = [10.0**power for power in range(-10, 1)]
    right.plot(taus, [100 * _agreement(tau) for tau in taus], "o-", color=BLUE)
    right.axhline(50, color=INK, linewidth=0.8, linestyle=":")
    right.text(1, 48.8, "chance", color=MUTED, fontsize=8, ha="right", va="top")
    right.set(xscale="log", ylim=(40, 102), xlabel="τ", ylabel="same signs, %", title="Signs of a moving average of −g")
    for axis in axes[0]:
        axis.grid(color=LINE, linewidth=0.7)
    return figure
