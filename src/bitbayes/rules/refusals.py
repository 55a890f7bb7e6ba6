"""Steps that are refused because a gradient is not finite: told at once on a CPU, later where nobody may wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bitbayes.kernels import run as kernels

if TYPE_CHECKING:
    from bitbayes.rules.optimizer import BinaryOptimizer


class NotFiniteError(RuntimeError):
    """The loss or a gradient is NaN or infinite; the beliefs are those of before the step."""


def _refuse(names: Iterable[str]) -> None:
    """Raises NotFiniteError if there are names of tensors whose gradient was not finite."""
    bad = ", ".join(map(repr, names))
    if bad:
        raise NotFiniteError(
            f"the gradient of {bad} is not finite; the step was refused and the beliefs are "
            "unchanged. Look for NaN in the data, lower the learning rate, or clip the gradients"
        )


class Refusal:
    """Which gradients of one step were finite, still on the device that knows.

    Args:
        names: Names of the tensors.
        flags: One bool each, on a GPU.
    """

    def __init__(self, names: list[str], flags: Tensor) -> None:
        self.names, self.flags = names, flags.to("cpu", non_blocking=True)
        self.event = torch.cuda.Event() if flags.is_cuda else None
        if self.event is not None:
            self.event.record()

    def ready(self) -> bool:
        """Whether the flags have arrived, without waiting."""
        return self.event is None or self.event.query()

    def raise_if_refused(self) -> None:
        """Raises NotFiniteError if a gradient was not finite."""
        _refuse(name for name, fine in zip(self.names, self.flags.tolist(), strict=True) if not fine)


def _is_finite(tensor: Tensor) -> Tensor:
    """0-d bool: whether every entry is finite."""
    if tensor.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    # Both extremes in one vectorised read; NaN wins in both. isfinite() would write a temporary.
    return torch.stack(torch.aminmax(tensor)).isfinite().all()


def _surely_finite(tensors: list[Tensor]) -> bool:
    """Whether sums tell that all is finite: one infinity or NaN stays in a sum. A sum that overflows tells nothing."""
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors):
        return False  # torch's sums are fast for float32 alone
    return bool(torch.stack([tensor.sum() for tensor in tensors]).isfinite().all())


def finite(gradients: dict[str, Tensor], *, defer: bool | None = None) -> tuple[Tensor | None, Refusal | None]:
    """Checks gradients: raises at once on a CPU, on a GPU decides on the device without waiting for it.

    Args:
        gradients: Gradients by name.
        defer: None defers where the gradients are on a GPU.

    Returns:
        A 0-d bool tensor that says whether to accept the step (None: yes), and what to report later.
    """
    if not gradients:
        return None, None
    tensors = [gradient.detach() for gradient in gradients.values()]
    if not defer and _surely_finite(tensors):
        return None, None
    flags = torch.stack([_is_finite(tensor) for tensor in tensors])
    refusal = Refusal(list(gradients), flags)
    if flags.is_cuda if defer is None else defer:
        return flags.all(), refusal
    refusal.raise_if_refused()
    return None, None


def accept(optimizer: BinaryOptimizer, gradients: dict[str, Tensor]) -> Tensor | None:
    """Checks the gradients of a step before a belief may change.

    Args:
        optimizer: Whose step it is; what it has refused and not yet reported is kept with it.
        gradients: By name.

    Returns:
        A 0-d bool tensor that says whether to accept the step; None: yes.

    Raises:
        NotFiniteError: If one is not finite and that is known at once.
    """
    options = optimizer.param_groups[0]
    if options["capturable"]:
        return _noted(gradients, dict(_states(optimizer)))
    if options["compile"] and kernels.finite(gradients.values()):
        return None
    accepted, refusal = finite(gradients)
    if refusal is not None:
        optimizer.__dict__.setdefault("_pending", []).append(refusal)
    return accepted


def report(optimizer: BinaryOptimizer, wait: bool = True) -> None:
    """Raises NotFiniteError for refused steps that nobody has been told of.

    Args:
        optimizer: Whose steps.
        wait: Also asks for what capturable steps have noted on the device.
    """
    pending = optimizer.__dict__.get("_pending", [])
    while pending and pending[0].ready():
        pending.pop(0).raise_if_refused()
    if wait and optimizer.param_groups[0]["capturable"]:
        noted = {name: state["refused"] for name, state in _states(optimizer)}
        bad = [name for name, flag in noted.items() if flag]
        for name in bad:
            noted[name].zero_()
        _refuse(bad)


def _states(optimizer: BinaryOptimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, optimizer.state[parameter]) for name, parameter in optimizer.named_binary())


def _noted(gradients: dict[str, Tensor], states: dict[str, dict[str, Any]]) -> Tensor | None:
    """Notes on the device which gradients are not finite: inside a CUDA graph nothing can be sent or asked for."""
    fine = {name: _is_finite(gradient.detach()) for name, gradient in gradients.items()}
    for name, flag in fine.items():
        states[name]["refused"].logical_or_(~flag)
    return torch.stack(list(fine.values())).all() if fine else None
