"""Results of several runs: published tables as reproduced, groups of runs on a page, and the small experiments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbayes.lab.recipes import RECIPES, Published, Recipe
from bitbayes.lab.report.groups import Group
from bitbayes.lab.studies.problems import TRUTH_RING
from bitbayes.lab.studies.tables import TABLES, TableRow
from bitbayes.lab.studies.toys import EXACT_MOONS, MoonsFigures, SnelsonFigures
from bitbayes.lab.studies.truth import TruthFigures
from bitbayes.lab.train import RunFolder, Summary
from bitbayes.table import Table, number, spread

_TRUSTED = 1.05  # R-hat up to which chains pass for samples of one distribution
_RULES = {"bayesbinn": "BayesBiNN", "ste": "STE, Adam", "full-precision": "full precision, Adam"}
_MEASURED = {
    "train": ("train_accuracy", 2),
    "validation": ("val_accuracy", 2),
    "test": ("test_accuracy", 2),
    "one sample": ("sample_test_accuracy", 2),
    "mean of samples": ("mean_test_accuracy", 2),
    "NLL": ("test_nll", 3),
    "NLL of the mean": ("mean_test_nll", 3),
    "squared error": ("test_error", 4),
    "squared error of the mean": ("mean_test_error", 4),
    "validation bits per byte": ("val_bits", 4),
    "bits per byte": ("test_bits", 4),
    "bits per byte of one sample": ("sample_test_bits", 4),
    "bits per byte of the mean": ("mean_test_bits", 4),
    "per-weight entropy, bits": ("posterior_entropy_bits", 3),
    "s/epoch": ("seconds_per_epoch", 1),
}  # by heading: entry of summary.json, and digits after the point
_OTHER = {
    "error": ("squared error", "squared error of the mean"),
    "bits": ("validation bits per byte", "bits per byte", "bits per byte of one sample", "bits per byte of the mean"),
}  # headings of a table by the metric of predictions that are neither correct nor wrong


def measured(runs: Group | TableRow, *heads: str) -> list[str]:
    """Return mean and standard deviation over runs of the entries of summary.json that have these headings."""
    return [spread(runs.values(key), digits) for key, digits in map(_MEASURED.__getitem__, heads)]


def _published(published: Published | None, column: str) -> str:
    """Test accuracy is published with its standard deviation."""
    return str(published) if published and column == "test" else number(getattr(published, column, None))


def results_table(name: str | None, recipe: Recipe, rows: Sequence[TableRow]) -> Table:
    """Return a published table as reproduced, ours beside published, or with None any rules over several seeds."""
    title = recipe.title if name is None else f"{name}: test data of {recipe.title}"
    columns = ("train", "validation", "test") if name is None else TABLES[name].columns
    summary = rows[0].summaries[0]
    best = {
        "validation": "the best validation epoch",
        "test": "the best test epoch of the mean of samples (VISPA's paper), trained on all of the training data",
    }
    # Data without a validation part are trained on to the end.
    to_the_end = summary.protocol == "validation" and (summary.val_accuracy, summary.val_bits) == (None, None)
    epochs, counts = (
        " or ".join(dict.fromkeys(str(value) for value in values))
        for values in ((_epochs(row.summaries[0]) for row in rows), (len(row.summaries) for row in rows))
    )
    caption = (
        f"Mean ± sample standard deviation over runs (number: {counts}; epochs: {epochs}), of the mode "
        f"at {'the last epoch' if to_the_end else best[summary.protocol]}."
    )
    if name is not None and recipe.pretrain_epochs:
        caption += " Binary networks begin with the weights of a float network."
    if recipe.published:
        caption += f" Published: {recipe.source}, {recipe.epochs} epochs."
    if not recipe.loss.classifies:
        heads = (*_OTHER[recipe.loss.metric], "per-weight entropy, bits", "s/epoch")
        return Table(title, ["rule", *heads], [[row.rule, *measured(row, *heads)] for row in rows], caption)
    rest = ("one sample", "mean of samples", "per-weight entropy, bits", "NLL", "s/epoch")
    cells = []
    shown = 2 if recipe.published else 1
    heads = [head for column in columns for head in (column, "published")[:shown]]
    for row in rows:
        published = recipe.published.get(row.rule)
        pairs = [(*measured(row, column), _published(published, column))[:shown] for column in columns]
        cells.append([row.rule, *(cell for pair in pairs for cell in pair), *measured(row, *rest)])
    return Table(title, ["rule", *heads, *rest], cells, caption)


def _epochs(summary: Summary) -> str:
    done, whole = summary.epochs_done, summary.epochs
    return str(whole) if done == whole else f"{done} of {whole}"


def write_results(name: str, recipe: Recipe, rows: Sequence[TableRow], folder: Path) -> tuple[Path, Path]:
    """Write NAME.json and the same table as NAME.md, and return both paths."""
    table = results_table(name, recipe, rows)
    text = f"# {name}: {recipe.title}\n\n{table.markdown()}\n\n{table.caption}\n"
    files = RunFolder(folder)
    figures = [row.figures() for row in rows]
    for entry in figures:
        published = recipe.published.get(entry["rule"])
        entry["published"] = None if published is None else vars(published)
    files.write_json(f"{name}.json", {"table": name, "recipe": recipe.name, "rows": figures})
    files.write_text(f"{name}.md", text)
    return folder / f"{name}.json", folder / f"{name}.md"


def group_results_table(recipe: str, groups: Sequence[Group]) -> Table:
    """Return ours beside published for the groups of runs on a page; runs that are not finished are left out."""
    chosen = {"validation": "validation", "test": "test (VISPA's paper)"}
    rest = ("one sample", "mean of samples", "NLL", "NLL of the mean")
    rest += (*_OTHER["error"], *_OTHER["bits"], "per-weight entropy, bits")
    heads = ["rule", "test", "published", "runs", "epochs", "epoch chosen by"]
    heads += ["validation", "published validation", "train", "published train", *rest]
    rows = []
    for group in groups:
        config, finished = group.runs[0].config, sum(run.state == "finished" for run in group.runs)
        if not finished:
            continue
        epochs = str(config.epochs) if config.last_epoch == config.epochs else f"{config.last_epoch} of {config.epochs}"
        columns = ("test", "validation", "train")
        test, *others = ((*measured(group, column), _published(group.published, column)) for column in columns)
        how = (str(finished), epochs, chosen[config.protocol])
        rows.append([group.label, *test, *how, *itertools.chain(*others), *measured(group, *rest)])
    about = (
        "Mean ± sample standard deviation over finished runs. Accuracies are in percent, and of the mode unless the "
        "heading names samples. All figures are of the best epoch, chosen by the data in column “epoch chosen by”."
    )
    known = RECIPES.get(recipe)
    title = f"{recipe}: test data"
    if known is not None and any(group.published for group in groups):
        title = f"{recipe}: our results and the published ones"
        about += f" Published: {known.source}, {known.epochs} epochs, as printed there."
    return Table(title, heads, rows, about).without_empty_columns()


def moons_table(figures: MoonsFigures) -> Table:
    """Return what was measured on two moons, with what the exact posterior says in the last row."""
    columns = {"accuracy": 3, "nll": 3, "entropy_on_data": 3, "entropy_on_ring": 3}
    rows = []
    for title in dict.fromkeys(row.title for row in figures.runs):
        networks = max(map(int, figures.values(title, "networks")))
        cells = [spread(figures.values(title, name), digits) for name, digits in columns.items()]
        rows.append([title, str(networks), *cells])
    exact = [number(getattr(EXACT_MOONS, name), digits) for name, digits in columns.items()]
    rows.append(["exact posterior", "", *exact])
    seeds = len({row.seed for row in figures.runs})
    caption = (
        f"Entropies are means over the predictions, in nats, on the points and on a ring of radius {figures.radius:g}; "
        f"{seeds} seed{'s' * (seeds > 1)}. The exact posterior is that of the same network at temperature 1, as "
        "`bitbayes reproduce truth` samples it."
    )
    heads = ["rule", "networks", "accuracy", "NLL", "entropy on the data", "entropy on the ring"]
    return Table(f"Two moons, {figures.points:,} fresh points", heads, rows, caption)


_TEST = {"accuracy": ("accuracy", 3), "error": ("squared error", 3), "nll": ("NLL", 3), "inside": ("in the band, %", 1)}
_PLACES = {
    "agreement": ("agreement", 3),
    "total_variation": ("total variation", 3),
    "kl": ("KL(exact ‖ ours)", 3),
    "entropy": ("entropy", 3),
    "width": ("width", 2),
    "coverage": ("coverage, %", 1),
}  # by entry of truth.json: heading, and digits after the point


_ON_DATA = ("agreement", "total_variation")  # shown on test data alone


def truth_cells(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of the table of a problem, from its entry in truth.json."""
    first = figures["rows"][0]
    told = [("", name, *_TEST[name]) for name in _TEST if name in first]
    for name, shown in _PLACES.items():
        for place, region in first["regions"].items():
            inner = place.startswith("ring") and place != TRUTH_RING  # of these, only the entropy is shown
            if name in region and (place == "data" or name == "entropy" or not (inner or name in _ON_DATA)):
                told.append((place, name, *shown))
    heads = ["posterior", "networks"]
    heads += [head if place in ("", "data") else f"{head}, {place}" for place, _, head, _ in told]
    rows = []
    for row in figures["rows"]:
        found = (((row["regions"][place] if place else row)[name], digits) for place, name, _, digits in told)
        cells = [spread(each["values"], digits) for each, digits in found]
        rises = [] if row.get("rising") is None else [f"{row['rising']} of {len(row['nll']['values'])}"]
        rows.append([row["title"], str(row["networks"]), *cells, *rises])
    return heads + ["entropy rises outwards"] * ("rising" in first), rows


