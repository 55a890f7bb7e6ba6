"""Configuration of runs from the name of a recipe and a few choices."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitbayes.errors import nearest
from bitbayes.lab.choices import Budget, Overrides
from bitbayes.lab.data import AUGMENTATIONS, DataBundle, TensorData, TextData
from bitbayes.lab.recipes import bayesbinn, file, ours, plain, speed, text, vispa
from bitbayes.lab.recipes.base import DEFAULTS, Recipe
from bitbayes.lab.recipes.check import check_built, check_data, check_network, check_weights
from bitbayes.lab.recipes.finished import load_pretrained, load_teacher, weights_of
from bitbayes.lab.recipes.source import Source
from bitbayes.lab.train import (
    RULES,
    EventProgress,
    Progress,
    Ranks,
    RuleName,
    RuleSpec,
    RunConfig,
    RunFolder,
    RunResult,
    Summary,
    default_progress,
    train,
)
from bitbayes.lab.train.experiment import Experiment, build_experiment
from bitbayes.lab.train.machine import tuned_for
from bitbayes.lab.train.results import finished_summary
from bitbayes.lab.train.rules import check_options, relaxes

_SYNTHETIC = (bayesbinn.MOONS, bayesbinn.SNELSON)
_PLAIN = (plain.SNELSON_PLAIN, plain.DIGITS_PLAIN, plain.BREAST_CANCER)
_IMAGES = (ours.DIGITS, bayesbinn.MNIST, ours.FASHION_MNIST, bayesbinn.CIFAR10, bayesbinn.CIFAR100)
_TRUST = (ours.MNIST_TRUST, ours.MNIST_OUTLIERS, ours.MNIST_FEW_OUTLIERS)
_SMALL = (ours.MNIST_SMALL, ours.MNIST_NARROW, ours.CIFAR10_SMALL, ours.CIFAR10_SMALL_W1A1)
_NARROW = (ours.CIFAR10_NARROW, ours.CIFAR10_NARROW_W1A1)
_SPEED = (speed.SPEED, speed.SPEED_WIDE, speed.SPEED_W1A1, speed.SPEED_WIDE_W1A1, speed.SPEED_RESNET)

_ALL = (*_SYNTHETIC, *_PLAIN, *_IMAGES, *_TRUST, *_SMALL, *_NARROW, *_SPEED, text.TEXT, *vispa.VISPA_RECIPES)

RECIPES = {recipe.name: recipe for recipe in _ALL}
"""All recipes by name."""

STREAMS = {recipe.name: recipe for recipe in (bayesbinn.PERMUTED_MNIST, bayesbinn.SPLIT_MNIST)}
"""Recipes of continual learning by name."""

RELAX = 0.3
"""Share of the belief that each further cycle of a run keeps by default."""

_RESERVED = RECIPES | STREAMS
# Settings that a run passes on to the float network that is trained first.
_SHARED = (
    *("seed", "data_seed", "data", "device", "precision", "capture", "protocol", "accumulate"),
    *("augment", "label_smoothing", "dropout"),
)
# What torch says, to its developers, of names that it knows without having such a device.
_ESSAYS = ("Could not run", "INTERNAL ASSERT", "No module named", "meta tensors")
_ESTIMATORS = ("straight-through", "concrete", "released")


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this package with a name; `open_recipe` also takes files.

    Raises:
        ValueError: If there is none.

    Example:
        >>> find_recipe("mnist").epochs
        500
    """
    if name not in RECIPES:
        raise nearest("recipe", name, RECIPES)
    return RECIPES[name]


def open_recipe(text: str) -> Recipe:
    """Return the recipe that a user has named: one of this package, or that of a Python file, which is run.

    Args:
        text: "mnist", "my_recipe.py", or "my_recipe.py:name" for another variable than `recipe`.

    Raises:
        ValueError: If there is no such recipe.
        RecipeError: If the file does not exist, defines no such recipe, or a line of it raises an error.

    Example:
        >>> open_recipe("mnist").epochs
        500
    """
    if file.is_file(text):
        return file.open_file(text, _RESERVED)
    try:
        return find_recipe(text)
    except ValueError as error:
        there = f"{text}.py, which exists" if Path(f"{text}.py").is_file() else "a Python file, such as my_recipe.py"
        raise ValueError(f"{error}; or name {there}") from None


