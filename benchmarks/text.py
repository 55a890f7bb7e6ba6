"""Train a small decoder on the text of the standard library for a few steps, and print validation bits per byte.

    python benchmarks/text.py full-precision --real-lr 5e-3 --steps 200 --save float.pt
    python benchmarks/text.py ste --lr 3e-3 --steps 150 --begin float.pt
    python benchmarks/text.py bayesbinn --init-lambda 150 --steps 150 --begin float.pt
    python benchmarks/text.py all [--steps 300] [--seeds 1] [--json FILE]

The decoder has two blocks of width 128. All runs have batches of 8 windows and both learning rates on a cosine to 0.
Every fifty steps, a line has the training bits per byte since the last one, and the last line has those of the
validation and the test text. Such short runs rank settings; docs/log.md has the numbers. `all` trains every setting of
a table from random weights, and prints both.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, nll_loss

import bitbayes as bb
from bitbayes.draws import drawn_networks
from bitbayes.lab.data import DataBundle, TextData, batches, load_text
from bitbayes.lab.train.precision import autocast
from bitbayes.nn import Decoder, decoder
from bitbayes.posterior import Posterior
from bitbayes.rules.bayesbinn import recommended_lr
from bitbayes.table import Table, spread

_HELD = 256  # windows of validation and test data
_SHOWN = 50  # steps between two lines
_SAMPLES = 8  # of a posterior, for its mean
_SHARED = {"steps": 300, "seeds": 1, "precision": "bf16"}  # of all networks of a table, by default
# Options that the table of `all` sets itself or that concern a single network.
_OF_ONE = ("lr", "real_lr", "scale", "scale_lr", "init_lambda", "ess_scale", "save", "begin", "seed")


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the choices of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", choices=["full-precision", "ste", "bayesbinn", "all"])
    parser.add_argument("--data", help="folder of text; by default, the standard library")
    parser.add_argument("--steps", type=int, help="of every network; by default 300")
    parser.add_argument("--lr", type=float, help="of binary weights; by default 3e-3, or BayesBiNN's own")
    parser.add_argument("--real-lr", type=float, default=3e-3)
    parser.add_argument("--scale", default="channel", help="of the binary weights")
    parser.add_argument("--scale-lr", type=float, default=1e-3)
    parser.add_argument("--init-lambda", type=float, default=15.0)
    parser.add_argument("--ess-scale", type=float, default=300.0)
    parser.add_argument("--save", help="file to write the weights to")
    parser.add_argument("--begin", help="file of float weights to begin with")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="of the forward pass; by default bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, help="with `all`, networks per setting; by default 1")
    parser.add_argument("--json", type=Path, help="with `all`, file of results; it keeps what it has")
    chosen = parser.parse_args(words)
    if chosen.rule == "all":
        if given := [name for name in _OF_ONE if getattr(chosen, name) != parser.get_default(name)]:
            listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            parser.error(f"{listed} cannot be combined with `all`, whose settings are those of its table")
        stored = {} if chosen.json is None or not chosen.json.exists() else json.loads(chosen.json.read_text("utf-8"))
        for name, default in _SHARED.items():
            value, before = getattr(chosen, name), stored.get(name, default)
            if stored and value not in (None, before):
                parser.error(
                    f"{chosen.json} has --{name} {before}, got {value}; leave it out, or choose another --json"
                )
            setattr(chosen, name, before if value is None else value)
    else:
        if given := [f"--{name}" for name in ("seeds", "json") if getattr(chosen, name) is not None]:
            parser.error(f"{', '.join(given)} has an effect only with `all`, got {chosen.rule}; leave it out")
        for name in ("steps", "precision"):
            if getattr(chosen, name) is None:
                setattr(chosen, name, _SHARED[name])
    return chosen


def optimizers(model: Decoder, data: DataBundle, chosen: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Return the optimizers of the binary and of the real weights."""
    binary, others = bb.split_parameters(model)
    real = [weights for _, weights in others]
    if chosen.rule == "full-precision":
        return [torch.optim.Adam([*real, *(weights for _, weights in binary)], lr=chosen.real_lr, fused=True)]
    common = {"scale": chosen.scale, "scale_lr": chosen.scale_lr, "init": "weights" if chosen.begin else "random"}
    if chosen.rule == "ste":
        rule = bb.STE(binary, lr=chosen.lr or 3e-3, seed=chosen.seed, **common)
    else:
        ess, lr = chosen.ess_scale * len(data.train), chosen.lr or recommended_lr(chosen.steps)
        rule = bb.BayesBiNN(binary, lr=lr, ess=ess, init_lambda=chosen.init_lambda, seed=chosen.seed, **common)
    bb.follow(model, rule)
    return [rule, torch.optim.Adam(real, lr=chosen.real_lr, fused=True)]


