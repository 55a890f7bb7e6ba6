"""Predictions of a float network whose dropout layers also drop units at test time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from bitbayes.draws import network_outputs
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.views import averaged
from bitbayes.noise import stream_key
from bitbayes.prediction import Prediction

_STREAM = 14  # keeps the masks of test time apart from the noise of the rules
_CHUNK = 2000  # inputs at a time


def dropout_layers(model: torch.nn.Module) -> list[_DropoutNd]:
    """Return the dropout layers of a network that drop something."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


def dropout_predictor(run: FinishedRun, passes: int) -> Callable[[Tensor], Prediction]:
    """Return a function from inputs to the predictions of several passes with dropout.

    Every pass and every call for the same number of inputs has the same masks, whatever was predicted before. Torch's
    global generator is restored afterwards.

    Args:
        run: Run of a network with dropout layers.
        passes: Number of passes.

    Source:
        MC dropout (Gal & Ghahramani, ICML 2016).
    """
    model, device = copy.deepcopy(run.experiment.model).eval(), run.experiment.device
    for layer in dropout_layers(model):
        layer.train()

    def outputs(index: int, x: Tensor) -> Tensor:
        torch.manual_seed(stream_key(run.config.seed, _STREAM, index))  # all views of a pass have its masks
        return network_outputs(model, {}, x, _CHUNK)

    @torch.no_grad()
    def predict(x: Tensor) -> Prediction:
        masks = [averaged(partial(outputs, index), run.config.views) for index in range(passes)]
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            autocast(device, run.config.precision),
        ):
            return Prediction(torch.stack([each(x) for each in masks]))

    return predict
