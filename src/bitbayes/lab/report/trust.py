"""The table and the figure of `bitbayes reproduce trust`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitbayes.calibration import reliability
from bitbayes.lab.report.figures import new_figure, save
from bitbayes.lab.report.tables import new_table
from bitbayes.lab.studies.trust import TrustStudy
from bitbayes.lab.train.records import Spread

__all__ = ["COLUMNS", "trust_figure", "trust_table"]

COLUMNS = {
    "accuracy": ("accuracy", 2),
    "nll": ("NLL", 4),
    "brier": ("Brier", 4),
    "ece": ("ECE", 4),
    "ece_tempered": ("ECE, tempered", 4),
    "auroc_errors": ("AUROC, errors", 3),
    "auroc_unlike": ("AUROC, other data", 3),
}
"""Figures of `trust.json` by name: heading, and digits after the point."""

_TELLING = 30  # examples of a bin whose accuracy says something


def trust_table(study: TrustStudy) -> Any:
    """A row a way to predict.

    Args:
        study: What was measured.

    Returns:
        A rich table.
    """
    columns = ("rule", "prediction", "networks", "MB", "bits a weight", *(head for head, _ in COLUMNS.values()))
    table = new_table("How far probabilities can be trusted, test data", *columns)
    for row in study.rows:
        bits = "" if row.entropy_bits is None else f"{row.entropy_bits:.3f}"
        cells = [_cell(row.figures.get(name), digits) for name, (_, digits) in COLUMNS.items()]
        table.add_row(row.rule, row.kind, str(row.networks), f"{row.bytes / 1e6:.2f}", bits, *cells)
    return table


def _cell(figure: Spread | None, digits: int) -> str:
    if figure is None:
        return "-"
    spread = "" if figure.std is None else f" ± {figure.std:.{digits}f}"
    return f"{figure.mean:.{digits}f}{spread}"


def trust_figure(study: TrustStudy, path: str | Path) -> Path:
    """Reliability of every way to predict, and the entropy on both kinds of data, at the first seed.

    Args:
        study: What was measured.
        path: Where to write the PNG.

    Returns:
        The path.
    """
    _, y = study.inputs.test
    figure, (left, right) = new_figure(2)
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for name, predictions in study.examples.items():
        if name.endswith("ensemble"):
            continue
        # Bins of equal width: nearly all examples are sure, and bins of equal mass would tell of no others.
        points = reliability(predictions.test.probs, y)
        told = (points.share * len(y)).round() >= _TELLING
        left.plot(points.confidence[told].cpu(), points.accuracy[told].cpu(), marker="o", markersize=3, label=name)
    title = f"Reliability, bins of {_TELLING} examples or more"
    left.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(0.3, 1.005), ylim=(0.3, 1.005))
    left.legend(fontsize=8)
    name, predictions = max(study.examples.items(), key=lambda item: item[0].endswith("mean"))
    shown = {"test data": predictions.test, "other data": predictions.unlike}
    for label, prediction in shown.items():
        if prediction is not None:
            right.hist(prediction.entropy.cpu().numpy(), bins=60, range=(0, 2.4), alpha=0.6, density=True, label=label)
    right.set(title=f"{name}: predictive entropy", xlabel="nats", ylabel="density", yscale="log")
    right.legend(fontsize=8)
    return save(figure, path)
