"""The number of a step: an integer, or with `capturable` a tensor on the device.

A CUDA graph repeats what the device did while it was captured, with the numbers that Python had then. So what changes
from step to step, the noise above all, has to be computed on the device from a counter that is there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Step = int | Tensor


def begin(device: torch.device, capturable: bool) -> dict[str, Any]:
    """State of a parameter: its steps so far and, with `capturable`, whether one was refused since the last report."""
    if not capturable:
        return {"step": 0}
    return {"step": torch.zeros((), dtype=torch.int64, device=device), "refused": torch.zeros((), device=device).bool()}


def number(step: Step) -> Step:
    """To compute with, in double precision as Python does."""
    return step.double() if isinstance(step, Tensor) else step
