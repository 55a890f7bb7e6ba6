"""Every image recipe from end to end: two steps on generated data, then its files."""

from __future__ import annotations

import json

import pytest

from bitbayes.lab.recipes import RECIPES, make_config, run_recipe
from bitbayes.lab.studies.evaluate import evaluate_run
from bitbayes.lab.train import SilentProgress
from generated import LAYOUTS, write

IMAGES = {name: recipe for name, recipe in RECIPES.items() if name.partition("-")[0] in LAYOUTS}


# These take long, and differ from others that are not slow in their widths or activations alone.
SLOW = (
    "imagenet-alexnet-w1a1",
    "imagenet-resnet18-w1a1",
    "cifar10-speed-wide",
    "cifar10-speed-wide-w1a1",
    "cifar10-speed-resnet18",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in IMAGES])
def test_two_steps(name, tmp_path):
    data = write(tmp_path / "data", name.partition("-")[0], train=18, test=4)
    config = make_config(
        name,
        "vispa",
        options={"compile": False, "rank": 1},
        epochs=1,
        pretrain_epochs=min(1, RECIPES[name].pretrain_epochs),
        batch_size=8,
        data=str(data),
        out=str(tmp_path / "run"),
        predict_samples=2,
        precision="fp32",
    )
    summary = run_recipe(config, progress=SilentProgress()).summary
    assert summary.epochs_done == 1 and summary.binary_weights > 0
    assert 0 <= summary.sample_test_accuracy <= 100
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["mean_samples"] == 2


def test_the_protocol_of_the_paper_selects_on_test_data(tmp_path):
    data = write(tmp_path / "data", "cifar10", train=30, test=10)
    choices = {"epochs": 3, "batch_size": 15, "data": str(data), "predict_samples": 3, "precision": "fp32"}
    config = make_config("cifar10-small", "vispa", protocol="test", out=str(tmp_path / "run"), **choices)
    summary = run_recipe(config, progress=SilentProgress()).summary
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert summary.protocol == "test" and summary.val_accuracy is None
    best = max(rows, key=lambda row: row["mean_test_accuracy"])
    assert summary.best_epoch == best["epoch"]
    assert evaluate_run(tmp_path / "run", samples=2).samples == 2
