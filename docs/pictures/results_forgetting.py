"""Average accuracy on all tasks so far: five permutations over three seeds, and fifty with one."""

import statistics
from typing import Any

from matplotlib.figure import Figure
from parts.dots import results
from style import BLUE, GREEN, LINE, MUTED, ORANGE, PURPLE, new_figure

# Rule, method, prior and decay of a stream: label, colour, line.
_FIVE = {
    ("bayesbinn", "coreset", True, 1.0): ("BayesBiNN, stored inputs", GREEN, "-"),
    ("bayesbinn", "none", True, 1.0): ("BayesBiNN, prior", BLUE, "-"),
    ("bayesbinn", "none", False, 1.0): ("BayesBiNN, no prior", BLUE, ":"),
    ("full-precision", "ewc", False, 1.0): ("full precision, EWC", PURPLE, "-"),
    ("ste:metaplastic", "none", False, 1.0): ("STE, metaplastic", ORANGE, "-"),
    ("ste", "none", False, 1.0): ("STE", ORANGE, ":"),
}
_FIFTY = {
    ("bayesbinn", "coreset", True, 1.0): ("BayesBiNN, stored inputs", GREEN, "-"),
    ("bayesbinn", "none", True, 1.0): ("BayesBiNN, prior", BLUE, "-"),
    ("bayesbinn", "none", True, 0.9): ("BayesBiNN, prior × 0.9", BLUE, "--"),
}


def _streams(name: str, key: tuple[str, str, bool, float]) -> list[list[float]]:
    """Return the average accuracies of the streams with this setting, one list for each seed."""

    def setting(stream: Any) -> tuple[str, str, bool, float]:
        prior = bool(stream["prior"]) and stream["rule"] == "bayesbinn"
        return stream["rule"], stream["method"], prior, stream["decay"] if prior else 1.0

    return [stream["average_accuracy"] for stream in results(name)["streams"] if setting(stream) == key]


def draw() -> Figure:
    """Return the curves of both streams, with a band from the worst to the best seed."""
    figure, axes = new_figure(1, 2, width=7.6, height=3.4)
    panels = (("permuted-mnist", _FIVE, "5 tasks, 15 epochs each"), ("permuted-50", _FIFTY, "50 tasks, 5 epochs each"))
    for axis, (name, settings, title) in zip(axes[0], panels, strict=True):
        for key, (label, shade, line) in settings.items():
            columns = list(zip(*_streams(name, key), strict=True))
            tasks, low, high = (
                range(1, len(columns) + 1),
                [min(each) for each in columns],
                [max(each) for each in columns],
            )
            axis.fill_between(tasks, low, high, color=shade, alpha=0.2, linewidth=0)
            axis.plot(tasks, [statistics.mean(each) for each in columns], line, color=shade, label=label)
        axis.grid(color=LINE, linewidth=0.7)
        axis.set(title=title, xlabel="tasks learned", ylim=(0, 100))
        axis.legend(
            loc="lower left", ncols=2 if len(settings) > 3 else 1, fontsize=7.5, labelcolor=MUTED, columnspacing=1
        )
    axes[0, 0].set(ylabel="average test accuracy, %", xticks=range(1, 6))
    return figure