def recipe_of(config: RunConfig) -> Recipe:
    """Return the recipe of a record; that of a file must have been opened, because a record alone runs no program."""
    return find_recipe(config.recipe) if config.recipe_file is None else file.opened(config)


def recipe_of_run(folder: str | Path, config: RunConfig, *, trust: bool = False) -> Recipe:
    """Return the recipe of a run: that of a file from the copy in the folder, which is a program and is run.

    Args:
        folder: Folder of the run.
        config: Its record.
        trust: Run the program although this account has not run it before.

    Raises:
        RecipeError: If the copy is not the program that the run was trained by, or is not trusted.
    """
    if config.recipe_file is None:
        return find_recipe(config.recipe)
    return file.open_copy(folder, config, _RESERVED, trust=trust)


def open_source(program: Source) -> Recipe:
    """Run the program of a recipe file that another process has opened, and return its recipe."""
    return file.open_source(program, _RESERVED)


def full_name(recipe: Recipe, rule: str, estimator: str | None = None) -> RuleName:
    """Return the name of a rule with its estimator or variant, as in recipes and tables.

    Args:
        recipe: Recipe whose default estimator is used if none is given.
        rule: "ste", "bayesbinn", "bayesbinn:released", "bayesbinn:default", "vispa:rank1", ...
        estimator: Estimator of BayesBiNN, from `--estimator`.

    Raises:
        ValueError: If the rule or the estimator does not exist, or they contradict each other.

    Example:
        >>> str(full_name(find_recipe("mnist"), "bayesbinn")), str(full_name(find_recipe("mnist"), "ste"))
        ('bayesbinn:released', 'ste')
    """
    name = RuleName.parse(rule)
    if name.rule not in RULES:
        raise nearest("rule", rule, [*RULES, *DEFAULTS])
    if name.rule != "bayesbinn":
        if estimator:
            raise ValueError(f"only bayesbinn has estimators; got {estimator!r} for {name.rule}")
        if name.variant and rule not in {**recipe.rules, **recipe.quick}:
            raise nearest("rule", rule, [*recipe.rules, *recipe.quick, *DEFAULTS])
        return name
    if name.variant and estimator and name.variant != estimator:
        raise ValueError(f"got two estimators, {name.variant!r} and {estimator!r}; give one of them")
    chosen = name.variant or estimator or recipe.estimator
    if chosen not in _ESTIMATORS:
        if estimator and not name.variant:
            raise nearest("estimator", chosen, _ESTIMATORS)
        known = map(RuleName.parse, {**DEFAULTS, **recipe.rules, **recipe.quick})
        variants = [each.variant for each in known if each.rule == "bayesbinn" and each.variant]
        if chosen not in variants:
            raise nearest("variant of bayesbinn", chosen, dict.fromkeys([*_ESTIMATORS, *variants]))
    return RuleName(name.rule, chosen)


def find_rule(recipe: Recipe, name: RuleName, budget: Budget) -> RuleSpec:
    """Return the hyper-parameters of a rule, from `full_name`, for a budget.

    Raises:
        ValueError: If the recipe has no hyper-parameters for the rule.
    """
    known = {**recipe.rules, **(recipe.quick if budget == "quick" else {}), **DEFAULTS}
    if str(name) not in known:
        raise ValueError(f"recipe {recipe.name} has no settings for {name}; choose from: {', '.join(known)}")
    return known[str(name)]


