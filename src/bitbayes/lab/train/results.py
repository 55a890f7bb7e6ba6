"""Results of a run: its best weights, posterior and summary."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitbayes.calibration import log_likelihood
from bitbayes.lab.data import batches
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.folder import RunError, RunFolder
from bitbayes.lab.train.mean import MeanPredictor
from bitbayes.lab.train.measure import bits, measure_regression, measure_text
from bitbayes.lab.train.records import EpochRow, Summary
from bitbayes.lab.train.views import recorded
from bitbayes.posterior import Posterior
from bitbayes.posterior import load_posterior as read_posterior
from bitbayes.prediction import Prediction
from bitbayes.rules.optimizer import BinaryOptimizer

_PIECE = 2000  # test examples that are predicted at a time, of which only probabilities are kept


def silent_posterior(optimizer: BinaryOptimizer) -> Posterior:
    """Return the posterior of a rule without the warning about point posteriors; the summary shows the entropy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return optimizer.posterior()


# The best epoch. ----------------------------------------------------------------------------------------------------


def best_row(config: RunConfig, history: Sequence[EpochRow]) -> EpochRow:
    """Return the row that the protocol selects, the first of equal rows, or the last row without a criterion.

    Example:
        >>> from bitbayes.lab.train.rules import RuleSpec
        >>> rows = [EpochRow(epoch=e, lr=0.1, train_loss=1.0, seconds=1.0, val_accuracy=90.0) for e in (1, 2)]
        >>> best_row(RunConfig("digits", "ste", "runs/x", RuleSpec(0.1), epochs=2), rows).epoch
        1
    """
    if _criterion(config, history[-1]) is None:
        return history[-1]
    return max(history, key=lambda row: -math.inf if (score := _criterion(config, row)) is None else score)


def is_best(config: RunConfig, history: Sequence[EpochRow], row: EpochRow, last: bool) -> bool:
    """Return whether a row is better than all rows before it; without a criterion, only the last row is."""
    return last if _criterion(config, row) is None else best_row(config, [*history, row]) is row


def _criterion(config: RunConfig, row: EpochRow) -> float | None:
    """Return the criterion of the best epoch for a row, of which more is better, or None."""
    if config.protocol == "validation":
        accuracies, texts = [row.val_accuracy], [row.val_bits]
    else:
        accuracies = [row.mean_test_accuracy, row.test_accuracy]
        texts = [row.mean_test_bits, row.test_bits]
    scores = [*accuracies, *(None if bits is None else -bits for bits in texts)]
    return next((score for score in scores if score is not None), None)


# Its files. ---------------------------------------------------------------------------------------------------------


def save_best(folder: RunFolder, experiment: Experiment, config: RunConfig, epoch: int) -> None:
    """Write model.safetensors from the mode and its BatchNorm statistics, and posterior.safetensors."""
    folder.remove("evaluation.json")  # of an earlier best epoch
    about = {"recipe": config.recipe, "rule": config.rule, "epoch": str(epoch)}
    state = experiment.model.state_dict()
    tensors = {name: t.float() if t.dtype == torch.bfloat16 else t for name, t in state.items()}  # `bfloat16_weights`
    folder.write_tensors("model.safetensors", tensors, about)
    optimizer = experiment.optimizer
    if optimizer is not None and optimizer.has_posterior:
        folder.write_path("posterior.safetensors", silent_posterior(optimizer).save)


def load_mode(folder: RunFolder, model: nn.Module) -> None:
    """Load the weights of model.safetensors into a network.

    Raises:
        ValueError: If names or shapes differ.
    """
    tensors = folder.read_tensors("model.safetensors")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"model.safetensors does not fit the network: {line}") from error


def load_posterior(
    folder: RunFolder, device: torch.device, optimizer: BinaryOptimizer | None = None
) -> Posterior | None:
    """Return the posterior of posterior.safetensors, or None if there is none.

    Raises:
        RunError: If the rule of `optimizer` keeps a posterior and the file is missing, or the file is damaged.
    """
    path = folder.path / "posterior.safetensors"
    if optimizer is not None and optimizer.has_posterior and not path.is_file():
        raise RunError(f"{path} is missing, but {type(optimizer).__name__} keeps a posterior; restore a copy of it")
    return read_posterior(path).to(device) if path.is_file() else None


