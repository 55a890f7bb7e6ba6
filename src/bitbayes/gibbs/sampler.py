"""The sampler: heat bath over single signs, in parallel chains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitbayes.functional import sign
from bitbayes.gibbs.chains import Chains
from bitbayes.gibbs.dense import Dense, Target
from bitbayes.gibbs.sweeps import make_sweep
from bitbayes.noise import Noise, stream_key
from bitbayes.parameters import Named, split_parameters
from bitbayes.posterior import SamplePosterior

_START, _SWEEP = 5, 6  # streams of noise that no rule uses


class Gibbs:
    """Sampler of the exact posterior of a small dense network with binary weights.

    The posterior is p(w) ∝ exp(−loss(w) / T), where the loss is summed over the training points in nats and the prior
    is uniform. A sweep visits the binary weights in a fixed order and draws each sign from its distribution given all
    other weights: +1 with probability σ(2λ), where λ = (loss at −1 minus loss at +1) / 2T (a heat bath, or Gibbs
    sampler; Geman & Geman 1984). Only what depends on the visited weight is computed anew. On a CPU with a C compiler,
    a sweep over the 4,417 weights of the BayesBiNN paper's network on two moons takes a few milliseconds per chain.

    Noise depends on the seed, the sweep and the chain alone. Therefore chain number c is the same for any number of
    chains and, in the kernel, of threads, and two runs of 100 sweeps give the same chains as one run of 200.

    Args:
        model: Sequential network of Flatten, Linear, Tanh or ReLU after a Linear, and possibly a last
            `bitbayes.nn.LogitScale`. Parameters that are not binary keep their current values.
        x: Training inputs, shape (N, ...), flattened to (N, inputs). The sampler runs on their device.
        y: Targets. For "binary", numbers in [0, 1], shape (N,) or (N, outputs). For "cross-entropy", classes, shape
            (N,). For "squared", numbers, shape (N,) or (N, outputs).
        loss: "binary" for logits of probabilities of class 1, "cross-entropy" for logits of classes, or "squared" for
            Gaussian targets, whose loss is (output − y)² / 2σ².
        temperature: Temperature T, which is positive. At 1, the posterior is Bayes' posterior.
        noise: Standard deviation σ of the targets, for the loss "squared" and no other.
        binary: Binary (name, parameter) pairs; None calls `bitbayes.split_parameters`, which keeps biases real.
        scale: Positive scale s by name of a binary parameter, broadcastable to it, so that its weights are ±s. Missing
            names have s = 1.
        chains: Number of chains, each of which starts from random signs.
        seed: Seed of the counter-based noise.
        compile: Whether to use the compiled kernel where there is one. Without it, sweeps run in torch.

    Attributes:
        implementation: "kernel" if sweeps run in compiled C, else "eager".
        scale: Scale of every binary parameter by name.
        sweeps: Number of sweeps so far.

    Raises:
        ValueError: If the network has a layer of another kind, or data and options do not fit.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> sampler = Gibbs(model, x, torch.tensor([0.0, 1.0]), chains=2)
        >>> chains = sampler.run(50, burn_in=10, thin=5)
        >>> len(chains.posterior), chains.losses.shape
        (20, torch.Size([2, 60]))
        >>> prediction = bb.predict(model, x, chains.posterior, samples=20)
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str = "binary",
        temperature: float = 1.0,
        noise: float | None = None,
        binary: Named | None = None,
        scale: Mapping[str, Tensor] | None = None,
        chains: int = 4,
        seed: int = 0,
        compile: bool = True,
    ) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if not isinstance(chains, int) or chains < 1:
            raise ValueError(f"chains must be a whole number of at least 1, got {chains}")
        dense = Dense.of(model)
        binary = split_parameters(model)[0] if binary is None else list(binary)
        if not binary:
            raise ValueError("the network has no binary weight to sample; pass binary=, or see split_parameters")
        visits, self._places = dense.visits(binary)
        target = Target.of(dense, x, y, loss, noise)
        self._sweep = make_sweep(dense, target, visits, self._places, compile=compile)
        wanted = {id(parameter) for _, parameter in binary}
        for name, parameter, *_ in dense.parameters:
            if id(parameter) not in wanted and not parameter.isfinite().all():
                raise ValueError(f"{name!r} is a real parameter with NaN or infinity; a sampler needs finite values")
        if not math.isfinite(dense.gain):
            raise ValueError(f"the logit scale must be finite, got {dense.gain}")
        self._shapes = {name: p.shape for name, p, *_ in dense.parameters if id(p) in wanted}
        self.temperature, self.seed, self.chains, self.sweeps = temperature, seed, chains, 0
        self.implementation = self._sweep.name
        device = target.x.device
        start = Noise(stream_key(seed, _START), chains * len(self._places), device)
        signs = sign(start.logistic()).view(chains, -1)
        self.scale = SamplePosterior(self._named(signs), scale).scale
        sizes = [self.scale[name].expand(shape).reshape(-1) for name, shape in self._shapes.items()]
        self._places = self._places.to(device)
        self._vectors = dense.vector(device).repeat(chains, 1)
        self._vectors[:, self._places] = signs * torch.cat(sizes)

    def run(self, sweeps: int, *, burn_in: int = 0, thin: int = 1, start_temperature: float | None = None) -> Chains:
        """Continue the chains, and return the networks that they visit.

        Args:
            sweeps: Number of sweeps after burn-in.
            burn_in: Number of sweeps before, whose networks are dropped.
            thin: Number of sweeps per kept network, so that sweeps // thin networks are kept per chain.
            start_temperature: Temperature at the beginning of burn-in, from which it falls geometrically to the
                sampler's temperature at the end of burn-in. None keeps the temperature constant. Hot starts help
                chains that otherwise stay where they begin.

        Returns:
            Kept networks, and the loss after every sweep.

        Raises:
            ValueError: If a number is out of range.
        """
        if thin < 1 or sweeps < thin or burn_in < 0:
            raise ValueError(
                "sweeps must be at least thin, thin at least 1, and burn_in at least 0; "
                f"got sweeps={sweeps}, thin={thin}, burn_in={burn_in}"
            )
        hottest = self.temperature if start_temperature is None else start_temperature
        if not (hottest > 0 and math.isfinite(hottest)):
            raise ValueError(f"start_temperature must be positive and finite, got {start_temperature}")
        if start_temperature is not None and burn_in < 2:
            raise ValueError(f"start_temperature has no effect without a burn_in of at least 2, got {burn_in}")
        losses, kept = [], []
        for done in range(burn_in + sweeps):
            left = max(burn_in - 1 - done, 0) / max(burn_in - 1, 1)  # from 1 to 0 during burn-in
            losses.append(self._once(self.temperature * (hottest / self.temperature) ** left))
            after = done + 1 - burn_in
            if after > 0 and after % thin == 0:
                kept.append(self._signs())
        draws = torch.stack(kept, 1).flatten(0, 1)  # chain by chain
        return Chains(SamplePosterior(self._named(draws), self.scale), torch.stack(losses, 1), burn_in)

    def _named(self, rows: Tensor) -> dict[str, Tensor]:
        """Return rows of all binary weights, shape (C, weights), by name and with the shapes of the parameters."""
        parts = rows.split([shape.numel() for shape in self._shapes.values()], 1)
        return {name: part.reshape(-1, *shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)}

    def _signs(self) -> Tensor:
        """Return the signs of all chains as int8, shape (chains, weights)."""
        return self._vectors[:, self._places].sign().to(torch.int8)

    def _once(self, temperature: float) -> Tensor:
        """Run one sweep of every chain; return the total losses."""
        count = self.chains * len(self._places)
        noise = Noise(stream_key(self.seed, _SWEEP, self.sweeps), count, self._vectors.device).logistic()
        self.sweeps += 1
        return self._sweep(self._vectors, noise.view(self.chains, -1), temperature)

    def state_dict(self) -> dict[str, Any]:
        """Return where the chains are, for `load_state_dict` of a sampler that was made with the same arguments."""
        return {"sweeps": self.sweeps, "signs": self._signs()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where the chains were when `state_dict` was called; all further sweeps are the same.

        Args:
            state: Result of `state_dict` of a sampler that was made with the same arguments.

        Raises:
            ValueError: If the number of chains or weights differs.
        """
        signs, mine = state["signs"], (self.chains, len(self._places))
        if signs.shape != mine:
            raise ValueError(f"the state has the shape (chains, weights) = {tuple(signs.shape)}, the sampler {mine}")
        self._vectors[:, self._places] = sign(signs.to(self._vectors)) * self._vectors[:, self._places].abs()
        self.sweeps = state["sweeps"]
