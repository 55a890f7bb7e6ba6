"""A callback for Lightning, which evaluates and saves the mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch

from bitbayes.integrations.mode import Switchable, write_mode
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.optimizer import BinaryOptimizer


class ModeCallback(L.Callback):
    """Lightning callback that evaluates and saves the mode.

    Validation sees the mode, and training goes on with the draw that it stopped at. Checkpoints hold the mode of the
    binary weights beside the beliefs in the optimizer's state, so training resumes bit for bit. After training, the
    parameters hold the mode.

    Args:
        batches: Batches of training inputs for `bitbayes.refresh_batchnorm`, which are iterated at every evaluation.
            The module's `forward` has to accept these inputs. None keeps the statistics.

    Example:
        >>> trainer = L.Trainer(callbacks=[ModeCallback()], logger=False, enable_checkpointing=False)
        >>> any(isinstance(callback, ModeCallback) for callback in trainer.callbacks)
        True
    """

    def __init__(self, batches: Iterable[Any] | None = None) -> None:
        self.batches = batches
        self._were_training: list[Switchable] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the mode."""
        self._were_training = [optimizer for optimizer in _switchable(trainer) if optimizer.training]
        self._write_mode(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Return to the draw if training goes on."""
        for optimizer in self._were_training:
            optimizer.train()
        self._were_training = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the draw, also after a checkpoint of the mode has been loaded."""
        for optimizer in _switchable(trainer):
            optimizer.train()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the mode."""
        self._write_mode(trainer, pl_module)

    @torch.no_grad()
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the mode into the checkpoint, whose file may serve without an optimizer."""
        for optimizer in _switchable(trainer):
            binary = optimizer.binary if isinstance(optimizer, JointOptimizer) else optimizer
            both = zip(binary.named_binary(), binary.named_mode(), strict=True)
            modes = {id(parameter): mode for (_, parameter), (_, mode) in both}
            for name, parameter in pl_module.named_parameters(remove_duplicate=False):
                if id(parameter) in modes and name in checkpoint["state_dict"]:
                    checkpoint["state_dict"][name] = modes[id(parameter)]

    def _write_mode(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in _switchable(trainer):
            if optimizer.training:
                write_mode(pl_module, optimizer, self.batches)


def _switchable(trainer: L.Trainer) -> list[Switchable]:
    return [each for each in trainer.optimizers if isinstance(each, (BinaryOptimizer, JointOptimizer))]
