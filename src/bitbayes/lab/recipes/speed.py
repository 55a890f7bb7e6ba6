"""Recipes for short schedules on CIFAR-10, with the network and the augmentation of airbench94 (Jordan, 2024).

The float network of airbench94 reaches 94.0 in 9.9 epochs on the original images. Its test-time augmentation also
shifts the images; these recipes only mirror them, which costs a third of the time.

Binary networks begin with the weights of a float network that is trained first. Five binary epochs after ten float
epochs were as good as forty epochs from random signs.

The activation, the batch size and the rate of the real parameters were compared on schedules of five epochs with real
activations at width 1, by validation accuracy; see docs/log.md. Batches of 125 were more accurate there and take
longer. The rates of STE and VISPA, the first |λ| of BayesBiNN and the threshold of Bop are the best of four on two
epochs after ten float epochs. With binary activations, the rate of STE and the first |λ| of BayesBiNN are the best of
two. Everything else in the other recipes is the same, without a search of its own.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import nn

from bitbayes.lab.data import AUGMENTATIONS, DataBundle, TensorData, load_cifar10
from bitbayes.lab.recipes.base import DEFAULT, Recipe
from bitbayes.lab.train import COSINE_BY_STEPS, RuleSpec
from bitbayes.nn import resnet18, speed_net

_WHITENED = 5000  # training images from which the first layer is computed


def _network(data: DataBundle[TensorData], width: float, activation: str) -> nn.Module:
    count = min(_WHITENED, len(data.train))
    images = data.train.inputs(torch.arange(count, device=data.train.x.device))
    return speed_net(data.classes, width=width, activation=activation, images=images)


def _made(width: float, activation: str) -> partial[nn.Module]:
    return partial(_network, width=width, activation=activation)


def _rule(lr: float | None, **options: Any) -> RuleSpec:
    return RuleSpec(lr, options, COSINE_BY_STEPS, real_lr=1e-2)


def _vispa(rank: int) -> RuleSpec:
    return _rule(3.0, rank=rank, weight_decay=5e-5)


SPEED = Recipe(
    name="cifar10-speed",
    title="CIFAR-10, airbench's network of 2 million binary weights",
    source="ours; network and augmentation: Jordan, 2024",
    network=_made(1.0, "gelu"),
    load=partial(load_cifar10, augment=AUGMENTATIONS["alternate"]),
    epochs=30,
    quick_epochs=5,
    pretrain_epochs=10,
    batch_size=250,
    rules={
        # airbench's rate of 1.5 for batches of 1,024, in proportion.
        "full-precision": RuleSpec(
            0.375, schedule=COSINE_BY_STEPS, real_optimizer="nesterov", real_weight_decay=1.3e-3
        ),
        "ste": _rule(1e-3),
        "bop": _rule(3e-3, threshold=1e-6),
        # The larger initial |λ| holds the signs of the float network more firmly than the default, and draws are less
        # noisy: both pay on short schedules.
        "bayesbinn:straight-through": _rule(None, **{**DEFAULT.options, "init_lambda": 500.0}),
        "vispa": _vispa(4),
    },
    label_smoothing=0.2,
    views="mirror",
    evaluate_every=5,
    checkpoint_every=5,
    predict_samples=8,
    seed=1,
    wide=True,
)


def _variant(suffix: str, about: str, width: float, activation: str, **rules: RuleSpec) -> Recipe:
    """Return the recipe with another width or activation, and other settings of some rules."""
    name, title = f"{SPEED.name}-{suffix}", f"CIFAR-10, airbench's network of {about}"
    made = _made(width, activation)
    return dataclasses.replace(SPEED, name=name, title=title, network=made, rules={**SPEED.rules, **rules})


SPEED_WIDE = _variant("wide", "4 million binary weights", 1.5, "gelu")
SPEED_W1A1 = _variant("w1a1", "2 million binary weights, binary activations", 1.0, "sign", ste=_rule(3e-4))
SPEED_WIDE_W1A1 = _variant("wide-w1a1", "4 million binary weights, binary activations", 1.5, "sign", ste=_rule(3e-4))
# The network of the VISPA paper with the same augmentation, smoothing and views. An epoch costs five times as much.
SPEED_RESNET = dataclasses.replace(
    SPEED,
    name="cifar10-speed-resnet18",
    title="CIFAR-10, VISPA's ResNet18 in fifteen epochs",
    source="ours; network: Orecchia et al., NeurIPS 2024",
    network=partial(resnet18, 10),
    epochs=12,
    pretrain_epochs=3,
    rules={**SPEED.rules, **{f"vispa:rank{rank}": _vispa(rank) for rank in (1, 8)}},
)
