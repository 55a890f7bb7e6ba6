"""Recipe for a language model of bytes on the source text of Python's standard library."""

from __future__ import annotations

from typing import Any

from bitbayes.lab.data import load_text
from bitbayes.lab.recipes.base import DEFAULT, Recipe
from bitbayes.lab.train import COSINE_BY_STEPS, NEXT_BYTE, RuleSpec
from bitbayes.nn import decoder


def _rule(lr: float | None, **options: Any) -> RuleSpec:
    return RuleSpec(lr, options, COSINE_BY_STEPS, real_lr=3e-3)


TEXT = Recipe(
    name="text",
    title="Python's standard library, decoder of 3 million binary weights",
    source="ours; network: Touvron et al., 2023",
    network=decoder,
    load=load_text,
    epochs=16,
    quick_epochs=4,
    pretrain_epochs=8,
    batch_size=16,
    rules={
        "full-precision": RuleSpec(3e-3, schedule=COSINE_BY_STEPS),
        "ste": _rule(1e-2),
        "bop": _rule(1e-3, threshold=1e-8),
        "bayesbinn:straight-through": _rule(None, **DEFAULT.options),
        "vispa": _rule(1.0, rank=4),
    },
    # The decoder has no BatchNorm that would scale the outputs of a binary layer.
    common={"scale": "channel", "scale_lr": 1e-2},
    loss=NEXT_BYTE,
    predict_samples=8,
    seed=1,
    wide=True,
)
