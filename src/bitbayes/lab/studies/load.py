"""Loading of a finished run from its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bitbayes.lab.choices import Views
from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes import Recipe, make_experiment, recipe_of_run
from bitbayes.lab.recipes.configure import load_data, open_device
from bitbayes.lab.train import Experiment, RunConfig, RunError, RunFolder
from bitbayes.lab.train.mean import MeanPredictor
from bitbayes.lab.train.members import members_of
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.results import finished_summary, load_mode, load_posterior
from bitbayes.lab.train.views import averaged, check_views
from bitbayes.posterior import Posterior
from bitbayes.predict import predict
from bitbayes.prediction import Prediction


@dataclass(frozen=True)
class FinishedRun:
    """Finished run that is ready to predict.

    Args:
        config: Configuration of the run.
        files: Folder of the run.
        experiment: Data and settings of the run. `experiment.model` holds the mode of the best epoch.
        posterior: Posterior of the same epoch; None if the rule keeps none.
    """

    config: RunConfig
    files: RunFolder
    experiment: Experiment
    posterior: Posterior | None

    def with_views(self, views: Views) -> FinishedRun:
        """Return the run with other views of its inputs at test time; see `RunConfig.views`.

        Raises:
            ValueError: If the views are unknown, or the inputs are not images.
        """
        config = self.config.changed(views=views)
        check_views(views, self.experiment.data, text=self.experiment.loss.text)
        return dataclasses.replace(self, config=config)

    def predict(self, x: Tensor, samples: int = 0) -> Prediction:
        """Predict with the mode, or with the mean of `samples` posterior samples; see `predictor`."""
        return self.predictor(samples)(x)

    def predictor(self, samples: int = 0) -> Callable[[Tensor], Prediction]:
        """Return a function from inputs to predictions, with BatchNorm statistics of the samples estimated once.

        Args:
            samples: Number of posterior samples; 0 for the mode.

        Raises:
            ValueError: If samples are requested but the rule has no posterior.
        """
        if samples == 0:
            return self._mode
        if self.posterior is None:
            raise ValueError(f"{self.config.rule} keeps no posterior; use samples=0 for its mode")
        return MeanPredictor(self.config, self.experiment, self.experiment.model, self.posterior, samples)

    def _mode(self, x: Tensor) -> Prediction:
        with autocast(self.experiment.device, self.config.precision):
            outputs = averaged(lambda part: predict(self.experiment.model, part, chunk=2000).outputs, self.config.views)
            return Prediction(outputs(x))


def load_members(
    folder: str | Path,
    *,
    data: str | DataBundle | None = None,
    device: str = "cpu",
    trust: bool = False,
) -> list[FinishedRun]:
    """Load the members of an ensemble, or a single run as its only member; the members share their data in memory.

    Args:
        folder: Folder of a run, or a folder that holds members.
        data: Folder or Hugging Face Hub id of the data, or the data themselves; see `load_run`.
        device: Torch device.
        trust: Whether to run the recipe file of the run; see `load_run`.

    Raises:
        ValueError: If the members have other recipes, rules or data, or `load_run` raises it.
        RunError: If a member is not finished, or a file is missing or damaged.
    """
    runs: list[FinishedRun] = []
    for place in members_of(folder) or [str(folder)]:
        known = runs[0] if runs else None
        config = RunConfig.load(place)
        if known is not None and _kind(config) != _kind(known.config):
            raise ValueError(f"{place} is no member of {folder}: it has another recipe, rule, data or views")
        shared = data if known is None else known.experiment.data
        runs.append(load_run(place, data=shared, device=device, trust=trust))
    return runs


def _kind(config: RunConfig) -> tuple[object, ...]:
    return config.recipe, config.recipe_sha256, config.rule_name, config.data_seed, config.protocol, config.views


def joint(runs: Sequence[FinishedRun], samples: int = 0) -> Callable[[Tensor], Prediction]:
    """Return a function from inputs to the predictions of all members, as the networks of one `Prediction`.

    Args:
        runs: The members.
        samples: Number of posterior samples of each member; 0 for the mode of each.

    Raises:
        ValueError: If samples are requested but the rule has no posterior.
    """
    each = [run.predictor(samples) for run in runs]
    return lambda x: Prediction(torch.cat([predictor(x).outputs for predictor in each]))


def load_network(config: RunConfig, files: RunFolder, recipe: Recipe) -> nn.Module:
    """Load the mode of a run, in eval mode. The data are read only if the recipe makes its network from them.

    Args:
        config: Record of the run.
        files: Folder of the run.
        recipe: Its recipe; see `recipe_of_run`.

    Raises:
        ValueError: If the device or the data does not exist.
        RunError: If a file of the run is missing or damaged.
    """
    place = open_device(config.device)
    model = recipe.builder(load_data(config, recipe) if recipe.reads_data else None)().to(place).eval()
    load_mode(files, model)
    return model


def check_finished(folder: str | Path) -> None:
    """Raise RunError if a run is not finished."""
    if finished_summary(folder) is None:
        raise RunError(f"{folder} is not finished; let it finish first, for example with --resume")


def load_run(
    folder: str | Path, *, data: str | DataBundle | None = None, device: str = "cpu", trust: bool = False
) -> FinishedRun:
    """Load the mode, the posterior and the data of a run.

    A run of a recipe file is loaded by the copy of that file in its folder, because the file may have changed.

    Args:
        folder: Folder of the run.
        data: Folder or Hugging Face Hub id of the data, if it has moved since the run was trained; or the data as
            `load_data` returns them, where they are loaded already.
        device: Torch device.
        trust: Run the recipe file of the run, a program, although this account has not run it before.

    Raises:
        ValueError: If the folder is not a run, the data is missing, or the recipe file is not trusted.
        RunError: If a file of the run is missing or damaged, the run is not finished, or its data have changed.
    """
    config = RunConfig.load(folder)
    place, loaded = (None, data) if isinstance(data, DataBundle) else (data, None)
    config = dataclasses.replace(config, data=place or config.data, device=device)
    files = RunFolder(folder)
    check_finished(folder)
    experiment = make_experiment(config, loaded, recipe=recipe_of_run(folder, config, trust=trust))
    if not files.trained_on(experiment.data.fingerprint()):
        raise RunError(
            f"{folder} was trained on other data, so that what it is tested on may be what it was trained on; give its "
            "own data with --data"
        )
    if experiment.optimizer is not None:
        experiment.optimizer.eval()  # marks the parameters as the mode, which is loaded next
    load_mode(files, experiment.model)
    return FinishedRun(config, files, experiment, load_posterior(files, experiment.device, experiment.optimizer))
