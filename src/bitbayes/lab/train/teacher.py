"""Distillation: a trained network whose outputs are part of the training targets of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Teacher:
    """Trained network that teaches another (Hinton, Vinyals & Dean, 2015), at temperature 1.

    Args:
        outputs: Function from inputs to the teacher's logits, such as a network in eval mode.
        share: Weight of the teacher's probabilities among the targets, in (0, 1].

    Example:
        >>> teacher = Teacher(torch.nn.Identity(), share=0.5)
        >>> logits = torch.tensor([[1.0, 0.0]])
        >>> teacher.mixed(torch.tensor(2.0), logits, logits)  # a student that agrees with its teacher
        tensor(1.)
    """

    outputs: Callable[[Tensor], Tensor]
    share: float

    @torch.no_grad()
    def logits(self, x: Tensor, parts: int = 1) -> Tensor:
        """Return the teacher's logits, shape (..., K), for inputs of the student, in a number of passes."""
        return torch.cat([self.outputs(part).float() for part in x.tensor_split(parts)])

    def mixed(self, loss: Tensor, output: Tensor, taught: Tensor) -> Tensor:
        """Return (1 − share) · loss + share · KL(teacher ‖ student), the mean over all predictions in nats.

        Args:
            loss: Loss of the student on the labels.
            output: Logits of the student, shape (N, K), or (N, T, K) for T predictions per example.
            taught: Logits of the teacher, of the same shape.
        """
        both = output.log_softmax(-1).flatten(0, -2), taught.log_softmax(-1).flatten(0, -2)
        return (1 - self.share) * loss + self.share * F.kl_div(*both, reduction="batchmean", log_target=True)
