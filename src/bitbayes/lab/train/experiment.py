"""Objects of a run: the network, its optimizers and the data, built once from a `RunConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bitbayes.errors import nearest
from bitbayes.lab.data import DataBundle
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.distributed import Ranks
from bitbayes.lab.train.losses import CROSS_ENTROPY, NEXT_BYTE, Loss
from bitbayes.lab.train.rules import RULES, RealOptimizer, RuleSpec
from bitbayes.lab.train.teacher import Teacher
from bitbayes.lab.train.views import check_views
from bitbayes.parameters import packed_bits, split_parameters
from bitbayes.rules import BinaryOptimizer


class StepHooks(Protocol):
    """Hooks of a training step: four methods of `Experiment.hooks` that training calls."""

    def before_update(self) -> None:
        """Run after the gradients are computed and before they are clipped; the gradients may be changed."""

    def after_update(self) -> None:
        """Run after the weights have been updated."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that steps depend on, for the checkpoint."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


@dataclass
class Experiment:
    """Objects of a run.

    Args:
        model: The network, on the device of the run.
        data: Training data, and validation and test data if there are any.
        loss: Training loss.
        optimizer: The learning rule; None for full precision.
        real_optimizer: Optimizer of the real parameters; None if there are none.
        schedulers: Learning-rate schedules, which are stepped at the start of every epoch or step.
        device: Device of the batches.
        ranks: The processes that train the network together.
        hooks: Hooks that are called at every step and saved in the checkpoint.
        teacher: Trained network whose outputs are part of the targets; None for the labels alone.
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
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        self.parallel = self.ranks.wrapped(self.model)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers of the binary and of the real parameters, as far as they exist."""
        return [part for part in (self.optimizer, self.real_optimizer) if part is not None]

    def modules(self) -> dict[str, Any]:
        """Return the objects that a checkpoint saves, by name; all have `state_dict` and `load_state_dict`."""
        parts = {name: getattr(self, name) for name in ("model", "optimizer", "real_optimizer", "hooks")}
        parts |= {f"scheduler_{index}": scheduler for index, scheduler in enumerate(self.schedulers)}
        return {name: part for name, part in parts.items() if part is not None}

    def binary_weights(self) -> int:
        """Return the number of binary weights."""
        return 0 if self.optimizer is None else _numbers(self.optimizer.named_binary())

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of all parameters in float32, and with one bit per parameter that is or could be binary.

        Scales of binary weights count as `bitbayes.summary` counts them.
        """
        total = _numbers(self.model.named_parameters())
        if self.optimizer is None:
            binary = bits = _numbers(split_parameters(self.model)[0])
        else:
            binary, bits = self.binary_weights(), sum(packed_bits(self.optimizer).values())
        return 4 * total, 4 * (total - binary) + (bits + 7) // 8


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _numbers(named: Iterable[tuple[str, Tensor]]) -> int:
    return sum(tensor.numel() for _, tensor in named)


def build_experiment(
    config: RunConfig, network: Callable[[], nn.Module], data: DataBundle, loss: Loss, *, all_binary: bool = False
) -> Experiment:
    """Build the network, the learning rule and the schedules of a run.

    Args:
        config: The run.
        network: Function that makes the network; it is called under the seed of the run.
        data: The data, on the device of the run.
        loss: Training loss.
        all_binary: Whether biases are binary too, as in the synthetic experiments of the BayesBiNN paper. Parameters
            with `requires_grad=False` stay as they are.

    Raises:
        ValueError: If the rule or an option is unknown, the network has no dropout layer for `dropout`, settings differ
            between the ranks of a data-parallel run, or a batch has fewer examples than there are ranks.
    """
    if config.rule not in RULES:
        raise nearest("rule", config.rule, RULES)
    _check_ranks(config, len(data.train))
    _check_targets(config, data, loss)
    device, spec = torch.device(config.device), resolved(config, len(data.train))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model = network().to(device)
    if spec.dropout is not None:
        _set_dropout(model, spec.dropout)
    rule = RULES[config.rule]
    if rule is None:
        if spec.options:
            raise ValueError(f"rule {config.rule} has no options, got {', '.join(spec.options)}")
        if spec.samples > 1:
            raise ValueError(f"samples must be 1 for rule {config.rule}, which does not sample; got {spec.samples}")
        optimizer, real = None, [parameter for _, parameter in _trainable(model)]
    else:
        binary, others = (_trainable(model), []) if all_binary else split_parameters(model)
        optimizer, real = _binary_optimizer(rule, binary, config, spec), [parameter for _, parameter in others]
    real_optimizer = _real_optimizer(spec, real, _real_rate(spec, optimizer)) if real else None
    schedulers = _schedulers(config, data, optimizer, real_optimizer)
    return Experiment(model, data, loss, optimizer, real_optimizer, schedulers, device)


def _check_ranks(config: RunConfig, examples: int) -> None:
    ranks = Ranks.here()
    ranks.compare({name: value for name, value in config.flat().items() if name not in ("data", "device")})
    batch = min(config.batch_size or examples, examples)
    if batch < ranks.count:
        advice = "raise --batch-size, or start fewer processes"
        raise ValueError(f"a batch of {batch} examples cannot be split between {ranks.count} processes; {advice}")


def _check_targets(config: RunConfig, data: DataBundle, loss: Loss) -> None:
    """Raise ValueError for changes of targets or of test inputs that do not suit the loss or the data."""
    if config.label_smoothing and loss is not CROSS_ENTROPY:
        raise ValueError(f"label smoothing needs the loss {CROSS_ENTROPY.name}, not {loss.name}; leave it out")
    if config.teacher and loss not in (CROSS_ENTROPY, NEXT_BYTE):
        names = f"{CROSS_ENTROPY.name} or {NEXT_BYTE.name}"
        raise ValueError(f"a teacher needs the loss {names}, not {loss.name}; leave it out")
    check_views(config.views, data, text=loss.text)


def resolved(config: RunConfig, examples: int) -> RuleSpec:
    """Return the settings of a run's rule for a number of training examples, see `RuleSpec.resolve`."""
    return config.spec.resolve(examples, steps_per_epoch(config, examples), config.cycle_epochs)


