"""The mean prediction of a run's posterior, with the BatchNorm statistics of draws."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bitbayes.data import TensorData
from bitbayes.posterior import BernoulliPosterior
from bitbayes.predict import Prediction, predict
from bitbayes.training.config import RunConfig
from bitbayes.training.experiment import Experiment
from bitbayes.training.measure import autocast, refresh_inputs, refresh_with, whole

__all__ = ["mean_prediction"]

_CHUNK = 2000
_STATISTICS_SEED = 1  # of the draws for the statistics; the prediction's own draws have seed 0


def mean_prediction(
    config: RunConfig,
    experiment: Experiment,
    model: nn.Module,
    posterior: BernoulliPosterior,
    data: TensorData,
    samples: int | None = None,
) -> Prediction:
    """Averages the networks that the posterior draws.

    The statistics of the mode do not fit draws, so they are estimated anew, a fresh draw for every batch.

    Args:
        config: Of the run.
        experiment: For its training data.
        model: A network with the real parameters of the posterior's epoch; not changed.
        posterior: Over its binary weights.
        data: What to predict.
        samples: Number of networks; None for `config.predict_samples`.

    Returns:
        The prediction for every example.
    """
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters())

    def inputs() -> Iterator[Tensor]:
        for index, x in enumerate(refresh_inputs(experiment, config.refresh_batches)):
            drawn = posterior.sample_at(index, seed=_STATISTICS_SEED)
            with torch.no_grad():
                for name, weights in drawn.items():
                    parameters[name].copy_(weights)
            yield x

    refresh_with(model, inputs(), config.precision, experiment.device)
    x, _ = whole(data)
    with autocast(experiment.device, config.precision):
        return predict(model, x, posterior, samples or config.predict_samples, chunk=_CHUNK)
