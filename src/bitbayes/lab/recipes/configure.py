"""From a recipe and a few choices to a run."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from bitbayes.errors import nearest
from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes.base import DEFAULTS, Recipe, RuleSpec
from bitbayes.lab.recipes.registry import find_recipe
from bitbayes.lab.train import (
    RULES,
    Experiment,
    Progress,
    RunConfig,
    RunResult,
    build_experiment,
    train,
)
from bitbayes.lab.train.machine import tuned_for

__all__ = ["Budget", "find_rule", "full_name", "make_config", "make_experiment", "run_recipe"]

Budget = Literal["paper", "quick"]
_ESTIMATORS = ("straight-through", "concrete", "released")


def full_name(recipe: Recipe, rule: str, estimator: str | None = None) -> str:
    """The name of a rule with its estimator or variant, as recipes and tables have it.

    Args:
        recipe: Whose default estimator is used if none is given.
        rule: "ste", "bayesbinn", "bayesbinn:released", "bayesbinn:default", "vispa:rank1", ...
        estimator: Of BayesBiNN, from `--estimator`.

    Returns:
        The name.

    Raises:
        ValueError: If one does not exist, or they contradict each other.

    Example:
        >>> full_name(find_recipe("mnist"), "bayesbinn"), full_name(find_recipe("mnist"), "ste")
        ('bayesbinn:released', 'ste')
    """
    name, _, suffix = rule.partition(":")
    if name not in RULES:
        raise nearest("rule", rule, RULES)
    if name != "bayesbinn":
        if estimator:
            raise ValueError(f"only bayesbinn has estimators; got {estimator!r} for {name}")
        if suffix and rule not in {**recipe.rules, **recipe.quick}:
            raise nearest("rule", rule, recipe.rules)
        return rule
    if suffix and estimator and suffix != estimator:
        raise ValueError(f"two estimators were given: {suffix!r} and {estimator!r}")
    chosen = suffix or estimator or recipe.estimator
    if chosen not in _ESTIMATORS and rule not in DEFAULTS:
        raise nearest("estimator", chosen, _ESTIMATORS)
    return f"{name}:{chosen}"


def find_rule(recipe: Recipe, name: str, budget: Budget) -> RuleSpec:
    """Looks the hyper-parameters of a rule up.

    Args:
        recipe: The recipe.
        name: Of the rule, from `full_name`.
        budget: "paper", or "quick" for the shortened schedule.

    Returns:
        The hyper-parameters.

    Raises:
        ValueError: If the recipe has none for it.
    """
    known = {**recipe.rules, **(recipe.quick if budget == "quick" else {}), **DEFAULTS}
    if name not in known:
        raise ValueError(f"recipe {recipe.name} has no settings for {name}; it has: {', '.join(known)}")
    return known[name]


def make_config(
    recipe: Recipe | str,
    rule: str = "bayesbinn",
    *,
    estimator: str | None = None,
    budget: Budget = "paper",
    seed: int | None = None,
    out: str | None = None,
    lr: float | None = None,
    options: dict[str, Any] | None = None,
    epochs: int | None = None,
    **choices: Any,
) -> RunConfig:
    """Fills a record from a recipe and what the user chose.

    Args:
        recipe: The recipe, or its name.
        rule: Name of the rule.
        estimator: Of BayesBiNN; None for the recipe's.
        budget: Which hyper-parameters and schedule.
        seed: Of the run; None for the recipe's.
        out: Folder; None for runs/RECIPE-RULE[-ESTIMATOR]-seedS.
        lr: Learning rate, if not the recipe's.
        options: Options of the rule, on top of the recipe's.
        epochs: Length of the schedule, if not the recipe's.
        **choices: Other fields of `RunConfig`; None means the default.

    Returns:
        The record.

    Raises:
        ValueError: For names that do not exist and values out of range.

    Example:
        >>> make_config("mnist", "ste", seed=3).out
        'runs/mnist-ste-seed3'
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    full = full_name(recipe, rule, estimator)
    spec = find_rule(recipe, full, budget)
    seed = recipe.seed if seed is None else seed
    if epochs is None and budget == "quick":
        if recipe.quick_epochs is None:
            raise ValueError(
                f"{recipe.name} has no quick schedule; take --budget paper ({recipe.epochs} epochs), or say --epochs"
            )
        epochs = recipe.quick_epochs
    fields: dict[str, Any] = {
        "recipe": recipe.name,
        "rule": full.partition(":")[0],
        "estimator": _estimator(full),
        "out": out or f"runs/{recipe.name}-{full.replace(':', '-')}-seed{seed}",
        "lr": spec.lr if lr is None else lr,
        "options": {**spec.options, **(options or {})},
        "real_lr": spec.real_lr,
        "real_optimizer": spec.real_optimizer,
        "real_weight_decay": spec.real_weight_decay,
        "schedule": spec.schedule,
        "clip_gradient": spec.clip_gradient,
        "samples": spec.samples,
        "dropout": spec.dropout,
        "epochs": recipe.epochs if epochs is None else epochs,
        "batch_size": recipe.batch_size,
        "seed": seed,
        "evaluate_every": recipe.evaluate_every,
        "checkpoint_every": recipe.checkpoint_every,
        "predict_samples": recipe.predict_samples,
    }
    known = {item.name for item in dataclasses.fields(RunConfig)}
    for key, value in choices.items():
        if key not in known:
            raise nearest("setting", key, known)
        if value is not None:
            fields[key] = value
    if fields.get("precision", "auto") == "auto" and not recipe.wide:
        fields["precision"] = "fp32"
    return RunConfig(**fields)


def _estimator(full: str) -> str | None:
    """What a run records of a variant."""
    rule, _, variant = full.partition(":")
    if rule != "bayesbinn":
        return None
    return variant if variant in _ESTIMATORS else "straight-through"


def make_experiment(config: RunConfig, data: DataBundle | None = None) -> Experiment:
    """Builds the objects of a run.

    Args:
        config: The record.
        data: Data that is loaded already; None to load it.

    Returns:
        The objects.
    """
    recipe = find_recipe(config.recipe)
    data = data_of(config, data)
    return build_experiment(config, recipe.network, data, recipe.loss, all_binary=recipe.all_binary)


def data_of(config: RunConfig, data: DataBundle | None = None) -> DataBundle:
    """The data of a run as its protocol divides them.

    Args:
        config: The record.
        data: Data that is loaded already; None to load it.

    Returns:
        The data, on the device of the run.
    """
    data = load_data(config) if data is None else data
    return data.without_validation() if config.protocol == "test" else data


def load_data(config: RunConfig) -> DataBundle:
    """Loads the data of a run.

    Args:
        config: The record.

    Returns:
        The data, on the device of the run.

    Raises:
        ValueError: If the device or the data does not exist.
    """
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"device {config.device!r} cannot be used: {line}") from error
    return find_recipe(config.recipe).load(config.data, device, config.data_seed)


def run_recipe(
    config: RunConfig,
    *,
    resume: bool = False,
    data: DataBundle | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Trains what a record says.

    Args:
        config: The record.
        resume: Continue the run in `config.out`, if there is one.
        data: Data that is loaded already.
        progress: Display.

    Returns:
        The metrics.
    """
    with tuned_for(config.recipe):
        experiment = make_experiment(config, data)
        return train(config, experiment, resume=resume, progress=progress)
