"""Reproduction of published tables: every rule and seed, beside the published results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbayes.errors import nearest
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.recipes import DEFAULTS, Recipe, full_name, make_config, open_recipe
from bitbayes.lab.studies.several import run_several, with_float_networks
from bitbayes.lab.train import RuleName, RunFolder, Summary
from bitbayes.lab.train.records import Spread


@dataclass(frozen=True)
class PublishedTable:
    """A published table.

    Args:
        columns: Accuracies in the table. A recipe without classes has other figures, which the table all shows.
        recipe: Default recipe of the table; users may choose others.
        rules: Rows of the table. All rules for which the recipe has settings if it is empty, or if the user chooses a
            recipe without settings for some of them.
    """

    columns: tuple[str, ...]
    recipe: str
    rules: tuple[str, ...] = ()


_ALL = ("train", "validation", "test")
_FOUR = ("full-precision", "ste", "bop", "bayesbinn:straight-through")
_SMALL = (*_FOUR, "vispa")
_TRUST = (
    *("full-precision", "full-precision:no-dropout", "ste", "ste:two-passes"),
    *("bayesbinn:released", "bayesbinn:straight-through", "vispa"),
)
_VISPA = ("full-precision", "vispa:no-z", "vispa")

TABLES = {
    "table2": PublishedTable(("test",), "mnist"),
    "table10": PublishedTable(_ALL, "mnist"),
    "small": PublishedTable(_ALL, "cifar10-small", _SMALL),
    "speed": PublishedTable(_ALL, "cifar10-speed", _SMALL),
    "text": PublishedTable(_ALL, "text", _FOUR),
    "trust": PublishedTable(_ALL, "mnist-trust", _TRUST),
    "default": PublishedTable(_ALL, "cifar10-small", ("ste", "bayesbinn:straight-through", "bayesbinn:default")),
    "vispa-table1": PublishedTable(("test",), "cifar10-vgg-small-w1a1", _VISPA),
    "vispa-table2": PublishedTable(("test",), "cifar10-vgg16"),
    "vispa-table3": PublishedTable(("test",), "imagenet-alexnet", _VISPA),
    "vispa-table4": PublishedTable(("test",), "imagenet-resnet18", _VISPA),
    "vispa-table5": PublishedTable(("test",), "tiny-imagenet-resnet18", ("vispa:no-z", "vispa")),
    "vispa-figure1": PublishedTable(
        ("test",), "cifar10-resnet18-w1a1", ("vispa:rank1", "vispa:rank2", "vispa", "vispa:rank8", "vispa:rank10")
    ),
}
_SEEDS = {"quick": 3, "paper": 5}
_KEYS = {"train": "train_accuracy", "validation": "val_accuracy", "test": "test_accuracy"}


@dataclass(frozen=True)
class TableRow:
    """Row of a table: the runs of one rule.

    Args:
        rule: Text of its `RuleName`, with the estimator of BayesBiNN.
        summaries: Content of summary.json of every run.
    """

    rule: str
    summaries: list[Summary]

    def values(self, key: str) -> list[float]:
        """Return one entry of all summaries that have it."""
        return [value for summary in self.summaries if (value := getattr(summary, key)) is not None]

    def figures(self) -> dict[str, Any]:
        """Return means and sample standard deviations, for the file of the table."""
        found: dict[str, Any] = {"rule": self.rule, "runs": len(self.summaries)}
        wanted = {
            **_KEYS,
            "test_nll": "test_nll",
            "sample_test": "sample_test_accuracy",
            "mean_test": "mean_test_accuracy",
            "mean_test_nll": "mean_test_nll",
            "test_error": "test_error",
            "mean_test_error": "mean_test_error",
            "validation_bits": "val_bits",
            "test_bits": "test_bits",
            "sample_test_bits": "sample_test_bits",
            "mean_test_bits": "mean_test_bits",
            "entropy_bits": "posterior_entropy_bits",
            "seconds_per_epoch": "seconds_per_epoch",
        }
        for name, key in wanted.items():
            if values := self.values(key):
                found[name] = vars(Spread.of(values))
        return found


def table_rules(recipe: Recipe, wanted: Sequence[str] = ()) -> list[RuleName]:
    """Return the rows of a table: the requested rules, or all rules with settings for the quick budget.

    Raises:
        ValueError: If a rule does not exist.

    Example:
        >>> [str(rule) for rule in table_rules(open_recipe("mnist"), ["bayesbinn", "ste"])]
        ['bayesbinn:released', 'ste']
    """
    return [full_name(recipe, name) for name in wanted or recipe.quick or recipe.rules]


def rules_of(name: str, recipe: Recipe, wanted: Sequence[str] = ()) -> list[RuleName]:
    """Return the rows of a named table: the requested rules, or those of the table if the recipe has them all.

    Raises:
        ValueError: If a rule does not exist.

    Example:
        >>> len(rules_of("trust", open_recipe("mnist-trust"))), len(open_recipe("mnist-trust").rules)
        (7, 8)
    """
    usual = TABLES[name].rules
    return table_rules(recipe, wanted or (usual if {*usual} <= {*recipe.rules, *recipe.quick, *DEFAULTS} else ()))


def run_table(
    name: str, choice: TableChoice, given: Overrides, *, note: Callable[[str], None] = print
) -> tuple[list[TableRow], Path]:
    """Train every rule with every seed; finished runs in the folder are not repeated.

    Tables of one recipe use the same runs, so by default they share a folder, in which each table has its own file.

    Args:
        name: Name of the table.
        choice: Runs of the table; by default, 3 seeds (quick) or 5 seeds (paper) of every rule.
        given: Choices for every run; `out` is the folder of the runs.
        note: Function that gets a line about each run when it begins.

    Returns:
        The rows, and the folder.

    Raises:
        ValueError: If a name does not exist, or the folder holds the same table of another recipe.
        RunError: If another process is writing into the folder.
    """
    if name not in TABLES:
        raise nearest("table", name, TABLES)
    if choice.seeds is not None and choice.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {choice.seeds}")
    recipe = open_recipe(choice.dataset or TABLES[name].recipe)
    rules = rules_of(name, recipe, choice.rules)
    folder = Path(given.out or default_folder(recipe, given))
    seeds = [recipe.seed + index for index in range(choice.seeds or _SEEDS[given.budget])]
    configs = [
        make_config(recipe, str(rule), given, seed=seed, out=str(run_folder(folder, rule, seed)))
        for rule in rules
        for seed in seeds
    ]
    files = RunFolder(folder)
    with files.held():
        known = files.read_json(f"{name}.json").get("recipe") if files.has(f"{name}.json") else None
        if known not in (None, recipe.name):
            raise ValueError(f"{folder} holds {name} of {known}, not {recipe.name}; choose another --out")
        # The rules share the float networks that they begin with.
        shared = [str(folder / f"pretrained-seed{config.seed}") for config in configs]
        ready = with_float_networks(configs, shared, jobs=choice.jobs, note=note)
        summaries = iter(run_several(ready, jobs=choice.jobs, note=note))
    return [TableRow(str(rule), [next(summaries) for _ in seeds]) for rule in rules], folder


def default_folder(recipe: Recipe, given: Overrides) -> str:
    """Return the folder of the runs of a recipe that name no other; the protocol "test" has a folder of its own.

    Example:
        >>> default_folder(open_recipe("mnist"), Overrides(budget="quick", protocol="test"))
        'runs/mnist-quick-test'
    """
    return f"runs/{recipe.name}-{given.budget}{'-test' if given.protocol == 'test' else ''}"


def run_folder(folder: Path, rule: RuleName, seed: int) -> Path:
    """Return the folder of one run of a table."""
    return folder / f"{rule.slug}-seed{seed}"
