"""Test accuracy of the rules on two problems, every seed a dot, from the files in docs/results."""

import json

import style
from matplotlib.figure import Figure
from parts import guides

NAMES = {
    "full-precision": "full precision",
    "bayesbinn:straight-through": "BayesBiNN",
    "bayesbinn:released": "BayesBiNN, released",
    "ste": "STE",
    "bop": "Bop",
    "bop2": "second-order Bop",
    "pmf": "PMF",
    "vispa": "VISPA",
    "md": "mirror descent",
    "adaste": "AdaSTE",
    "proxquant": "ProxQuant",
}
PANELS = (
    ("mnist-quick", "MNIST MLP: most rules are close"),
    ("cifar10-small", "CIFAR-10 VGG: Bop and BayesBiNN lead"),
)


def draw() -> Figure:
    """Return one panel for each problem; rows are rules, by their mean on MNIST."""
    figure, (row,) = style.new_figure(1, 2, width=7.6, height=3.6)
    order: list[str] = []
    for axes, (file, title) in zip(row, PANELS, strict=True):
        found = json.loads((guides.DOCS / "results" / f"{file}.json").read_text(encoding="utf-8"))["rows"]
        tests = {entry["rule"]: entry["test"] for entry in found if entry["rule"] in NAMES}
        order = order or sorted(tests, key=lambda rule: tests[rule]["mean"])
        for place, rule in enumerate(order):
            if rule not in tests:
                continue
            test = tests[rule]
            colour = style.MUTED if rule == "full-precision" else style.BLUE
            axes.plot(test["values"], [place] * len(test["values"]), "o", color=colour, markersize=3.5, alpha=0.55)
            axes.plot([test["mean"]], [place], "|", color=style.INK, markersize=13, markeredgewidth=1.6)
        axes.set_title(title, fontsize=9.5)
        axes.set(xlabel="test accuracy, %", ylim=(-0.6, len(order) - 0.4))
        axes.set_yticks(range(len(order)), [NAMES[rule] for rule in order] if axes is row[0] else [])
        axes.tick_params(axis="y", length=0, labelcolor=style.INK)
        axes.grid(axis="both", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    return figure
