"""Checks of options, parameters and states of the rules, with their error messages."""

from __future__ import annotations

import difflib
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitbayes.rules import scales, shards

_FIND = "bitbayes.split_parameters(model)[0] has the weights of Linear, Conv, recurrent and attention layers"

_ALIKE = 0.85  # similarity of names from which one is a misspelling of the other; "max_momentum" is none of "momentum"


def option(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError unless an option is as expected."""
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {got!r}")


def number(value: object, name: str, expected: str, *, low: float = 0.0, open_low: bool = True) -> None:
    """Raise ValueError unless a value is a finite number above `low` (or at least `low`)."""
    fine = isinstance(value, (int, float)) and math.isfinite(value)
    option(fine and (value > low if open_low else value >= low), name, expected, value)  # type: ignore[operator]


def share(value: object, name: str) -> None:
    """Raise ValueError unless a learning rate that is a fraction is at most 1; tensors are not read."""
    fits = not isinstance(value, (int, float)) or value <= 1
    option(fits, name, "at most 1, because it is a fraction of the step", value)


def whole(value: object, name: str, low: int) -> None:
    """Raise ValueError unless a value is a whole number of at least `low`."""
    try:
        fine = operator.index(value) >= low  # type: ignore[arg-type]
    except TypeError:
        fine = False
    option(fine, name, f"a whole number of at least {low}", value)


def decay(value: object, name: str) -> None:
    """Raise ValueError unless a value is in [0, 1)."""
    option(isinstance(value, (int, float)) and 0 <= value < 1, name, "in [0, 1)", value)


def betas(value: tuple[float, float]) -> None:
    """Check Adam's decay rates."""
    option(isinstance(value, (tuple, list)) and len(value) == 2, "betas", "two decay rates", value)
    for beta in value:
        decay(beta, "betas")


def annealing(group: Mapping[str, Any]) -> None:
    """Check the options of a geometric annealing of β."""
    number(group["beta"], "beta", "positive", low=0)
    number(group["growth"], "growth", "at least 1", low=1, open_low=False)
    number(group["interval"], "interval", "a number of steps of at least 1", low=1, open_low=False)
    number(group["beta_max"], "beta_max", "positive", low=0)


def plain(group: dict[str, Any]) -> None:
    """Convert numbers of NumPy and of torch to Python's, and lists to tuples; `lr` may stay a tensor, as in torch.

    Compiled updates are found by their options, and a list, as it comes from a JSON file, cannot be a key.
    """
    for name, value in group.items():
        if isinstance(value, list) and name not in ("params", "param_names"):
            group[name] = tuple(value)
        if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.dim() == 0 and name != "lr"):
            group[name] = value.item()


def common(group: Mapping[str, Any], first: Mapping[str, Any] | None = None) -> None:
    """Check the options that all rules share, also against those of the first group."""
    samples, scale, init, seed = (group[name] for name in ("samples", "scale", "init", "seed"))
    whole(samples, "samples", 1)
    known = scale in scales.KINDS or (isinstance(scale, str) and scales.group_size(scale) is not None)
    kinds = ", ".join(f'"{kind}"' for kind in scales.KINDS)
    option(known, "scale", f'one of {kinds}, "group:128" (or another size)', scale)
    option(init in ("random", "weights", None), "init", '"random", "weights", or None to choose', init)
    option(group["compile"] in (True, False, "kernels"), "compile", 'True, False or "kernels"', group["compile"])
    option(isinstance(seed, int), "seed", "a whole number, or None for torch's own", seed)
    number(group["scale_lr"], "scale_lr", "a finite number of at least 0", open_low=False)
    for name in ("capturable", "samples"):
        same = first is None or group[name] == first[name]
        option(same, name, "the same in all parameter groups", group[name])
    if not isinstance(group["lr"], Tensor):
        number(group["lr"], "lr", "a finite number of at least 0", open_low=False)


