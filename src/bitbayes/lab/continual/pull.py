"""A pull towards old weights: what EWC and SI add to the gradient of a new task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Pull"]


class Pull:
    """The penalty ½ Σ importance · (θ − anchor)², of which training needs the gradient alone.

    Args:
        parameters: Live parameters θ by name.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> pull = Pull({"weight": weight})
        >>> pull.importance["weight"] += torch.tensor([0.0, 3.0])
        >>> weight.data += 1
        >>> weight.grad = torch.zeros(2)
        >>> pull.add_gradient(10.0)
        >>> weight.grad
        tensor([ 0., 30.])
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self.importance = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        self.anchor = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def add_gradient(self, strength: float) -> None:
        """Adds strength · importance · (θ − anchor) to the gradients that there are.

        Args:
            strength: Factor of the penalty.
        """
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad += strength * self.importance[name] * (parameter - self.anchor[name])

    def state_dict(self) -> dict[str, Any]:
        """Importance and anchor."""
        return {"importance": self.importance, "anchor": self.anchor}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Puts them back.

        Args:
            state_dict: From `state_dict()` over the same parameters.
        """
        for name in self.parameters:
            self.importance[name].copy_(state_dict["importance"][name])
            self.anchor[name].copy_(state_dict["anchor"][name])
