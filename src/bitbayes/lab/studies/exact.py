"""Networks of the exact posterior of a recipe, which `bitbayes.Gibbs` samples and a folder keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bitbayes import kernels
from bitbayes.gibbs import Chains, Gibbs
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.train import RunConfig, RunFolder
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.measure import whole
from bitbayes.posterior import SamplePosterior
from bitbayes.prediction import Prediction


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler of an exact posterior.

    Args:
        chains: Number of chains from random signs.
        sweeps: Number of sweeps of each chain. The first fifth is dropped.
        thin: Number of sweeps per kept network.
        seed: Seed of the sampler.
    """

    chains: int = 24
    sweeps: int = 2500
    thin: int = 10
    seed: int = 0

    def short(self, seed: int) -> Sampling:
        """Return how `bitbayes.Gibbs` is run as one of the methods: for seconds, with another seed."""
        chains, sweeps, thin = min(8, self.chains), min(400, self.sweeps // 2), min(5, self.thin)
        return Sampling(chains, sweeps, thin, self.seed + 1 + seed)

    def __post_init__(self) -> None:
        if self.chains < 1:
            raise ValueError(f"chains must be at least 1, got {self.chains}")
        if self.sweeps - self.burn_in < self.thin:
            left = self.sweeps - self.burn_in
            raise ValueError(f"{self.sweeps} sweeps leave {left} after burn-in, expected at least {self.thin}")

    @property
    def burn_in(self) -> int:
        """Number of sweeps that are dropped."""
        return self.sweeps // 5


def compiled() -> bool:
    """Whether networks of a few thousand weights are sampled in seconds, which needs a C compiler."""
    return not kernels.status("gibbs").startswith("not in use")


@dataclass(frozen=True)
class Sampled:
    """Networks of an exact posterior, to predict with.

    Args:
        model: The network whose weights are replaced.
        chains: Networks that the sampler has visited.
    """

    model: nn.Module
    chains: Chains

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs of all networks, shape (chains, draws, N, K)."""
        return self.chains.outputs(self.model, x)

    def predict(self, x: Tensor) -> Prediction[Tensor]:
        """Return the mean of all networks, and their disagreement."""
        return Prediction(self.outputs(x).flatten(0, 1))


def sample_exact(
    config: RunConfig,
    experiment: Experiment,
    folder: RunFolder,
    sampling: Sampling,
    note: Callable[[str], None],
    noise: float | None = None,
    start_temperature: float | None = None,
) -> Sampled:
    """Return networks of the exact posterior of a run's network and training data, from the folder if they are there.

    Args:
        config: Configuration of a run; its rule does not matter, as long as it is binary.
        experiment: Objects of the run. The sizes of the sampled weights are those of its mode.
        folder: Folder that keeps the networks.
        sampling: Numbers of chains and sweeps, and the seed.
        note: Function that gets a line about it.
        noise: Standard deviation of the targets of a regression; None for classes.
        start_temperature: Temperature at the beginning of burn-in; None for that of the posterior.

    Raises:
        ValueError: If the recipe keeps some weights real, or the network is none that the sampler reads.
    """
    model, optimizer = experiment.model, experiment.optimizer
    recipe = find_recipe(config.recipe)
    if not recipe.all_binary or optimizer is None:
        raise ValueError(f"{recipe.name} has real parameters, of which this posterior would know nothing")
    start_temperature = start_temperature if sampling.burn_in > 1 else None  # from which it could not fall
    optimizer.eval()
    sizes = {name: parameter.detach().abs() for name, parameter in optimizer.named_binary()}
    wanted = {"recipe": recipe.name, "data": experiment.data.fingerprint(), **vars(sampling)}
    wanted |= {"noise": noise, "start_temperature": start_temperature, "sizes": _digest(sizes)}
    if folder.has("exact.json") and folder.read_json("exact.json")["settings"] == wanted:
        note(f"{recipe.name}: the sampled networks are already in {folder.path}")
        posterior = SamplePosterior.load(folder.path / "posterior.safetensors")
        losses = folder.read_tensors("losses.safetensors")["losses"]
        return Sampled(model, Chains(posterior, losses, sampling.burn_in))
    sampler = Gibbs(
        *(model, *whole(experiment.data.train)),
        noise=noise,
        loss=recipe.loss.name.replace("_", "-"),
        binary=list(optimizer.named_binary()),
        scale=sizes,
        chains=sampling.chains,
        seed=sampling.seed,
    )
    note(f"{recipe.name}: {sampling.chains} chains of {sampling.sweeps} sweeps ({sampler.implementation}) ...")
    chains = sampler.run(
        sampling.sweeps - sampling.burn_in,
        burn_in=sampling.burn_in,
        thin=sampling.thin,
        start_temperature=start_temperature,
    )
    folder.remove("exact.json")  # of other settings, before their networks are replaced
    folder.write_path("posterior.safetensors", chains.posterior.save)
    folder.write_tensors("losses.safetensors", {"losses": chains.losses}, {})
    folder.write_json("exact.json", {"settings": wanted, "implementation": sampler.implementation})
    return Sampled(model, chains)


def _digest(sizes: Mapping[str, Tensor]) -> str:
    """Return hexadecimal digits that identify the sizes of all weights."""
    found = hashlib.sha256()
    for name, size in sizes.items():
        found.update(name.encode())
        found.update(size.float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
