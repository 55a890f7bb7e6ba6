"""The training loop: plain torch, from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.lab.data import batches
from bitbayes.lab.train import capture
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.distributed import Ranks
from bitbayes.lab.train.environment import environment
from bitbayes.lab.train.experiment import Experiment, begin_cycle, steps_per_epoch
from bitbayes.lab.train.folder import COUNT, RunError, RunFolder, one_line
from bitbayes.lab.train.measure import flipped, gaussian_nll, histogram, measure, mode_signs, mode_weights
from bitbayes.lab.train.members import of_cycle, rows_of_cycle, write_count
from bitbayes.lab.train.precision import autocast, bfloat16_weights, choose_precision
from bitbayes.lab.train.progress import Progress, SilentProgress, default_progress
from bitbayes.lab.train.records import EpochRow, Summary
from bitbayes.lab.train.results import is_best, mean_figures, reset_peak_memory, save_best, silent_posterior, summarize
from bitbayes.lab.train.schedule import advance
from bitbayes.noise import stream_key
from bitbayes.rules.engine import NotFiniteError

_BINS = 20  # bins of P[w = +1] in a row of metrics
_NAMES = {"fp32": "float32", "bf16": "bfloat16"}
_EPOCH_STREAM = 11  # keeps dropout's seeds apart from the noise of the rules


class DivergedError(RunError):
    """Error of a run whose loss or gradient is not finite; resuming the run would end at the same place."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run, with a line that says what was saved; the caller adds how to continue.

    Args:
        line: What was interrupted and what was saved, in one line.
        saved: Whether the run has a checkpoint from which it can continue.
    """

    def __init__(self, line: str, saved: bool) -> None:
        super().__init__(line)
        self.saved = saved

    def __reduce__(self) -> tuple[Any, ...]:  # the error may come from another process
        return Interrupted, (str(self), self.saved)


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Args:
        config: Configuration of the run, with the precision that was selected.
        folder: Folder of its files.
        history: Rows of metrics.jsonl.
        summary: Content of summary.json; None in all processes of a data-parallel run but the first.
    """

    config: RunConfig
    folder: Path
    history: list[EpochRow]
    summary: Summary | None


@dataclass
class _Training:
    """State of a run in progress."""

    config: RunConfig
    experiment: Experiment
    folder: RunFolder
    data: str  # fingerprint of the data
    programs: Mapping[str, bytes]
    history: list[EpochRow] = dataclasses.field(default_factory=list)
    epoch: int = 0  # number of completed epochs


def train(
    config: RunConfig,
    experiment: Experiment,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    figures: Callable[[RunConfig], Mapping[str, Any]] | None = None,
    programs: Mapping[str, bytes] | None = None,
    about: str | None = None,
) -> RunResult:
    """Train a network, and write the run's configuration, metrics, checkpoints, weights and summary.

    A run that ends with an error or Ctrl-C leaves failure.json with one line about the reason, until the run continues.
    The result is a function of `config` and the data: evaluation, checkpoints, a kill and `resume` do not change it.
    Dropout uses torch's global generator, which is reseeded for every epoch.

    Args:
        config: The run.
        experiment: Objects of the run, freshly built from `config`.
        resume: Whether to continue from checkpoint.pt in `config.out`, if it exists. Otherwise, the folder of an older
            run is renamed. Results without a checkpoint are never overwritten.
        progress: Display; None shows a bar on a terminal and lines elsewhere.
        figures: Function that returns further entries of a row of metrics.jsonl after each evaluation. It must not
            change the run.
        programs: Python files that define the recipe, by path. They are copied into the folder of the run.
        about: Line about the run, which is shown when it begins.

    Raises:
        ValueError: If `resume` finds a run with other settings, another number of processes, or no checkpoint; if the
            settings of the processes of a data-parallel run differ; or if `config` has a teacher and `experiment` none.
        DivergedError: If the loss or a gradient is not finite.
        RunError: If a file cannot be written or read, the checkpoint belongs to another run, or the folder is in use.
    """
    if config.capture:
        capture.check(experiment)
    if config.teacher is not None and experiment.teacher is None:
        raise ValueError(f"the run has the teacher {config.teacher}, but its experiment has none; use run_recipe")
    progress = (progress or default_progress()) if experiment.ranks.first else SilentProgress()
    folder = RunFolder(config.out, writes=experiment.ranks.first)
    with _held(folder, experiment.ranks):
        run = _begin(config, experiment, folder, resume, programs or {})
        if about is not None:
            progress.note(about)
        if config.precision == "auto":
            how = "selected by a short measurement" if not run.epoch else "selected when the run began"
            progress.note(f"{_title(run)}: precision {_NAMES[run.config.precision]}, {how} (--precision auto)")
        try:
            return _finish(run, progress, figures)
        except KeyboardInterrupt:
            _leave(run, "interrupted")
            raise _interrupted(run) from None
        except Exception as error:
            _leave(run, one_line(error), diverged=isinstance(error, DivergedError))
            raise
        finally:
            progress.close()


