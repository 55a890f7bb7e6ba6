"""One builder for each subject that a table shows; the terminal, Markdown files and the page render what it returns."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitbayes.lab.continual import AccuracyMatrix
from bitbayes.lab.recipes import DEFAULTS, Recipe
from bitbayes.lab.report.folders import RunRecord, StreamRecord, is_number
from bitbayes.lab.report.groups import Group, flat, rule_of
from bitbayes.lab.report.series import METRICS, Curve, ReliabilityPoints, metric_of
from bitbayes.lab.studies.evaluate import LEVEL
from bitbayes.lab.studies.members import MembersRow, MembersStudy
from bitbayes.lab.studies.trust import TrustRow, TrustStudy
from bitbayes.lab.train import Evaluation, RunConfig, Summary
from bitbayes.table import Table, brief, number, spread

FIGURES = {
    "accuracy": ("accuracy", "accuracy, %", 2),
    "nll": ("NLL", "NLL", 4),
    "brier": ("Brier", "Brier", 4),
    "ece": ("ECE", "ECE", 4),
    "ece_tempered": ("ECE, tempered", "ECE with temperature scaling", 4),
    "temperature": ("temperature", "temperature", 3),
    "entropy": ("entropy", "entropy, nats", 3),
    "auroc_errors": ("AUROC, errors", "AUROC for errors", 3),
    "aurc": ("AURC", "AURC", 5),
    "auroc_unlike": ("AUROC, OOD", "AUROC for out-of-distribution data", 3),
    "fpr95_unlike": ("FPR95, OOD", "FPR95 for out-of-distribution data", 3),
    "accuracy_shifted": ("accuracy, shifted", "accuracy on corrupted data, %", 2),
    "nll_shifted": ("NLL, shifted", "NLL on corrupted data", 4),
    "nll_rotation": ("NLL, rotation", "NLL on rotated images", 4),
    "nll_noise": ("NLL, noise", "NLL on noisy images", 4),
    "nll_blur": ("NLL, blur", "NLL on blurred images", 4),
    "nll_contrast": ("NLL, contrast", "NLL on pale images", 4),
    "brier_shifted": ("Brier, shifted", "Brier on corrupted data", 4),
    "ece_shifted": ("ECE, shifted", "ECE on corrupted data", 4),
    "conformal_coverage": ("coverage", f"coverage at level {LEVEL:.0%}, %", 2),
    "conformal_size": ("set size", f"mean size of conformal sets, level {LEVEL:.0%}", 3),
    "conformal_width": ("width", f"mean width of conformal intervals, level {LEVEL:.0%}", 4),
    "error": ("error", "error", 4),
    "bits": ("bits", "bits per byte", 4),
    "inside": ("inside", "targets within 2 std, %", 1),
}
"""Figures of an evaluation by name: short heading, heading with the unit, and digits after the point."""

TRUST_FIGURES = ("accuracy", "nll", "brier", "ece", "ece_tempered", "auroc_errors", "auroc_unlike")
"""Those that `bitbayes reproduce trust` compares."""

_TASKS = 10  # columns of a matrix on the terminal: longer streams show their first and their last tasks


# Recipes, one run, a search


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """Return every experiment on a few lines."""
    rows = []
    for recipe in recipes:
        quick = "" if recipe.quick_epochs in (None, recipe.epochs) else f"\nquick {recipe.quick_epochs}"
        about = [recipe.title, f"source: {recipe.source}", f"rules: {', '.join(recipe.rules)}"]
        if recipe.published:
            figures = ", ".join(f"{rule} {figure}" for rule, figure in recipe.published.items())
            about.append(f"published test accuracy, %: {figures}")
        rows.append([recipe.name, f"{recipe.epochs}{quick}", "\n".join(about)])
    caption = f"Every recipe also has {', '.join(DEFAULTS)}, whose settings need no search."
    return Table("Experiments of bitbayes train", ["recipe", "epochs", "about"], rows, caption, align="lrl")


def summary_table(summary: Summary, folder: Path) -> Table:
    """Return what a run has reached."""
    s, best = summary, f"at epoch {summary.best_epoch}"
    rows = []
    if s.test_accuracy is not None:
        accuracies = (s.test_accuracy, s.sample_test_accuracy, s.mean_test_accuracy)
        rows.append([f"test accuracy, % {best}", *map(number, accuracies)])
    if s.test_error is not None:
        rows.append(["test squared error", number(s.test_error, 4), "", number(s.mean_test_error, 4)])
    if s.test_bits is not None:
        texts = (s.test_bits, s.sample_test_bits, s.mean_test_bits)
        rows.append([f"test bits per byte {best}", *(number(value, 4) for value in texts)])
    if s.test_nll is not None:
        rows.append(["test negative log-likelihood, nats", number(s.test_nll, 4), "", number(s.mean_test_nll, 4)])
    if s.last_test_accuracy is not None and s.best_epoch != s.epochs_done:
        rows.append([f"test accuracy, % at epoch {s.epochs_done}", number(s.last_test_accuracy), "", ""])
    if s.val_accuracy is not None:
        rows.append([f"validation accuracy, % {best}", number(s.val_accuracy), "", ""])
    if s.val_bits is not None:
        rows.append([f"validation bits per byte {best}", number(s.val_bits, 4), "", ""])
    if s.posterior_entropy_bits is not None:
        rows.append(["per-weight entropy, bits", "", "", number(s.posterior_entropy_bits, 4)])
    rows += [
        ["binary weights", number(s.binary_weights, 0), "", ""],
        ["bytes at 32 bits per weight", number(s.bytes_32_bit, 0), "", ""],
        ["bytes at 1 bit per binary weight", number(s.bytes_1_bit, 0), "", ""],
        [f"seconds per epoch ({s.precision})", number(s.seconds_per_epoch), "", ""],
    ]
    estimator = f" ({s.estimator})" if s.estimator else ""
    title = f"{s.recipe}, {s.rule}{estimator}, seed {s.seed}{_with_views(s.views)}"
    return Table(title, ["", "mode", "one sample", "mean of samples"], rows, f"files in {folder}")


_POINT = 1e-4  # bits per weight, below which samples of a posterior are the mode but for a few weights

_SCORES = {
    "": "entropy",
    "_information": "mutual information",
    "_probability": "maximum probability",
    "_energy": "energy",
}  # scores of out-of-distribution inputs, by the ends of the names of their figures

_EVALUATED = {
    "accuracy": ("accuracy, %", 2),
    "error": ("squared error", 4),
    "bits": ("bits per byte", 4),
    "nll": ("negative log-likelihood, nats", 4),
    "brier": ("Brier score", 4),
    "ece": ("expected calibration error (ECE), bins of equal width", 4),
    "ece_mass": ("expected calibration error (ECE), bins of equal mass", 4),
    "entropy": ("predictive entropy, nats", 4),
    "auroc_errors": ("AUROC for errors, by entropy", 4),
    "aurc": ("area under the risk-coverage curve (AURC), by entropy", 5),
    **{
        f"{figure}_unlike{end}": (f"{head} for out-of-distribution data, by {score}", 4)
        for figure, head in (("auroc", "AUROC"), ("fpr95", "FPR95"))
        for end, score in _SCORES.items()
    },
    "temperature": ("temperature fitted on validation data", 4),
    "nll_tempered": ("negative log-likelihood with temperature scaling, nats", 4),
    "brier_tempered": ("Brier score with temperature scaling", 4),
    "ece_tempered": ("ECE with temperature scaling, bins of equal width", 4),
    "conformal_coverage": (f"coverage of conformal sets or intervals of level {LEVEL:.0%}, %", 2),
    "conformal_size": (f"mean size of conformal sets of level {LEVEL:.0%}", 3),
    "conformal_width": (f"mean width of conformal intervals of level {LEVEL:.0%}", 4),
    "noise": ("standard deviation of the observation noise", 4),
    "inside": ("targets within two standard deviations, %", 2),
}  # figures of `bitbayes evaluate` by name: what the table calls them, and digits after the point


def evaluation_table(found: Evaluation) -> Table:
    """Return mode and mean of a run side by side, with figures by their full names."""
    count = len(found.members or ())
    columns = {_averaged(count, None): found.mode}
    columns |= {_averaged(count, found.samples): found.mean} if found.mean else {}
    measured = dict.fromkeys(name for figures in columns.values() for name in figures)
    rows = []
    for name in sorted(measured, key=list(_EVALUATED).index):
        head, digits = _EVALUATED[name]
        rows.append([head, *(number(figures.get(name), digits) for figures in columns.values())])
    bits = found.posterior_entropy_bits
    if bits is None:
        caption = "The run has no posterior, so there is no mean of samples."
    elif bits < _POINT:
        caption = (
            f"The posterior is a point (per-weight entropy below {_POINT:g} bits). Its samples equal the mode, so both "
            "columns agree. To get a wider posterior, train with --rule bayesbinn:default."
        )
    else:
        caption = f"The per-weight entropy of the posterior is {number(bits, 4)} bits."
    estimator = f" ({found.estimator})" if found.estimator else ""
    title = f"{found.recipe}, {found.rule}{estimator}: test data{_with_views(found.views)}"
    return Table(title, ["", *columns], rows, caption)


def members_table(found: Evaluation) -> Table:
    """Return the figures of each member of an ensemble, and of all members together."""
    together = {"mode": found.mode} | ({"mean": found.mean} if found.mean else {})
    every = {f"member {index}": figures for index, figures in enumerate(found.members or (), 1)} | {"all": together}
    names = ("accuracy", "error", "bits", "nll", "brier", "ece", "aurc")
    places = [(kind, name) for kind in together for name in names if name in together[kind]]
    rows = [
        [head, *(number(figures[kind].get(name), FIGURES[name][2]) for kind, name in places)]
        for head, figures in every.items()
    ]
    heads = ["", *(f"{FIGURES[name][0]}, {kind}" for kind, name in places)]
    return Table("Members, test data", heads, rows, "The last row averages over all members.")


def _with_views(views: str | None) -> str:
    return "" if views is None else f", views {views}"


def tuned_table(recipe: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the trials of a search, best first; `rows` is the content of tune.json."""
    names, metric = list(rows[0]["settings"]), "bits" if "bits" in rows[0] else "accuracy"
    digits, head = {"accuracy": (2, "validation accuracy, %"), "bits": (4, "validation bits per byte")}[metric]
    cells = []
    for row in rows:
        settings = (brief(row["settings"][name]) for name in names)
        cells.append([row["folder"], *settings, number(row[metric], digits, missing="failed")])
    heads, align = ["trial", *names, head], "l" + "r" * (len(names) + 1)
    return Table(
        f"{recipe}: {len(rows)} trials, best first", heads, cells, "trial0 uses the settings of the recipe.", align
    )


