"""Every published experiment as a dataclass, with the published figure beside it."""

from bitbayes.recipes.base import Published, Recipe, RuleSpec
from bitbayes.recipes.registry import RECIPES, find_recipe, nearest
from bitbayes.recipes.run import full_name, make_config, make_experiment, run_recipe
from bitbayes.recipes.several import make_configs, run_several

__all__ = [
    "RECIPES",
    "Published",
    "Recipe",
    "RuleSpec",
    "find_recipe",
    "full_name",
    "make_config",
    "make_configs",
    "make_experiment",
    "nearest",
    "run_recipe",
    "run_several",
]
