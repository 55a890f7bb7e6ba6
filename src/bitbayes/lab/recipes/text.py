"""Recipe for a language model of bytes on the source text of Python's standard library.

Binary networks begin with the weights of a float network, which gains most. The rates of the float network and STE, the
settings of BayesBiNN and the threshold of Bop are the best of a search on six float and six binary epochs; see
docs/log.md. VISPA has no search.
"""

from __future__ import annotations

from typing import Any

from bitbayes.lab.data import load_text
from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.train import COSINE_BY_STEPS, NEXT_BYTE, RuleSpec
from bitbayes.nn import decoder


def _rule(lr: float | None, **options: Any) -> RuleSpec:
    return RuleSpec(lr, options, COSINE_BY_STEPS, real_lr=3e-3)


TEXT = Recipe(
    name="text",
    title="bytes of text (Python's standard library), decoder of 3 million binary weights",
    source="ours; network: Touvron et al., 2023",
    network=decoder,
    load=load_text,
    # A run, with its float network and the evaluations, takes less than an hour on one thread; see docs/log.md.
    epochs=6,
    quick_epochs=4,
    pretrain_epochs=6,
    batch_size=16,
    rules={
        "full-precision": RuleSpec(1.5e-3, schedule=COSINE_BY_STEPS),
        "ste": _rule(1.5e-3),
        "bop": _rule(3e-3, threshold=3e-6),
        # 3 / (steps of six epochs). Relative to λ, a step is 36 times that of 6 / steps, 300·N and λ 270.
        "bayesbinn:straight-through": _rule(3 / 1536, ess_scale=24000.0, init_lambda=300.0),
        "vispa": _rule(10.0, rank=4),
    },
    common={"scale": "channel"},  # the decoder has no BatchNorm that would scale the outputs of a binary layer
    loss=NEXT_BYTE,
    evaluate_every=2,
    checkpoint_every=2,
    predict_samples=8,
    seed=1,
    wide=True,
)
