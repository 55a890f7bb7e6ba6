"""Recipes: published experiments as dataclasses, with their published results."""

from bitbayes.lab.recipes.base import DEFAULTS, STARTING_RULES, Published, Recipe
from bitbayes.lab.recipes.configure import (
    RECIPES,
    STREAMS,
    find_recipe,
    full_name,
    make_config,
    make_experiment,
    open_recipe,
    recipe_of_run,
    run_recipe,
)
from bitbayes.lab.recipes.source import RecipeError, Source

__all__ = [
    "DEFAULTS",
    "RECIPES",
    "STARTING_RULES",
    "STREAMS",
    "Published",
    "Recipe",
    "RecipeError",
    "Source",
    "find_recipe",
    "full_name",
    "make_config",
    "make_experiment",
    "open_recipe",
    "recipe_of_run",
    "run_recipe",
]