def truth_table(figures: TruthFigures) -> Table:
    """Return the posteriors of several rules beside the exact one, one row per way to predict."""
    heads, rows = truth_cells(figures.to_dict())
    kept = figures.sweeps - figures.burn_in
    caption = (
        f"{figures.seeds} seed{'s' * (figures.seeds > 1)} per rule. The exact posterior of {figures.weights:,} binary "
        f"weights and {figures.points:,} training points has {figures.chains} chain{'s' * (figures.chains > 1)} of "
        f"{kept:,} sweeps after "
        f"{figures.burn_in:,}; its mean training loss is {figures.loss:.2f} nats. "
    )
    if figures.chains == 1:
        caption += "One chain cannot tell whether chains agree: give more --chains."
    elif figures.rhat is None:
        caption += "R-hat was not measured, because ArviZ is not installed (the extra diagnostics)."
    else:
        largest = figures.largest_rhat
        caption += f"R-hat is {figures.rhat:.3f} for the loss"
        caption += f" and at most {largest:.3f} for outputs." if math.isfinite(largest or math.nan) else "."
        if not (figures.largest_rhat or math.nan) <= _TRUSTED:
            caption += " The chains do not agree, or are too short to tell: give more --sweeps."
    return Table(f"{figures.problem}: posteriors beside the exact one", heads, rows, caption)