def make_config(
    recipe: Recipe | str, rule: str = "bayesbinn", given: Overrides | None = None, **settings: Any
) -> RunConfig:
    """Return the configuration of a run from a recipe and the user's choices.

    Args:
        recipe: Recipe, or its name or file.
        rule: Name of the rule.
        given: Choices that override those of the recipe.
        **settings: Further choices by keyword, including any other field of `RunConfig` or `RuleSpec`; None keeps the
            recipe's.

    Raises:
        ValueError: If a name does not exist or a value is out of range.

    Example:
        >>> make_config("mnist", "ste", seed=3).out
        'runs/mnist-ste-seed3'
    """
    recipe = open_recipe(recipe) if isinstance(recipe, str) else recipe
    chosen: dict[str, Any] = {}
    for source in (vars(given or Overrides()), settings):
        chosen |= {name: value for name, value in source.items() if value is not None}
    budget: Budget = chosen.pop("budget")
    name = full_name(recipe, rule, chosen.pop("estimator", None))
    spec = find_rule(recipe, name, budget)
    if "epochs" not in chosen and budget == "quick" and recipe.quick_epochs is None:
        raise ValueError(
            f"{recipe.name} has no quick schedule; use --budget paper ({recipe.epochs} epochs) or give --epochs"
        )
    seed = chosen.setdefault("seed", recipe.seed)
    if chosen["precision"] == "auto" and not recipe.wide:
        chosen["precision"] = "fp32"
    estimator = name.variant if name.variant in _ESTIMATORS else "straight-through"
    options = chosen.pop("options")
    if "real_lr" in chosen:
        check_real_lr(recipe, name.rule)
    binary = name.rule != "full-precision"
    if binary:
        spec = dataclasses.replace(spec, options={**recipe.common, **spec.options})
    epochs = (recipe.quick_epochs if budget == "quick" else None) or recipe.epochs
    if chosen.get("pretrain_epochs") and ("pretrained" in chosen or not binary):
        why = "pretrained names a network" if binary else "the network is a float network itself"
        raise ValueError(f"pretrain_epochs has no effect, because {why}; leave it out")
    if "first_scale" in chosen and not binary:
        raise ValueError("first_scale has no effect on full-precision, which has no binary weights; leave it out")
    if binary and (chosen.get("pretrain_epochs", recipe.pretrain_epochs) or "pretrained" in chosen):
        spec = spec.with_options({"init": "weights"})
    several = f"-cycles{chosen['cycles']}" if chosen.get("cycles", 1) > 1 else ""
    if several and relaxes(name.rule):
        chosen.setdefault("relax", RELAX)
    config = RunConfig(
        recipe=recipe.name,
        rule=name.rule,
        out=_folder(chosen.pop("out", None)) or f"runs/{recipe.name}-{name.slug}-seed{seed}{several}",
        spec=spec.with_options(options),
        epochs=epochs if binary else epochs + recipe.pretrain_epochs,
        estimator=estimator if name.rule == "bayesbinn" else None,
        variant=None if name.variant in _ESTIMATORS else name.variant,
        batch_size=recipe.batch_size,
        evaluate_every=recipe.evaluate_every,
        checkpoint_every=recipe.checkpoint_every,
        predict_samples=recipe.predict_samples,
        label_smoothing=recipe.label_smoothing,
        views=recipe.views,
        pretrain_epochs=recipe.pretrain_epochs if binary and "pretrained" not in chosen else 0,
        recipe_file=recipe.file and recipe.file.text,
        recipe_sha256=recipe.file and recipe.file.sha256,
    )
    if "teacher_share" in chosen and "teacher" not in chosen:
        raise ValueError("teacher_share has no effect without teacher, the folder of a run; give both")
    for role in ("teacher", "pretrained"):
        if role in chosen:
            chosen[f"{role}_sha256"] = weights_of(chosen[role], config.out, role)
    config = config.changed(**chosen)
    if options:
        check_options(config.rule, config.estimator, config.spec, options)
    return config


def check_real_lr(recipe: Recipe, rule: str) -> None:
    """Raise ValueError if a learning rate of real parameters has no effect."""
    if rule == "full-precision" or recipe.all_binary:
        why = "all its weights have the rate lr" if rule == "full-precision" else "all its weights are binary"
        raise ValueError(f"real_lr has no effect on {recipe.name} with {rule}: {why}; leave it out")


