"""Markdown tables of the four parts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def table(part: str, found: Any) -> str:
    """Return the tables of one part."""
    return {"truth": _truth, "practice": _practice, "linearity": _linearity, "tempered": _tempered}[part](found)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table whose first `words` columns are words and the others numbers."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _truth(found: dict[str, dict[str, dict[str, float]]]) -> str:
    names = list(next(iter(found.values())))
    parts = []
    for key, title in (("bias", "Bias"), ("error", "Error at equal cost"), ("cosine", "Cosine at equal cost")):
        rows = []
        for name in names:
            row = [found[problem][name] for problem in found]
            rows.append([name, *(_bias(one) if key == "bias" else _digits(one[key]) for one in row)])
        parts.append(f"{title}\n\n" + _markdown(["estimator", *found], rows))
    return "\n\n".join(parts)


def _bias(quality: dict[str, float]) -> str:
    """Return a bias, or the bound that it keeps if it is not told from zero: twice its noise."""
    noise = quality["bias_noise"]
    return _digits(quality["bias"]) if quality["bias"] > 2 * noise else f"< {_digits(max(2 * noise, 0.001))}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _practice(found: dict[str, Any]) -> str:
    parts = []
    for scale, one in found.items():
        base = _snr(one["straight-through"]["whole"])
        rows = []
        for name, row in one.items():
            whole = row["whole"]
            noise = sum(whole[key] for key in ("minibatch", "draw", "both"))
            shares = [f"{100 * whole[key] / noise:.0f}" for key in ("minibatch", "draw", "both")]
            ratio = _snr(whole) / base
            layers = [f"{_snr(layer):.4f}" for layer in row["layers"]]
            # A mean that drowns in noise has no direction.
            agrees = f"{row['agreement']:.2f}" if ratio > 0.05 else ""
            rows.append([name, *shares, f"{_snr(whole):.4f}", f"{ratio:.2f}", *layers, agrees])
        head = ["estimator", "minibatch, %", "draw, %", "both, %", "SNR", "to straight-through"]
        head += ["layer 1", "layer 2", "layer 3", "cosine of means"]
        parts.append(f"ess = {scale}·N\n\n{_markdown(head, rows)}")
    return "\n\n".join(parts)


def _linearity(found: dict[str, Any]) -> str:
    rows = []
    for scale, layers in found.items():
        for number, one in enumerate(layers, start=1):
            bias = _bias(one) if math.isfinite(one["bias_noise"]) else "unresolved"
            cells = [f"{one['distance']:.2f}", f"{one['slope']:.2f}", bias]
            rows.append([scale, f"{number}", *cells])
    return _markdown(["ess / N", "layer", "distance", "slope", "bias"], rows)


def _snr(parts: dict[str, float]) -> float:
    return parts["signal"] / max(parts["minibatch"] + parts["draw"] + parts["both"], 1e-30)


def _tempered(found: dict[str, dict[str, Any]]) -> str:
    head = ["ess / N", "estimator", "passes", "start", "lr", "mode", "mean of 32", "NLL", "bits per weight"]
    head += ["λ held", "KL spent"]
    rows = sorted(found.values(), key=lambda row: (row["start"] != 1, row["lr"] != 1e-2, row["scale"]))
    return _markdown(head, [_training(row) for row in rows], words=2)


def _training(row: dict[str, Any]) -> list[str]:
    """Return one row, with means over seeds."""
    mean = {key: statistics.mean(one[key] for one in row["outcomes"]) for key in row["outcomes"][0]}
    cells = [f"{row['scale']:g}", row["estimator"], f"{row['passes']}", f"{row['start']:g}", f"{row['lr']:g}"]
    cells += [f"{mean['mode']:.2f}", f"{mean['mean']:.2f}", f"{mean['nll']:.3f}", f"{mean['bits']:.3f}"]
    return [*cells, f"{mean['held']:.2f}", _digits(mean["spent"])]
