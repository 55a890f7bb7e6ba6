"""Gaussian posteriors over real weights, SWAG and IVON: the float rivals of posteriors over binary weights."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from bitbayes.batchnorm import batch_buffers, refresh
from bitbayes.draws import network_outputs
from bitbayes.errors import install_command, require
from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes import Recipe, make_config, make_experiment
from bitbayes.lab.recipes.configure import recipe_of
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.train import Experiment, RunConfig, RunFolder, SilentProgress, StepHooks, train
from bitbayes.lab.train.experiment import steps_per_epoch
from bitbayes.lab.train.mean import kept_inputs
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.views import averaged
from bitbayes.noise import stream_key
from bitbayes.prediction import Prediction

SWAG, IVON = "full-precision:swag", "full-precision:ivon"
"""Names of the posteriors, as of variants of the rule that trains real weights."""

_FILE = "gaussian.safetensors"
_STREAM = 15  # keeps the samples apart from other noise
_CHUNK = 2000  # inputs at a time
_COLLECTS = 0.75  # share of the steps after which SWAG collects
_HELD = 0.15  # learning rate of these steps, relative to the first; where a cosine stands at three quarters
_SNAPSHOTS, _RANK = 40, 20  # fewest networks that SWAG averages, and those of which it keeps the deviations
_IVON_LR = 0.1
# A larger beta2 would leave the curvature of a short run at its first value.
_IVON = {"hess_init": 0.1, "beta2": 0.999, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Gaussian:
    """Gaussian over all D trainable parameters of a network, N(mean, diag(std²) + columnsᵀ·columns).

    Args:
        mean: Mean, shape (D,).
        std: Standard deviation of the diagonal part, shape (D,).
        columns: Low-rank part, shape (K, D).
    """

    mean: Tensor
    std: Tensor
    columns: Tensor

    def sample_at(self, index: int, seed: int = 0) -> Tensor:
        """Return sample number `index`, shape (D,); it depends only on (seed, index).

        Example:
            >>> certain = Gaussian(torch.ones(3), torch.zeros(3), torch.zeros(0, 3))
            >>> certain.sample_at(5)
            tensor([1., 1., 1.])
        """
        generator = torch.Generator().manual_seed(stream_key(seed, _STREAM, index))
        noise = torch.randn(len(self.mean), generator=generator).to(self.mean)
        low = torch.randn(len(self.columns), generator=generator).to(self.mean)
        return self.mean + self.std * noise + low @ self.columns

    def vectors(self, samples: int) -> int:
        """Return how many vectors of D numbers hold some samples, or the Gaussian itself where these are fewer.

        Example:
            >>> posterior = Gaussian(torch.ones(3), torch.zeros(3), torch.zeros(5, 3))
            >>> posterior.vectors(4), posterior.vectors(32)
            (4, 7)
        """
        return min(samples, 2 + len(self.columns))


# Training. ----------------------------------------------------------------------------------------------------------


def gaussian_config(recipe: Recipe, name: str, given: Overrides, out: str) -> RunConfig:
    """Return the configuration of a run of SWAG or IVON: that of the float network, with IVON's learning rate.

    Args:
        recipe: The recipe.
        name: `SWAG` or `IVON`.
        given: Choices for the run.
        out: Folder of the run.
    """
    config = make_config(recipe, "full-precision", given, out=out)
    rate = {"lr": _IVON_LR} if name == IVON and given.lr is None else {}
    return config.changed(variant=name.partition(":")[2], **rate)


def missing(name: str) -> str | None:
    """Return a line about the package that SWAG or IVON lacks on this machine, or None."""
    if name != IVON or importlib.util.find_spec("ivon") is not None:
        return None
    return f"{name} is left out, because ivon is not installed; run: {install_command('ivon')}"


def gaussian_experiment(config: RunConfig, data: DataBundle | None = None) -> Experiment:
    """Return the objects of a run of SWAG or IVON, whose hooks keep the posterior.

    Args:
        config: Configuration from `gaussian_config`.
        data: Data that are loaded already.
    """
    experiment = make_experiment(config, data)
    experiment.hooks = (Swag if config.rule_name.variant == "swag" else Ivon)(config, experiment)
    return experiment


def train_gaussian(config: RunConfig, data: DataBundle | None = None) -> None:
    """Train a run of SWAG or IVON, or continue it, and write its posterior beside the files of a run.

    Args:
        config: Configuration from `gaussian_config`.
        data: Data that are loaded already.
    """
    experiment, file = gaussian_experiment(config, data), recipe_of(config).file
    programs = None if file is None else file.files
    train(config, experiment, resume=True, progress=SilentProgress(), programs=programs)
    hooks: Any = experiment.hooks
    about = {"rule": str(config.rule_name)}
    RunFolder(config.out).write_tensors(_FILE, vars(hooks.posterior()), about)


def is_trained(config: RunConfig) -> bool:
    """Return whether the posterior of a finished run is there."""
    return Path(config.out, _FILE).is_file()


class Swag(StepHooks):
    """Collects networks in the last quarter of a run, in which the learning rate is constant: 0.15 of the first.

    The mean and the diagonal are those of at least 40 evenly spaced snapshots, as many as fit, or of all steps if there
    are fewer. The low-rank part is that of the last 20.

    Args:
        config: Configuration of the run.
        experiment: Its objects.

    Source:
        SWAG (Maddox et al., NeurIPS 2019), Algorithm 1 and eq. 1, here with the optimizer of the recipe.
    """

    def __init__(self, config: RunConfig, experiment: Experiment) -> None:
        steps = config.epochs * steps_per_epoch(config, len(experiment.data.train))
        self._first = min(math.ceil(_COLLECTS * steps), steps - 1)
        self._every = max(1, (steps - self._first) // _SNAPSHOTS)
        assert experiment.real_optimizer is not None, "full precision has real parameters"
        self._optimizer = experiment.real_optimizer
        self._parameters = _trainable(experiment.model)
        self._steps, self._count = 0, 0
        group = self._optimizer.param_groups[0]
        self._rate = _HELD * group.get("initial_lr", group["lr"])  # a schedule has set "lr" already, perhaps to 0
        self._mean = torch.zeros_like(self._vector())
        self._squares = torch.zeros_like(self._mean)  # sum of squared deviations from the mean
        self._deviations: list[Tensor] = []

    def _vector(self) -> Tensor:
        return parameters_to_vector(self._parameters).detach().clone()

    def before_update(self) -> None:
        """Hold the learning rate while networks are collected."""
        for group in self._optimizer.param_groups if self._steps >= self._first else ():
            group["lr"] = self._rate

    def after_update(self) -> None:
        """Collect the weights."""
        self._steps += 1
        done = self._steps - self._first
        if done <= 0 or done % self._every:
            return
        weights = self._vector()
        before = weights - self._mean
        self._count += 1
        self._mean = self._mean + before / self._count
        self._squares = self._squares + before * (weights - self._mean)
        self._deviations = [*self._deviations, weights - self._mean][-_RANK:]

    def posterior(self) -> Gaussian:
        """Return the Gaussian, with half the covariance in the diagonal and half in the low-rank part (eq. 1)."""
        columns = torch.stack(self._deviations)
        variance = self._squares / self._count
        return Gaussian(self._mean, (variance / 2).sqrt(), columns / math.sqrt(2 * max(len(columns) - 1, 1)))

    def state_dict(self) -> dict[str, Any]:
        """Return counters, moments and deviations."""
        empty = self._mean.new_zeros(0, len(self._mean))
        return {
            "counts": [self._steps, self._count],
            "mean": self._mean,
            "squares": self._squares,
            "deviations": torch.stack(self._deviations) if self._deviations else empty,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._steps, self._count = state_dict["counts"]
        self._mean, self._squares = state_dict["mean"], state_dict["squares"]
        self._deviations = list(state_dict["deviations"])


class Ivon(StepHooks):
    """Draws the weights of every training pass from IVON's Gaussian, and restores the mean before the update.

    IVON takes the place of the optimizer of the experiment.

    Args:
        config: Configuration of the run.
        experiment: Its objects.

    Raises:
        ImportError: If the package ivon-opt is not installed.
        ValueError: If gradients are clipped, which IVON would not see: it keeps their average itself.

    Source:
        Variational learning is effective for large deep networks (Shen et al., ICML 2024).
    """

    def __init__(self, config: RunConfig, experiment: Experiment) -> None:
        if config.spec.clip_gradient is not None:
            raise ValueError(f"IVON cannot clip gradients, got clip_gradient {config.spec.clip_gradient:g}; use None")
        examples, lr = len(experiment.data.train), config.spec.lr
        self._optimizer: Any = require("ivon", "ivon").IVON(_trainable(experiment.model), lr=lr, ess=examples, **_IVON)
        steps = steps_per_epoch(config, examples)
        experiment.real_optimizer = self._optimizer
        experiment.schedulers = [config.spec.schedule.build(self._optimizer, config.cycle_epochs, steps)]
        experiment.model.register_forward_pre_hook(self._draw)
        self._drawn: Any = None

    def _draw(self, model: nn.Module, inputs: Any) -> None:
        if model.training and torch.is_grad_enabled() and self._drawn is None:
            self._drawn = self._optimizer.sampled_params(train=True)
            self._drawn.__enter__()

    def before_update(self) -> None:
        """Take the gradients of the draw, and restore the mean."""
        drawn, self._drawn = self._drawn, None
        drawn.__exit__(None, None, None)

    def after_update(self) -> None:
        """Do nothing: the next pass draws."""

    def posterior(self) -> Gaussian:
        """Return the Gaussian, whose variance is 1 / (ess·(curvature + weight decay))."""
        (group,) = self._optimizer.param_groups
        mean = parameters_to_vector(group["params"]).detach()
        std = (group["ess"] * (group["hess"] + group["weight_decay"])).rsqrt()
        return Gaussian(mean, std, mean.new_zeros(0, len(mean)))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps, which the optimizer does not save."""
        return {"steps": self._optimizer.current_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._optimizer.current_step = state_dict["steps"]


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# Predicting. --------------------------------------------------------------------------------------------------------


def load_gaussian(run: FinishedRun) -> Gaussian:
    """Return the posterior of a run of SWAG or IVON.

    Raises:
        RunError: If its file is missing or damaged.
    """
    return Gaussian(**run.files.read_tensors(_FILE))


def gaussian_predictor(run: FinishedRun, posterior: Gaussian, samples: int = 0) -> Callable[[Tensor], Prediction]:
    """Return a function from inputs to predictions of networks that have BatchNorm statistics of their own.

    Args:
        run: The run.
        posterior: Posterior over the parameters of its network.
        samples: Number of samples; 0 for the network whose weights are the mean.
    """
    model, device = copy.deepcopy(run.experiment.model).eval(), run.experiment.device
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for _, parameter in named]
    inputs = kept_inputs(run.config, run.experiment)
    networks = []
    for index in range(max(samples, 1)):
        vector = (posterior.sample_at(index) if samples else posterior.mean).to(device)
        parts = zip(named, vector.split(sizes), strict=True)
        weights = {name: part.view_as(parameter) for (name, parameter), part in parts}
        with torch.no_grad(), autocast(device, run.config.precision):
            refresh(model, inputs, weights)
        networks.append(weights | batch_buffers(model))

    @torch.no_grad()
    def predict(x: Tensor) -> Prediction:
        with autocast(device, run.config.precision):
            outputs = [
                averaged(lambda part, each=each: network_outputs(model, each, part, _CHUNK), run.config.views)(x)
                for each in networks
            ]
        return Prediction(torch.stack(outputs))

    return predict
