"""A joint optimizer in a trainer: two learning rates under one schedule, and when the weights are draws or the mode."""

import math

import style
import torch
from matplotlib.figure import Figure

import bitbayes as bb

STEPS, WARM_UP, EVERY = 90, 10, 30


def draw() -> Figure:
    """Run a joint optimizer with evaluations in between, and draw its learning rates and what the weights were."""
    layer = torch.nn.Linear(8, 4)
    rule = bb.BayesBiNN([("weight", layer.weight)], lr=0.02, ess=100, seed=0)
    optimizer = bb.JointOptimizer(rule, torch.optim.AdamW([layer.bias], lr=0.001))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor)
    rates, modes = [], []
    for step in range(STEPS):
        rates.append([group["lr"] for group in optimizer.param_groups])
        layer(torch.ones(2, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % EVERY == 0:
            optimizer.eval()
            modes.append((step + 1, optimizer.training))
            optimizer.train()
    assert all(not training for _, training in modes)
    figure, ((above,), (below,)) = style.new_figure(rows=2, height=3.8)
    above.get_gridspec().set_height_ratios([3, 1])
    below.sharex(above)
    for group, (name, colour) in enumerate({"binary": style.BLUE, "real": style.ORANGE}.items()):
        rate = [each[group] for each in rates]
        above.plot(rate, color=colour)
        above.text(WARM_UP + 1, max(rate) * 1.12, f"learning rate, {name} parameters", color=colour)
    above.set(yscale="log", ylim=(1e-5, 6e-2), xlabel="step")
    for start in range(0, STEPS, EVERY):
        below.barh(0, EVERY - 4, left=start, height=0.6, color=style.BLUE)
        below.text(start + (EVERY - 4) / 2, 0, "draws", color=style.PAPER, ha="center", va="center")
    for (end, _), name in zip(modes, ("evaluate, save", "evaluate, save", "end"), strict=True):
        below.barh(0, 4, left=end - 4, height=0.6, color=style.GREEN)
        below.text(end - 2, 0.55, f"mode: {name}", color=style.GREEN, ha="center", va="bottom", fontsize=9)
    below.set(xlabel="step", ylim=(-0.4, 1.1), yticks=[])
    below.spines["left"].set_visible(False)
    return figure


def _factor(step: int) -> float:
    """Return a linear warm-up and a cosine, as trainers offer them."""
    rest = (step - WARM_UP) / (STEPS - WARM_UP)
    return (step + 1) / WARM_UP if step < WARM_UP else 0.5 * (1 + math.cos(math.pi * rest))
