"""Checks of a user's data and network before training: one line says what came, what was expected, and what to do."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bitbayes.lab.data import OUTLIER, DataBundle, TensorData, batches
from bitbayes.lab.train import BINARY, OUTLIER_EXPOSURE, Experiment, Loss
from bitbayes.parameters import split_parameters

_ADVICE = "`from_arrays` of bitbayes.lab.data makes a DataBundle from arrays"


def check_data(data: Any, loss: Loss, device: torch.device) -> None:
    """Raise ValueError unless `Recipe.load` has returned data that the loss can use, on the device."""
    if not isinstance(data, DataBundle):
        raise ValueError(f"load of the Recipe returned {_kind(data)}; expected a DataBundle: {_ADVICE}")
    for name, part in (("training", data.train), ("validation", data.validation), ("test", data.test)):
        if part is None and name != "training":
            continue
        if part is None or len(part) == 0:
            raise ValueError(f"load of the Recipe returned no {name} examples; give some, or None for no {name} part")
        if isinstance(part, TensorData):
            _check_part(name, part, data.classes, loss, device)


def _check_part(name: str, part: TensorData, classes: int, loss: Loss, device: torch.device) -> None:
    x, y = part.x, part.y
    if x.dtype not in (torch.float32, torch.uint8):
        raise ValueError(
            f"{name} inputs are of type {x.dtype}; expected torch.float32, or torch.uint8 for images: {_ADVICE}"
        )
    if x.device.type != device.type:
        raise ValueError(f"{name} inputs are on {x.device}, expected {device}: use the device that load is called with")
    if not loss.classifies:
        return
    if loss.name == BINARY.name:
        if not ((y == 0) | (y == 1)).all():
            raise ValueError(f"{name} targets are from {_range(y)}; expected 0 or 1, for the loss {loss.name}")
        return
    if y.dtype != torch.int64 or y.dim() != 1:
        raise ValueError(
            f"{name} targets have type {y.dtype} and shape {tuple(y.shape)}; expected classes of type torch.int64 and "
            "shape (N,), such as y.long()"
        )
    if classes < 2:
        raise ValueError(f"the DataBundle has classes={classes}; expected their number, 2 or more")
    least = OUTLIER if loss.name == OUTLIER_EXPOSURE.name else 0
    if int(y.min()) < least or int(y.max()) >= classes:
        raise ValueError(
            f"{name} targets are from {_range(y)}; expected classes from {least} to {classes - 1}, as the DataBundle "
            f"has classes={classes}"
        )


def _range(y: Tensor) -> str:
    return f"{y.min().item():g} to {y.max().item():g}"


def _kind(value: Any) -> str:
    return "nothing (is there a return?)" if value is None else f"a {type(value).__name__}"


def check_built(model: Any) -> None:
    """Raise ValueError unless `Recipe.network` has returned a network."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"network of the Recipe returned {_kind(model)}; expected a torch.nn.Module")


def check_network(experiment: Experiment) -> None:
    """Raise ValueError unless the network of an experiment takes its inputs, and its outputs suit its targets."""
    data, loss = experiment.data, experiment.loss
    x, y = next(iter(batches(data.train, min(2, len(data.train)))))
    model = copy.deepcopy(experiment.model).eval()
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        try:
            output = model(x)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            line = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise ValueError(f"the network does not take inputs of shape {_shape(x)}: {line}") from error
    if not isinstance(output, Tensor):
        raise ValueError(f"the network returns {_kind(output)}; expected one tensor of outputs, shape (N, K)")
    if loss.text:
        wanted = (*y.shape, data.classes)
        fits = tuple(output.shape) == wanted
    elif loss.name == BINARY.name or not loss.classifies:
        wanted = (len(x), y.numel() // len(y) if not loss.classifies else 1)
        fits = output.numel() == wanted[0] * wanted[1]
    else:
        wanted = (len(x), data.classes)
        fits = tuple(output.shape) == wanted
    if not fits:
        classes = loss.classifies and loss.name != BINARY.name
        what = f"{data.classes} classes" if classes else f"the loss {loss.name}"
        raise ValueError(
            f"the network makes outputs of shape {_shape(output)} from inputs of shape {_shape(x)}; expected "
            f"({', '.join(map(str, ('N', *wanted[1:])))}), for {what}"
        )


def check_weights(model: nn.Module) -> None:
    """Raise ValueError if a network has no weights that can be binary."""
    try:
        split_parameters(model)
    except ValueError:
        raise ValueError(
            "the network has no weights that can be binary: those of Linear, convolutions, recurrent layers and "
            "attention can; for a network of real weights take --rule full-precision"
        ) from None


def _shape(value: Tensor) -> str:
    return "(" + ", ".join(map(str, ("N", *value.shape[1:]))) + ")"
