"""The mean prediction of a run's posterior, with BatchNorm statistics that fit the draws."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bitbayes.posterior import Posterior
from bitbayes.predict import Prediction, predict
from bitbayes.training.config import RunConfig
from bitbayes.training.experiment import Experiment
from bitbayes.training.measure import autocast, refresh_inputs, refresh_with

__all__ = ["MeanPredictor", "refreshed_for_draws"]

_SMALL = 5000  # training examples up to which every drawn network gets statistics of its own
_CHUNK = 2000
_STATISTICS_SEED = 1  # of the draws for shared statistics; the prediction's own draws have seed 0


class MeanPredictor:
    """Averages the networks that a posterior draws, with BatchNorm statistics estimated once.

    The statistics of the mode do not fit draws. On small data every drawn network gets its own; on larger data all
    share one set, averaged over a fresh draw for every batch, as training gathers them.

    Args:
        config: Of the run.
        experiment: For its training data.
        model: A network with the real parameters of the posterior's epoch; not changed.
        posterior: Over its binary weights.
        samples: Number of networks; None for `config.predict_samples`.
    """

    def __init__(
        self,
        config: RunConfig,
        experiment: Experiment,
        model: nn.Module,
        posterior: Posterior,
        samples: int | None = None,
    ) -> None:
        self.samples = samples or config.predict_samples
        self.device, self.precision, self.posterior = experiment.device, config.precision, posterior
        inputs = refresh_inputs(experiment, config.refresh_batches)
        self.own = list(inputs) if len(experiment.data.train) <= _SMALL else None
        self.model = model if self.own else refreshed_for_draws(model, posterior, inputs, config, experiment.device)

    def __call__(self, x: Tensor) -> Prediction:
        """Predicts some inputs with every network."""
        with autocast(self.device, self.precision):
            return predict(self.model, x, self.posterior, self.samples, chunk=_CHUNK, batches=self.own)


def refreshed_for_draws(
    model: nn.Module, posterior: Posterior, inputs: Iterator[Tensor], config: RunConfig, device: torch.device
) -> nn.Module:
    """A copy of the network with BatchNorm statistics averaged over draws.

    Args:
        model: The network; not changed.
        posterior: Over its binary weights.
        inputs: Batches of training inputs; each is seen by another draw.
        config: For the precision.
        device: Of the run.

    Returns:
        The copy; it holds the last draw.
    """
    model = copy.deepcopy(model)
    refresh_with(model, _with_draws(model, posterior, inputs), config.precision, device)
    return model


def _with_draws(model: nn.Module, posterior: Posterior, inputs: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same inputs, with another draw in the network's parameters for each."""
    parameters = dict(model.named_parameters())
    for index, x in enumerate(inputs):
        with torch.no_grad():
            for name, weights in posterior.sample_at(index, seed=_STATISTICS_SEED).items():
                parameters[name].copy_(weights)
        yield x