def summarize(config: RunConfig, experiment: Experiment, folder: RunFolder, history: Sequence[EpochRow]) -> Summary:
    """Write summary.json from the metrics, the saved weights and the saved posterior."""
    best, last = best_row(config, history), history[-1]
    full, packed = experiment.bytes()
    mean: dict[str, Any] = {}
    posterior = load_posterior(folder, experiment.device, experiment.optimizer)
    if posterior is not None:
        model = copy.deepcopy(experiment.model)
        load_mode(folder, model)
        mean = {"posterior_entropy_bits": float(posterior.entropy())}
        mean |= mean_figures(config, experiment, model, posterior)
    found = {
        "epochs_done": last.epoch,
        "views": recorded(config.views),
        "best_epoch": best.epoch,
        "last_test_accuracy": last.test_accuracy,
        "last_test_nll": last.test_nll,
        "seconds_per_epoch": sum(row.seconds for row in history) / len(history),
        "peak_memory_mib": _peak_memory(experiment.device),
        "weights": sum(parameter.numel() for parameter in experiment.model.parameters()),
        "binary_weights": experiment.binary_weights(),
        "bytes_32_bit": full,
        "bytes_1_bit": packed,
    }
    # Settings of the run and metrics of the best epoch have the same names in the summary.
    summary = Summary.from_dict(vars(config) | vars(best) | found | mean)
    folder.write_json("summary.json", summary.to_dict())
    return summary


def mean_figures(
    config: RunConfig, experiment: Experiment, model: nn.Module, posterior: Posterior | None = None
) -> dict[str, Any]:
    """Evaluate the posterior mean and a single sample on test data.

    Args:
        config: The run.
        experiment: Objects of the run.
        model: Network with the real parameters that belong to the posterior.
        posterior: Posterior over the binary weights; None for the optimizer's current posterior.

    Returns:
        Entries of an `EpochRow` or `Summary`; empty if the rule has no posterior or there is no test data.
    """
    data, optimizer = experiment.data, experiment.optimizer
    if posterior is None and optimizer is not None and optimizer.has_posterior:
        posterior = silent_posterior(optimizer)
    if data.test is None or posterior is None:
        return {}
    figures: dict[str, Any] = {"mean_samples": config.predict_samples}
    predictor = MeanPredictor(config, experiment, model, posterior, config.predict_samples)
    if experiment.loss.text:
        nll, drawn = measure_text(predictor, data.test)
        figures |= {"mean_test_bits": bits(nll), "mean_test_nll": nll}
        return figures | {"sample_test_bits": bits(drawn)}
    if not experiment.loss.classifies:
        found = measure_regression(predictor, data.train, data.test)
        figures |= {"mean_test_error": found["error"], "mean_test_nll": found["nll"]}
        return figures | {"observation_noise": found["noise"]}
    found = []
    for x, y in batches(data.test, _PIECE):
        mean, y = predictor(x), y.reshape(-1)
        right = [each.class_probs.argmax(1) == y for each in (mean, Prediction(mean.outputs[:1]))]
        found.append(torch.stack([log_likelihood(mean, y), *right]))
    log_likelihoods, of_mean, of_one = torch.cat(found, 1)
    figures |= {"mean_test_accuracy": 100 * float(of_mean.mean()), "mean_test_nll": -float(log_likelihoods.mean())}
    return figures | {"sample_test_accuracy": 100 * float(of_one.mean())}


def finished_summary(folder: str | Path, epochs: int = 0) -> Summary | None:
    """Return the summary of a run all of whose epochs are done; None while some are left.

    Args:
        folder: Folder of the run.
        epochs: Number of epochs that are wanted, where the run was told to stop earlier than that.

    Raises:
        ValueError: If the folder is not that of a run.
        RunError: If a file is damaged.
    """
    files = RunFolder(folder)
    if not files.has("summary.json"):
        return None
    summary = Summary.from_dict(files.read_object("summary.json"))
    return summary if summary.epochs_done == max(epochs, RunConfig.load(folder).last_epoch) else None


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak memory of earlier runs of this process, where the system can; see `_peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # only Linux has this file
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory(device: torch.device) -> float | None:
    """Return the peak memory in MiB: of the device on a GPU, else the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
