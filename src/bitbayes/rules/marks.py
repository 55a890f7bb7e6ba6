"""Marks on parameters that other modules read; a copy of a parameter has no marks."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def mark_transposed(parameter: Tensor, groups: int) -> None:
    """Mark a weight as one of a ConvTranspose layer, of shape (in, out / groups, *kernel).

    An optimizer reads the mark when it gets the parameter. A copy of the parameter has no mark until
    `bitbayes.split_parameters` runs on the copied network.

    Args:
        parameter: The weight.
        groups: Number of groups of the layer.
    """
    parameter.bitbayes_transposed_groups = groups  # type: ignore[attr-defined]


def transposed_groups(parameter: Tensor) -> int:
    """Return the number of groups of the ConvTranspose layer that a weight belongs to, or 0 if it belongs to none."""
    return getattr(parameter, "bitbayes_transposed_groups", 0)


def mark_stacked(parameter: Tensor, inputs: int | None) -> None:
    """Mark a weight as the stacked weights of several experts, which are linear layers of the same shape.

    An optimizer reads the mark when it gets the parameter, as it does `mark_transposed`.

    Args:
        parameter: The weight, of three or more dimensions.
        inputs: Dimension of the inputs: 2 for shape (experts, out, in), 1 for (experts, in, out), and 0 if a layer of
            an unknown kind has the weight, so that nobody can tell whether its first dimension is the outputs. None
            removes the mark.
    """
    if inputs is None:
        vars(parameter).pop("bitbayes_stacked_inputs", None)
    else:
        parameter.bitbayes_stacked_inputs = inputs  # type: ignore[attr-defined]


def stacked_inputs(parameter: Tensor) -> int | None:
    """Return the dimension of the inputs of stacked experts, 0 if it is unknown, or None without a mark."""
    return getattr(parameter, "bitbayes_stacked_inputs", None)


def mark_transformer(parameter: Tensor) -> None:
    """Mark a weight as one of a transformer, which it stays when somebody splits a part of the network alone.

    An optimizer reads the mark when it gets the parameter, as it does `mark_transposed`.
    """
    parameter.bitbayes_transformer = True  # type: ignore[attr-defined]


def of_transformer(parameters: Iterable[Tensor]) -> bool:
    """Return whether one of the parameters belongs to a transformer; a parameter without a mark does not."""
    return any(getattr(parameter, "bitbayes_transformer", False) for parameter in parameters)


def mark_drawn(parameter: Tensor, rule: str | None) -> None:
    """Mark a parameter as holding training weights that a rule drew, or as holding the mode (None)."""
    parameter.bitbayes_drawn_by = rule, _version(parameter)  # type: ignore[attr-defined]


def drawn_by(parameter: Tensor) -> str | None:
    """Return the rule whose training weights a parameter holds; None if others were loaded or there is no mark."""
    rule, version = getattr(parameter, "bitbayes_drawn_by", (None, 0))
    return rule if version == _version(parameter) else None


def is_untouched(parameter: Tensor) -> bool:
    """Return whether a parameter holds what its optimizer wrote last."""
    return getattr(parameter, "bitbayes_drawn_by", (None, -1))[1] == _version(parameter)


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version
