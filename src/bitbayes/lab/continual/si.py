"""Synaptic intelligence (Zenke, Poole & Ganguli, ICML 2017): a weight is important if its moves lowered the loss.

While a task is learned, every weight adds up by how much it lowers the loss, to first order (eq. 3); at the end that is
related to how far it went (eq. 5), and the next task is held to it (eq. 4):

    ω ← ω − g · Δθ                                   at every step, g the gradient of the task's loss alone
    Ω ← max(0, Ω + ω / ((θ − θ̃)² + ξ)),    θ̃ ← θ,    ω ← 0    at the end of a task
    loss + strength · Σ Ω (θ − θ̃)²

The paper does not say what a negative Ω would do; it is cut off here, as in its released code.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from bitbayes.lab.continual.memory import Memory, real_parameters
from bitbayes.lab.continual.pull import Pull
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.rules import checks

__all__ = ["SI"]


class SI(Memory):
    """Synaptic intelligence, for networks of real weights.

    Args:
        strength: c of the paper.
        damping: ξ of the paper, in squared units of the weights.

    Raises:
        ValueError: For options out of range.

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
        """Nothing is important yet."""
        self.pull = Pull(real_parameters(experiment, self.name))
        self.path = {name: torch.zeros_like(anchor) for name, anchor in self.pull.anchor.items()}

    @torch.no_grad()
    def before_update(self) -> None:
        """Remembers gradients and weights, then adds the gradient of the penalty."""
        parameters = self.pull.parameters
        self._before = {n: (p.grad.clone(), p.clone()) for n, p in parameters.items() if p.grad is not None}
        self.pull.add_gradient(2 * self.options["strength"])

    @torch.no_grad()
    def after_update(self) -> None:
        """Adds a step to the path integrals."""
        for name, (gradient, old) in self._before.items():
            self.path[name] -= gradient * (self.pull.parameters[name] - old)

    @torch.no_grad()
    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Turns path integrals into importance."""
        for name, parameter in self.pull.parameters.items():
            importance, anchor, path = self.pull.importance[name], self.pull.anchor[name], self.path[name]
            importance += path / ((parameter - anchor).square() + self.options["damping"])
            importance.clamp_(min=0)
            anchor.copy_(parameter)
            path.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The quadratic, and the path integrals of the task so far."""
        return {"pull": self.pull.state_dict(), "path": self.path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts them back."""
        self.pull.load_state_dict(state_dict["pull"])
        for name, path in self.path.items():
            path.copy_(state_dict["path"][name])
