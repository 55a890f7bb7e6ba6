"""What `bitbayes reproduce` can make."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitbayes.posterior import load_posterior
from bitbayes.recipes import find_recipe, nearest
from bitbayes.recipes.studies import moons_study, snelson_study
from bitbayes.recipes.tables import TABLES, run_table
from bitbayes.recipes.trust import trust_study
from bitbayes.report.figures import curves_figure, histogram_figure, moons_figure, snelson_figure
from bitbayes.report.markdown import results_table, write_results
from bitbayes.report.tables import new_table, number, show
from bitbayes.report.trust import trust_figure, trust_table
from bitbayes.training import RunConfig, RunError

__all__ = ["TARGETS", "reproduce"]


def reproduce(target: str, **choices: Any) -> None:
    """Trains what is missing, prints a table and writes the files.

    Args:
        target: Name in `TARGETS`.
        **choices: Options of the command line.

    Raises:
        ValueError: If there is no such target.
    """
    if target not in TARGETS:
        raise nearest("table or figure", target, TARGETS)
    TARGETS[target](target, choices)


def _table(target: str, choices: dict[str, Any]) -> None:
    keys = (
        "dataset",
        "budget",
        "seeds",
        "rules",
        "epochs",
        "data",
        "out",
        "device",
        "precision",
        "protocol",
        "jobs",
    )
    rows, folder = run_table(target, **{key: choices[key] for key in keys})
    recipe = find_recipe(choices["dataset"] or TABLES[target].recipe)
    results, text = write_results(target, recipe, rows, folder)
    show(results_table(target, recipe, rows), f"written: {results}, {text}")


def _trust(target: str, choices: dict[str, Any]) -> None:
    keys = ("dataset", "data", "unlike_data", "seeds", "rules", "epochs", "out", "device", "precision", "jobs")
    study = trust_study(**{key: choices[key] for key in keys})
    picture = trust_figure(study, study.folder / "trust.png")
    show(trust_table(study), f"written: {study.folder / 'trust.json'}, {picture}")


def _moons(target: str, choices: dict[str, Any]) -> None:
    out = choices["out"] or "runs/moons"
    study = moons_study(out, epochs=choices["epochs"])
    picture = moons_figure(study, Path(out, "moons.png"))
    show(moons_table(study.figures), f"written: {out}/results.json, {picture}")


def moons_table(figures: dict[str, Any]) -> Any:
    """What was measured on two moons.

    Args:
        figures: Content of results.json.

    Returns:
        A rich table.
    """
    table = new_table("Two moons, 1,000 fresh points", "", "STE", "mode", "mean")
    table.add_row(
        "accuracy",
        number(figures["ste_accuracy"], 3),
        number(figures["mode_accuracy"], 3),
        number(figures["mean_accuracy"], 3),
    )
    for place in ("on_data", "on_ring"):
        label = "entropy on the data" if place == "on_data" else "entropy on a ring of radius 4"
        table.add_row(label, "", "", number(figures[f"entropy_{place}"], 3))
    table.add_row("ratio of the entropies", "", "", number(figures["entropy_ratio"], 1))
    return table


def _snelson(target: str, choices: dict[str, Any]) -> None:
    out = choices["out"] or "runs/snelson"
    study = snelson_study(out, data=choices["data"], splits=choices["seeds"] or 5, epochs=choices["epochs"])
    picture = snelson_figure(study, Path(out, "snelson.png"))
    show(snelson_table(study.figures), f"written: {out}/results.json, {picture}")


def snelson_table(figures: dict[str, Any]) -> Any:
    """What was measured on Snelson's data.

    Args:
        figures: Content of results.json.

    Returns:
        A rich table.
    """
    generated = figures["source"] == "generated"
    table = new_table(
        f"{'Generated data with a gap' if generated else 'Snelson data'}, squared error on held-out points",
        "split",
        "STE",
        "mode",
        "mean",
        "inside 2 std, %",
        caption=f"data: {figures['source']}",
    )
    rows = [(str(index), row) for index, row in enumerate(figures["splits"])]
    if len(rows) > 1:
        rows.append(("mean", figures["mean_of_splits"]))
    for label, row in rows:
        table.add_row(
            label,
            number(row["ste_error"], 4),
            number(row["mode_error"], 4),
            number(row["mean_error"], 4),
            number(row["inside_two_std"], 1),
        )
    return table


def _curves(target: str, choices: dict[str, Any]) -> None:
    runs: dict[str, list[dict[str, Any]]] = {}
    for folder in _run_folders(choices["runs"]):
        path = folder / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}") from error
        runs[folder.name] = rows
    out = Path(choices["out"] or "runs", "curves.png")
    picture = curves_figure(runs, out, published=choices["published"], dataset=choices["dataset"] or "mnist")
    show(f"written: {picture}")


def _histogram(target: str, choices: dict[str, Any]) -> None:
    posteriors = {
        folder.name: load_posterior(folder / "posterior.safetensors") for folder in _run_folders(choices["runs"])
    }
    out = Path(choices["out"] or "runs", "histogram.png")
    show(f"written: {histogram_figure(posteriors, out)}")


def _run_folders(names: Sequence[str]) -> list[Path]:
    if not names:
        raise ValueError("name finished runs: --runs runs/A runs/B")
    for name in names:
        RunConfig.load(name)
    return [Path(name) for name in names]


TARGETS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    **dict.fromkeys(TABLES, _table),
    "trust": _trust,
    "moons": _moons,
    "snelson": _snelson,
    "curves": _curves,
    "histogram": _histogram,
}