def spelling(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError for options that look misspelled, or that would reverse the update.

    Groups may have entries of their own, as in torch: schedulers and trainers keep theirs there.
    """
    for name in group.keys() - defaults.keys() - {"params", "param_names"}:
        if near := difflib.get_close_matches(name, defaults, 1, _ALIKE):
            raise ValueError(f"a parameter group has the unknown option {name!r}; the nearest is {near[0]!r}")
    if group.get("maximize"):
        raise ValueError("learning rules minimise, got maximize=True in a parameter group; negate the loss instead")


def not_empty(params: Iterable[Any]) -> list[Any]:
    """Return the parameters as a list; raise ValueError if there are none."""
    if isinstance(params, Tensor):
        raise ValueError(f"expected an iterable of parameters, got one tensor; pass a list. {_FIND}")
    if isinstance(params, nn.Module):
        raise TypeError(f"expected parameters, got the module {type(params).__name__}. {_FIND}")
    listed = list(params)
    if not listed:
        raise ValueError(f"no binary parameters: got an empty list. {_FIND}")
    return listed


def parameters(group: dict[str, Any], known: set[int]) -> None:
    """Raise ValueError for tensors that are not floating-point or that the optimizer already has."""
    members = group["params"]
    if isinstance(members, set | frozenset):
        raise TypeError("parameters must have an order, on which their noise depends, got a set; pass a list")
    members = [members] if isinstance(members, Tensor) else list(members)
    group["params"] = members
    if not members:
        raise ValueError(f"no binary parameters: a group is empty. {_FIND}")
    seen = set(known)
    for place, member in enumerate(members):
        name, tensor = member if isinstance(member, tuple) else (str(place), member)
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"binary parameter {name!r} must be a floating-point tensor, got {kind}. {_FIND}")
        if id(tensor) in seen:
            raise ValueError(f"binary parameter {name!r} was given twice; each tensor belongs to one group, once")
        shards.check(name, tensor)
        seen.add(id(tensor))
    _few_dimensions(members)


def _few_dimensions(members: list[Any]) -> None:
    """Raise ValueError for what `model.parameters()` returns: biases and normalisation among weights, without names.

    Named parameters are a deliberate choice, and so is a group that holds only such tensors.
    """
    bare = {place: member for place, member in enumerate(members) if isinstance(member, Tensor)}
    few = [place for place, member in bare.items() if member.dim() < 2]
    if 0 < len(few) < len(bare):
        raise ValueError(
            f"parameter {few[0]} has shape {tuple(bare[few[0]].shape)}, as a bias, a normalisation or a scale has, "
            "which should stay real; pass bitbayes.split_parameters(model)[0] instead of model.parameters(), or put "
            "such tensors into a group of their own to make them binary"
        )


def distinct(names: Iterable[str]) -> None:
    """Raise ValueError for two parameters of the same name, of which a posterior would hold only one."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{count} parameters are called {name!r}; give those of each network a prefix of their own, as in "
            '[(f"first.{name}", parameter) for name, parameter in binary]'
        )


def has_belief(parameter: Tensor, state: Mapping[str, Any]) -> None:
    """Raise RuntimeError if a parameter came into a group without `add_param_group`, as accelerate's FSDP puts it."""
    if not state:
        raise RuntimeError(
            f"a parameter of shape {tuple(parameter.shape)} has no belief, because it has replaced another since the "
            "optimizer was constructed; construct the optimizer after fully_shard, or whatever else replaces it"
        )