@contextlib.contextmanager
def _held(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Hold a folder through the first rank. An error is raised on all ranks, so that none waits for another."""
    with contextlib.ExitStack() as stack:
        refusal = ""
        try:
            stack.enter_context(folder.held())
        except RunError as error:
            refusal = str(error)
        if refusal := ranks.agreed(refusal):
            raise RunError(refusal)
        yield


def _title(run: _Training) -> str:
    return f"{run.config.recipe} {run.config.rule}"


def _finish(run: _Training, progress: Progress, figures: Callable[[RunConfig], Mapping[str, Any]] | None) -> RunResult:
    """Run the remaining epochs, and write the summary."""
    config, experiment = run.config, run.experiment
    step = functools.partial(training_step, config, experiment)
    if config.capture:
        graph = capture.GRAPHS[experiment.device.type]()
        step = capture.Captured(step, experiment.optimizers, graph, experiment.device)
    steps = steps_per_epoch(config, len(experiment.data.train))
    reset_peak_memory(experiment.device)
    progress.start(_title(run), config.last_epoch, run.epoch, steps)
    signs = mode_signs(experiment)
    with bfloat16_weights(config, experiment):
        while run.epoch < config.last_epoch:
            if run.epoch and run.epoch % config.cycle_epochs == 0:
                begin_cycle(experiment, config)
            epoch = run.epoch + 1
            last = epoch == config.last_epoch
            evaluated = last or epoch % config.evaluate_every == 0 or epoch % config.cycle_epochs == 0
            row = _epoch(run, step, progress, evaluated)
            if evaluated:
                row, signs = _evaluate(run, row, signs, last)
                row = dataclasses.replace(row, **(figures(config) if figures is not None else {}))
                run.history.append(row)
                run.folder.append_line("metrics.jsonl", row.to_dict())
                progress.epoch(row)
            run.epoch = epoch
            if last or epoch % config.checkpoint_every == 0:
                _save(run)
    if experiment.ranks.first and config.cycles > 1:
        _summarize_cycles(run)
    summary = summarize(config, experiment, run.folder, run.history) if experiment.ranks.first else None
    return RunResult(config, run.folder.path, run.history, summary)


def _summarize_cycles(run: _Training) -> None:
    """Complete the folders of the members, so that each is that of a finished run."""
    number = 0
    for number in range(1, run.config.last_epoch // run.config.cycle_epochs + 1):
        config, rows = of_cycle(run.config, number), rows_of_cycle(run.config, run.history, number)
        member = RunFolder(config.out)
        _write_record(dataclasses.replace(run, config=config, folder=member))
        member.write_lines("metrics.jsonl", [row.to_dict() for row in rows])
        summarize(config, run.experiment, member, rows)
    if number:
        write_count(run.folder, number)


# Begin or continue. ---------------------------------------------------------------------------------------------------


def _begin(
    config: RunConfig, experiment: Experiment, folder: RunFolder, resume: bool, programs: Mapping[str, bytes]
) -> _Training:
    """Start a new run, or load the state of an old run."""
    ranks, data = experiment.ranks, experiment.data.fingerprint()
    ranks.compare({"resume": resume, "data": data})
    folder.clean()
    # Use the first rank's view, because it may write the first checkpoint before another rank looks.
    if resume and ranks.agreed("found" if folder.has("checkpoint.pt") else ""):
        return _load(config, experiment, folder, data, programs)
    if resume and (folder.has("summary.json") or folder.has(COUNT)):
        raise ValueError(f"{folder.path} holds results without a checkpoint to continue from; choose another --out")
    aside = None if resume else folder.set_aside()
    if aside is not None:
        print(f"{folder.path} held an older run, which was renamed to {aside}", file=sys.stderr)
    precision = ranks.agreed(choose_precision(config.precision, experiment.device))
    run = _Training(dataclasses.replace(config, precision=precision), experiment, folder, data, programs)
    _write_record(run)
    folder.write_lines("metrics.jsonl", [])
    _save(run)
    return run


def _write_record(run: _Training) -> None:
    """Write config.json and environment.json, and remove the failure.json of an earlier attempt."""
    about = environment(run.experiment.device) | {"data": run.data}
    if run.programs:  # first, because a folder of somebody else's programs is refused
        run.folder.write_programs(run.programs)
    run.folder.write_text("config.json", run.config.to_json())
    run.folder.write_json("environment.json", about)
    run.folder.remove("failure.json")


def _load(
    config: RunConfig, experiment: Experiment, folder: RunFolder, data: str, programs: Mapping[str, bytes]
) -> _Training:
    recorded = RunConfig.load(folder.path)
    differences = recorded.differences(config)
    if differences:
        advice = "resume with the same settings, or choose another --out"
        raise ValueError(f"{folder.path} was started with {'; '.join(differences)}; {advice}")
    if not folder.trained_on(data):
        raise ValueError(f"{folder.path} was trained on other data; use the same --data, or choose another --out")
    state = folder.read_checkpoint(experiment.device)
    run = _Training(dataclasses.replace(config, precision=recorded.precision), experiment, folder, data, programs)
    _compare(run, state.get("run", {}))
    try:
        for name, part in experiment.modules().items():
            part.load_state_dict(state["parts"][name])
        run.history = [EpochRow.from_dict(row) for row in state["history"]]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"checkpoint.pt in {folder.path} does not fit this run: {one_line(error)}") from error
    run.epoch = state["epoch"]
    if run.epoch > config.last_epoch:
        raise ValueError(f"{folder.path} has trained for {run.epoch} epochs; give a larger --stop-after, or none")
    if run.epoch < config.last_epoch:
        folder.remove("summary.json")  # of fewer epochs
    folder.write_lines("metrics.jsonl", [row.to_dict() for row in run.history])  # later epochs will run again
    _write_record(run)
    return run


def _signature(run: _Training) -> dict[str, Any]:
    """Return the signature of a run in its checkpoint: settings, data, and number of processes."""
    return {"config": run.config.identity(), "data": run.data, "ranks": run.experiment.ranks.count}


def _compare(run: _Training, signature: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run or number of processes; earlier versions wrote no signature."""
    mine, place = _signature(run), f"checkpoint.pt in {run.folder.path}"
    found = {**mine, **signature}
    if differences := run.config.differing(found["config"]):
        raise RunError(f"{place} is of another run, with {'; '.join(differences)}; restore a copy of the right file")
    if found["data"] != mine["data"]:
        raise RunError(f"{place} is of another run, on other data; restore a copy of the right file")
    if (count := found["ranks"]) != mine["ranks"]:
        what = f"{count} processes" if count > 1 else "one process"
        how = f"with torchrun for {count} processes" if count > 1 else "without torchrun"
        advice = f"resume it {how}, or choose another --out"
        raise ValueError(f"{run.folder.path} was trained by {what}, not {mine['ranks']}; {advice}")


def _save(run: _Training) -> None:
    parts = {name: part.state_dict() for name, part in run.experiment.modules().items()}
    history = [row.to_dict() for row in run.history]
    state = {"format": 1, "run": _signature(run), "epoch": run.epoch, "parts": parts, "history": history}
    run.folder.write_checkpoint(state)


def _leave(run: _Training, why: str, *, diverged: bool = False) -> None:
    about = {"epochs_done": run.epoch, "error": why} | ({"diverged": True} if diverged else {})
    with contextlib.suppress(RunError):  # a full disk, which the run's own error reports
        run.folder.write_json("failure.json", about)


def _interrupted(run: _Training) -> Interrupted:
    path, saved, last = run.folder.path, run.folder.saved_epoch, run.config.last_epoch
    if saved is None:
        return Interrupted(f"interrupted before the first checkpoint of {path}", saved=False)
    where = f"in epoch {run.epoch + 1}" if run.epoch < last else "after the last epoch"
    held = f"epoch {saved}" if saved else "the start of the run"
    return Interrupted(f"interrupted {where}; {path} has a checkpoint of {held}", saved=True)


# An epoch. ----------------------------------------------------------------------------------------------------------


def _epoch(run: _Training, step: Callable[..., tuple[Tensor, Tensor]], progress: Progress, evaluated: bool) -> EpochRow:
    """Train for one epoch, and return its entries for the row of metrics."""
    signs: list[Tensor] | None = None  # signs of the mode before the last step
    config, experiment, ranks = run.config, run.experiment, run.experiment.ranks
    epoch, data = run.epoch + 1, experiment.data.train
    steps, size = steps_per_epoch(config, len(data)), config.batch_size or len(data)
    per_step = config.spec.schedule.per_step
    if not per_step:
        advance(experiment.schedulers)
    torch.manual_seed(stream_key(config.seed, _EPOCH_STREAM, epoch) + ranks.rank)  # for dropout
    experiment.model.train()
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
            losses[index], right = step(x, y, len(x) * ranks.count / batch)
            hits += right
        except NotFiniteError as error:  # an error of this step; a GPU may report an earlier one
            losses[index] = torch.nan
            _refuse(run, epoch, losses, str(error).partition(". ")[0])
        progress.step(epoch, index + 1)
    recorded = ranks.total(losses).cpu() / ranks.count  # the only wait for the device per epoch
    seconds = time.perf_counter() - started
    _refuse(run, epoch, recorded)
    whole = float(counts.sum())
    return EpochRow(
        epoch=epoch,
        lr=experiment.optimizers[0].param_groups[0]["lr"],
        train_loss=float((recorded * counts).sum()) / whole,  # the last batch may be smaller
        train_accuracy=100 * float(ranks.total(hits)) / whole if experiment.loss.classifies else None,
        step_flips=None if signs is None else flipped(signs, mode_signs(experiment)),
        seconds=seconds,
    )


def _refuse(run: _Training, epoch: int, losses: Tensor, what: str = "the loss is not finite") -> None:
    """Raise DivergedError if a loss is not finite."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        advice = "look for NaN in the data or lower the learning rate"
        state = f"the last good state is checkpoint.pt of epoch {run.folder.saved_epoch}"
        raise DivergedError(f"epoch {epoch}, step {int(bad[0]) + 1}: {what}; {advice}; {state}")


def _evaluate(run: _Training, row: EpochRow, before: list[Tensor], last: bool) -> tuple[EpochRow, list[Tensor]]:
    """Evaluate the mode, and save its weights if they are the best so far; return the row of metrics and the signs."""
    config, experiment, optimizer = run.config, run.experiment, run.experiment.optimizer
    data, loss, precision = experiment.data, experiment.loss, config.precision
    with mode_weights(experiment, config.refresh_batches, precision) as model:
        held = measure(model, data.validation, loss, precision, config.views)
        test = measure(model, data.test, loss, precision, config.views)
        if "error" in test:
            noise = math.sqrt(measure(model, data.train, loss, precision, config.views)["error"])
            test["nll"] = gaussian_nll(torch.tensor([test["error"]]), torch.zeros(1), noise)
        probabilities = None
        if optimizer is not None and optimizer.has_posterior:
            probabilities = [round(share, 3) for share in histogram(silent_posterior(optimizer), _BINS)]
        signs = mode_signs(experiment)
        row = dataclasses.replace(
            row,
            **{f"val_{name}": value for name, value in held.items() if name != "nll"},
            **{f"test_{name}": value for name, value in test.items()},
            flips=flipped(before, signs),
            probabilities=probabilities,
            **(mean_figures(config, experiment, model) if config.protocol == "test" else {}),
        )
        if is_best(config, run.history, row, last):
            save_best(run.folder, experiment, config, row.epoch)
        if config.cycles > 1:
            _save_member(run, row)
    return row, signs


def _save_member(run: _Training, row: EpochRow) -> None:
    """Save the network as a member if it is the best of its cycle so far."""
    number, rest = divmod(row.epoch - 1, run.config.cycle_epochs)
    config, ends = of_cycle(run.config, number + 1), rest == run.config.cycle_epochs - 1
    if is_best(config, rows_of_cycle(config, run.history, number + 1), row, ends):
        run.folder.remove("evaluation.json")  # of the members before
        save_best(RunFolder(config.out, writes=run.folder.writes), run.experiment, config, row.epoch)


# A step. ------------------------------------------------------------------------------------------------------------


def training_step(
    config: RunConfig, experiment: Experiment, x: Tensor, y: Tensor, share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the gradient at the current draw (or at several), and update all parameters.

    Args:
        config: The run.
        experiment: Its objects.
        x: Inputs of the batch.
        y: Targets of the batch.
        share: Number of examples of this rank relative to the mean over ranks, so that averaged gradients are those of
            the whole batch.

    Returns:
        The mean loss over the draws (times `share`), and the number of correct predictions at the last draw; both on
        the device.

    Raises:
        NotFiniteError: If the loss or a gradient is not finite. On a GPU, the caller checks the losses instead.
    """
    optimizer, real = experiment.optimizer, experiment.real_optimizer
    right = torch.zeros((), device=x.device)
    taught = None
    if experiment.teacher is not None:  # once for all draws
        with autocast(x.device, config.precision):
            taught = experiment.teacher.logits(x, _parts(config, x))
    groups = real.param_groups if real is not None and optimizer is not None and config.spec.samples > 1 else []
    averaged = [parameter for group in groups for parameter in group["params"]]
    sums: dict[Tensor, Tensor] = {}  # of the real parameters' gradients over draws, each clipped separately

    def closure() -> Tensor:
        nonlocal right
        for part in experiment.optimizers:
            part.zero_grad()
        loss, right = _passes(config, experiment, x, y, taught, share)
        if experiment.hooks is not None:
            experiment.hooks.before_update()
        if config.spec.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(experiment.model.parameters(), config.spec.clip_gradient)
        for parameter in averaged:
            if parameter.grad is not None:
                before, mine = sums.get(parameter), parameter.grad * (1 / config.spec.samples)
                sums[parameter] = mine if before is None else before.add_(mine)
        return loss

    loss = closure() if optimizer is None else optimizer.step(closure)
    assert loss is not None  # there is a closure
    if real is not None:
        for parameter, total in sums.items():
            parameter.grad = total
        real.step()
    if experiment.hooks is not None:
        experiment.hooks.after_update()
    return loss, right


def _parts(config: RunConfig, x: Tensor) -> int:
    """Return the number of micro-batches of a batch."""
    return min(config.accumulate, max(len(x) // 2, 1))  # BatchNorm needs two examples


def _passes(
    config: RunConfig, experiment: Experiment, x: Tensor, y: Tensor, taught: Tensor | None, share: float
) -> tuple[Tensor, Tensor]:
    """Add up the gradients of a batch in parts; return its loss and the number of correct predictions."""
    count = _parts(config, x)
    losses, hits = [], []
    soft = [None] * count if taught is None else taught.tensor_split(count)
    parts = zip(x.tensor_split(count), y.tensor_split(count), soft, strict=True)
    for index, (inputs, targets, theirs) in enumerate(parts, start=1):
        with contextlib.nullcontext() if index == count else experiment.ranks.alone(experiment.parallel):
            with autocast(x.device, config.precision):
                output = experiment.parallel(inputs)
            loss = experiment.loss.smoothed(output.float(), targets, config.label_smoothing)
            if experiment.teacher is not None and theirs is not None:
                loss = experiment.teacher.mixed(loss, output.float(), theirs)
            loss = share * (len(inputs) / len(x)) * loss
            if x.device.type == "cpu" and not config.capture and not loss.isfinite():
                raise NotFiniteError("the loss is not finite")
            loss.backward()
        losses.append(loss.detach())
        hits.append(experiment.loss.hit_count(output.detach(), targets))
    return torch.stack(losses).sum(), torch.stack(hits).sum()
