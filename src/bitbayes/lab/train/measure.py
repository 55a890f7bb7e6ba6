"""Metrics of a network: at its current weights, at the mode, and of regression predictions."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import as_found, refresh_batchnorm
from bitbayes.calibration import log_likelihood
from bitbayes.lab.choices import Views
from bitbayes.lab.data import Examples, TensorData, batches
from bitbayes.lab.train.distributed import Ranks
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.losses import Loss
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.records import Figures
from bitbayes.lab.train.views import averaged
from bitbayes.posterior import Posterior
from bitbayes.prediction import Prediction

_REFRESH_SIZE = 500
_NOISE_PIECE = 1000  # training examples whose likelihoods are on the grid of noises at a time
_TEST_SIZE, _TEST_WINDOWS = 1000, 16  # examples that are predicted at a time: in general, and of text


@torch.no_grad()
def measure(model: nn.Module, data: Examples | None, loss: Loss, precision: str, views: Views = "one") -> Figures:
    """Evaluate a network in eval mode with its current weights.

    Args:
        model: The network.
        data: Examples.
        loss: Loss, with its criterion of correct predictions.
        precision: Precision of the forward pass, "fp32" or "bf16".
        views: Views of the inputs over which the outputs are averaged.

    Returns:
        The mean loss "nll" (the negative log-likelihood for classes and bytes), and the metric of the loss under its
        name: "accuracy" in percent, squared "error", or "bits" per byte; nothing without data.
    """
    if data is None:
        return {}
    ranks, outputs = Ranks.here(), averaged(model, views)
    pieces = torch.arange(len(data)).split(_TEST_WINDOWS if loss.text else _TEST_SIZE)
    device = next((parameter.device for parameter in model.parameters()), None)  # of a rank without pieces, too
    found = torch.zeros(3, dtype=torch.float64, device=device)  # loss, hits, examples
    for x, y in data.batches(pieces[ranks.rank :: ranks.count]):
        with autocast(x.device, precision):
            output = outputs(x).float()
        right = loss.hit_count(output, y)
        parts = loss.mean(output, y) * len(x), right, torch.full_like(right, len(x))
        found = found.to(x.device) + torch.stack([part.double() for part in parts])
    total, hits, count = ranks.total(found).tolist()
    mean = total / count
    values = {"accuracy": 100 * hits / count, "error": mean, "bits": bits(mean)}
    return {"nll": mean, loss.metric: values[loss.metric]}


def whole(data: TensorData) -> tuple[Tensor, Tensor]:
    """Return all inputs and targets of a data set, ready for a network."""
    pairs = list(batches(data, _TEST_SIZE))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


# The mode. ----------------------------------------------------------------------------------------------------------


def refresh_inputs(experiment: Experiment, count: int) -> Iterator[Tensor]:
    """Return inputs of the first `count` batches of 500 of a fixed shuffle of the training data.

    An incomplete last batch is included only if it is the only batch.
    """
    data = experiment.data.train
    stream = batches(data, _REFRESH_SIZE, seed=0, epoch=0, shuffle=True)
    return (x for x, _ in itertools.islice(stream, min(count, max(1, len(data) // _REFRESH_SIZE))))


@contextlib.contextmanager
def mode_weights(experiment: Experiment, count: int, precision: str) -> Iterator[nn.Module]:
    """Yield the network in eval mode with the mode's weights and BatchNorm statistics from `count` batches.

    Afterwards, weights, statistics and modes are restored.
    """
    model, optimizer = experiment.model, experiment.optimizer
    with as_found(model), contextlib.ExitStack() as afterwards:
        if optimizer is not None:
            optimizer.eval()
            afterwards.callback(optimizer.train)
        with autocast(experiment.device, precision):
            refresh_batchnorm(model, refresh_inputs(experiment, count))
        yield model


def mode_signs(experiment: Experiment) -> list[Tensor]:
    """Return whether the weights of the mode are +1, one tensor per binary parameter; empty for full precision."""
    return [] if experiment.optimizer is None else [mode > 0 for _, mode in experiment.optimizer.named_mode()]


def flipped(before: list[Tensor], after: list[Tensor]) -> float | None:
    """Return the fraction of the binary weights whose sign differs, in [0, 1]; None without binary weights.

    Example:
        >>> flipped([torch.tensor([True, False])], [torch.tensor([True, True])])
        0.5
    """
    count = sum(signs.numel() for signs in after)
    changed = sum(int((a != b).sum()) for a, b in zip(after, before, strict=True))
    return changed / count if count else None


def histogram(posterior: Posterior, bins: int) -> list[float]:
    """Return the percentage of the weights in each of `bins` equal parts of P[w = +1].

    Example:
        >>> histogram(bb.BernoulliPosterior({"w": torch.tensor([-9.0, 0.0, 0.0, 9.0])}), 4)
        [25.0, 0.0, 50.0, 25.0]
    """
    counts = torch.zeros(bins, dtype=torch.float64)
    for probability in posterior.probabilities().values():
        counts += torch.histc(probability.float(), bins=bins, min=0.0, max=1.0).cpu().double()
    return (100 * counts / counts.sum()).tolist()


# Text, whose loss is reported in bits per byte. ----------------------------------------------------------------------


def bits(nats: float) -> float:
    """Return a number of nats in bits.

    Example:
        >>> bits(math.log(8))
        3.0
    """
    return nats / math.log(2)


@torch.no_grad()
def measure_text(predicted: Callable[[Tensor], Prediction], data: Examples) -> tuple[float, float]:
    """Return the negative log-likelihood of a text in nats per byte: of the networks' mean, and of the first network.

    Args:
        predicted: Function from bytes (N, T) to the logits (C, N, T, 256) of C networks.
        data: Windows of the text.
    """
    total = torch.zeros(2, dtype=torch.float64)
    count = 0
    for x, y in batches(data, _TEST_WINDOWS):
        prediction = predicted(x)
        first = Prediction(prediction.outputs[:1])
        total -= torch.stack([log_likelihood(each, y).sum() for each in (prediction, first)]).cpu()
        count += y.numel()
    mean, first = (total / count).tolist()
    return mean, first


# Regression, whose loss has no noise parameter: the noise is estimated on the training data. -------------------------


def measure_regression(predicted: Callable[[Tensor], Prediction], train: TensorData, test: TensorData) -> Figures:
    """Return `regression_figures` of some networks on test data, with the noise estimated on training data."""
    (x, y), (train_x, train_y) = whole(test), whole(train)
    return regression_figures(predicted(x), y, observation_noise(predicted(train_x), train_y))


def regression_figures(test: Prediction, y: Tensor, noise: float) -> Figures:
    """Return squared error, noise, likelihood and coverage of a regression's mean prediction.

    Args:
        test: Prediction for the test data.
        y: Test targets, one per output.
        noise: Standard deviation of the observation noise, from `observation_noise`.

    Returns:
        A dictionary with `error`, `noise`, `nll`, and `inside`, the percentage of targets within two predictive
        standard deviations.

    Example:
        >>> both = Prediction(torch.tensor([[[-3.0]], [[3.0]]]))  # two networks: mean 0, variance 18
        >>> regression_figures(both, torch.tensor([9.0]), noise=0.1)["inside"]
        0.0
    """
    residuals, variances = _residuals(test, y)
    inside = 100 * float((residuals <= 4 * (variances + noise * noise)).float().mean())
    nll = gaussian_nll(residuals, variances, noise)
    return {"error": float(residuals.mean()), "noise": noise, "nll": nll, "inside": inside}


def observation_noise(train: Prediction, target: Tensor) -> float:
    """Return the noise standard deviation σ that maximises the likelihood of the training targets.

    The predictive variance is v(x) + σ², with v the variance over networks. The residuals of the mean alone would count
    the disagreement of the networks twice. σ is found on a grid of 0.1 %, between a thousandth of the root mean square
    of the residuals and that value.

    Example:
        >>> round(observation_noise(Prediction(torch.zeros(1, 4, 1)), torch.full((4,), 2.0)), 2)  # one network
        2.0
    """
    residuals, variances = _residuals(train, target)
    largest = residuals.mean().sqrt().double()
    grid = largest * torch.logspace(-3, 0, 7000, dtype=torch.float64, device=largest.device)
    cost = torch.zeros_like(grid)
    for variance, residual in zip(variances.split(_NOISE_PIECE), residuals.split(_NOISE_PIECE), strict=True):
        total = variance[:, None].double() + grid.square()
        cost += (total.log() + residual[:, None].double() / total).sum(0)
    return float(grid[cost.argmin()])


def gaussian_nll(squared_residuals: Tensor, variances: Tensor, noise: float) -> float:
    """Return the mean negative log-likelihood in nats of Gaussians with variance v + σ².

    Args:
        squared_residuals: Squared residuals, shape (N,).
        variances: Variance v over networks, shape (N,).
        noise: Standard deviation σ of the observation noise.

    Example:
        >>> round(gaussian_nll(torch.ones(1), torch.zeros(1), 1.0), 4)
        1.4189
    """
    total = (variances.double() + noise * noise).clamp(min=1e-12)
    return float(0.5 * (squared_residuals.double() / total + total.log() + math.log(2 * math.pi)).mean())


def _residuals(prediction: Prediction, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared residuals of the mean over networks, and the variances over networks; both of shape (N,)."""
    residuals = (prediction.mean.reshape(-1) - target.reshape(-1)).square()
    return residuals, prediction.std.reshape(-1).square()
