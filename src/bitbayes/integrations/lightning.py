"""A callback for Lightning, which evaluates and saves the mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch

from bitbayes.batchnorm import as_found
from bitbayes.integrations.mode import Switchable, write_mode
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.optimizer import BinaryOptimizer


class ModeCallback(L.Callback):
    """Lightning callback that evaluates and saves the mode.

    Validation sees the mode, and training goes on with the draw that it stopped at. Checkpoints hold the mode of the
    binary weights beside the beliefs in the optimizer's state, so the parameters and beliefs resume bit for bit. After
    training, the parameters hold the mode.

    Args:
        batches: Batches of training inputs for `bitbayes.refresh_batchnorm`, which are iterated at every evaluation
            and for every checkpoint between evaluations. The module's `forward` has to accept these inputs. None keeps
            the statistics.

    Raises:
        TypeError: When training begins, if the module has no optimizer of this library.

    Example:
        >>> trainer = L.Trainer(callbacks=[ModeCallback()], logger=False, enable_checkpointing=False)
        >>> any(isinstance(callback, ModeCallback) for callback in trainer.callbacks)
        True
    """

    def __init__(self, batches: Iterable[Any] | None = None) -> None:
        self.batches = batches
        self._were_training: list[Switchable] = []
        self._fresh = False  # whether the BatchNorm statistics are those of the mode

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
        optimizers = _switchable(trainer)
        if not optimizers:
            found = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
            raise TypeError(
                f"ModeCallback needs a bitbayes.JointOptimizer, but the module's optimizer is {found}; return "
                "[joint_optimizer] from configure_optimizers()"
            )
        for optimizer in optimizers:
            optimizer.train()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that BatchNorm sees a draw from here on."""
        self._fresh = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the mode."""
        self._write_mode(trainer, pl_module)

    @torch.no_grad()
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the mode and its statistics into the checkpoint, whose file may serve without an optimizer."""
        # A real optimizer with modes of its own stays in training, because its state in the checkpoint is.
        rules = [each.binary if isinstance(each, JointOptimizer) else each for each in _switchable(trainer)]
        for rule in rules:
            both = zip(rule.named_binary(), rule.named_mode(), strict=True)
            modes = {id(parameter): mode for (_, parameter), (_, mode) in both}
            for name, parameter in pl_module.named_parameters(remove_duplicate=False):
                if id(parameter) in modes and name in checkpoint["state_dict"]:
                    checkpoint["state_dict"][name] = modes[id(parameter)]
        drawn = [rule for rule in rules if rule.training]
        if self.batches is None or self._fresh or not drawn:
            return
        try:
            with as_found(pl_module):
                for rule in drawn:
                    write_mode(pl_module, rule, self.batches)
                for name, buffer in pl_module.named_buffers(remove_duplicate=False):
                    if name in checkpoint["state_dict"]:
                        checkpoint["state_dict"][name] = buffer.clone()
        finally:
            for rule in drawn:
                rule.train()

    def _write_mode(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in _switchable(trainer):
            if optimizer.training:
                write_mode(pl_module, optimizer, self.batches)
                self._fresh = True


def _switchable(trainer: L.Trainer) -> list[Switchable]:
    return [each for each in trainer.optimizers if isinstance(each, (BinaryOptimizer, JointOptimizer))]
