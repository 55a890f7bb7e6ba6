"""Two moons: what STE, the mode of BayesBiNN and the mean of its posterior predict over the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from style import BLUE, INK, MUTED, ORANGE, PAPER, new_figure

from bitbayes.lab.studies.toys import moons_study
from bitbayes.lab.train.measure import whole

_STEPS, _REACH, _SAMPLES = 110, 3.2, 100
_WAY = "BayesBiNN, published"  # whose posterior is the broadest


def draw() -> Any:
    """Return the figure; the first call trains the networks, which takes minutes, into `runs/pictures/moons`."""
    study = moons_study("runs/pictures/moons", note=lambda _: None)
    (ste, *_), (bayes, *_) = (study.runs[way][0] for way in ("STE, Adam", _WAY))
    x, y = whole(bayes.experiment.data.train)
    line = torch.linspace(-_REACH, _REACH, _STEPS)
    plane = torch.cartesian_prod(line, line)
    panels = {
        "STE: one network": ste.predict(plane, 0),
        "BayesBiNN: the mode": bayes.predict(plane, 0),
        f"BayesBiNN: mean of {_SAMPLES} samples": bayes.predict(plane, _SAMPLES),
    }
    figure, axes = new_figure(1, len(panels), 9.4, 3.55)
    for axis, (title, prediction) in zip(axes[0], panels.items(), strict=True):
        probability = prediction.probs.reshape(_STEPS, _STEPS).T.numpy()
        reach = (-_REACH, _REACH, -_REACH, _REACH)
        axis.imshow(_tinted(probability), origin="lower", extent=reach, interpolation="none")
        axis.contour(line, line, probability, levels=[0.5], colors=INK, linewidths=1)
        for value, colour in ((0, BLUE), (1, ORANGE)):
            points = x[y.reshape(-1) == value][::3]
            axis.scatter(points[:, 0], points[:, 1], s=9, c=colour, edgecolors=PAPER, linewidths=0.4)
        axis.set(title=title, xticks=[], yticks=[], xlim=reach[:2], ylim=reach[2:])
        axis.spines[:].set_visible(False)
    caption = "Colour: predicted probability of either class. No colour: the network does not know."
    figure.supxlabel(caption, color=MUTED)
    return figure


def _tinted(probability: np.ndarray) -> np.ndarray:
    """Return RGBA pixels: blue for class 0, orange for class 1, and transparent where both are equally likely."""
    colours = np.where(probability[..., None] < 0.5, to_rgb(BLUE), to_rgb(ORANGE))
    return np.concatenate([colours, 0.85 * np.abs(2 * probability[..., None] - 1)], axis=-1)