def make_experiment(
    config: RunConfig,
    data: DataBundle | None = None,
    recipe: Recipe | None = None,
    *,
    begin: Callable[[nn.Module], None] | None = None,
) -> Experiment:
    """Build the objects of a run.

    Args:
        config: The record of the run.
        data: Data that are loaded already.
        recipe: The recipe, if it is not the one that `open_recipe` has opened for the record.
        begin: Function that changes the weights of the network before the rule reads them.

    Raises:
        ValueError: If the device or the data does not exist, or the network of a recipe file does not suit its data.
    """
    recipe = recipe or recipe_of(config)
    data = data_of(config, data, recipe)
    make = recipe.builder(data)

    def build() -> nn.Module:
        model = make()
        if begin is not None:
            begin(model)
        return model

    if recipe.file is None:
        return build_experiment(config, build, data, recipe.loss, all_binary=recipe.all_binary)

    def checked() -> nn.Module:
        model = build()
        check_built(model)
        if config.rule != "full-precision" and not recipe.all_binary:
            check_weights(model)
        return model

    with recipe.file.blamed():
        experiment = build_experiment(config, checked, data, recipe.loss, all_binary=recipe.all_binary)
        check_network(experiment)
    return experiment


def data_of(config: RunConfig, data: DataBundle | None = None, recipe: Recipe | None = None) -> DataBundle:
    """Return the data of a run as divided by its protocol; `data` may be loaded already."""
    data = load_data(config, recipe) if data is None else data
    if config.augment is not None:
        data = _augmented(data, config.augment)
    return data.without_validation() if config.protocol == "test" else data


def _augmented(data: DataBundle, name: str) -> DataBundle:
    """Return data with another augmentation of the training images."""
    train, augment = data.train, AUGMENTATIONS[name]
    if augment is not None:
        if isinstance(train, TextData):
            raise ValueError(f"augment {name} needs images, but {data.name} is text; leave it out")
        if not isinstance(train, TensorData):
            raise ValueError(
                f"augment {name} needs images in memory, but {data.name} reads them from files; leave it out"
            )
        if train.x.dim() != 4 or train.x.dtype != torch.uint8:
            came = f"{train.x.dtype} of shape (N, {', '.join(map(str, train.x.shape[1:]))})"
            raise ValueError(
                f"augment {name} needs images of type uint8 and shape (N, C, H, W), got {came}; leave it out"
            )
    return dataclasses.replace(data, train=dataclasses.replace(train, augment=augment))


def open_device(name: str) -> torch.device:
    """Return a device that can hold tensors.

    Raises:
        ValueError: If there is no such device, or it cannot be used, such as a full GPU.
    """
    device = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that torch will give up
            device = torch.device(name)
        torch.ones((), device=device).item()  # the device "meta" has tensors without numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        essay = not reason or (any(words in reason for words in _ESSAYS) and not name.startswith("cuda"))
        if device is None or essay:
            reason = "torch finds no such device here"
        advice = "choose cpu, or cuda on a machine with a GPU"
        raise ValueError(f"device {name!r} cannot be used: {reason}; {advice}") from error
    return device


def load_data(config: RunConfig, recipe: Recipe | None = None) -> DataBundle:
    """Load the data of a run onto its device.

    Raises:
        ValueError: If the device or the data does not exist.
    """
    device = open_device(config.device)
    recipe = recipe or recipe_of(config)
    with _blamed(recipe):
        data = recipe.load(config.data, device, config.data_seed)
    if recipe.file is not None:
        check_data(data, recipe.loss, device)
    return data


