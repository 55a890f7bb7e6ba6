"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017): old weights are held where the Fisher information is.

With θ*ₛ the weights after task s and Fₛ the diagonal of the Fisher information there, task t minimises (eq. 3)

    lossₜ + (strength / 2) · Σ_{s<t} Σᵢ Fₛᵢ (θᵢ − θ*ₛᵢ)²

A sum of quadratics is one quadratic about their weighted mean, so the memory does not grow with the tasks:

    anchor ← anchor + F / (importance + F) · (θ* − anchor),    importance ← importance + F
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from bitbayes.lab.continual.memory import Memory, real_parameters
from bitbayes.lab.continual.pull import Pull
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import batches
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.lab.train.measure import mode_weights
from bitbayes.rules import checks

__all__ = ["EWC", "fisher_diagonal"]

_ENTRIES = 1 << 24  # of all per-example gradients at once: 64 MiB in float32


class EWC(Memory):
    """Elastic weight consolidation, for networks of real weights.

    Args:
        strength: λ of the paper, beside a mean loss. Laplace's approximation of the posterior says 1 for tasks of
            equally many examples; more holds old tasks better, and new ones are learned worse.
        examples: Training examples that the Fisher information is estimated from.

    Raises:
        ValueError: For options out of range.

    Example:
        >>> EWC(strength=300.0).options
        {'strength': 300.0, 'examples': 1000}
    """

    name: ClassVar[str] = "ewc"

    def __init__(self, strength: float = 30.0, examples: int = 1000) -> None:
        super().__init__(strength=strength, examples=examples)
        checks.number(strength, "strength of ewc", "a number of at least 0", open_low=False)
        checks.whole(examples, "examples of ewc", 1)

    def begin(self, experiment: Experiment) -> None:
        """Nothing is important yet."""
        self.pull = Pull(real_parameters(experiment, self.name))

    def before_update(self) -> None:
        """Adds the gradient of the penalty."""
        self.pull.add_gradient(self.options["strength"])

    @torch.no_grad()
    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Adds the quadratic of the task: its Fisher information, about the weights as they are."""
        with mode_weights(experiment, config.refresh_batches, config.precision) as model:
            x, _ = next(batches(task.data.train, self.options["examples"], seed=config.seed, shuffle=True))
            found = fisher_diagonal(model, x, task.classes)
        for name, parameter in self.pull.parameters.items():
            importance, anchor = self.pull.importance[name], self.pull.anchor[name]
            importance += found[name]
            share = torch.where(importance > 0, found[name] / importance, 1.0)
            anchor += share * (parameter - anchor)

    def state_dict(self) -> dict[str, Any]:
        """The quadratic."""
        return self.pull.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts it back."""
        self.pull.load_state_dict(state_dict)


def fisher_diagonal(model: nn.Module, x: Tensor, classes: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of a classifier: E_x E_{y ~ p(y|x)} [(∂ log p(y|x) / ∂θᵢ)²].

    The labels are the model's own, and their expectation is exact, so nothing is drawn.

    Args:
        model: In eval mode; maps inputs (N, ...) to logits (N, classes).
        x: Inputs, shape (N, ...).
        classes: Outputs that compete; None for all.

    Returns:
        By parameter name, in the shapes of the parameters; in nats, of one example.

    Raises:
        RuntimeError: If the model is in training mode, where examples of a batch see each other.

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
    for piece in _pieces(model, x, sum(p.numel() for p in parameters.values())):
        for name, found in vmap(squares)(piece).items():
            total[name] += found.sum(0)
    return {name: found / len(x) for name, found in total.items()}


def _pieces(model: nn.Module, x: Tensor, weights: int) -> Iterator[Tensor]:
    """As many examples at a time as have room for all their gradients."""
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    yield from x.split(max(1, _ENTRIES // (classes * weights)))
