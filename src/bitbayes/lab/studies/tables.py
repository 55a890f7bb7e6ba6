"""Published tables, reproduced: every rule and seed, ours beside published."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbayes.errors import nearest
from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.recipes.configure import Budget, full_name, make_config
from bitbayes.lab.recipes.registry import find_recipe
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.train import Summary

__all__ = ["TABLES", "Table", "TableRow", "run_table", "table_rules"]


@dataclass(frozen=True)
class Table:
    """A published table.

    Args:
        columns: Accuracies that it has.
        recipe: Its first recipe; others are asked for by name.
        rules: Its rows; empty for all that the recipe has settings for.
    """

    columns: tuple[str, ...]
    recipe: str
    rules: tuple[str, ...] = ()


_ALL = ("train", "validation", "test")
_SMALL = ("full-precision", "ste", "bop", "bayesbinn:straight-through", "vispa")
_VISPA = ("full-precision", "vispa:no-z", "vispa")

# Tables of one recipe are over the same runs.
TABLES = {
    "table2": Table(("test",), "mnist"),
    "table10": Table(_ALL, "mnist"),
    "small": Table(_ALL, "cifar10-small", _SMALL),
    "trust": Table(_ALL, "mnist-trust"),
    "default": Table(_ALL, "cifar10-small", ("ste", "bayesbinn:straight-through", "bayesbinn:default")),
    "vispa-table1": Table(("test",), "cifar10-vgg-small-w1a1", _VISPA),
    "vispa-table2": Table(("test",), "cifar10-vgg16"),
    "vispa-table3": Table(("test",), "imagenet-alexnet", _VISPA),
    "vispa-table4": Table(("test",), "imagenet-resnet18", _VISPA),
    "vispa-table5": Table(("test",), "tiny-imagenet-resnet18", ("vispa:no-z", "vispa")),
    "vispa-figure1": Table(
        ("test",), "cifar10-resnet18-w1a1", ("vispa:rank1", "vispa:rank2", "vispa", "vispa:rank8", "vispa:rank10")
    ),
}
_SEEDS = {"quick": 3, "paper": 5}
_KEYS = {"train": "train_accuracy", "validation": "val_accuracy", "test": "test_accuracy"}


@dataclass(frozen=True)
class TableRow:
    """One rule of a table.

    Args:
        rule: Name, with the estimator of BayesBiNN.
        summaries: summary.json of every run.
    """

    rule: str
    summaries: list[Summary]

    def values(self, key: str) -> list[float]:
        """One entry of all summaries, where it exists.

        Args:
            key: Name in summary.json.

        Returns:
            Its values, one a run.
        """
        return [value for summary in self.summaries if (value := getattr(summary, key)) is not None]

    def figures(self) -> dict[str, Any]:
        """Means and sample standard deviations, for results.json."""
        found: dict[str, Any] = {"rule": self.rule, "runs": len(self.summaries)}
        wanted = {
            **_KEYS,
            "test_nll": "test_nll",
            "sample_test": "sample_test_accuracy",
            "mean_test": "mean_test_accuracy",
            "mean_test_nll": "mean_test_nll",
            "test_error": "test_error",
            "mean_test_error": "mean_test_error",
            "entropy_bits": "posterior_entropy_bits",
            "seconds_per_epoch": "seconds_per_epoch",
        }
        for name, key in wanted.items():
            values = self.values(key)
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else None
                found[name] = {"mean": statistics.mean(values), "std": spread, "values": values}
        return found


def table_rules(recipe: Recipe, budget: Budget, wanted: Sequence[str] = ()) -> list[str]:
    """The rows of a table.

    Args:
        recipe: The recipe.
        budget: Whose hyper-parameters.
        wanted: Rules that were asked for; empty means all that the quick budget has settings for.

    Returns:
        Names of rules with estimators.

    Raises:
        ValueError: If a rule does not exist.

    Example:
        >>> table_rules(find_recipe("mnist"), "quick", ["bayesbinn", "ste"])
        ['bayesbinn:released', 'ste']
    """
    return [full_name(recipe, name) for name in wanted or recipe.quick or recipe.rules]


def run_table(
    name: str,
    *,
    dataset: str | None = None,
    budget: Budget = "quick",
    seeds: int | None = None,
    rules: Sequence[str] = (),
    epochs: int | None = None,
    data: str | None = None,
    out: str | None = None,
    device: str = "cpu",
    precision: str = "auto",
    capture: bool = False,
    protocol: str = "validation",
    jobs: int = 1,
    note: Callable[[str], None] = print,
) -> tuple[list[TableRow], Path]:
    """Trains every rule with every seed; runs that are finished in `out` are not repeated.

    Args:
        name: Of the table.
        dataset: Name of the recipe; None for the table's first.
        budget: "quick" or "paper".
        seeds: Runs of a rule; None for 3 (quick) or 5 (paper).
        rules: Rules to run; empty for all.
        epochs: Length of the schedule, if not the budget's.
        data: Folder or hub id.
        out: Folder of the runs.
        device: Torch device.
        precision: "auto", "fp32" or "bf16".
        capture: Whole steps as a CUDA graph.
        protocol: "validation" or "test", see `RunConfig`.
        jobs: Runs at a time, see `run_several`.
        note: Told of each run as it begins.

    Returns:
        The rows, and the folder.

    Raises:
        ValueError: For names that do not exist.
    """
    if name not in TABLES:
        raise nearest("table", name, TABLES)
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    recipe = find_recipe(dataset or TABLES[name].recipe)
    rows = table_rules(recipe, budget, rules or TABLES[name].rules)
    # Tables of one recipe are over the same runs, so they share a folder.
    folder = Path(out or f"runs/{recipe.name}-{budget}{'-test' if protocol == 'test' else ''}")
    configs = {
        rule: [
            make_config(
                recipe,
                rule,
                budget=budget,
                seed=recipe.seed + index,
                out=str(folder / f"{rule.replace(':', '-')}-seed{recipe.seed + index}"),
                epochs=epochs,
                data=data,
                device=device,
                precision=precision,
                capture=capture,
                protocol=protocol,
            )
            for index in range(seeds or _SEEDS[budget])
        ]
        for rule in rows
    }
    summaries = iter(run_several([each for runs in configs.values() for each in runs], jobs=jobs, note=note))
    return [TableRow(rule, [next(summaries) for _ in runs]) for rule, runs in configs.items()], folder
