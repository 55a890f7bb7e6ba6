"""The state with which the training of a binary tensor begins."""

from __future__ import annotations

from typing import Any

import torch

from bitbayes import functional as F
from bitbayes.rules import pretrained, scales, shards, steps
from bitbayes.rules.places import Place
from bitbayes.rules.rule import Rule


def first_state(rule: type[Rule[Any]], place: Place, o: Any) -> dict[str, Any]:
    """Return the initial belief, its step number and, if steps are capturable, a flag for refused steps.

    Args:
        rule: The rule.
        place: The tensor, whose values are read with `init="weights"`.
        o: Options of the rule, with those of `scales.sizes`.
    """
    _, _, parameter, group = place
    trained = pretrained.whole_weights(parameter) if group["init"] == "weights" else None
    if trained is not None:
        start = pretrained.relative_size(trained, scales.layers(parameter))
    else:
        start = steps.start_noise(place).uniform() * 2 - 1
        start = F.sign(start) if rule.start == "signs" else start
    state: dict[str, Any] = {"step": 0}
    if group["capturable"]:
        kinds = {"step": torch.int64, "refused": torch.bool}
        state = {name: torch.zeros((), dtype=kind, device=parameter.device) for name, kind in kinds.items()}
    state["belief"] = rule.begin(start, steps.start_noise(place, 1), o)
    state |= scales.begin(parameter, group["scale"], steps.start_noise(place, 2), trained)
    return shards.own(state, parameter) if shards.is_sharded(parameter) else state
