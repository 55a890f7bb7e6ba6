"""A finished run, read back from its folder, ready to predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bitbayes.lab.recipes import make_experiment
from bitbayes.lab.train import Experiment, RunConfig, RunFolder
from bitbayes.lab.train.mean import MeanPredictor
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.results import load_mode, load_posterior
from bitbayes.posterior import Posterior
from bitbayes.predict import predict
from bitbayes.prediction import Prediction


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, ready to predict.

    Args:
        config: Its record.
        files: Its folder.
        experiment: Its data and settings; `experiment.model` holds the mode of the best epoch.
        posterior: Posterior of the same epoch; None if the rule keeps none.
    """

    config: RunConfig
    files: RunFolder
    experiment: Experiment
    posterior: Posterior | None

    def predict(self, x: Tensor, samples: int = 0) -> Prediction:
        """Predict with the mode, or with the mean of so many drawn networks; see `predictor`."""
        return self.predictor(samples)(x)

    def predictor(self, samples: int = 0) -> Callable[[Tensor], Prediction]:
        """Return a function of inputs, with BatchNorm statistics of the draws estimated once.

        Args:
            samples: Networks to draw; 0 for the mode.

        Raises:
            ValueError: If samples are wanted of a rule without a posterior.
        """
        if samples == 0:
            return self._mode
        if self.posterior is None:
            raise ValueError(f"{self.config.rule} keeps no posterior; use samples=0 for its mode")
        return MeanPredictor(self.config, self.experiment, self.experiment.model, self.posterior, samples)

    def _mode(self, x: Tensor) -> Prediction:
        with autocast(self.experiment.device, self.config.precision):
            return predict(self.experiment.model, x, chunk=2000)


def load_run(folder: str | Path, *, data: str | None = None, device: str = "cpu") -> FinishedRun:
    """Load the mode and the posterior of a run, and its data.

    Args:
        folder: Folder of the run.
        data: Where the data is, if not where the run found it.
        device: Torch device.

    Raises:
        ValueError: If the folder is not a run, or the data is missing.
        RunError: If a file of the run is missing or damaged.
    """
    config = RunConfig.load(folder)
    config = dataclasses.replace(config, data=data or config.data, device=device)
    files = RunFolder(folder)
    experiment = make_experiment(config)
    if experiment.optimizer is not None:
        experiment.optimizer.eval()  # no draw, but the mode that is loaded next
    load_mode(files, experiment.model)
    return FinishedRun(config, files, experiment, load_posterior(files, experiment.device))
