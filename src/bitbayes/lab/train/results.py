"""What a run leaves behind: the best weights, the posterior, and the summary."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import torch
from torch import nn

from bitbayes.calibration import probability_figures
from bitbayes.lab.data import batches
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.folder import RunFolder
from bitbayes.lab.train.mean import MeanPredictor
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.regression import observation_noise, regression_figures
from bitbayes.posterior import Posterior
from bitbayes.posterior import load_posterior as read_posterior
from bitbayes.rules.optimizer import BinaryOptimizer

__all__ = ["best_row", "is_best", "load_mode", "load_posterior", "mean_figures", "save_best", "summarize"]

_PIECE = 2000  # test examples that are predicted, and then forgotten but for their probabilities


def silent_posterior(optimizer: BinaryOptimizer) -> Posterior:
    """The posterior, without the warning that it is a point: the summary has its entropy.

    Args:
        optimizer: A rule with a posterior.

    Returns:
        Its posterior.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return optimizer.posterior()


def save_best(folder: RunFolder, experiment: Experiment, config: RunConfig, epoch: int) -> None:
    """Writes model.safetensors (the mode, with its own BatchNorm statistics) and posterior.safetensors.

    Args:
        folder: Of the run.
        experiment: With the mode in the parameters.
        config: Of the run.
        epoch: The epoch that these are of.
    """
    folder.remove("evaluation.json")  # of the network before
    about = {"recipe": config.recipe, "rule": config.rule, "epoch": str(epoch)}
    tensors = experiment.model.state_dict()
    tensors = {name: t.float() if t.dtype == torch.bfloat16 else t for name, t in tensors.items()}  # see `held`
    folder.write_tensors("model.safetensors", tensors, about)
    optimizer = experiment.optimizer
    if optimizer is not None and optimizer.has_posterior:
        posterior = silent_posterior(optimizer)
        folder.write_path("posterior.safetensors", posterior.save)


def load_mode(folder: RunFolder, model: nn.Module) -> None:
    """Puts the weights of model.safetensors into a network of the same shapes.

    Args:
        folder: Of the run.
        model: Changed in place.

    Raises:
        ValueError: If names or shapes differ.
    """
    tensors = folder.read_tensors("model.safetensors")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"model.safetensors does not fit the network: {line}") from error


def load_posterior(folder: RunFolder, device: torch.device) -> Posterior | None:
    """Reads posterior.safetensors.

    Args:
        folder: Of the run.
        device: Where the posterior goes.

    Returns:
        The posterior, or None if the rule keeps none.
    """
    if not folder.has("posterior.safetensors"):
        return None
    return read_posterior(folder.path / "posterior.safetensors").to(device)


def is_best(config: RunConfig, history: list[dict[str, Any]], row: dict[str, Any], last: bool) -> bool:
    """Whether a line of metrics is better than all before it; without a criterion only the last counts.

    Args:
        config: Of the run.
        history: The lines before it.
        row: The line.
        last: Whether it is the last of the run.

    Returns:
        True for the first of equals.
    """
    mine = _criterion(config, row)
    return last if mine is None else all(mine > (_criterion(config, old) or 0.0) for old in history)


