"""Two plots: bias against spread by enumeration; where the noise comes from, and what more draws change."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bitbayes.lab.report.figures import new_figure, save

_KINDS = {
    "straight-through": "#20639b",
    "concrete": "#d1622b",
    "released": "#d1622b",
    "gradient": "#555555",
    "trapezoid": "#8a5aa8",
    "every": "#8a5aa8",
}


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Writes both figures."""
    return [_truth(found["truth"], folder), _practice(found["practice"], list(found["tempered"].values()), folder)]


def _colour(name: str) -> str:
    return next((colour for start, colour in _KINDS.items() if name.startswith(start)), "#2a7f62")


def _truth(found: dict[str, Any], folder: Path) -> Path:
    beliefs = [name for name in found if name.startswith("BatchNorm")]
    figure, axes = new_figure(len(beliefs), 3.5, 4.0)
    names = list(found[beliefs[0]])
    for axis, problem in zip(axes, beliefs, strict=True):
        for number, name in enumerate(names, start=1):
            quality = found[problem][name]
            spread, bias = max(quality["spread"], 0.02), max(quality["bias"], 0.005)
            axis.scatter(spread, bias, s=130, color=_colour(name), alpha=0.85, linewidths=0)
            axis.text(spread, bias, str(number), color="white", ha="center", va="center", fontsize=7)
        axis.set(xscale="log", yscale="log", title=problem, xlabel="spread of one estimate / ‖exact‖")
        axis.set(xlim=(0.012, 900), ylim=(0.003, 200))
    axes[0].set_ylabel("bias / ‖exact‖")
    legend = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    handles = [axes[0].scatter([], [], color=_colour(name), s=20) for name in names]
    figure.legend(handles, legend, loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    return save(figure, folder / "estimators-truth.png")


def _practice(found: dict[str, Any], runs: list[dict[str, Any]], folder: Path) -> Path:
    figure, axes = new_figure(3, 3.8, 3.6)
    scales = list(found)
    places = list(range(len(scales)))
    bottom = [0.0] * len(scales)
    colours = {"minibatch": "#555555", "both": "#d1622b", "draw": "#20639b"}
    for key, colour in colours.items():
        shares = []
        for scale in scales:
            whole = found[scale]["straight-through"]["whole"]
            shares.append(100 * whole[key] / sum(whole[name] for name in colours))
        axes[0].bar(places, shares, bottom=bottom, color=colour, label={"both": "draw × minibatch"}.get(key, key))
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes[0].set(title="One straight-through gradient", ylabel="share of its variance, %", xlabel="ess / N")
    axes[0].set_xticks(places, scales)
    axes[0].legend(loc="lower center", frameon=True, fontsize=8)
    shown = {
        "straight-through, antithetic pair": "antithetic pair (2 draws)",
        "straight-through, 2 draws": "2 draws",
        "straight-through, 4 draws": "4 draws",
        "local reparameterisation": "local reparameterisation (cost of 2)",
    }
    for name, label in shown.items():
        ratios = []
        for scale in scales:
            rows = found[scale]
            ratios.append(_snr(rows[name]["whole"]) / _snr(rows["straight-through"]["whole"]))
        axes[1].plot(places, ratios, "o-", label=label, markersize=4)
    axes[1].axhline(1, color="#555555", linewidth=0.8)
    axes[1].set(title="Signal to noise", ylabel="relative to one draw", xlabel="ess / N")
    axes[1].set_xticks(places, scales)
    axes[1].legend(fontsize=8)
    usual = [run for run in runs if run["start"] == 1 and run["lr"] == 1e-2]
    for name in dict.fromkeys(run["estimator"] for run in usual):
        chosen = [run for run in usual if run["estimator"] == name]
        accuracy = [statistics.mean(one["mean"] for one in run["outcomes"]) for run in chosen]
        axes[2].plot([run["scale"] for run in chosen], accuracy, "o-", label=name, markersize=4)
    axes[2].set(xscale="log", title="Mean of 32 after 3 epochs", ylabel="validation accuracy, %", xlabel="ess / N")
    axes[2].legend(fontsize=7)
    return save(figure, folder / "estimators-practice.png")


def _snr(parts: dict[str, float]) -> float:
    return parts["signal"] / (parts["minibatch"] + parts["draw"] + parts["both"])
