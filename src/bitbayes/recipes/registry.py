"""The recipes by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bitbayes.recipes.base import Recipe
from bitbayes.recipes.cifar import CIFAR10, CIFAR10_SMALL, CIFAR10_SMALL_W1A1, CIFAR100
from bitbayes.recipes.digits import DIGITS
from bitbayes.recipes.mnist import FASHION_MNIST, MNIST, MNIST_FEW_OUTLIERS, MNIST_OUTLIERS, MNIST_TRUST
from bitbayes.recipes.moons import MOONS
from bitbayes.recipes.snelson import SNELSON
from bitbayes.recipes.vispa import VISPA_RECIPES

__all__ = ["RECIPES", "find_recipe", "nearest"]

_BAYESBINN = (MOONS, SNELSON, DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR100)
_OURS = (MNIST_TRUST, MNIST_OUTLIERS, MNIST_FEW_OUTLIERS, CIFAR10_SMALL, CIFAR10_SMALL_W1A1)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_BAYESBINN, *_OURS, *VISPA_RECIPES)}
"""Every experiment by its name."""


def nearest(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist, with the nearest one that does.

    Args:
        kind: What the name is of, such as "rule".
        name: What came.
        known: What there is.

    Returns:
        The error to raise.

    Example:
        >>> print(nearest("rule", "bayesbin", ["ste", "bayesbinn"]))
        no rule is called 'bayesbin'; did you mean 'bayesbinn'? There are: ste, bayesbinn
    """
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ValueError(f"no {kind} is called {name!r}; {hint}There are: {', '.join(names)}")


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