def _set_dropout(model: nn.Module, probability: float) -> None:
    layers = [module for module in model.modules() if isinstance(module, _DropoutNd)]
    if not layers:
        raise ValueError(f"dropout {probability} has no effect, because the network has no dropout layer; leave it out")
    for layer in layers:
        layer.p = probability


def _binary_optimizer(
    rule: type[BinaryOptimizer], binary: Sequence[tuple[str, Tensor]], config: RunConfig, spec: RuleSpec
) -> BinaryOptimizer:
    for name in ("lr", "samples", "seed", "estimator"):
        if name in spec.options:
            raise ValueError(f"{name} is a setting of the run, not an option of the rule; use --{name}")
    # Small runs keep the eager implementation, with which the published tables were made. A kernel's draws differ from
    # eager draws in a few of a hundred million weights, and a run that differs in one weight ends with other numbers.
    compiled = _numbers(binary) >= 1_000_000
    keywords = {"samples": spec.samples, "seed": config.seed, "compile": compiled, "capturable": config.capture}
    keywords |= {**spec.options} | ({} if config.estimator is None else {"estimator": config.estimator})
    groups = binary if config.first_scale is None else _groups(binary, config.first_scale)
    try:
        return rule(groups, lr=spec.lr, **keywords)  # type: ignore[arg-type]
    except TypeError as error:
        what = str(error).partition("() ")[2] or str(error)
        raise ValueError(f"rule {config.rule} {what}") from error


