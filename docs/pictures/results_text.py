"""Bits per byte of language models on test data: the mode of every rule, and what BayesBiNN's posterior predicts."""

from matplotlib.figure import Figure
from parts.dots import Row, colour, dots, results
from style import new_figure

_RULES = {
    "full-precision": "float network",
    "ste": "STE",
    "bop": "Bop",
    "bayesbinn:straight-through": "BayesBiNN, mode",
}
_PREDICTIONS = {"sample_test_bits": "BayesBiNN, one sample", "mean_test_bits": "BayesBiNN, mean of eight"}


def draw() -> Figure:
    """Return a dot plot with a row for each rule, and one for each prediction from the posterior."""
    found = {row["rule"]: row for row in results("text")["rows"]}
    rows: list[Row] = [(label, colour(rule), found[rule]["test_bits"]["values"]) for rule, label in _RULES.items()]
    bayes = found["bayesbinn:straight-through"]
    rows += [(label, colour("bayesbinn"), bayes[name]["values"]) for name, label in _PREDICTIONS.items()]
    figure, ((axis,),) = new_figure(height=2.9)
    dots(axis, rows)
    axis.set(xlabel="test data: bits per byte (less is better)")
    return figure