# Streams of tasks


def stream_title(summary: Mapping[str, Any]) -> str:
    """Return the stream, the rule, and what is done against forgetting."""
    kept = []
    if summary["prior"]:
        kept.append("prior" if summary["decay"] == 1 else f"prior of decay {brief(summary['decay'])}")
    if summary.get("method", "none") != "none":
        kept.append(summary["method"])
    what = f"with {' and '.join(kept)}" if kept else "without prior"
    return f"{summary['recipe']}, {summary['rule']}, {what}"


def stream_table(summary: Mapping[str, Any]) -> Table:
    """Return accuracy on every task after every task, of both ends of a long stream, from its summary.json."""
    matrix = AccuracyMatrix(summary["matrix"])
    caption = f"Backward transfer {number(matrix.backward_transfer)}, forgetting {number(matrix.forgetting)}"
    if matrix.first_and_last is not None:
        first, last = map(number, matrix.first_and_last)
        caption += f"; mean accuracy on the first five tasks {first}, on the last five {last}"
    count = len(matrix)
    shown = range(count) if count <= _TASKS else [*range(_TASKS // 2), *range(count - _TASKS // 2, count)]
    return _matrix_table(f"{stream_title(summary)}: accuracy in %", matrix, shown, "", caption)


def matrix_table(stream: StreamRecord) -> Table:
    """Return accuracy on every task after every task."""
    title = f"Accuracy in percent: {stream.name}"
    return _matrix_table(title, stream.matrix, range(len(stream.matrix)), "task ")


def _matrix_table(title: str, matrix: AccuracyMatrix, shown: Iterable[int], word: str, caption: str = "") -> Table:
    shown = list(shown)
    heads = ["after task", *(f"{word}{task + 1}" for task in shown), "mean"]
    rows = []
    for after in shown:
        row = matrix.rows[after]
        cells = (number(row[task], 1) if task <= after else "" for task in shown)
        rows.append([str(after + 1), *cells, number(matrix.average[after])])
    return Table(title, heads, rows, caption)


def streams_table(recipe: str, streams: Sequence[StreamRecord]) -> Table:
    """Return the settings, the state and the figures of several streams of a recipe."""
    heads = ["stream", "rule", "prior", "method", "state", "mean accuracy, %", "backward transfer", "forgetting"]
    rows = []
    for stream in streams:
        summary, matrix = stream.summary, stream.matrix
        decay = summary.get("decay")
        prior = "-" if not summary else "yes" if summary.get("prior") else "no"
        prior += f", decay {brief(decay)}" if prior == "yes" and decay != 1 else ""
        figures = (matrix.average[-1], matrix.backward_transfer, matrix.forgetting) if len(matrix) else (None,) * 3
        how = (rule_of(stream.config), prior, str(summary.get("method", "-")), stream.status)
        rows.append([stream.name, *how, *map(number, figures)])
    return Table(f"Streams of {recipe}", heads, rows).without_empty_columns()


# How far probabilities can be trusted


def trust_table(study: TrustStudy) -> Table:
    """Return a row for each way to predict, as `bitbayes reproduce trust` prints it."""
    heads = [
        "rule",
        "prediction",
        "networks",
        "MB",
        "per-weight entropy, bits",
        *(FIGURES[name][0] for name in TRUST_FIGURES),
    ]
    cells = []
    for row in study.rows:
        how = (row.rule, row.kind, str(row.networks), f"{row.bytes / 1e6:.2f}")
        cells.append([*how, number(row.entropy_bits, 3, missing=""), *_trust_cells(row, TRUST_FIGURES)])
    title, align = "How far probabilities can be trusted, test data", "l" + "r" * (len(heads) - 1)
    return Table(title, heads, cells, align=align)


def member_tables(study: MembersStudy) -> list[Table]:
    """Return the tables that `bitbayes reproduce members` prints: spending, equal training time, and equal bytes."""
    how = {"single": "one run", "members": "{} runs", "cycles": "{} cycles"}
    usual = ("accuracy", "nll", "brier", "ece", "aurc", "auroc_unlike", "fpr95_unlike")
    shifted = tuple(f"{name}_shifted" for name in usual[:4])

    def table(title: str, rows: Sequence[MembersRow], names: Sequence[str] = usual) -> Table:
        heads = ["rule", "training", "epochs", "time", "prediction", "networks", "MB"]
        cells = []
        for row in rows:
            first = [row.rule, how[row.way].format(row.members), str(row.epochs), f"{row.time:.2f}", row.kind]
            figures = {name: found.values for name, found in row.figures.items()}
            cells.append([*first, str(row.networks), f"{row.bytes / 1e6:.3f}", *_figure_cells(figures, names)])
        heads += [FIGURES[name][0] for name in names]
        return Table(title, heads, cells, align="llrrl" + "r" * (len(heads) - 5)).without_empty_columns()

    spent = [
        [each.rule, f"{each.time:.2f}", str(each.epochs), str(max(len(each.trials), 1)), f"{each.factor:.3g}"]
        for each in study.spending
    ]
    heads = ["rule", "time of a step", "epochs", "trials", "factor of the learning rate"]
    limit = f"at most {study.bytes / 1e6:.3f} MB, the size of one float network"
    tables = [
        Table("What every rule spends; times relative to the first rule", heads, spent, align="lrrrr"),
        table("Ensembles after equally long training, test data", study.time),
        table(f"Ensembles at equal bytes ({limit}), test data", study.size),
    ]
    if any("nll_shifted" in row.figures for row in study.time):
        tables.append(table("Ensembles after equally long training, corrupted images", study.time, shifted))
    return tables


def all_trust_table(name: str, rows: Sequence[TrustRow]) -> Table:
    """Return a row for each way to predict, with every figure that was measured."""
    heads = ["rule", "prediction", "networks", "bytes", *(head for _, head, _ in FIGURES.values())]
    cells = [[row.rule, row.kind, str(row.networks), number(row.bytes, 0), *_trust_cells(row)] for row in rows]
    title = f"How far probabilities can be trusted: {name}"
    return Table(title, heads, cells, "Mean ± sample standard deviation over seeds.").without_empty_columns()


def _trust_cells(row: TrustRow, names: Iterable[str] = tuple(FIGURES)) -> list[str]:
    return _figure_cells({name: found.values for name, found in row.figures.items()}, names)


def calibration_table(groups: Sequence[Group]) -> Table:
    """Return what `bitbayes evaluate` has found, over seeds; no rows if no run was evaluated."""
    rows = []
    for group, prediction, found in _evaluations(groups):
        rows.append([group.label, prediction, str(len(found)), *_figure_cells(_values(found, FIGURES))])
    heads = ["rule", "prediction", "runs", *(head for _, head, _ in FIGURES.values())]
    about = "Mean ± sample standard deviation over runs, measured by bitbayes evaluate."
    return Table("Calibration on test data", heads, rows, about).without_empty_columns()


def unlike_table(groups: Sequence[Group]) -> Table:
    """Return how well each score tells out-of-distribution data apart; no rows if no run was evaluated on such data."""
    rows = []
    for group, prediction, found in _evaluations(groups):
        for end, score in _SCORES.items():
            values = _values(found, (f"auroc_unlike{end}", f"fpr95_unlike{end}"))
            if any(values.values()):
                rows.append([group.label, prediction, score, *(spread(each, 3) for each in values.values())])
    about = "FPR95 is the share of out-of-distribution inputs that pass if 95% of the test inputs are to pass."
    return Table(
        "Detection of out-of-distribution data", ["rule", "prediction", "score", "AUROC", "FPR95"], rows, about
    )


def _evaluations(groups: Sequence[Group]) -> Iterator[tuple[Group, str, list[Mapping[str, Any]]]]:
    """Yield groups of runs, the mode or the mean of samples, and its figures in every evaluated run of the group.

    Evaluations of the members of a run's cycles are kept apart from those of single networks.
    """
    for group in groups:
        for count in sorted({_members(run) for run in group.runs}):
            runs = [run for run in group.runs if _members(run) == count]
            for kind in ("mode", "mean"):
                found = [figures for run in runs if isinstance(figures := run.evaluation.get(kind), Mapping)]
                if found:
                    samples = listed(run.evaluation.get("samples") for run in runs if kind in run.evaluation)
                    yield group, _averaged(count, samples if kind == "mean" else None), found


def _members(run: RunRecord) -> int:
    """Return the number of members that an evaluation covers; 0 for that of a single run."""
    members = run.evaluation.get("members")
    return len(members) if isinstance(members, list) else 0


def _averaged(members: int, samples: object) -> str:
    """Return what a prediction averages over: modes, or samples if their number is not None."""
    if samples is None:
        return f"modes of {members}" if members else "mode"
    return f"mean of {members} x {samples}" if members else f"mean of {samples}"


def _values(found: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[float]]:
    """Return the numbers of several evaluations by name."""
    return {name: [one[name] for one in found if is_number(one.get(name))] for name in names}


def _figure_cells(values: Mapping[str, Sequence[float]], names: Iterable[str] = tuple(FIGURES)) -> list[str]:
    """Mean and standard deviation of the named figures of an evaluation."""
    return [spread(values.get(name, ()), FIGURES[name][-1]) for name in names]


def reliability_table(title: str, points: Sequence[ReliabilityPoints]) -> Table:
    """Return the points of reliability diagrams."""
    rows = [
        [one.run, one.kind, *(f"{value:.3f}" for value in values)]
        for one in points
        for values in zip(one.confidence, one.accuracy, one.share, strict=True)
    ]
    return Table(title, ["run", "prediction", "mean confidence", "accuracy", "share of examples"], rows)


# Runs on a page


def runs_table(title: str, runs: Sequence[RunRecord]) -> Table:
    """Return runs and how far they are."""
    heads = ["run", "recipe", "rule", "seed", "state", "latest test accuracy, %", "latest training loss"]
    rows = []
    for run in runs:
        how = (run.name, run.config.recipe, rule_of(run.config), str(run.config.seed), run.status)
        rows.append([*how, number(run.last("test_accuracy")), number(run.last("train_loss"), 4)])
    return Table(title, heads, rows).without_empty_columns()


def speed_table(groups: Sequence[Group]) -> Table:
    """Return seconds, memory and bytes."""
    heads = ["rule", "device", "precision", "seconds per epoch", "peak memory, MiB", "weights", "binary weights"]
    heads += ["bytes at 32 bits per weight", "bytes at 1 bit per binary weight", "compression"]
    rows = []
    for group in groups:
        lasted = [row["seconds"] for run in group.runs for row in run.history if "seconds" in row]
        per_epoch = group.values("seconds_per_epoch") or ([sum(lasted) / len(lasted)] if lasted else [])
        found = map(group.values, ("weights", "binary_weights", "bytes_32_bit", "bytes_1_bit"))
        weights, binary, full, packed = (statistics.mean(values) if values else None for values in found)
        where = [listed(getattr(run.config, name) for run in group.runs) for name in ("device", "precision")]
        seconds = spread(per_epoch, 2 if per_epoch and per_epoch[0] >= 0.1 else 4)
        memory = number(max(group.values("peak_memory_mib"), default=None), 0)
        sizes = (number(weights, 0), number(binary, 0), number(full, 0), number(packed, 0) if binary else "-")
        ratio = f"{full / packed:.1f}×" if full and packed and binary else "-"
        rows.append([group.label, *where, seconds, memory, *sizes, ratio])
    about = (
        "Seconds count training alone, without evaluation. Memory is the peak of the device on a GPU, and the peak of "
        "the process on a CPU. A full-precision network has no binary weights to pack."
    )
    return Table("Speed and size", heads, rows, about).without_empty_columns()


def schedules_table(recipe: str, series: Mapping[str, Sequence[tuple[int, Group]]]) -> Table:
    """Return the figures by the length of the schedule, from `bitbayes.lab.report.series.schedule_series`."""
    metric = metric_of(group for points in series.values() for _, group in points)
    keys, digits = [f"{data}_{metric}" for data in ("train", "val", "test", "mean_test")], FIGURES[metric][-1]
    rows = [
        [label, str(length), str(len(group.values(keys[2]))), *(spread(group.values(key), digits) for key in keys)]
        for label, points in series.items()
        for length, group in points
    ]
    heads = ["rule", "epochs", "seeds", "train", "validation", "test", "mean of samples"]
    about = "Epochs are those of the whole schedule, with the float network that a run begins with."
    title = f"{recipe}: {METRICS[metric]}, by the length of the schedule"
    return Table(title, heads, rows, about).without_empty_columns()


def curve_table(
    title: str, curves: Sequence[Curve], labels: Sequence[str], higher: bool, digits: int, x: str = "epoch"
) -> Table:
    """Return the values of a chart: first, best and last value of every curve.

    Args:
        title: Title of the chart.
        curves: Its curves.
        labels: Names of the groups.
        higher: Whether more is better.
        digits: Digits after the point.
        x: Unit of the horizontal axis.
    """
    choose = max if higher else min
    rows = []
    for curve in curves:
        at, best = choose(curve.points, key=lambda point: point[1])
        cells = (number(value, digits) for value in (curve.values[0], best, curve.values[-1]))
        rows.append([curve.run, labels[curve.group], *cells, f"{at:g}", f"{curve.epochs[-1]:g}"])
    best = "highest" if higher else "lowest"
    heads = ["run", "rule", "first", best, "last", f"{x} of the {best}", f"last {x}"]
    return Table(title, heads, rows)


def weights_table(title: str, weights: Iterable[tuple[str, list[float]]]) -> Table:
    """Return how many weights are decided, from percent in equal parts of P[w = +1] by name."""
    rows = []
    for name, percent in weights:
        edge = len(percent) // 10
        shares = sum(percent[:edge]), sum(percent[4 * edge : 6 * edge]), sum(percent[-edge:])
        rows.append([name, *map(number, shares)])
    return Table(
        title,
        ["posterior", "weights with P < 0.1, %", "weights with P from 0.4 to 0.6, %", "weights with P > 0.9, %"],
        rows,
    )


def configuration_table(title: str, configs: Sequence[RunConfig]) -> Table:
    """Return the settings of runs, a row for each."""
    entries = [flat(config) for config in configs]
    names = dict.fromkeys(name for one in entries for name in one)
    return Table(title, ["setting", "value"], [[name, listed(one.get(name) for one in entries)] for name in names])


def environment_table(runs: Sequence[RunRecord | StreamRecord]) -> Table:
    """Return versions: those that runs have written down, and those that made the page."""
    names = dict.fromkeys(name for run in runs for name in run.environment)
    rows = [[f"runs: {name}", listed(run.environment.get(name) for run in runs if run.environment)] for name in names]
    rows += [[f"page: {name}", _version(name)] for name in ("bitbayes", "torch", "bokeh")]
    rows.append(["page: Python", platform.python_version()])
    return Table("Environment", ["component", "value"], rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def listed(values: Iterable[Any]) -> str:
    """Return the different values in their order, the first few of many.

    Example:
        >>> listed([1, 2, 1])
        '1, 2'
    """
    texts = list(dict.fromkeys(map(str, values)))
    return ", ".join(texts[:6]) + (f", ... ({len(texts)} in all)" if len(texts) > 6 else "")
