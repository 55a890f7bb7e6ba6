"""Problems whose exact posterior `bitbayes.Gibbs` can sample, and the points at which posteriors are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bitbayes.lab.studies.toys import ring
from bitbayes.lab.studies.ways import MOONS_WAYS, SNELSON_WAYS, WAYS, Way
from bitbayes.lab.train import RunConfig

RADII = (2.0, 3.0, 4.0, 6.0)
"""Radii of the rings around the data of two moons, in standardised inputs."""

TRUTH_RING = "ring 4"
"""Name of the ring on which tables show the divergence."""

Places = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Function from the inputs of training and test points to further inputs by name."""


@dataclass(frozen=True)
class Problem:
    """A network whose weights are all binary, and its data.

    Args:
        name: Name of the problem.
        recipe: Name of the recipe.
        first_scale: Scale of the first layer; see `RunConfig`.
        places: Function that returns inputs beside the test data; None for none.
        noise: Standard deviation σ of the targets of a regression, which all predictive distributions share; None for
            classes.
        own_data: Whether seed number s trains on split number s of the data, which the user may name.
        start_temperature: Temperature at the beginning of the sampler's burn-in; see `bitbayes.Gibbs.run`.
        ways: Ways to train by title.
    """

    name: str
    recipe: str
    first_scale: str | None = None
    places: Places | None = None
    noise: float | None = None
    own_data: bool = False
    start_temperature: float | None = None
    ways: Mapping[str, Way] = field(default_factory=lambda: WAYS)

    @property
    def own_truth(self) -> bool:
        """Whether the seeds have different networks or data, and so different exact posteriors."""
        return self.own_data or self.first_scale in ("normal", "weight")

    @property
    def learned(self) -> bool:
        """Whether a run learns the sizes of its weights, so that every run has an exact posterior of its own."""
        return self.first_scale == "weight"

    def configs(self, way: Way, seed: int, out: str, data: str | None, epochs: int | None) -> list[RunConfig]:
        """Return the configurations of the runs of a way; `data` is the folder of data that the user may name."""
        own = {"data": data, "data_seed": seed} if self.own_data else {}
        return way.configs(self.recipe, seed, f"{out}/{self.name}", epochs=epochs, first_scale=self.first_scale, **own)


def rings(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Return points on circles around the data."""
    return {f"ring {radius:g}": ring(radius) for radius in RADII}


def outside(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Return one-dimensional inputs beyond both ends of the training inputs, up to a quarter of their range away.

    Example:
        >>> far = outside(torch.tensor([[0.0], [4.0]]), torch.zeros(1, 1))["outside"]
        >>> far.min().item(), far.max().item(), ((far > 0) & (far < 4)).any().item()
        (-1.0, 5.0, False)
    """
    low, high = float(train.min()), float(train.max())
    margin = (high - low) / 4
    return {
        "outside": torch.cat([torch.linspace(low - margin, low, 50), torch.linspace(high, high + margin, 50)])[:, None]
    }


def rotated_and_noise(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Return 8×8 test images turned by 90°, and noise."""
    turned = test.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1)
    return {"rotated": turned, **noise(train, test)}


def noise(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Return as many inputs as there are test points, whose entries are independent standard normal numbers."""
    return {"noise": torch.randn(test.shape, generator=torch.Generator().manual_seed(0))}


_UNPUBLISHED = {title: way for title, way in WAYS.items() if title != "BayesBiNN, published"}
_ALL = (
    Problem("moons", "moons", places=rings, ways=MOONS_WAYS),
    Problem("moons-sizes", "moons", first_scale="normal", places=rings),
    Problem("moons-learned", "moons", first_scale="weight", places=rings),
    # σ is about the error of a good fit to Snelson's data.
    Problem("snelson", "snelson-plain", places=outside, noise=0.35, own_data=True, ways=SNELSON_WAYS),
    Problem(
        "snelson-learned",
        "snelson-plain",
        first_scale="weight",
        places=outside,
        noise=0.35,
        own_data=True,
        ways={title: way for title, way in SNELSON_WAYS.items() if way.members == 1},  # each member has other sizes
    ),
    Problem(
        "digits",
        "digits-plain",
        first_scale="fan_in",
        places=rotated_and_noise,
        start_temperature=20.0,
        ways=_UNPUBLISHED,
    ),
    Problem(
        "breast-cancer",
        "breast-cancer",
        first_scale="fan_in",
        places=noise,
        start_temperature=20.0,
        ways=_UNPUBLISHED,
    ),
)
PROBLEMS: Mapping[str, Problem] = {problem.name: problem for problem in _ALL}
"""Problems by name.

In "moons-sizes" the weights of the first layer have random sizes, and in "moons-learned" and "snelson-learned" each run
learns their sizes.
"""
