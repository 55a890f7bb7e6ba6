"""How far the probabilities of runs can be trusted: tables, and the points of reliability diagrams."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitbayes.lab.report.page.groups import Group
from bitbayes.lab.report.page.parts import Table
from bitbayes.lab.report.page.records import Trust
from bitbayes.lab.report.page.tables import listed
from bitbayes.lab.report.tables import number, spread

__all__ = ["Bins", "calibration_table", "reliability_bins", "trust_table"]

_FIGURES = {"accuracy": 2, "nll": 4, "brier": 4, "ece": 4, "ece_tempered": 4, "temperature": 3, "entropy": 3}
_FIGURES |= {"auroc_errors": 3, "auroc_unlike": 3, "error": 4, "inside": 1}
_NAMES = {"accuracy": "accuracy, %", "nll": "NLL", "brier": "Brier", "ece": "ECE", "entropy": "entropy, nats"}
_NAMES |= {"ece_tempered": "ECE, tempered", "auroc_errors": "AUROC of errors", "auroc_unlike": "AUROC of other data"}
_NAMES |= {"inside": "inside 2 std, %"}


def calibration_table(groups: Sequence[Group]) -> Table:
    """What `bitbayes evaluate` has found, over seeds.

    Args:
        groups: Runs of one recipe.

    Returns:
        The table; empty if no run was evaluated.
    """
    rows = []
    for group in groups:
        for kind in ("mode", "mean"):
            found = [run.evaluation.get(kind) for run in group.runs]
            figures = [one for one in found if isinstance(one, Mapping)]
            if not figures:
                continue
            samples = listed(run.evaluation.get("samples") for run in group.runs if kind in run.evaluation)
            values = {name: [one[name] for one in figures if _real(one.get(name))] for name in _FIGURES}
            cells = [spread(values[name], digits) for name, digits in _FIGURES.items()]
            rows.append([group.label, f"mean of {samples}" if kind == "mean" else "mode", str(len(figures)), *cells])
    heads = ["rule", "prediction", "runs", *(_NAMES.get(name, name) for name in _FIGURES)]
    return Table.of("Calibration on test data", heads, rows, "From bitbayes evaluate; mean ± std over runs.")


def trust_table(trust: Trust) -> Table:
    """What `bitbayes reproduce trust` has found.

    Args:
        trust: The study.

    Returns:
        The table.
    """
    rows = []
    for row in trust.rows:
        cells = []
        for name, digits in _FIGURES.items():
            found = row["figures"].get(name) if isinstance(row["figures"], Mapping) else None
            values = found.get("values") if isinstance(found, Mapping) else None
            cells.append(spread([value for value in values or [] if _real(value)], digits))
        size = number(row["bytes"], 0) if _real(row["bytes"]) else "-"
        rows.append([str(row["rule"]), str(row["kind"]), str(row["networks"]), size, *cells])
    heads = ["rule", "prediction", "networks", "bytes", *(_NAMES.get(name, name) for name in _FIGURES)]
    return Table.of(f"How far probabilities can be trusted: {trust.name}", heads, rows, "Mean ± std over seeds.")


@dataclass(frozen=True)
class Bins:
    """The points of a reliability diagram.

    Args:
        run: Name of the run.
        group: Number of its group.
        bins: "mass" (equally many examples each) or "width" (equal parts of [0, 1]).
        kind: "mode" or "mean".
        confidence: Mean probability of the predicted class, bin by bin.
        accuracy: Share that is right, bin by bin.
        share: Share of all examples, bin by bin.
    """

    run: str
    group: int
    bins: str
    kind: str
    confidence: list[float]
    accuracy: list[float]
    share: list[float]


def reliability_bins(groups: Sequence[Group]) -> list[Bins]:
    """The points in evaluation.json, see `bitbayes.lab.studies.evaluate.Predictions.points`.

    Args:
        groups: Runs of one recipe.

    Returns:
        One record for every run, prediction and kind of bins; older evaluations have none.
    """
    found = []
    for index, group in enumerate(groups):
        for run in group.runs:
            for kind, bins in itertools.product(("mode", "mean"), ("width", "mass")):
                points = _inside(run.evaluation, "reliability", kind, bins)
                lists: list[Any] = [_inside(points, key) for key in ("confidence", "accuracy", "share")]
                numbers = all(isinstance(one, list) and all(map(_real, one)) for one in lists)
                if numbers and len({len(one) for one in lists}) == 1:
                    found.append(Bins(run.name, index, bins, kind, *lists))
    return found


def _inside(found: Any, *keys: str) -> Any:
    """An entry of nested objects; None where there is no such thing."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
