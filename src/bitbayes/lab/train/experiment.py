"""What a run trains: the network, its optimizers, and the data, built once from a `RunConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bitbayes.lab.data import DataBundle
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.distributed import Ranks
from bitbayes.lab.train.losses import Loss
from bitbayes.parameters import split_parameters
from bitbayes.rules import (
    PMF,
    STE,
    VISPA,
    AdaSTE,
    BayesBiNN,
    Bop,
    Bop2ndOrder,
    MirrorDescent,
    ProxQuant,
)
from bitbayes.rules.optimizer import BinaryOptimizer

__all__ = ["RULES", "Experiment", "build_experiment", "learning_rate", "steps_per_epoch"]

RULES: dict[str, type[BinaryOptimizer] | None] = {
    "full-precision": None,  # plain Adam under the same trainer
    "ste": STE,
    "bop": Bop,
    "bop2": Bop2ndOrder,
    "pmf": PMF,
    "md": MirrorDescent,
    "proxquant": ProxQuant,
    "adaste": AdaSTE,
    "bayesbinn": BayesBiNN,
    "vispa": VISPA,
}
"""Learning rules by the names of the command line; None is plain Adam."""


_RATE_STEPS, _LARGEST = 6.0, 0.1  # of a rate that the run's length decides: its product with the steps, and a limit


class StepHooks(Protocol):
    """What may look into every training step: four calls that training makes of `Experiment.hooks`."""

    def before_update(self) -> None:
        """The gradients of the loss are there, not yet clipped; they may be changed."""
        ...

    def after_update(self) -> None:
        """The weights have moved."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that a step depends on, for the checkpoint."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put them back."""
        ...


@dataclass
class Experiment:
    """The objects that a run works on.

    Args:
        model: The network, on the device of the run.
        data: Training data, and validation and test data if there are any.
        loss: What it is trained on.
        optimizer: The learning rule; None for full precision.
        real_optimizer: Adam or SGD on the real parameters; None if there are none.
        schedulers: Stepped at the start of every epoch, or step.
        device: Where the data goes.
        ranks: The processes that train it together.
        hooks: Called at every step, and kept in the checkpoint.
    """

    model: nn.Module
    data: DataBundle
    loss: Loss
    optimizer: BinaryOptimizer | None
    real_optimizer: Optimizer | None
    schedulers: list[LRScheduler]
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks.here)
    hooks: StepHooks | None = None

    def __post_init__(self) -> None:
        self.parallel = self.ranks.wrapped(self.model)

    def modules(self) -> dict[str, Any]:
        """What a checkpoint keeps, by name; all have `state_dict` and `load_state_dict`."""
        parts: dict[str, Any] = {"model": self.model}
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer
        if self.real_optimizer is not None:
            parts["real_optimizer"] = self.real_optimizer
        if self.hooks is not None:
            parts["hooks"] = self.hooks
        return parts | {f"scheduler_{i}": s for i, s in enumerate(self.schedulers)}

    def binary_weights(self) -> int:
        """Number of weights of one bit."""
        if self.optimizer is None:
            return 0
        return sum(parameter.numel() for _, parameter in self.optimizer.named_binary())

    def bytes(self) -> tuple[int, int]:
        """Bytes of all parameters at 32 bits, and with one bit for each that is or could be binary."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        if self.optimizer is not None:
            binary = self.binary_weights()
        else:
            binary = sum(parameter.numel() for _, parameter in split_parameters(self.model)[0])
        return 4 * total, 4 * (total - binary) + (binary + 7) // 8