def bits(model: Decoder, x: Tensor, y: Tensor, precision: str) -> Tensor:
    """Return the mean bits per byte."""
    with autocast(x.device, precision):
        logits = model(x)
    return cross_entropy(logits.float().flatten(0, 1), y.flatten()) / math.log(2)


def stream(data: DataBundle, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches, epoch after epoch."""
    for epoch in itertools.count(1):
        yield from batches(data.train, 8, seed=seed, epoch=epoch, shuffle=True, augment=True)


@torch.no_grad()
def mean_bits(model: Decoder, data: TextData, precision: str, posterior: Posterior | None = None) -> float:
    """Return the mean bits per byte of windows at equal distances.

    With a posterior, they are those of the mean of the probabilities of several samples.
    """
    every = len(data) // min(_HELD, len(data))
    places = torch.arange(0, len(data), every)[:_HELD].split(64)
    total = count = 0
    for x, y in data.batches(places):
        if posterior is None:
            cost = bits(model, x, y, precision)
        else:
            networks = drawn_networks(model, posterior, _SAMPLES)
            with autocast(x.device, precision):
                samples = [functional_call(model, weights, (x,)).float().log_softmax(2) for weights in networks]
            mean = torch.stack(samples).logsumexp(0) - math.log(_SAMPLES)
            cost = nll_loss(mean.flatten(0, 1), y.flatten()) / math.log(2)
        total, count = total + len(x) * float(cost), count + len(x)
    return total / count


def trained(chosen: argparse.Namespace, data: DataBundle) -> tuple[Decoder, Posterior | None]:
    """Train one network; return it, with the mode if it is binary, and its posterior if there is one."""
    torch.manual_seed(chosen.seed)
    model = decoder(hidden_size=128, intermediate_size=384, layers=2)
    if chosen.begin:
        model.load_state_dict(torch.load(chosen.begin, weights_only=True))
    parts = optimizers(model, data, chosen)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(part, chosen.steps) for part in parts]
    model.train()
    seen = 0.0
    for step, (x, y) in zip(range(1, chosen.steps + 1), stream(data, chosen.seed), strict=False):
        cost = bits(model, x, y, chosen.precision)
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
    rule = parts[0]
    posterior = rule.posterior() if isinstance(rule, bb.BayesBiNN) else None
    return model.eval(), posterior


def table(chosen: argparse.Namespace, data: DataBundle) -> None:
    """Train the settings of the table that the file lacks; print and store bits per byte."""
    content = {"date": datetime.date.today().isoformat(), **{name: getattr(chosen, name) for name in _SHARED}}
    content |= {"decoders": {}, "validation": {}}
    if chosen.json is not None and chosen.json.exists():
        content = json.loads(chosen.json.read_text(encoding="utf-8"))
    rows, held = content["decoders"], content.setdefault("validation", {})  # which the files of some versions lack
    for label, words in SETTINGS.items():
        if label in rows:
            continue
        shared = [*words.split(), "--steps", str(chosen.steps), "--precision", chosen.precision]
        models = [trained(parsed([*shared, "--seed", str(seed)]), data)[0] for seed in range(chosen.seeds)]
        held[label], rows[label] = (
            [mean_bits(model, part, chosen.precision) for model in models] for part in (data.validation, data.test)
        )
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    parts = {"validation": held, "test": rows} if held else {"test": rows}
    shown = [
        [label, *(spread(part[label], 3) if label in part else "" for part in parts.values())] for label in SETTINGS
    ]
    print(Table("", ["binary weights", *(f"{name}, bits per byte" for name in parts)], shown).markdown())


SCALES = ("channel", "group:32", "fan_in")
SETTINGS = {
    "none: Adam, lr 3e-3": "full-precision",
    **{f"STE, lr 3e-3, scale {s}": f"ste --scale {s}" for s in SCALES},
    "BayesBiNN, first |λ| 15, scale channel": "bayesbinn",
    **{f"BayesBiNN, first |λ| 1500, scale {s}": f"bayesbinn --init-lambda 1500 --scale {s}" for s in SCALES},
}


def main(words: Sequence[str] | None = None) -> None:
    """Train one network, or all of the table."""
    chosen = parsed(words)
    data = load_text(chosen.data)
    if chosen.rule == "all":
        table(chosen, data)
        return
    model, posterior = trained(chosen, data)
    kinds = {"": None} | ({} if posterior is None else {f", mean of {_SAMPLES} samples": posterior})
    for kind, drawn in kinds.items():
        held, test = (mean_bits(model, part, chosen.precision, drawn) for part in (data.validation, data.test))
        print(f"{chosen.rule}{kind}: validation {held:.4f}, test {test:.4f} bits per byte")
    if chosen.save:
        torch.save(model.state_dict(), chosen.save)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
