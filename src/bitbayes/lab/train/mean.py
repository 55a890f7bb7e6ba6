"""The mean prediction of a run's posterior, with BatchNorm statistics that fit the draws."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitbayes.batchnorm import batch_buffers, refresh
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.measure import refresh_inputs, refresh_with
from bitbayes.lab.train.precision import autocast
from bitbayes.posterior import Posterior
from bitbayes.predict import Prediction, draws

__all__ = ["MeanPredictor", "kept_inputs", "refreshed_for_draws"]

_CHUNK = 2000
_MOST = 1 << 28  # numbers of training inputs that are kept for statistics
_STATISTICS_SEED = 1  # of the draws for shared statistics; the prediction's own draws have seed 0


class MeanPredictor:
    """Averages the networks that a posterior draws.

    Every network has BatchNorm statistics of its own, estimated once from training inputs: those of the mode do not fit
    a draw, and those that all draws share do not fit each.

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
        self.device, self.precision, self.posterior = experiment.device, config.precision, posterior
        self._inputs = kept_inputs(config, experiment)
        self._model = copy.deepcopy(model).eval()
        with torch.no_grad(), autocast(self.device, self.precision):
            drawn = draws(self._model, posterior, samples or config.predict_samples)
            self._statistics = [self._estimated(weights) for (weights,) in drawn]

    def _estimated(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Statistics of one network, by the names of their buffers."""
        if batch_buffers(self._model):
            refresh(self._model, self._inputs, weights)
        return batch_buffers(self._model)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Prediction:
        """Predicts some inputs with every network."""
        outputs = []
        with autocast(self.device, self.precision):
            drawn = draws(self._model, self.posterior, len(self._statistics))
            for (weights,), statistics in zip(drawn, self._statistics, strict=True):
                state = {**weights, **statistics}
                outputs.append(torch.cat([functional_call(self._model, state, (part,)) for part in x.split(_CHUNK)]))
        whole = torch.stack(outputs).float()
        return Prediction(whole if whole.dim() > 2 else whole[..., None])


def kept_inputs(config: RunConfig, experiment: Experiment) -> list[Tensor]:
    """Training inputs to estimate the statistics of several networks from: those of the mode, if memory holds them.

    Args:
        config: Of the run.
        experiment: For its training data.

    Returns:
        Batches; one at least.
    """
    kept: list[Tensor] = []
    for x in refresh_inputs(experiment, config.refresh_batches):
        if kept and (len(kept) + 1) * x.numel() > _MOST:
            break
        kept.append(x)
    return kept


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


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
    for index, x in enumerate(inputs):
        _put(model, posterior.sample_at(index, seed=_STATISTICS_SEED))
        yield x
