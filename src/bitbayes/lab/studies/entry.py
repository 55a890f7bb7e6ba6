"""Facts of a finished run for an entry of the zoo: command, call of the network, figures of the packed file."""

from __future__ import annotations

import functools
import json
import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitbayes import nn
from bitbayes.calibration import accuracy_by_coverage, probability_figures, reliability
from bitbayes.lab.choices import Overrides
from bitbayes.lab.recipes import find_recipe, make_config
from bitbayes.lab.train import RunConfig
from bitbayes.packed import PackedNetwork, load
from bitbayes.prediction import Prediction

_FIRST = 100  # test examples of which a quick test counts the right answers
_COVERAGES = 20  # points of the curve of accuracy by coverage
_BATCH = 500


@dataclass(frozen=True)
class NetworkCall:
    """A call of `bitbayes.nn` that builds a network.

    Args:
        function: Name of the function.
        arguments: Positional arguments.
        options: Keyword arguments.

    Example:
        >>> str(NetworkCall("mlp", (64, [128], 10), {"dropout": 0.1}))
        'bb.nn.mlp(64, [128], 10, dropout=0.1)'
    """

    function: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        words = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.options.items())]
        return f"bb.nn.{self.function}({', '.join(words)})"


def network_call(config: RunConfig) -> NetworkCall | None:
    """Return the call that builds the network of a run, or None if it is not a single one."""
    made = find_recipe(config.recipe).network
    if not isinstance(made, functools.partial):
        return None
    name, dropout = made.func.__name__, config.spec.dropout
    options = made.keywords | ({} if dropout is None else {"dropout": dropout})
    known = name in nn.__all__ and getattr(nn, name) is made.func
    return NetworkCall(name, made.args, options) if known else None


def train_command(config: RunConfig) -> str:
    """Return the `bitbayes train` that makes a run of this record, with FOLDER for the place of the data.

    Raises:
        ValueError: If no command does.
    """
    recipe = find_recipe(config.recipe)
    found: list[tuple[int, list[str]]] = []
    for budget in ("paper", "quick") if recipe.quick_epochs else ("paper",):
        plain = make_config(recipe, str(config.rule_name), Overrides(budget=budget))
        ours, theirs = config.flat(), plain.flat()
        free = {"out", "data", "device", "precision"}
        differ = [name for name in ours if name not in free and ours[name] != theirs[name]]
        words = ["--budget", budget] * (budget != "paper")
        words += [word for name in differ if name != "options" for word in (_option(name), str(ours[name]))]
        changed = {k: v for k, v in ours["options"].items() if theirs["options"].get(k) != v}
        words += ["--set", *(f"{k}={json.dumps(v)}" for k, v in changed.items())] if changed else []
        words += ["--precision", config.precision] * (config.precision != plain.precision)
        found.append((len(differ), words))
    _, words = min(found, key=lambda pair: pair[0])
    data = ["--data", "FOLDER"] * (config.data is not None)
    return shlex.join(["bitbayes", "train", config.recipe, "--rule", str(config.rule_name), *words, *data])


def _option(setting: str) -> str:
    if setting not in vars(Overrides()):
        raise ValueError(f"the run differs from its recipe in {setting}, for which bitbayes train has no option")
    return "--" + setting.replace("_", "-")


def predict_packed(network: PackedNetwork, x: Tensor) -> Prediction[Tensor]:
    """Return what a packed network says of normalised inputs.

    Args:
        network: The network.
        x: Inputs, (examples, *shape).
    """
    runtime = load(network, "torch")
    pieces = [torch.as_tensor(np.asarray(runtime.predict(piece.numpy()).outputs)) for piece in x.split(_BATCH)]
    return Prediction(torch.cat(pieces, 1))


def evaluate_packed(network: PackedNetwork, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return figures on test data, and points of a reliability diagram and of accuracy by coverage, for a JSON file.

    Args:
        network: The network.
        x: Inputs, (examples, *shape), normalised.
        y: Classes, (examples,).
    """
    prediction = predict_packed(network, x)
    probs = prediction.probs
    points = reliability(probs, y)
    coverage, accuracy = accuracy_by_coverage(probs, y)
    places = [len(y) * (k + 1) // _COVERAGES - 1 for k in range(_COVERAGES)]
    found = {"examples": len(y), "metrics": probability_figures(prediction, y)}
    found |= {"reliability": {name: values.tolist() for name, values in vars(points).items()}}
    found["by_coverage"] = {"share": coverage[places].tolist(), "accuracy": accuracy[places].tolist()}
    right = probs[:_FIRST].argmax(1) == y[:_FIRST]
    return _rounded(found) | {"first": {"examples": len(right), "right": int(right.sum())}}


def _rounded(value: Any) -> Any:
    """Return the same with six digits."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