def saved_state(
    state_dict: dict[str, Any],
    current: Sequence[tuple[Tensor, dict[str, Any]]],
    groups: Sequence[Mapping[str, Any]],
    rule: str,
    check: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Return the saved state of each parameter in order, after checking it against the current state.

    Args:
        state_dict: The saved state.
        current: Parameters with their states.
        groups: Parameter groups of the optimizer.
        rule: Name of the rule.
        check: Check of the rule's own options.
    """
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(f"expected an optimizer's state with param_groups and state, got {sorted(state_dict)}")
    theirs = {group.get("rule", rule) for group in state_dict["param_groups"]}  # older states do not name the rule
    if theirs - {rule}:
        raise ValueError(f"the saved state is of the rule {', '.join(sorted(theirs))}, but this optimizer is {rule}")
    _same_order(state_dict["param_groups"], groups)
    places = [place for group in state_dict["param_groups"] for place in group["params"]]
    if len(places) != len(current):
        raise ValueError(f"the saved state has {len(places)} binary tensors, but this optimizer has {len(current)}")
    saved = []
    for place, (parameter, mine) in zip(places, current, strict=True):
        theirs, what = state_dict["state"].get(place, {}), f"the saved state of tensor {place}"
        if not {"belief", "step"} <= set(theirs):
            raise ValueError(f"{what} has no belief and step; load a state that a bitbayes rule has saved")
        theirs = shards.own(theirs, parameter, mine)
        expected, got = _shapes(mine), _shapes(theirs)
        if (set(expected) ^ set(got)) - {"belief/prior"}:
            raise ValueError(f"{what} holds {sorted(got)}, expected {sorted(expected)}; load a state of the same rule")
        for name, tensor in theirs["belief"].items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"the saved belief {name!r} of tensor {place} holds NaN or infinity")
        for key, (shape, dtype) in got.items():
            mine_shape, mine_dtype = expected.get(key, (shape, torch.float32))
            if shape != mine_shape:
                raise ValueError(f"{key} of tensor {place} has shape {tuple(shape)}, expected {tuple(mine_shape)}")
            if dtype != mine_dtype:
                raise ValueError(
                    f"{key} of tensor {place} is {dtype}, expected {mine_dtype}: half precision corrupts beliefs; "
                    "save optimizer.state_dict() without casting it"
                )
        saved.append(theirs)
    for group, own in zip(state_dict["param_groups"], groups, strict=False):
        options = {**own, **group}
        common(options, {**groups[0], **state_dict["param_groups"][0]})
        check(options)
    return saved


def _same_order(saved: Iterable[Mapping[str, Any]], own: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError if two optimizers have the same named parameters in different orders."""
    theirs, mine = ([name for group in groups for name in group.get("param_names", ())] for groups in (saved, own))
    if theirs != mine and sorted(theirs) == sorted(mine):
        at = next(place for place, (one, other) in enumerate(zip(theirs, mine, strict=True)) if one != other)
        raise ValueError(
            f"the saved state has its parameters in another order: number {at} is {theirs[at]!r} there and "
            f"{mine[at]!r} here; construct the optimizer with its parameters in the saved order"
        )


def _shapes(state: dict[str, Any], prefix: str = "") -> dict[str, tuple[torch.Size, torch.dtype]]:
    found = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= _shapes(value, f"{prefix}{key}/")
        elif isinstance(value, Tensor) and key not in ("step", "refused"):  # exists only if steps are capturable
            found[prefix + key] = (value.shape, value.dtype)
    return found


def loss(closure: Callable[[], Tensor | None]) -> Tensor | None:
    """Return the loss that a closure returned; raise TypeError if it is not a loss."""
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor | None):
        raise TypeError(f"the closure must return the loss as a tensor, got {type(loss).__name__}; see step()")
    return loss


def of_one_draw(added_to: Iterable[str], samples: int) -> None:
    """Raise RuntimeError for parameters with an earlier gradient that a closure added to at one of several draws."""
    name = next(iter(added_to), None)
    if name is not None:
        raise RuntimeError(
            f"step(closure) with samples={samples} found a gradient of {name!r} that the closure added to or assigned "
            "anew, but this rule or its learned scale needs each gradient together with its own draw; compute all "
            "micro-batches in the closure and call zero_grad() before the step, or take samples=1"
        )
