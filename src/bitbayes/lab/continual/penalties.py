"""Elastic weight consolidation and synaptic intelligence: penalties that keep real weights near their old values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from bitbayes.lab.continual.memory import Memory
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import batches
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.lab.train.measure import mode_weights
from bitbayes.rules import checks

_ENTRIES = 1 << 24  # most numbers of per-example gradients at a time: 64 MiB in float32


class Penalty(Memory):
    """Base of methods that add the gradient of a penalty ½ Σ importance · (θ − anchor)²."""

    def begin(self, experiment: Experiment) -> None:
        """Start with zero importance; raise ValueError if a rule trains binary weights.

        Binary weights are random draws, which cannot stay near an anchor.
        """
        if experiment.optimizer is not None:
            raise ValueError(
                f"{self.name} supports only real weights, but {type(experiment.optimizer).__name__} trains binary "
                "ones; use rule full-precision, or for binary weights method replay, rule ste:metaplastic or the prior "
                "of bayesbinn"
            )
        self.parameters = {name: p for name, p in experiment.model.named_parameters() if p.requires_grad}
        self.anchor = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.importance = {name: torch.zeros_like(anchor) for name, anchor in self.anchor.items()}

    @torch.no_grad()
    def add_gradient(self, strength: float) -> None:
        """Add strength · importance · (θ − anchor) to the gradients."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad += strength * self.importance[name] * (parameter - self.anchor[name])

    def bytes(self) -> int:
        """Return the number of bytes of importance and anchor."""
        return sum(tensor.nbytes for part in (self.importance, self.anchor) for tensor in part.values())

    def state_dict(self) -> dict[str, Any]:
        """Return importance and anchor."""
        return {"importance": self.importance, "anchor": self.anchor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore importance and anchor of the same parameters."""
        for name in self.parameters:
            self.importance[name].copy_(state_dict["importance"][name])
            self.anchor[name].copy_(state_dict["anchor"][name])


class EWC(Penalty):
    """Elastic weight consolidation (Kirkpatrick et al., PNAS 2017), for networks of real weights.

    Weights with a large Fisher information are kept near their old values. With θ*ₛ the weights after task s and Fₛ the
    diagonal of the Fisher information at θ*ₛ, task t minimises (eq. 3)

        lossₜ + (strength / 2) · Σ_{s<t} Σᵢ Fₛᵢ (θᵢ − θ*ₛᵢ)²

    A sum of quadratics is one quadratic around their weighted mean, so the memory does not grow with the number of
    tasks:

        anchor ← anchor + F / (importance + F) · (θ* − anchor),    importance ← importance + F

    Args:
        strength: λ of the paper, for a mean loss. Laplace's approximation of the posterior corresponds to 1 for tasks
            with equally many examples. A larger strength retains old tasks better and learns new tasks worse.
        examples: Number of training examples from which the Fisher information is estimated.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> EWC(strength=300.0).options
        {'strength': 300.0, 'examples': 1000}
    """

    name: ClassVar[str] = "ewc"

    def __init__(self, strength: float = 30.0, examples: int = 1000) -> None:
        super().__init__(strength=strength, examples=examples)
        checks.number(strength, "strength of ewc", "a number of at least 0", open_low=False)
        checks.whole(examples, "examples of ewc", 1)

    def before_update(self) -> None:
        """Add the gradient of the penalty."""
        self.add_gradient(self.options["strength"])

    @torch.no_grad()
    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Add the quadratic of the task: its Fisher information around the current weights."""
        with mode_weights(experiment, config.refresh_batches, config.precision) as model:
            x, _ = next(batches(task.data.train, self.options["examples"], seed=config.seed, shuffle=True))
            found = fisher_diagonal(model, x, task.classes)
        for name, parameter in self.parameters.items():
            importance, anchor = self.importance[name], self.anchor[name]
            importance += found[name]
            share = torch.where(importance > 0, found[name] / importance, 1.0)
            anchor += share * (parameter - anchor)


def fisher_diagonal(model: nn.Module, x: Tensor, classes: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Return the diagonal of a classifier's Fisher information: E_x E_{y ~ p(y|x)} [(∂ log p(y|x) / ∂θᵢ)²].

    The expectation over the model's own labels is exact: no labels are sampled.

    Args:
        model: Classifier in eval mode, from inputs (N, ...) to logits (N, classes).
        x: Inputs, shape (N, ...).
        classes: Outputs that compete; None for all outputs.

    Returns:
        Fisher information per example in nats by parameter name, with the shapes of the parameters.

    Raises:
        RuntimeError: If the model is in training mode, in which the examples of a batch depend on each other.

    Example:
        >>> model = torch.nn.Linear(1, 2, bias=False).eval()
        >>> _ = model.weight.data.zero_()
        >>> fisher_diagonal(model, torch.tensor([[2.0]]))["weight"]
        tensor([[1.],
                [1.]])
    """
    if model.training:
        raise RuntimeError("the Fisher information needs the model in eval mode; call model.eval() first")
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def log_probs(values: dict[str, Tensor], one: Tensor) -> tuple[Tensor, Tensor]:
        found = functional_call(model, values, (one[None],))[0]
        found = (found if classes is None else found[list(classes)]).log_softmax(0)
        return found, found

    def squares(one: Tensor) -> dict[str, Tensor]:
        slopes, logs = jacrev(log_probs, has_aux=True)(parameters, one)  # slopes: (classes, *shape)
        return {name: torch.einsum("c,c...->...", logs.exp(), slope.square()) for name, slope in slopes.items()}

    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with torch.no_grad():
        entries = model(x[:1]).shape[1] * sum(p.numel() for p in parameters.values())
    for piece in x.split(max(1, _ENTRIES // entries)):  # as many examples as have room for all of their gradients
        for name, found in vmap(squares)(piece).items():
            total[name] += found.sum(0)
    return {name: found / len(x) for name, found in total.items()}


class SI(Penalty):
    """Synaptic intelligence (Zenke, Poole & Ganguli, ICML 2017), for networks of real weights.

    A weight is important if its changes lowered the loss. During a task, the first-order decrease of the loss due to
    every weight is summed up (eq. 3). At the end of the task, the sum is divided by the squared distance that the
    weight moved (eq. 5) and becomes a penalty for the following tasks (eq. 4):

        ω ← ω − g · Δθ                                   at every step, g the gradient of the task's loss alone
        Ω ← max(0, Ω + ω / ((θ − θ̃)² + ξ)),    θ̃ ← θ,    ω ← 0    at the end of a task
        loss + strength · Σ Ω (θ − θ̃)²

    The paper does not define the effect of a negative Ω. It is clipped to 0 here, as in the paper's released code.

    Args:
        strength: Strength c of the paper.
        damping: Damping ξ of the paper, in squared units of the weights.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> SI(strength=0.3).options
        {'strength': 0.3, 'damping': 0.1}
    """

    name: ClassVar[str] = "si"

    def __init__(self, strength: float = 1.0, damping: float = 0.1) -> None:
        super().__init__(strength=strength, damping=damping)
        checks.number(strength, "strength of si", "a number of at least 0", open_low=False)
        checks.number(damping, "damping of si", "a positive number")

    def begin(self, experiment: Experiment) -> None:
        """Start with zero importance."""
        super().begin(experiment)
        self.path = {name: torch.zeros_like(anchor) for name, anchor in self.anchor.items()}

    @torch.no_grad()
    def before_update(self) -> None:
        """Save gradients and weights, then add the gradient of the penalty."""
        parameters = self.parameters.items()
        self._before = {name: (p.grad.clone(), p.clone()) for name, p in parameters if p.grad is not None}
        self.add_gradient(2 * self.options["strength"])

    @torch.no_grad()
    def after_update(self) -> None:
        """Add a step to the path integrals."""
        for name, (gradient, old) in self._before.items():
            self.path[name] -= gradient * (self.parameters[name] - old)

    @torch.no_grad()
    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Convert path integrals to importance."""
        for name, parameter in self.parameters.items():
            importance, anchor, path = self.importance[name], self.anchor[name], self.path[name]
            importance += path / ((parameter - anchor).square() + self.options["damping"])
            importance.clamp_(min=0)
            anchor.copy_(parameter)
            path.zero_()

    def bytes(self) -> int:
        """Return the number of bytes of the quadratic and of the path integrals."""
        return super().bytes() + sum(path.nbytes for path in self.path.values())

    def state_dict(self) -> dict[str, Any]:
        """Return the quadratic, and the path integrals of the task so far."""
        return {"pull": super().state_dict(), "path": self.path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the quadratic and the path integrals."""
        super().load_state_dict(state_dict["pull"])
        for name, path in self.path.items():
            path.copy_(state_dict["path"][name])
