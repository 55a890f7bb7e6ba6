"""The recipes by name."""

from __future__ import annotations

from bitbayes.errors import nearest
from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.recipes.cifar import CIFAR10, CIFAR10_SMALL, CIFAR10_SMALL_W1A1, CIFAR100
from bitbayes.lab.recipes.digits import DIGITS
from bitbayes.lab.recipes.mnist import FASHION_MNIST, MNIST, MNIST_FEW_OUTLIERS, MNIST_OUTLIERS, MNIST_TRUST
from bitbayes.lab.recipes.moons import MOONS
from bitbayes.lab.recipes.snelson import SNELSON
from bitbayes.lab.recipes.vispa import VISPA_RECIPES

__all__ = ["RECIPES", "find_recipe"]

_BAYESBINN = (MOONS, SNELSON, DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR100)
_OURS = (MNIST_TRUST, MNIST_OUTLIERS, MNIST_FEW_OUTLIERS, CIFAR10_SMALL, CIFAR10_SMALL_W1A1)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_BAYESBINN, *_OURS, *VISPA_RECIPES)}
"""Every experiment by its name."""


def find_recipe(name: str) -> Recipe:
    """Looks a recipe up.

    Args:
        name: Its name.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> find_recipe("mnist").epochs
        500
    """
    if name not in RECIPES:
        raise nearest("recipe", name, RECIPES)
    return RECIPES[name]
