"""Tables of how far probabilities can be trusted: of evaluations, and of the studies of trust and of members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bitbayes.lab.report.folders import RunRecord, is_number
from bitbayes.lab.report.groups import Group
from bitbayes.lab.report.series import ReliabilityPoints
from bitbayes.lab.report.tables import listed, with_views
from bitbayes.lab.studies.budget import Spending, factor_name
from bitbayes.lab.studies.evaluate import LEVEL
from bitbayes.lab.studies.members import MembersRow, MembersStudy
from bitbayes.lab.studies.trust import TrustRow, TrustStudy
from bitbayes.lab.train import Evaluation
from bitbayes.table import Table, number, spread

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
    "nll_contrast": ("NLL, contrast", "NLL on images of reduced contrast", 4),
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
"""Names of the figures that `bitbayes reproduce trust` compares."""

WAYS = {"single": "one run", "dropout": "one run, for dropout masks", "members": "{} runs", "cycles": "{} cycles"}
"""Heading of each way to train in a study of members, with a place for the number of members."""


_UNLIKE = "out-of-distribution data"
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
    unlike = f"; out-of-distribution data: {found.unlike}" if found.unlike else ""
    title = f"{found.recipe}, {found.rule}{estimator}: test data{with_views(found.views)}{unlike}"
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
    usual = ("accuracy", "nll", "brier", "ece", "aurc", "auroc_unlike", "fpr95_unlike")
    shifted = tuple(f"{name}_shifted" for name in usual[:4])

    def table(title: str, rows: Sequence[MembersRow], names: Sequence[str] = usual) -> Table:
        heads = ["rule", "training", "epochs", "time", "prediction", "networks", "MB"]
        cells = []
        for row in rows:
            first = [row.rule, WAYS[row.way].format(row.members), str(row.epochs), f"{row.time:.2f}", row.kind]
            figures = {name: found.values for name, found in row.figures.items()}
            cells.append([*first, str(row.networks), f"{row.bytes / 1e6:.3f}", *_figure_cells(figures, names)])
        heads += [FIGURES[name][0] for name in names]
        return Table(title, heads, cells, align="llrrl" + "r" * (len(heads) - 5)).without_empty_columns()

    ways = list(dict.fromkeys((row.rule, row.way, row.members) for row in study.time))
    spent = [
        [each.rule, WAYS[way].format(members), f"{each.time:.2f}", str(each.epochs), *_search_cells(each, way)]
        for each in study.spending
        for rule, way, members in ways
        if rule == each.rule
    ]
    heads = ["rule", "training", "time of a step", "epochs in all", "trials", "factor of the learning rate"]
    limit = f"at most {study.bytes / 1e6:.3f} MB, the size of one float network"
    tables = [
        Table("What every rule spends; times relative to the first rule", heads, spent, align="llrrrr"),
        table("Ensembles after equally long training, test data", study.time),
        table(f"Ensembles at equal bytes ({limit}), test data", study.size),
    ]
    if any("nll_shifted" in row.figures for row in study.time):
        tables.append(table("Ensembles after equally long training, corrupted images", study.time, shifted))
    return tables


def _search_cells(spending: Spending, way: str) -> list[str]:
    trials = spending.searches.get(way, ())
    return [str(len(trials)), factor_name(spending.factor(way))] if trials else ["", ""]


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
    for group, prediction, unlike, found in _evaluations(groups):
        rows.append([group.label, prediction, str(len(found)), unlike, *_figure_cells(_values(found, FIGURES))])
    heads = ["rule", "prediction", "runs", _UNLIKE, *(head for _, head, _ in FIGURES.values())]
    about = "Mean ± sample standard deviation over runs, measured by bitbayes evaluate."
    return Table("Calibration on test data", heads, rows, about).without_empty_columns()


def unlike_table(groups: Sequence[Group]) -> Table:
    """Return how well each score tells out-of-distribution data apart; no rows if no run was evaluated on such data."""
    rows = []
    for group, prediction, unlike, found in _evaluations(groups):
        for end, score in _SCORES.items():
            values = _values(found, (f"auroc_unlike{end}", f"fpr95_unlike{end}"))
            if any(values.values()):
                rows.append([group.label, prediction, unlike, score, *(spread(each, 3) for each in values.values())])
    about = "FPR95 is the share of out-of-distribution inputs that pass if 95% of the test inputs are to pass."
    heads = ["rule", "prediction", _UNLIKE, "score", "AUROC", "FPR95"]
    return Table("Detection of out-of-distribution data", heads, rows, about).without_empty_columns()


def _evaluations(groups: Sequence[Group]) -> Iterator[tuple[Group, str, str, list[Mapping[str, Any]]]]:
    """Yield groups of runs, the way to predict, the out-of-distribution data, and the figures of every evaluated run.

    Evaluations of other numbers of members, with other views or other out-of-distribution data are kept apart.
    """
    for group in groups:
        for about in sorted({_measured(run) for run in group.runs}):
            runs, (count, unlike, views) = [run for run in group.runs if _measured(run) == about], about
            for kind in ("mode", "mean"):
                found = [figures for run in runs if isinstance(figures := run.evaluation.get(kind), Mapping)]
                if found:
                    samples = listed(run.evaluation.get("samples") for run in runs if kind in run.evaluation)
                    prediction = _averaged(count, samples if kind == "mean" else None)
                    yield group, prediction + with_views(views or None), unlike, found


def _measured(run: RunRecord) -> tuple[int, str, str]:
    """Return what tells evaluations of one group apart: members, out-of-distribution data, and views."""
    unlike, views = (str(run.evaluation.get(name) or "") for name in ("unlike", "views"))
    return _members(run), unlike, views


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
