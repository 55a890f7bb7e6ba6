"""A tiny stream of tasks, for the tests of continual learning."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from torch import nn

import bitbayes as bb
from bitbayes.lab.continual import StreamResult, StreamSettings, permuted_tasks, run_stream
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import RuleSpec, RunConfig, SilentProgress


def bundle(classes: int = 4, count: int = 240) -> DataBundle[TensorData]:
    """Classes that are easy to tell by one bright pixel each."""
    generator = torch.Generator().manual_seed(0)

    def part(n: int) -> TensorData:
        y = torch.arange(n) % classes
        x = torch.randint(0, 60, (n, 12), generator=generator)
        x[torch.arange(n), y] += 160
        return TensorData(x.to(torch.uint8), y, mean=0.2, std=0.3)

    return DataBundle("bright", part(count), None, part(80), classes, "generated")


def config(out: Path, rule: str = "bayesbinn", **changes) -> RunConfig:
    options = {"options": {"ess_scale": 1.0}, "estimator": "straight-through"} if rule == "bayesbinn" else {}
    choices = {"batch_size": 20, "precision": "fp32", "predict_samples": 8, "seed": 1}
    return RunConfig("bright", rule, str(out), RuleSpec(0.03), epochs=4, **choices).changed(**options, **changes)


def network() -> nn.Module:
    return bb.nn.mlp(12, [32], 4)


def stream(out: Path, rule: str = "bayesbinn", tasks: int = 3, epochs: int = 4, **choices) -> StreamResult:
    names = {field.name for field in fields(StreamSettings)}
    settings = {"prior": rule == "bayesbinn", "curve_examples": 0}
    settings |= {name: value for name, value in choices.items() if name in names}
    how = {"progress": SilentProgress(), "note": lambda line: None}
    how |= {name: value for name, value in choices.items() if name not in names}
    made = permuted_tasks(bundle(), tasks)
    return run_stream(config(out, rule, epochs=epochs), made, network, StreamSettings(**settings), **how)
