"""Pure tensor functions that rules and posteriors share: signs, sech², KL divergences, Adam's direction.

Every function is elementwise and stateless, accepts tensors of any shape and device, and keeps the dtype.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "AdamOptions",
    "adam",
    "adam_options",
    "annealed",
    "bernoulli_entropy",
    "bernoulli_kl",
    "bernoulli_log_prob",
    "bias_correction",
    "heaviside",
    "sech2",
    "sign",
    "square",
]


def heaviside(x: Tensor) -> Tensor:
    """Return 1 where x ≥ 0 and 0 elsewhere, in the dtype of `x`.

    Args:
        x: Real values, any shape.

    Returns:
        A tensor like `x`.

    Example:
        >>> heaviside(torch.tensor([-0.5, 0.0, 2.0]))
        tensor([0., 1., 1.])
    """
    if torch.compiler.is_compiling():
        return (x >= 0).to(x.dtype)
    # On a CPU, a comparison that writes floats is vectorised; going through bool or where() takes 20× as long.
    return torch.ge(x, 0, out=torch.empty_like(x))


def sign(x: Tensor) -> Tensor:
    """Return the sign with values in {−1, +1}; zero maps to +1.

    Args:
        x: Real values, any shape.

    Returns:
        A tensor like `x` with −1 where `x` is negative and +1 elsewhere.

    Example:
        >>> sign(torch.tensor([-0.5, 0.0, 2.0]))
        tensor([-1.,  1.,  1.])
    """
    return heaviside(x).mul_(2).sub_(1)


def sech2(x: Tensor) -> Tensor:
    """Return the squared hyperbolic secant, 1 − tanh²(x), without cancellation.

    In float32, tanh(x) rounds to 1 from |x| ≈ 9 on, so 1 − tanh² is 0 there. Computed from exp(−2|x|), the value keeps
    its relative precision until it underflows near |x| = 44.

    Args:
        x: Real values, any shape.

    Returns:
        Values in (0, 1].

    Example:
        >>> sech2(torch.tensor([0.0, 10.0]))
        tensor([1.0000e+00, 8.2446e-09])
    """
    decay = torch.exp(-2 * x.abs())
    return 4 * decay / (1 + decay) ** 2


def bernoulli_log_prob(natural: Tensor, weights: Tensor) -> Tensor:
    """Return the log-probability of ±1 weights under independent Bernoullis with natural parameter λ.

    The probabilities are P[w = ±1] = σ(±2λ) (BayesBiNN, section 3.1).

    Args:
        natural: λ, any shape.
        weights: Weights, broadcastable to `natural`; only their signs matter.

    Returns:
        Elementwise log-probabilities in nats.

    Example:
        >>> bernoulli_log_prob(torch.zeros(1), torch.ones(1)).exp()
        tensor([0.5000])
    """
    return torch.nn.functional.logsigmoid(2 * natural * sign(weights))


def bernoulli_entropy(natural: Tensor) -> Tensor:
    """Return the entropy in bits of a ±1 Bernoulli with natural parameter λ.

    Args:
        natural: λ, any shape.

    Returns:
        Values in [0, 1]: 1 at λ = 0, and 0 for a weight that is certain.

    Example:
        >>> bernoulli_entropy(torch.tensor([0.0, 60.0]))
        tensor([1., 0.])
    """
    x = 2 * natural.abs()
    # log(1 + e^−x) + x·σ(−x): no cancellation for a nearly certain weight.
    return (torch.nn.functional.softplus(-x) + x * torch.sigmoid(-x)) / math.log(2)


def bernoulli_kl(natural: Tensor, prior: Tensor) -> Tensor:
    """Return the KL divergence in nats between ±1 Bernoullis with natural parameters λ and λ₀.

    Args:
        natural: λ of the first distribution.
        prior: λ₀ of the second, broadcastable to `natural`.

    Returns:
        Elementwise KL(q ‖ p) ≥ 0.

    Example:
        >>> bernoulli_kl(torch.zeros(1), torch.zeros(1))
        tensor([0.])
    """
    log_sigmoid = torch.nn.functional.logsigmoid
    up, down = torch.sigmoid(2 * natural), torch.sigmoid(-2 * natural)
    return (
        up * (log_sigmoid(2 * natural) - log_sigmoid(2 * prior))
        + down * (log_sigmoid(-2 * natural) - log_sigmoid(-2 * prior))
    ).clamp(min=0)


def square(value: Tensor) -> Tensor:
    """Return value², at most the largest number of its dtype; infinities would turn a moving average into NaN.

    Args:
        value: Any real tensor.

    Returns:
        Finite squares, same shape.

    Example:
        >>> square(torch.tensor([3.0, 1e30]))
        tensor([9.0000e+00, 3.4028e+38])
    """
    return (value * value).clamp_(max=torch.finfo(value.dtype).max)


def bias_correction(decay: float | Tensor, step: int | Tensor) -> float | Tensor:
    """Return 1 − βᵗ, the divisor that corrects a moving average that began at 0.

    Call this function in a rule's `schedule`: in `update`, a compiled loop would compute the power for every weight.

    Args:
        decay: β of the average.
        step: Number t of the step, counted from 1. The values of a tensor are not read on the host.

    Returns:
        The divisor; a float64 tensor if `step` is a tensor.

    Example:
        >>> bias_correction(0.5, 2)
        0.75
    """
    return 1 - decay ** (step.double() if isinstance(step, Tensor) else step)


class AdamOptions(Protocol):
    """Coefficients of one step of Adam, as attributes; `adam_options` computes them."""

    beta1: float | Tensor
    beta2: float | Tensor
    correction1: float | Tensor
    correction2: float | Tensor


def adam_options(betas: tuple[float, float], step: int | Tensor) -> dict[str, float | Tensor]:
    """Return the coefficients of one step of Adam by the names of `AdamOptions`.

    Args:
        betas: Decay rates of both moments.
        step: Number of the step, counted from 1. The values of a tensor are not read on the host.

    Returns:
        Decay rates and bias corrections of both moments.

    Example:
        >>> adam_options((0.5, 0.75), 1)
        {'beta1': 0.5, 'beta2': 0.75, 'correction1': 0.5, 'correction2': 0.25}
    """
    beta1, beta2 = betas
    corrections = {"correction1": bias_correction(beta1, step), "correction2": bias_correction(beta2, step)}
    return {"beta1": beta1, "beta2": beta2, **corrections}


def adam(
    first: Tensor, second: Tensor, gradient: Tensor, o: AdamOptions, *, eps: float = 1e-8
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Adam's new moments and direction (Kingma & Ba 2015, algorithm 1).

    Args:
        first: First moment before the step.
        second: Second moment before the step.
        gradient: Gradient of this step, same shape.
        o: Coefficients of the step, from `adam_options`.
        eps: Number that is added to the root of the second moment.

    Returns:
        The new first moment, the new second moment, and the direction; subtract the learning rate times the direction.

    Example:
        >>> from types import SimpleNamespace
        >>> zero, o = torch.zeros(1), SimpleNamespace(**adam_options((0.9, 0.999), 1))
        >>> adam(zero, zero, torch.tensor([3.0]), o)[2]
        tensor([1.])
    """
    first = first + (1 - o.beta1) * (gradient - first)
    second = second + (1 - o.beta2) * (square(gradient) - second)
    root = (second / o.correction2).sqrt() + eps
    return first, second, first / o.correction1 / root


def annealed(first: float, growth: float, interval: int, step: int | Tensor, highest: float) -> float | Tensor:
    """Return first · growth^⌊step / interval⌋, at most `highest`, to anneal rules that harden soft weights.

    Args:
        first: Value at step 0.
        growth: Factor, at least 1.
        interval: Number of steps between two factors.
        step: Number of steps so far; negative numbers count as 0. The values of a tensor are not read on the host.
        highest: Upper bound.

    Example:
        >>> annealed(1.0, 2.0, 10, 25, 100.0)
        4.0
    """
    if isinstance(step, Tensor):
        stairs = torch.floor(step.clamp(min=0).double() / interval)  # in double precision, like Python's numbers
        return (first * growth**stairs).clamp(max=highest)
    try:
        return min(first * growth ** (max(step, 0) // interval), highest)
    except OverflowError:
        return highest
