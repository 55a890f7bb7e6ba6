"""Recipes: published experiments as dataclasses, with their published results."""

from bitbayes.lab.recipes.base import DEFAULTS, Published, Recipe
from bitbayes.lab.recipes.configure import (
    RECIPES,
    STREAMS,
    find_recipe,
    full_name,
    make_config,
    make_experiment,
    run_recipe,
)

__all__ = [
    "DEFAULTS",
    "RECIPES",
    "STREAMS",
    "Published",
    "Recipe",
    "find_recipe",
    "full_name",
    "make_config",
    "make_experiment",
    "run_recipe",
]