def snelson_table(figures: SnelsonFigures) -> Table:
    """Return what was measured on Snelson's data; the caption says on how many splits BayesBiNN leads."""
    splits = [(str(index), split) for index, split in enumerate(figures.splits)]
    splits += [("mean", figures.mean_of_splits)] if len(splits) > 1 else []
    rows = []
    for label, split in splits:
        errors = (split.ste_error, split.mode_error, split.mean_error)
        rows.append([label, *(number(error, 4) for error in errors), number(split.inside_two_std, 1)])
    data = "Generated data with a gap" if figures.source == "generated" else "Snelson data"
    heads = ["split", "STE", "BayesBiNN, mode", f"BayesBiNN, mean of {figures.mean_samples}", "within 2 std, %"]
    lower = sum(split.mean_error < split.ste_error for split in figures.splits)
    caption = (
        f"BayesBiNN's mean has the smaller error on {lower} of {len(figures.splits)} splits. Data: {figures.source}."
    )
    return Table(f"{data}, squared error on held-out points", heads, rows, caption)


def digits_table(rows: Sequence[TableRow], examples: int) -> Table:
    """Return what the demo has reached on the 8x8 digits, with so many training examples."""
    cells = []
    for row in rows:
        first = row.summaries[0]
        packed = number(first.bytes_1_bit, 0) if first.binary_weights else "-"
        figures = measured(row, "test", "NLL", "mean of samples", "NLL of the mean")
        cells.append([_RULES[row.rule], *figures, number(first.bytes_32_bit, 0), packed])
    heads = ["rule", "test accuracy", "NLL", "mean of 10", "NLL of the mean", "bytes, 32 bits", "bytes, 1 bit"]
    caption = "Accuracies are in percent at the best validation epoch, mean ± standard deviation over seeds."
    return Table(f"8x8 digits ({examples:,} scans to train on)", heads, cells, caption)