def best_row(config: RunConfig, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The line of metrics that the protocol selects; the last line if it has nothing to go by.

    Args:
        config: Of the run.
        history: Lines of metrics.jsonl.

    Returns:
        One of them, the first of equals.

    Example:
        >>> from bitbayes.lab.train import RuleSpec
        >>> rows = [{"epoch": 1, "val_accuracy": 90.0}, {"epoch": 2, "val_accuracy": 90.0}]
        >>> best_row(RunConfig("digits", "ste", "runs/x", RuleSpec(0.1), epochs=2), rows)["epoch"]
        1
    """
    if _criterion(config, history[-1]) is None:
        return history[-1]
    return max(history, key=lambda row: _criterion(config, row) or 0.0)


def _criterion(config: RunConfig, row: dict[str, Any]) -> float | None:
    """What the best epoch is best at."""
    if config.protocol == "test":
        return row.get("mean_test_accuracy", row["test_accuracy"])
    return row["val_accuracy"]


def summarize(
    config: RunConfig, experiment: Experiment, folder: RunFolder, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Writes summary.json from the metrics, the saved weights and the saved posterior.

    Args:
        config: Of the run.
        experiment: Its objects.
        folder: Of the run.
        history: Lines of metrics.jsonl.

    Returns:
        The content of summary.json.
    """
    best, last = best_row(config, history), history[-1]
    full, packed = experiment.bytes()
    seconds = [row["seconds"] for row in history]
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "rule": config.rule,
        "estimator": config.estimator,
        "seed": config.seed,
        "precision": config.precision,
        "protocol": config.protocol,
        "epochs": config.epochs,
        "epochs_done": last["epoch"],
        "best_epoch": best["epoch"],
        "train_accuracy": best["train_accuracy"],
        "val_accuracy": best["val_accuracy"],
        "test_accuracy": best["test_accuracy"],
        "test_nll": best["test_nll"],
        "last_test_accuracy": last["test_accuracy"],
        "last_test_nll": last["test_nll"],
        "seconds_per_epoch": sum(seconds) / len(seconds),
        "peak_memory_mib": _peak_memory(experiment.device),
        "weights": sum(parameter.numel() for parameter in experiment.model.parameters()),
        "binary_weights": experiment.binary_weights(),
        "bytes_32_bit": full,
        "bytes_1_bit": packed,
    }
    if "test_error" in best:
        summary["test_error"] = best["test_error"]
    posterior = load_posterior(folder, experiment.device)
    if posterior is not None:
        summary["posterior_entropy_bits"] = float(posterior.entropy())
        model = copy.deepcopy(experiment.model)
        load_mode(folder, model)
        summary |= mean_figures(config, experiment, model, posterior)
    folder.write_json("summary.json", summary)
    return summary


def mean_figures(
    config: RunConfig, experiment: Experiment, model: nn.Module, posterior: Posterior | None = None
) -> dict[str, Any]:
    """Test accuracy and likelihood of the mean over posterior samples, and accuracy of one sample.

    Args:
        config: Of the run.
        experiment: Its objects.
        model: With the real parameters that go with the posterior.
        posterior: Over the binary weights; None for what the optimizer believes now.

    Returns:
        Entries of a summary; none if the rule keeps no posterior, or there is no test data.
    """
    data, optimizer = experiment.data, experiment.optimizer
    if posterior is None and optimizer is not None and optimizer.has_posterior:
        posterior = silent_posterior(optimizer)
    if data.test is None or posterior is None:
        return {}
    predictor = MeanPredictor(config, experiment, model, posterior)
    figures: dict[str, Any] = {"mean_samples": config.predict_samples}
    if not experiment.loss.classifies:
        x, y = whole(data.test)
        train_x, target = whole(data.train)
        found = regression_figures(predictor(x), y, observation_noise(predictor(train_x), target))
        names = {"error": "mean_test_error", "nll": "mean_test_nll", "noise": "observation_noise"}
        return figures | {names[name]: found[name] for name in names}
    probs, drawn, targets = [], [], []
    for x, y in batches(data.test, _PIECE):
        prediction = predictor(x)
        probs.append(prediction.probs)
        drawn.append(prediction.sample_probs[0])
        targets.append(y)
    mean, one = (probability_figures(torch.cat(part), torch.cat(targets)) for part in (probs, drawn))
    return figures | {
        "mean_test_accuracy": mean["accuracy"],
        "mean_test_nll": mean["nll"],
        "sample_test_accuracy": one["accuracy"],
    }


def _peak_memory(device: torch.device) -> float | None:
    """MiB: of the device on a GPU, else the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
