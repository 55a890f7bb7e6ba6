"""A callback for the Trainer of Hugging Face, which evaluates and saves the mode."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bitbayes.integrations.mode import write_mode
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.optimizer import BinaryOptimizer


class ModeCallback(TrainerCallback):
    """Callback of the Hugging Face `Trainer` that evaluates and saves the mode.

    The Trainer itself calls `train()` and `eval()` of an optimizer that has them, so evaluation sees the mode without
    this callback. With it, checkpoints and the network after training also hold the mode, and BatchNorm has statistics
    that fit. With `load_best_model_at_end`, the beliefs return to the best checkpoint together with the network.

    Register it last. A callback after it may ask for a checkpoint when the mode can no longer be written, and training
    then stops with an error.

    Args:
        batches: Batches of training inputs for `bitbayes.refresh_batchnorm`, which are iterated at every evaluation.
            A mapping holds keyword arguments of the network. None keeps the statistics.

    Raises:
        TypeError: When training begins, if the Trainer has no optimizer of this library.
        ValueError: When training begins, if `load_best_model_at_end` and `save_only_model` are both set.
        RuntimeError: After a checkpoint that holds a draw, because a later callback asked for it.

    Example:
        >>> ModeCallback([{"pixel_values": torch.zeros(8, 3, 4, 4)}]).batches[0]["pixel_values"].shape
        torch.Size([8, 3, 4, 4])
    """

    def __init__(self, batches: Iterable[Any] | None = None) -> None:
        self.batches = batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Refuse what would not work at the end."""
        optimizer = _unwrapped(parts["optimizer"])
        if not isinstance(optimizer, (BinaryOptimizer, JointOptimizer)):
            raise TypeError(
                f"ModeCallback needs a bitbayes.JointOptimizer, but the Trainer has {type(optimizer).__name__}; pass "
                "Trainer(..., optimizers=(joint_optimizer, None))"
            )
        if args.load_best_model_at_end and args.save_only_model:
            raise ValueError(
                "load_best_model_at_end needs the beliefs of the best checkpoint, which save_only_model=True leaves "
                "out; set save_only_model=False"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Write the mode before an evaluation or a checkpoint; the next training step draws again."""
        if control.should_evaluate or control.should_save:
            write_mode(parts["model"], _unwrapped(parts["optimizer"]), self.batches)

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Refuse a checkpoint that a later callback asked for, after `on_step_end` has left the draw in place."""
        if _unwrapped(parts["optimizer"]).training:
            raise RuntimeError(
                f"the checkpoint of step {state.global_step} holds a draw and not the mode, because a callback asked "
                "for it after the turn of ModeCallback; register ModeCallback last, set control.should_save in "
                "on_step_end, and resume from this checkpoint"
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Write the mode: that of the best checkpoint, if the Trainer has loaded it."""
        optimizer = _unwrapped(parts["optimizer"])
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            path = Path(state.best_model_checkpoint, "optimizer.pt")
            optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            optimizer.eval()
        else:
            write_mode(parts["model"], optimizer, self.batches)


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
