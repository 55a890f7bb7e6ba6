"""Train a small decoder on the text of the standard library for a few steps, and print validation bits per byte.

    python benchmarks/text.py full-precision --real-lr 5e-3 --steps 200 --save float.pt
    python benchmarks/text.py ste --lr 3e-3 --steps 150 --begin float.pt
    python benchmarks/text.py bayesbinn --init-lambda 150 --steps 150 --begin float.pt

The decoder has two blocks of width 128. All runs have seed 0, batches of 8 windows, bfloat16, learned scales for each
output, and both learning rates on a cosine to 0. Every fifty steps, a line has the training bits per byte since the
last one. Settings of the recipe `text` were chosen with these runs; docs/log.md has the numbers.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import bitbayes as bb
from bitbayes.lab.data import DataBundle, batches, load_text
from bitbayes.nn import Decoder, decoder
from bitbayes.rules.bayesbinn import recommended_lr

_HELD = 256  # validation windows
_SHOWN = 50  # steps between two lines


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the choices of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", choices=["full-precision", "ste", "bayesbinn"])
    parser.add_argument("--data", help="folder of text; by default, the standard library")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, help="of binary weights; by default 3e-3, or BayesBiNN's own")
    parser.add_argument("--real-lr", type=float, default=3e-3)
    parser.add_argument("--scale-lr", type=float, default=1e-3)
    parser.add_argument("--init-lambda", type=float, default=15.0)
    parser.add_argument("--ess-scale", type=float, default=300.0)
    parser.add_argument("--save", help="file to write the weights to")
    parser.add_argument("--begin", help="file of float weights to begin with")
    return parser.parse_args(words)


def optimizers(model: Decoder, data: DataBundle, chosen: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Return the optimizers of the binary and of the real weights."""
    binary, others = bb.split_parameters(model)
    real = [weights for _, weights in others]
    if chosen.rule == "full-precision":
        return [torch.optim.Adam([*real, *(weights for _, weights in binary)], lr=chosen.real_lr, fused=True)]
    common = {"scale": "channel", "scale_lr": chosen.scale_lr, "init": "weights" if chosen.begin else "random"}
    if chosen.rule == "ste":
        rule = bb.STE(binary, lr=chosen.lr or 3e-3, seed=0, **common)
    else:
        ess, lr = chosen.ess_scale * len(data.train), chosen.lr or recommended_lr(chosen.steps)
        rule = bb.BayesBiNN(binary, lr=lr, ess=ess, init_lambda=chosen.init_lambda, seed=0, **common)
    bb.follow(model, rule)
    return [rule, torch.optim.Adam(real, lr=chosen.real_lr, fused=True)]


def bits(model: Decoder, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean bits per byte."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    return cross_entropy(logits.float().flatten(0, 1), y.flatten()) / math.log(2)


def stream(data: DataBundle) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches, epoch after epoch."""
    for epoch in itertools.count(1):
        yield from batches(data.train, 8, seed=0, epoch=epoch, shuffle=True, augment=True)


def main(words: Sequence[str] | None = None) -> None:
    """Train one network."""
    chosen = parsed(words)
    data = load_text(chosen.data)
    torch.manual_seed(0)
    model = decoder(hidden_size=128, intermediate_size=384, layers=2)
    if chosen.begin:
        model.load_state_dict(torch.load(chosen.begin, weights_only=True))
    parts = optimizers(model, data, chosen)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(part, chosen.steps) for part in parts]
    model.train()
    seen = 0.0
    for step, (x, y) in zip(range(1, chosen.steps + 1), stream(data), strict=False):
        cost = bits(model, x, y)
        (cost * math.log(2)).backward()
        for part in parts:
            part.step()
            part.zero_grad()
        for schedule in schedules:
            schedule.step()
        seen += float(cost.detach())
        if step % _SHOWN == 0:
            print(f"step {step}: training {seen / _SHOWN:.3f} bits per byte", flush=True)
            seen = 0.0
    model.eval()
    every = len(data.validation) // min(_HELD, len(data.validation))
    places = torch.arange(0, len(data.validation), every)[:_HELD].split(64)
    with torch.no_grad():
        costs = [(len(x), float(bits(model, x, y))) for x, y in data.validation.batches(places)]
    mean = sum(count * cost for count, cost in costs) / sum(count for count, _ in costs)
    print(f"{chosen.rule}: validation {mean:.4f} bits per byte")
    if chosen.save:
        torch.save(model.state_dict(), chosen.save)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
