"""Networks that a sampler has visited, and diagnostics of its chains by ArviZ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitbayes.draws import network_outputs
from bitbayes.errors import require
from bitbayes.posterior import SamplePosterior


@dataclass(frozen=True)
class Chains:
    """Networks that several chains have visited, and the loss after every sweep.

    Args:
        posterior: The kept networks: those of the first chain in the order of their sweeps, then the next chain's.
        losses: Total loss of the training points in nats after every sweep, float64, shape (chains, sweeps). A network
            of the posterior at temperature T has the probability exp(−loss / T), up to a constant.
        burn_in: Number of sweeps at the beginning whose networks were dropped.

    Example:
        >>> posterior = bb.SamplePosterior({"weight": torch.ones(6, 1, 2)})
        >>> chains = Chains(posterior, torch.zeros(2, 5), burn_in=2)
        >>> chains.draws, chains.kept_losses.shape
        (3, torch.Size([2, 3]))
        >>> chains.outputs(torch.nn.Linear(2, 1, bias=False), torch.ones(4, 2)).shape
        torch.Size([2, 3, 4, 1])
    """

    posterior: SamplePosterior
    losses: Tensor
    burn_in: int

    @property
    def draws(self) -> int:
        """Number of kept networks per chain."""
        return len(self.posterior) // len(self.losses)

    @property
    def kept_losses(self) -> Tensor:
        """Total loss after every sweep that follows burn-in, shape (chains, sweeps)."""
        return self.losses[:, self.burn_in :]

    @torch.no_grad()
    def outputs(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return the outputs of every kept network, such as logits to diagnose.

        Args:
            model: The network that was sampled.
            x: Inputs, shape (N, ...).

        Returns:
            Outputs, shape (chains, draws, N, K). `Prediction(outputs.flatten(0, 1))` is the posterior's prediction.
        """
        members = (self.posterior.member(index) for index in range(len(self.posterior)))
        outputs = torch.stack([network_outputs(model, weights, x, None) for weights in members])
        return outputs.unflatten(0, (len(self.losses), -1))

    def rhat(self, values: Tensor | None = None) -> Tensor:
        """Return the rank-normalised split R-hat of some quantities, which is near 1 if the chains agree.

        ArviZ computes it. Vehtari et al. (Bayesian Analysis, 2021) trust samples with an R-hat below 1.01.

        Args:
            values: Quantities, shape (chains, draws, ...), such as `outputs`. None takes the losses after burn-in.

        Returns:
            R-hat of every quantity, float64, shape (...); NaN for a single chain, and where there are too few draws.

        Raises:
            ImportError: If ArviZ is not installed.
            ValueError: If the shape does not begin with (chains, draws).
        """
        return self._by_arviz("rhat", values)

    def ess(self, values: Tensor | None = None) -> Tensor:
        """Return the bulk effective sample size of some quantities, over all chains together.

        ArviZ computes it (Vehtari et al., Bayesian Analysis, 2021).

        Args:
            values: Quantities, shape (chains, draws, ...), such as `outputs`. None takes the losses after burn-in.

        Returns:
            Effective sample size of every quantity, float64, shape (...).

        Raises:
            ImportError: If ArviZ is not installed.
            ValueError: If the shape does not begin with (chains, draws).
        """
        return self._by_arviz("ess", values)

    def _by_arviz(self, name: str, values: Tensor | None) -> Tensor:
        values = self.kept_losses if values is None else values
        if values.dim() < 2 or len(values) != len(self.losses):
            raise ValueError(f"values must have the shape ({len(self.losses)}, draws, ...), got {tuple(values.shape)}")
        compute = getattr(require("arviz_stats.base", "diagnostics").array_stats, name)
        found = compute(values.double().numpy(force=True), chain_axis=0, draw_axis=1)
        return torch.as_tensor(found, dtype=torch.float64)
