"""Every published experiment as a dataclass, with the published figure beside it."""

from bitbayes.lab.recipes.base import Published, Recipe, RuleSpec
from bitbayes.lab.recipes.configure import full_name, make_config, make_experiment, run_recipe
from bitbayes.lab.recipes.registry import RECIPES, find_recipe

__all__ = [
    "RECIPES",
    "Published",
    "Recipe",
    "RuleSpec",
    "find_recipe",
    "full_name",
    "make_config",
    "make_experiment",
    "run_recipe",
]
