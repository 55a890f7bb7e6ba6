"""Recipes of this project: small networks for laptops, Fashion-MNIST, and trust in probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

from bitbayes import nn
from bitbayes.lab.data import CropFlip, load_cifar10, load_digits, load_fashion_mnist, with_outliers
from bitbayes.lab.recipes.base import DEFAULT, STARTING_RULES, Recipe, generated
from bitbayes.lab.recipes.bayesbinn import CIFAR_SHORT, MNIST
from bitbayes.lab.train import COSINE_BY_STEPS, OUTLIER_EXPOSURE, RuleSpec

# The 8×8 digits that come with scikit-learn: a real data set without a download, for `make demo` and tests.
DIGITS = Recipe(
    name="digits",
    title="8x8 digits, MLP 64-128-128-10",
    source="ours; scans from scikit-learn",
    network=partial(nn.mlp, 64, [128, 128], 10, dropout=0.2),
    load=generated(load_digits, "the digits come with scikit-learn"),
    epochs=60,
    quick_epochs=60,
    batch_size=50,
    rules={
        "full-precision": RuleSpec(3e-3),
        "ste": RuleSpec(1e-2),
        "bop": RuleSpec(1e-3, {"threshold": 1e-8}),
        "bop2": RuleSpec(1e-3, {"threshold": 1e-6, "sigma": 1e-2}),
        "pmf": RuleSpec(1e-2, {"growth": 1.2, "interval_epochs": 1.0}),
        "md": RuleSpec(1e-2, {"growth": 1.2, "interval_epochs": 1.0}),
        "proxquant": RuleSpec(1e-2, {"rate": 1e-3, "harden_at": 0.8, "init": "weights"}),
        "adaste": RuleSpec(1e-3, {"ess_scale": 1.0, "growth": 1.2, "interval_epochs": 1.0}),
        "bayesbinn:released": RuleSpec(1e-3, {"ess_scale": 1.0, "tau": 1e-10}),
        "bayesbinn:concrete": RuleSpec(1e-3, {"ess_scale": 1.0, "tau": 1.0}),
        "bayesbinn:straight-through": RuleSpec(3e-3, {"ess_scale": 100.0}),
        "vispa": RuleSpec(1.0),
    },
)

FASHION_MNIST = dataclasses.replace(
    MNIST,
    name="fashion-mnist",
    title="Fashion-MNIST, the same MLP",
    source="settings of MNIST; no published figure",
    load=load_fashion_mnist,
    published={},
)


MNIST_SMALL = dataclasses.replace(
    MNIST,
    name="mnist-small",
    title="MNIST, MLP 784-256-256-10 with a learnable logit scale, twenty epochs",
    source="ours",
    network=partial(nn.mlp, 784, [256, 256], 10, dropout=0.2),
    epochs=20,
    quick_epochs=20,
    batch_size=200,
    rules={
        **STARTING_RULES,
        "full-precision": RuleSpec(1e-3, schedule=COSINE_BY_STEPS),
        "ste": RuleSpec(1e-2, schedule=COSINE_BY_STEPS),
        "bayesbinn:straight-through": DEFAULT,
    },
    quick={},
    published={},
    estimator="straight-through",
    wide=False,
)


def _float_dropout(rules: Mapping[str, RuleSpec]) -> dict[str, RuleSpec]:
    """Return rules of which only the float network has dropout, with a variant of it that has none.

    BayesBiNN has the recommended setting. "bayesbinn:default" is the same with dropout.
    """
    usual = {**rules, "full-precision:no-dropout": rules["full-precision"], "bayesbinn:straight-through": DEFAULT}
    return {
        name: spec if name == "full-precision" else dataclasses.replace(spec, dropout=0.0)
        for name, spec in usual.items()
    }


# A study of members trains dozens of runs, so each has to be short. Binary networks of this width underfit with
# dropout: the NLL on validation data is 0.093 with it, and 0.081 (STE) and 0.069 (BayesBiNN's mean) without it.
MNIST_NARROW = dataclasses.replace(
    MNIST_SMALL,
    name="mnist-narrow",
    title="MNIST, MLP 784-100-100-10 with a learnable logit scale, sixteen epochs",
    network=partial(nn.mlp, 784, [100, 100], 10, dropout=0.2),
    epochs=16,
    quick_epochs=16,
    batch_size=500,
    rules=_float_dropout(MNIST_SMALL.rules),
)


MNIST_TRUST = Recipe(
    name="mnist-trust",
    title="MNIST, the same MLP with a learnable logit scale, ten epochs",
    source="ours",
    # Without the logit scale, the last BatchNorm caps all confidence at 0.76.
    network=lambda: nn.mnist_mlp(logit_scale=False).append(nn.LogitScale(5.0)),
    load=MNIST.load,
    epochs=10,
    quick_epochs=10,
    batch_size=500,
    # Batches of 500 are faster. BayesBiNN's samples differ so much on this network that two samples per step are worth
    # twice the time. For comparison, STE gets the same time, and the float network is also trained without dropout,
    # whose noise sampling might replace.
    rules={
        **{name: MNIST.quick[name] for name in ("full-precision", "ste")},
        "bayesbinn:released": RuleSpec(1e-2, {"ess_scale": 1.0, "tau": 1e-10}, COSINE_BY_STEPS),
        "vispa": RuleSpec(10.0, {"rank": 4, "weight_decay": 5e-5}, COSINE_BY_STEPS),
        "full-precision:no-dropout": dataclasses.replace(MNIST.quick["full-precision"], dropout=0.0),
        "ste:two-passes": dataclasses.replace(MNIST.quick["ste"], samples=2),
        "bayesbinn:straight-through": dataclasses.replace(DEFAULT, lr=5e-3, samples=2),
        "bayesbinn:one-pass": dataclasses.replace(DEFAULT, lr=5e-3),  # for members, whose epochs are few
    },
    predict_samples=32,
    evaluate_every=5,  # an evaluation of 32 samples takes as long as an epoch
    checkpoint_every=5,
    seed=1,
    wide=True,
)


def _outliers(name: str, share: float, how_many: str) -> Recipe:
    """Return the recipe with outliers, `share` of them per training image."""
    return dataclasses.replace(
        MNIST_TRUST,
        name=name,
        title=f"MNIST, the same MLP and data, and {how_many} made-up images of no class",
        source="ours; outlier exposure: Hendrycks et al., ICLR 2019",
        load=lambda where, device, seed: with_outliers(MNIST.load(where, device, seed), share),
        loss=OUTLIER_EXPOSURE,
    )


MNIST_OUTLIERS = _outliers("mnist-outliers", 0.1, "5,400")
MNIST_FEW_OUTLIERS = _outliers("mnist-few-outliers", 0.01, "540")


CIFAR10_SMALL = Recipe(
    name="cifar10-small",
    title="CIFAR-10, a narrow VGG for a laptop, real activations",
    source="ours",
    network=partial(nn.narrow_vgg, 10, activation="relu"),
    load=partial(load_cifar10, augment=CropFlip(pad=0)),  # six epochs are too short for crops to help
    epochs=6,
    quick_epochs=6,
    batch_size=200,
    rules=CIFAR_SHORT,
    seed=1,
    wide=True,
)
CIFAR10_SMALL_W1A1 = dataclasses.replace(
    CIFAR10_SMALL,
    name="cifar10-small-w1a1",
    title="CIFAR-10, a narrow VGG for a laptop, binary activations",
    network=partial(nn.narrow_vgg, 10, activation="sign"),
)

# For studies of members, where the dropout of a float network is a rival.
CIFAR10_NARROW = dataclasses.replace(
    CIFAR10_SMALL,
    name="cifar10-narrow",
    title="CIFAR-10, the narrow VGG, sixteen epochs; with dropout where it is float",
    network=partial(nn.narrow_vgg, 10, activation="relu", dropout=0.2),
    epochs=16,
    quick_epochs=16,
    rules=_float_dropout(CIFAR10_SMALL.rules),
)
CIFAR10_NARROW_W1A1 = dataclasses.replace(
    CIFAR10_NARROW,
    name="cifar10-narrow-w1a1",
    title="CIFAR-10, the narrow VGG with binary activations, sixteen epochs; with dropout where it is float",
    network=partial(nn.narrow_vgg, 10, activation="sign", dropout=0.2),
)
