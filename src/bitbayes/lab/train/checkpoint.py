"""checkpoint.pt: the state that a run continues from, bit for bit."""

from __future__ import annotations

import warnings
import zipfile
from typing import Any

import torch

from bitbayes.lab.train.folder import RunError, RunFolder, one_line

__all__ = ["read_checkpoint", "write_checkpoint"]

_NAME = "checkpoint.pt"


def write_checkpoint(folder: RunFolder, state: dict[str, Any]) -> None:
    """Writes tensors and plain values, so that the file loads with `weights_only=True`.

    Args:
        folder: Of the run.
        state: What to keep; must contain "epoch".

    Raises:
        RunError: If it cannot be written; the old checkpoint is untouched.
    """
    folder.write(_NAME, lambda file: torch.save(state, file))  # type: ignore[arg-type]
    folder.saved_epoch = state["epoch"]


def read_checkpoint(folder: RunFolder, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads the checkpoint, after checking every byte against the CRCs in the file.

    Args:
        folder: Of the run.
        device: Where the tensors go.

    Returns:
        The state.

    Raises:
        RunError: If it is missing or damaged.
    """
    path = folder.path / _NAME
    advice = "restore a copy of it, or train again with another --out"
    if not path.is_file():
        raise RunError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise RunError(f"{path} is damaged (in {broken}); {advice}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location=device, weights_only=True)
    except RunError:
        raise
    except Exception as error:  # one of a dozen types, depending on the byte that is wrong
        raise RunError(f"{path} is damaged ({one_line(error)}); {advice}") from error
    if not isinstance(state, dict) or "epoch" not in state:
        raise RunError(f"{path} is not a checkpoint of a run; {advice}")
    folder.saved_epoch = state["epoch"]
    return state
