"""The training loop: plain torch, from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.lab.data import batches
from bitbayes.lab.train import capture
from bitbayes.lab.train.checkpoint import read_checkpoint, write_checkpoint
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.environment import environment
from bitbayes.lab.train.experiment import Experiment, steps_per_epoch
from bitbayes.lab.train.folder import RunError, RunFolder, one_line
from bitbayes.lab.train.measure import flipped, histogram, measure, mode_signs, mode_weights
from bitbayes.lab.train.precision import choose_precision, held
from bitbayes.lab.train.progress import Progress, SilentProgress, default_progress
from bitbayes.lab.train.regression import gaussian_nll
from bitbayes.lab.train.results import is_best, mean_figures, save_best, silent_posterior, summarize
from bitbayes.lab.train.schedule import advance
from bitbayes.noise import stream_key
from bitbayes.rules.refusals import NotFiniteError

__all__ = ["Interrupted", "RunResult", "train"]

_BINS = 20  # of P[w = +1], in a line of metrics
_EPOCH_STREAM = 11  # keeps dropout's seeds apart from the noise of the rules


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run, with a line that says what is left and how to go on."""


@dataclass(frozen=True)
class RunResult:
    """What a run has left.

    Args:
        config: The record of the run, with the precision that was chosen.
        folder: Where its files are.
        history: The lines of metrics.jsonl.
        summary: The content of summary.json.
    """

    config: RunConfig
    folder: Path
    history: list[dict[str, Any]]
    summary: dict[str, Any]


@dataclass
class _Run:
    """One run while it is going on."""

    config: RunConfig
    experiment: Experiment
    folder: RunFolder
    history: list[dict[str, Any]]
    epoch: int = 0  # epochs that are whole

    def __post_init__(self) -> None:
        self.step = capture.step_of(self.config, self.experiment)


def train(
    config: RunConfig,
    experiment: Experiment,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    figures: Callable[[RunConfig], Mapping[str, Any]] | None = None,
) -> RunResult:
    """Trains, and writes the files of a run: its record, metrics, checkpoint and final weights.

    A run that ends by an error or by Ctrl-C leaves failure.json with one line about it, until it is continued. The run
    is a function of `config` and the data: evaluation, checkpoints, a kill and `resume` do not change it. Dropout uses
    torch's global generator, seeded anew for every epoch.

    Args:
        config: The run.
        experiment: Its objects, freshly built from `config`.
        resume: Continue from checkpoint.pt in `config.out`, if there is one; an older run is otherwise moved aside.
        progress: Display; None for a bar on a terminal and lines elsewhere.
        figures: Further entries of a line of metrics.jsonl, asked for after each evaluation; must not change the run.

    Returns:
        The metrics of the run.

    Raises:
        ValueError: If `resume` finds a run with other settings.
        RunError: If the loss is not finite, or a file cannot be written or read.
    """
    capture.check(config, experiment)
    progress = (progress or default_progress()) if experiment.ranks.first else SilentProgress()
    run = _begin(config, experiment, resume)
    config = run.config
    steps = steps_per_epoch(config, len(experiment.data.train), experiment.ranks.count)
    progress.start(f"{config.recipe} {config.rule}", config.last_epoch, run.epoch, steps)
    try:
        signs = mode_signs(experiment)
        with held(config, experiment):
            while run.epoch < config.last_epoch:
                epoch = run.epoch + 1
                last = epoch == config.last_epoch
                evaluated = last or epoch % config.evaluate_every == 0
                row = _epoch(run, epoch, steps, progress, evaluated)
                if evaluated:
                    signs = _evaluate(run, row, signs, last)
                    row |= figures(config) if figures is not None else {}
                    run.history.append(row)
                    run.folder.append_line("metrics.jsonl", row)
                    progress.epoch(row)
                run.epoch = epoch
                if last or epoch % config.checkpoint_every == 0:
                    _save(run)
        summary = summarize(config, experiment, run.folder, run.history) if experiment.ranks.first else {}
    except KeyboardInterrupt:
        _leave(run, "interrupted; continue it with --resume")
        raise Interrupted(_interrupted(run)) from None
    except Exception as error:
        _leave(run, one_line(error))
        raise
    finally:
        progress.close()
    return RunResult(config, run.folder.path, run.history, summary)


