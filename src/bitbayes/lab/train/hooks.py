"""What may look into every training step."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["StepHooks"]


class StepHooks(Protocol):
    """Four calls that training makes of `Experiment.hooks`; the state goes into the checkpoint."""

    def before_update(self) -> None:
        """The gradients of the loss are there, not yet clipped; they may be changed."""
        ...

    def after_update(self) -> None:
        """The weights have moved."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a step depends on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts them back."""
        ...