def _blamed(recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if recipe.file is None else recipe.file.blamed()


def run_recipe(
    config: RunConfig,
    *,
    resume: bool = False,
    data: DataBundle | None = None,
    progress: Progress | None = None,
    about: str | None = None,
) -> RunResult:
    """Train a run, after the float network that it begins with if that has to be trained first.

    Args:
        config: Configuration of the run.
        resume: Whether to continue the run in `config.out`, if there is one.
        data: Data that is already loaded.
        progress: Display of the run.
        about: Line about the run, which is shown when it begins.
    """
    recipe = recipe_of(config)
    if config.pretrain_epochs and config.pretrained is None:
        data = load_data(config, recipe) if data is None else data
        _to_train(config, data)  # refuses what the run cannot do before the float network is trained
        # Events of the float network do not belong into the folder of the run.
        own = None if isinstance(progress, EventProgress) else progress
        config = pretrained(config, data=data, progress=own)
    if recipe.file is None:
        with tuned_for(wide=recipe.wide):
            return train(config, _to_train(config, data), resume=resume, progress=progress, about=about)
    if resume:
        file.check_unchanged(config)
    progress = progress or default_progress()
    with tuned_for(wide=recipe.wide), _blamed(recipe):
        experiment = _to_train(config, data)
        if Ranks.here().first:
            progress.note(f"{config.recipe}: {experiment.data.described()}")
        return train(config, experiment, resume=resume, progress=progress, programs=recipe.file.files, about=about)


def _folder(out: str | None) -> str | None:
    """Return a folder without a slash at its end, which would put the float network of a run into the run's folder."""
    return str(Path(out)) if out else out


def float_folder(config: RunConfig) -> str:
    """Return the folder of the float network that is trained first, beside the folder of the run."""
    return f"{config.out}-pretrained"


def begun_folders(configs: Sequence[RunConfig]) -> list[str]:
    """Return the folders that interrupted runs may have begun: their own, and those of float networks before them."""
    before = [float_folder(config) for config in configs if config.pretrain_epochs]
    return [*(config.out for config in configs), *before]


def pretrained(
    config: RunConfig, folder: str | None = None, *, data: DataBundle | None = None, progress: Progress | None = None
) -> RunConfig:
    """Train the float network that a run begins with unless it is there, and return the run with the folder of it.

    A run that needs none is returned as it is.

    Args:
        config: Configuration of the run.
        folder: Folder of the float network; None for `float_folder`.
        data: Data that is already loaded.
        progress: Display of the training.
    """
    first, ranks = float_config(config, folder), Ranks.here()
    if first is None:
        return config
    data, out = load_data(first) if data is None else data, first.out
    if not ranks.agreed("there" if ranks.first and finished(first, data) else ""):
        run_recipe(first, resume=True, data=data, progress=progress)
    # The first process writes the weights, and the others wait for their hash.
    sha256 = ranks.agreed(weights_of(out, config.out, "pretrained") if ranks.first else "")
    return config.changed(pretrained=out, pretrained_sha256=sha256)


def float_config(config: RunConfig, folder: str | None = None) -> RunConfig | None:
    """Return the configuration of the float network that has to be trained before a run; None if there is none.

    It has the settings of the recipe's "full-precision", except for the seed, the data, the machine, the augmentation,
    the dropout and the label smoothing, which are those of the run.

    Args:
        config: Configuration of the run.
        folder: Folder of the float network; None for `float_folder`.
    """
    if not config.pretrain_epochs or config.pretrained is not None:
        return None
    same = {name: value for name, value in config.flat().items() if name in _SHARED and value is not None}
    out = folder or float_folder(config)
    return make_config(recipe_of(config), "full-precision", epochs=config.pretrain_epochs, out=out, **same)


def finished(config: RunConfig, data: DataBundle) -> Summary | None:
    """Return the summary of a finished run with these settings and data; None if there is none.

    Raises:
        ValueError: If the record of the run is damaged.
        RunError: If another file of the run is damaged.
    """
    folder = RunFolder(config.out)
    if not folder.has("summary.json") or RunConfig.load(config.out).differences(config):
        return None
    if not folder.trained_on(data_of(config, data).fingerprint()):
        return None
    return finished_summary(config.out, config.last_epoch)


def _to_train(config: RunConfig, data: DataBundle | None) -> Experiment:
    """Return the objects of a run that is about to be trained, with what it takes from finished runs."""
    begin = None if config.pretrained is None else partial(load_pretrained, config)
    experiment = make_experiment(config, data, begin=begin)
    if config.teacher is not None:
        theirs = recipe_of_run(config.teacher, RunConfig.load(config.teacher))
        experiment.teacher = load_teacher(config, theirs, experiment.data)
    return experiment
