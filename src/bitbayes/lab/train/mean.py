"""Mean prediction of a run's posterior, with BatchNorm statistics of each sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import as_found, batch_buffers, refresh
from bitbayes.draws import drawn_networks, network_outputs
from bitbayes.lab.choices import Views
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.measure import refresh_inputs
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.views import averaged
from bitbayes.posterior import Posterior
from bitbayes.prediction import Prediction

_CHUNK = 2000
_MOST = 1 << 28  # most numbers of training inputs that are kept for statistics
_STATISTICS_SEED = 1  # seed of the samples for shared statistics; the prediction's samples have seed 0


class MeanPredictor:
    """Average over posterior samples, each with its own BatchNorm statistics.

    The statistics are estimated once from training inputs. Neither the mode's statistics nor statistics pooled over
    samples fit an individual sample.

    Args:
        config: Configuration of the run.
        experiment: Experiment whose training data gives the statistics.
        model: Network with the real parameters of the posterior's epoch. It is not changed.
        posterior: Posterior over the binary weights.
        samples: Number of networks; None for `config.predict_samples`.
    """

    def __init__(
        self, config: RunConfig, experiment: Experiment, model: nn.Module, posterior: Posterior, samples: int | None
    ) -> None:
        self.device, self.precision, self.posterior = experiment.device, config.precision, posterior
        self.views: Views = config.views
        self._model = copy.deepcopy(model).eval()
        with torch.no_grad(), autocast(self.device, self.precision):
            count = samples or config.predict_samples
            networks = drawn_networks(self._model, posterior, count, batches=kept_inputs(config, experiment))
            self._statistics = [batch_buffers(self._model) for _ in networks]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Prediction[Tensor]:
        """Predict with every sample."""
        with autocast(self.device, self.precision):
            networks = drawn_networks(self._model, self.posterior, len(self._statistics))
            pairs = zip(networks, self._statistics, strict=True)
            outputs = [averaged(self._network(weights | buffers), self.views)(x) for weights, buffers in pairs]
        return Prediction(torch.stack(outputs))

    def _network(self, tensors: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: network_outputs(self._model, tensors, x, _CHUNK)


def kept_inputs(config: RunConfig, experiment: Experiment) -> list[Tensor]:
    """Return batches of training inputs for several networks' statistics: those of the mode, if memory suffices."""
    kept: list[Tensor] = []
    for x in refresh_inputs(experiment, config.refresh_batches):
        if kept and (len(kept) + 1) * x.numel() > _MOST:
            break
        kept.append(x)
    return kept


def pooled_statistics(
    model: nn.Module, posterior: Posterior, inputs: Iterable[Tensor], config: RunConfig, device: torch.device
) -> dict[str, Tensor]:
    """Return BatchNorm statistics averaged over samples: each batch of inputs passes through another sample."""
    with as_found(model), autocast(device, config.precision), torch.no_grad():
        networks = drawn_networks(model, posterior, config.refresh_batches, seed=_STATISTICS_SEED)
        refresh(model, inputs, networks)
        return batch_buffers(model)
