"""Errors for networks and whole layers that cannot be packed, so that users see no error of an operation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bitbayes.draws import check_tensor
from bitbayes.parameters import Follower
from bitbayes.rules.marks import drawn_by

ADVICE = "pack the part of the network before or after it, or run the network in torch"
_RECURRENT = dict.fromkeys(
    ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"), "a recurrent layer has no packed form"
)
_REASONS = {**_RECURRENT, "EmbeddingBag": "a bag of embeddings has no packed form"}


def whole_layer(kinds: Iterable[str]) -> str | None:
    """Return why a layer cannot be packed, from the names of its class and of the enclosing classes.

    Example:
        >>> whole_layer(["Classifier", "GRU"]), whole_layer(["Linear"])
        ('a recurrent layer has no packed form', None)
    """
    return next((_REASONS[kind] for kind in kinds if kind in _REASONS), None)


def first_refused(model: nn.Module) -> str | None:
    """Return a sentence about the first layer of a network that cannot be packed, or None if there is none.

    Example:
        >>> first_refused(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GRU(2, 2)))
        "layer '1 (GRU)' cannot be packed: a recurrent layer has no packed form"
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if reason := whole_layer([kind]):
            return f"layer {f'{name} ({kind})' if name else kind!r} cannot be packed: {reason}"
    return None


def check_packable(model: nn.Module, example: Tensor) -> None:
    """Raise ValueError for an average of networks, and for examples that no packed network accepts.

    Raises:
        TypeError: If the example is no tensor.
        ValueError: If the model is an average of networks, or the example is neither float32 of shape (N, ...) nor
            token ids of shape (N, tokens).
    """
    if isinstance(model, AveragedModel):
        raise ValueError(
            "got an AveragedModel, whose weights are means of binary weights and so not binary; pack the network that "
            "it averages, after optimizer.eval(), or several draws, by bb.pack(model, x, optimizer.posterior())"
        )
    check_tensor("the example", example)
    numbers = example.dtype == torch.float32 and example.dim() >= 2
    tokens = example.dtype in (torch.int64, torch.int32) and example.dim() == 2
    if example.is_floating_point() and example.dim() >= 2 and len(example) and not numbers:
        raise ValueError(
            f"example must be float32, got {example.dtype}; give x.float(), because the file computes in float32, "
            "whatever the type of the network"
        )
    if not len(example) or not (numbers or tokens):
        raise ValueError(
            "example must be float32 inputs of shape (N, ...) or token ids (int64) of shape (N, tokens), N at least 1, "
            f"got {example.dtype} of shape {tuple(example.shape)}; give inputs as the network computes with them, "
            "scaled and normalised as in training"
        )


def check_mode(model: nn.Module, otherwise: str = "") -> None:
    """Raise RuntimeError if parameters hold weights that a training step drew, and not the mode.

    In a copy of a network, such weights are recognised only if `bitbayes.follow` connects it with its optimizer.

    Args:
        model: The network, without wrappers.
        otherwise: Words to add to the advice of the message.

    Raises:
        RuntimeError: If they do.
    """
    drawn = ((name, drawn_by(parameter)) for name, parameter in model.named_parameters())
    name, rule = next(((name, rule) for name, rule in drawn if rule), (None, None))
    follower = vars(model).get("train")  # survives copying, unlike marks of parameters
    if name is None and isinstance(follower, Follower) and follower.binary.training:
        name, rule = next(follower.binary.named_binary())[0], type(follower.binary).__name__
    if name is not None:
        raise RuntimeError(
            f"{name!r} holds weights that a training step of {rule} drew, not the mode; call optimizer.eval() (or "
            f"model.eval() after bitbayes.follow){otherwise}"
        )