def _groups(binary: Sequence[tuple[str, Tensor]], first_scale: str) -> list[dict[str, Any]]:
    """Return the tensors in two groups, of which the first has the tensors of the first layer and their own scale."""
    layer = binary[0][0].rpartition(".")[0]
    first = [(name, tensor) for name, tensor in binary if name.rpartition(".")[0] == layer]
    groups = [{"params": first, "scale": first_scale}, {"params": list(binary[len(first) :])}]
    return groups if len(first) < len(binary) else groups[:1]


def _real_rate(spec: RuleSpec, optimizer: BinaryOptimizer | None) -> float:
    """Return the learning rate of the real parameters, which include all parameters for full precision."""
    assert spec.lr is not None, "of resolved settings"
    return spec.lr if optimizer is None else spec.real_lr


_REAL: dict[RealOptimizer, Callable[..., Optimizer]] = {
    "adam": Adam,
    "sgd": partial(SGD, momentum=0.9),
    "nesterov": partial(SGD, momentum=0.85, nesterov=True),
}


def _real_optimizer(spec: RuleSpec, parameters: list[nn.Parameter], rate: float) -> Optimizer:
    """Return the optimizer of the real parameters, with one fused kernel in place of a dozen operations per tensor."""
    optimizer = _REAL[spec.real_optimizer](parameters, lr=rate, weight_decay=spec.real_weight_decay, fused=True)
    optimizer.register_load_state_dict_pre_hook(_shaped_as_parameters)
    return optimizer


def _shaped_as_parameters(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Reshape 0-d moments to a parameter of one weight, because `LogitScale` was 0-d in earlier versions."""
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]

    def shaped(name: str, value: Any, shape: torch.Size) -> Any:
        alike = isinstance(value, Tensor) and value.dim() == 0 and shape.numel() == 1 and name != "step"
        return value.reshape(shape) if alike else value

    state = {
        place: {name: shaped(name, value, shapes[place]) for name, value in entries.items()}
        for place, entries in state_dict["state"].items()
    }
    return state_dict | {"state": state}


def continue_experiment(experiment: Experiment, config: RunConfig, data: DataBundle) -> Experiment:
    """Return an experiment with the same network and beliefs on other data, with restarted schedules.

    Args:
        experiment: Experiment so far, which shares its network and optimizers with the result.
        config: The new run.
        data: Data of the new run.
    """
    spec, optimizer = resolved(config, len(data.train)), experiment.optimizer
    for group in () if optimizer is None or "ess" not in spec.options else optimizer.param_groups:
        group["ess"] = spec.options["ess"]
    return dataclasses.replace(experiment, data=data, schedulers=_restarted(experiment, config, data))


def begin_cycle(experiment: Experiment, config: RunConfig) -> None:
    """Restart the schedules of a run, and relax its belief; see `RunConfig.cycles`."""
    experiment.schedulers = _restarted(experiment, config, experiment.data)
    if experiment.optimizer is not None and config.relax < 1:
        experiment.optimizer.relax(config.relax)


def _restarted(experiment: Experiment, config: RunConfig, data: DataBundle) -> list[LRScheduler]:
    """Return schedules that begin anew, at the first learning rates of a run."""
    spec, optimizer, real = resolved(config, len(data.train)), experiment.optimizer, experiment.real_optimizer
    for part, first in ((optimizer, spec.lr), (real, _real_rate(spec, optimizer))):
        for group in () if part is None else part.param_groups:
            group.pop("initial_lr", None)  # of the last schedule
            group["lr"] = first
    return _schedulers(config, data, optimizer, real)


def _schedulers(config: RunConfig, data: DataBundle, *parts: Optimizer | None) -> list[LRScheduler]:
    """Return the schedule of the run for every optimizer that exists."""
    steps = steps_per_epoch(config, len(data.train))
    return [config.spec.schedule.build(part, config.cycle_epochs, steps) for part in parts if part is not None]


def steps_per_epoch(config: RunConfig, examples: int) -> int:
    """Return the steps per epoch; a last batch of one example per rank is dropped, as BatchNorm cannot use it."""
    full, rest = divmod(examples, config.batch_size or examples)
    return full + (rest >= (2 * Ranks.here().count if full else 1))
