"""Multilayer perceptrons with the layer order of the BayesBiNN paper's code: Linear, BatchNorm, activation, dropout.

The file is not called `mlp`, because the documentation could not distinguish it from the function `mlp`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from bitbayes.errors import chosen
from bitbayes.nn.layers import LogitScale, new_dropout

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: str = "relu",
    bias: bool = False,
    norm: bool = True,
    norm_output: bool | None = None,
    dropout: float = 0.0,
    input_dropout: float | None = None,
    momentum: float = 0.15,
    eps: float = 1e-4,
    logit_scale: bool = True,
) -> nn.Sequential:
    """Return a multilayer perceptron for binary weights.

    Each hidden layer consists of Linear, BatchNorm without affine parameters, an activation, and dropout. The output
    layer consists of Linear, BatchNorm, and a learnable logit scale.

    Args:
        inputs: Number of inputs. Inputs of shape (N, ...) are flattened.
        hidden: Widths of the hidden layers.
        outputs: Number of outputs.
        activation: "relu" or "tanh".
        bias: Whether Linear layers have biases.
        norm: Whether hidden layers have BatchNorm.
        norm_output: Whether the output has BatchNorm; None for the value of `norm`.
        dropout: Dropout probability after each hidden layer.
        input_dropout: Dropout probability of the inputs; None for the value of `dropout`.
        momentum: Momentum of BatchNorm's running statistics.
        eps: Constant that BatchNorm adds to variances.
        logit_scale: Whether to end with a `LogitScale`.

    Returns:
        The network, input shape (N, inputs), output shape (N, outputs).

    Raises:
        ValueError: If the activation is unknown, or a dropout probability is not in [0, 1].

    Example:
        >>> mlp(784, [32], 10)(torch.randn(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    kind = chosen("activation", activation, _ACTIVATIONS)
    norm_output = norm if norm_output is None else norm_output
    input_dropout = dropout if input_dropout is None else input_dropout
    layers: list[nn.Module] = [nn.Flatten()]
    layers += new_dropout(input_dropout)
    widths = [inputs, *hidden, outputs]
    for index, (wide, narrow) in enumerate(itertools.pairwise(widths)):
        last = index == len(hidden)
        layers.append(nn.Linear(wide, narrow, bias=bias))
        if norm_output if last else norm:
            layers.append(nn.BatchNorm1d(narrow, eps=eps, momentum=momentum, affine=False))
        if not last:
            layers += [kind(), *new_dropout(dropout)]
    if logit_scale:
        layers.append(LogitScale())
    return nn.Sequential(*layers)


def mnist_mlp(*, logit_scale: bool = False) -> nn.Sequential:
    """Return the MNIST network of the BayesBiNN paper: 784-2048-2048-2048-10, dropout 0.2, 10,014,720 binary weights.

    Args:
        logit_scale: Whether to add a `LogitScale`, which the paper's network does not have.

    Returns:
        The network, input shape (N, 784) or (N, 1, 28, 28), output shape (N, 10).

    Example:
        >>> sum(p.numel() for p in mnist_mlp().parameters())
        10014720
    """
    return mlp(784, [2048, 2048, 2048], 10, dropout=0.2, logit_scale=logit_scale)


def synthetic_mlp(inputs: int, *, norm_output: bool) -> nn.Sequential:
    """Return the network of the paper's toy experiments: two hidden layers of 64 tanh units, biases, and one output.

    Args:
        inputs: Number of inputs: 2 for two moons, 1 for Snelson's data.
        norm_output: Whether the output has BatchNorm, as for Snelson's data.

    Returns:
        The network, input shape (N, inputs), output shape (N, 1).

    Example:
        >>> synthetic_mlp(2, norm_output=False)(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    return mlp(
        inputs, [64, 64], 1, activation="tanh", bias=True, norm=False, norm_output=norm_output, logit_scale=False
    )