def build_experiment(
    config: RunConfig,
    network: Callable[[], nn.Module],
    data: DataBundle,
    loss: Loss,
    *,
    all_binary: bool = False,
) -> Experiment:
    """Builds the network, the learning rule and the schedules of a run.

    Args:
        config: The run. Its `options` are keywords of the rule, but for three that depend on the data: `ess_scale`
            (times the number of training examples gives `ess`), `interval_epochs` (gives `interval` in steps) and
            `harden_at` (a fraction of the run; gives `harden_after` in steps).
        network: Makes the network; called under the seed of the run.
        data: The data, on the device of the run.
        loss: See `Experiment`.
        all_binary: Biases are binary too, as in the synthetic experiments of the BayesBiNN paper.

    Returns:
        Everything that `train` needs.

    Raises:
        ValueError: For an unknown rule, an option that the rule does not know, or a dropout that no layer takes.
    """
    if config.rule not in RULES:
        raise ValueError(f"no rule is called {config.rule!r}; there are: {', '.join(RULES)}")
    device = torch.device(config.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model = network().to(device)
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    options = _resolve(config, len(data.train))
    rule = RULES[config.rule]
    if rule is None:
        _refuse_unknown(config.rule, options)
        if config.samples > 1:
            raise ValueError(f"samples {config.samples} needs a rule that draws; {config.rule} has no draws")
        optimizer, real = None, list(model.parameters())
        real_rate = learning_rate(config, len(data.train))
    else:
        if all_binary:
            binary, real = list(model.named_parameters()), []
        else:
            binary, real_named = split_parameters(model)
            real = [parameter for _, parameter in real_named]
        fused = _worth_compiling(binary)
        for name in ("lr", "samples", "seed", "estimator"):
            if name in options:
                raise ValueError(f"{name} is no option of the rule here but a setting of the run: --{name}, not --set")
        keywords = {"samples": config.samples, "seed": config.seed, "compile": fused, "capturable": config.capture}
        keywords |= options
        if config.estimator is not None:
            keywords["estimator"] = config.estimator
        try:
            optimizer = rule(binary, lr=learning_rate(config, len(data.train)), **keywords)  # type: ignore[arg-type]
        except TypeError as error:
            what = str(error).partition("() ")[2] or str(error)
            raise ValueError(f"rule {config.rule} {what}") from error
        real_rate = config.real_lr
    real_optimizer = _real_optimizer(config, real, real_rate) if real else None
    schedulers = _schedulers(config, data, optimizer, real_optimizer)
    return Experiment(model, data, loss, optimizer, real_optimizer, schedulers, device)


def _set_dropout(model: nn.Module, probability: float) -> None:
    layers = [module for module in model.modules() if isinstance(module, _DropoutNd)]
    if not layers:
        raise ValueError(f"dropout {probability} was asked for, but the network has no dropout layer")
    for layer in layers:
        layer.p = probability


def continue_experiment(experiment: Experiment, config: RunConfig, data: DataBundle) -> Experiment:
    """The same network and beliefs on other data, with learning rates and schedules from their start.

    Args:
        experiment: What was trained so far; shares its network and optimizers with the result.
        config: Of the new run.
        data: Of the new run.

    Returns:
        A new experiment.
    """
    options = _resolve(config, len(data.train))
    optimizer, real = experiment.optimizer, experiment.real_optimizer
    own = learning_rate(config, len(data.train))
    for part, first in ((optimizer, own), (real, own if optimizer is None else config.real_lr)):
        for group in () if part is None else part.param_groups:
            group.pop("initial_lr", None)  # of the last schedule
            group["lr"] = first
    if optimizer is not None and "ess" in options:
        for group in optimizer.param_groups:
            group["ess"] = options["ess"]
    return dataclasses.replace(experiment, data=data, schedulers=_schedulers(config, data, optimizer, real))


def _schedulers(config: RunConfig, data: DataBundle, *parts: Optimizer | None) -> list[LRScheduler]:
    """The schedule of the run for every optimizer that there is."""
    steps = steps_per_epoch(config, len(data.train), Ranks.here().count)
    return [config.schedule.build(part, config.epochs, steps) for part in parts if part is not None]


def _real_optimizer(config: RunConfig, parameters: list[nn.Parameter], rate: float) -> Optimizer:
    """One fused kernel instead of a dozen operations a tensor."""
    decay = config.real_weight_decay
    if config.real_optimizer == "sgd":
        return SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay, fused=True)
    return Adam(parameters, lr=rate, weight_decay=decay, fused=True)


def _worth_compiling(binary: Sequence[tuple[str, Tensor]]) -> bool:
    """Compiling takes seconds and saves some ten milliseconds a step from a million weights on.

    Without a compiler the rules run as they are, whatever this says.
    """
    return sum(parameter.numel() for _, parameter in binary) >= 1_000_000


def steps_per_epoch(config: RunConfig, examples: int, ranks: int = 1) -> int:
    """Steps of an epoch; a last batch with a single example for a rank is left out, as BatchNorm cannot use it.

    Args:
        config: The run.
        examples: Number of training examples.
        ranks: Processes that share each batch.

    Returns:
        The number of batches.
    """
    size = config.batch_size or examples
    full, rest = divmod(examples, size)
    return full + (1 if rest >= (2 * ranks if full else 1) else 0)


def learning_rate(config: RunConfig, examples: int) -> float:
    """The learning rate that a run begins with.

    Args:
        config: The run.
        examples: Number of training examples.

    Returns:
        `config.lr`; if that is None, 6 over the number of steps, at most 0.1: on a cosine to 0 λ then forgets its start
        to e^-3.
    """
    if config.lr is not None:
        return config.lr
    steps = steps_per_epoch(config, examples, Ranks.here().count) * config.epochs
    return min(_RATE_STEPS / steps, _LARGEST)


def _resolve(config: RunConfig, examples: int) -> dict[str, Any]:
    options = dict(config.options)
    for name in ("ess_scale", "interval_epochs", "harden_at"):
        value = options.get(name, 1)
        if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    steps = steps_per_epoch(config, examples, Ranks.here().count)
    if "ess_scale" in options:
        options["ess"] = options.pop("ess_scale") * examples
    if "interval_epochs" in options:
        options["interval"] = max(1, round(options.pop("interval_epochs") * steps))
    if "harden_at" in options:
        options["harden_after"] = round(options.pop("harden_at") * steps * config.epochs)
    return options


def _refuse_unknown(rule: str, options: dict[str, Any]) -> None:
    if options:
        raise ValueError(f"rule {rule} has no options, got {', '.join(options)}")