def _begin(config: RunConfig, experiment: Experiment, resume: bool) -> _Run:
    """Starts a new run, or loads the state of an old one."""
    folder = RunFolder(config.out, writes=experiment.ranks.first)
    folder.clean()
    if resume and folder.has("checkpoint.pt"):
        return _load(config, experiment, folder)
    aside = None if resume else folder.set_aside()
    if aside is not None:
        print(f"an older run was in {folder.path}; it is now {aside}", file=sys.stderr)
    precision = experiment.ranks.agreed(choose_precision(config.precision, experiment.device))
    config = dataclasses.replace(config, precision=precision)
    run = _Run(config, experiment, folder, [])
    _write_record(folder, config, experiment)
    folder.write_lines("metrics.jsonl", [])
    _save(run)
    return run


def _write_record(folder: RunFolder, config: RunConfig, experiment: Experiment) -> None:
    """What the run is and what it runs on, from this start on; what an earlier start has failed of is over."""
    folder.write_text("config.json", config.to_json())
    folder.write_json("environment.json", environment(experiment.device) | {"data": experiment.data.fingerprint()})
    folder.remove("failure.json")


def _load(config: RunConfig, experiment: Experiment, folder: RunFolder) -> _Run:
    recorded = RunConfig.load(folder.path)
    differences = recorded.differences(config)
    if differences:
        raise ValueError(
            f"{folder.path} was started with {'; '.join(differences)}; "
            "resume with the same settings, or choose another --out"
        )
    known = folder.read_json("environment.json").get("data") if folder.has("environment.json") else None
    if known not in (None, experiment.data.fingerprint()):
        raise ValueError(f"{folder.path} was trained on other data; give --data as before, or choose another --out")
    state = read_checkpoint(folder, experiment.device)
    try:
        for name, part in experiment.modules().items():
            part.load_state_dict(state["parts"][name])
        history = list(state["history"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise RunError(f"checkpoint.pt in {folder.path} does not fit this run: {line}") from error
    # Lines after the checkpoint belong to epochs that will be run again.
    folder.write_lines("metrics.jsonl", history)
    config = dataclasses.replace(config, precision=recorded.precision)
    _write_record(folder, config, experiment)
    return _Run(config, experiment, folder, history, epoch=state["epoch"])


def _save(run: _Run) -> None:
    parts = {name: part.state_dict() for name, part in run.experiment.modules().items()}
    state = {"format": 1, "epoch": run.epoch, "parts": parts, "history": run.history}
    write_checkpoint(run.folder, state)


def _leave(run: _Run, why: str) -> None:
    with contextlib.suppress(RunError):  # the disk that is full, of which the run's own error tells
        run.folder.write_json("failure.json", {"epochs_done": run.epoch, "error": why})


def _interrupted(run: _Run) -> str:
    saved = run.folder.saved_epoch
    if saved is None:
        return f"interrupted before the first checkpoint of {run.folder.path}"
    return (
        f"interrupted in epoch {run.epoch + 1}; {run.folder.path} holds epoch {saved} "
        "whole: give the same command with --resume to continue"
    )


def _epoch(run: _Run, epoch: int, steps: int, progress: Progress, evaluated: bool) -> dict[str, Any]:
    """One pass over the training data; returns the first half of its line of metrics."""
    signs: list[Tensor] | None = None  # of the mode before the last step
    config, experiment = run.config, run.experiment
    per_step = config.spec.schedule.per_step
    if not per_step:
        advance(experiment.schedulers)
    ranks = experiment.ranks
    torch.manual_seed(stream_key(config.seed, _EPOCH_STREAM, epoch) + ranks.rank)  # of dropout
    experiment.model.train()
    data = experiment.data.train
    size = config.batch_size or len(data)
    losses, counts = torch.zeros(steps, device=experiment.device), torch.zeros(steps)
    hits = torch.zeros((), device=experiment.device)
    started = time.perf_counter()
    parts = {"rank": ranks.rank, "ranks": ranks.count}
    stream = batches(data, size, seed=config.seed, epoch=epoch, shuffle=True, augment=True, **parts)
    for index, (x, y) in zip(range(steps), stream, strict=False):
        if per_step:
            advance(experiment.schedulers)
        batch = min(size, len(data) - index * size)
        counts[index] = batch
        try:
            if evaluated and index == steps - 1:
                signs = mode_signs(experiment)
            losses[index], right = run.step(x, y, len(x) * ranks.count / batch)
            hits += right
        except NotFiniteError as error:  # of this step; a GPU may tell of an earlier one
            losses[index] = torch.nan
            _refuse(run, epoch, losses, str(error).partition(". ")[0])
        progress.step(epoch, index + 1)
    recorded = ranks.total(losses).cpu() / ranks.count  # the one wait for the device in an epoch
    seconds = time.perf_counter() - started
    _refuse(run, epoch, recorded)
    optimizer = experiment.optimizer or experiment.real_optimizer
    assert optimizer is not None
    whole = float(counts.sum())
    return {
        "epoch": epoch,
        "lr": optimizer.param_groups[0]["lr"],
        "train_loss": float((recorded * counts).sum()) / whole,  # the last batch may be smaller
        "train_accuracy": 100 * float(ranks.total(hits)) / whole if experiment.loss.classifies else None,
        "val_accuracy": None,
        "test_accuracy": None,
        "test_nll": None,
        "flips": None,
        "step_flips": None if signs is None else flipped(signs, mode_signs(experiment)),
        "seconds": seconds,
    }


def _refuse(run: _Run, epoch: int, losses: Tensor, what: str = "the loss is not finite") -> None:
    """Ends a run whose losses are not all finite."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise RunError(
            f"epoch {epoch}, step {int(bad[0]) + 1}: {what}; look for NaN in the data or lower the learning rate; "
            f"the last good state is checkpoint.pt of epoch {run.folder.saved_epoch}"
        )


def _evaluate(run: _Run, row: dict[str, Any], before: list[Tensor], last: bool) -> list[Tensor]:
    """Completes a line of metrics with the mode's figures; keeps the weights if they are the best so far."""
    config, experiment = run.config, run.experiment
    data, loss, precision = experiment.data, experiment.loss, config.precision
    with mode_weights(experiment, config.refresh_batches, precision) as model:
        if data.validation is not None:
            validation = measure(model, data.validation, loss, precision)
            row["val_accuracy"] = validation.accuracy
            if not loss.classifies:
                row["val_error"] = validation.loss
        if data.test is not None:
            test = measure(model, data.test, loss, precision)
            row["test_accuracy"], row["test_nll"] = test.accuracy, test.loss
            if config.protocol == "test":
                row |= mean_figures(config, experiment, model)
            if not loss.classifies:
                row["test_error"] = test.loss
                noise = measure(model, data.train, loss, precision).loss ** 0.5
                row["test_nll"] = gaussian_nll(torch.tensor([test.loss]), torch.zeros(1), noise)
        signs: list[Tensor] = []
        if experiment.optimizer is not None:
            signs = [p.detach() > 0 for _, p in experiment.optimizer.named_binary()]
            row["flips"] = flipped(before, signs)
            if experiment.optimizer.has_posterior:
                row["probabilities"] = [
                    round(share, 3) for share in histogram(silent_posterior(experiment.optimizer), _BINS)
                ]
        if is_best(config, run.history, row, last):
            save_best(run.folder, experiment, config, row["epoch"])
    return signs
