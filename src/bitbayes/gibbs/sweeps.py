"""One sweep of the heat bath over all signs: in torch, and by the kernel in `kernels/gibbs.c`.

Both visit the signs in the same order and take the same noise, so they differ by rounding alone.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
from torch import Tensor

from bitbayes.gibbs.dense import ACTIVATIONS, LOSSES, Dense, Target, activated, forward
from bitbayes.kernels import build

_LANES, _MOST_LAYERS = 16, 64  # of the kernel: points per step, and the length of its array of layers


class Sweep(Protocol):
    """One way to run a sweep."""

    name: str

    def __call__(self, vectors: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """Visit every sign of every chain once.

        Args:
            vectors: Weights of the chains, shape (C, size); changed in place.
            noise: Half the logit of a uniform number for every visit, shape (C, visits).
            temperature: Temperature T of the posterior exp(−loss / T).

        Returns:
            The total loss of every chain after the sweep, float64, shape (C,).
        """
        ...


class TorchSweep:
    """A sweep in torch, of all chains at once; it defines what the kernel computes.

    Args:
        dense: The network.
        target: Training points and loss.
        visits: Layer, unit and input of every binary weight.
        places: Place of every binary weight in the vector.
    """

    name = "eager"

    def __init__(self, dense: Dense, target: Target, visits: Tensor, places: Tensor) -> None:
        self.dense, self.target = dense, target
        self.visits = [(*visit, place) for visit, place in zip(visits.tolist(), places.tolist(), strict=True)]

    @torch.no_grad()
    def __call__(self, vectors: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """Visit every sign of every chain once; see `Sweep`."""
        dense, target, kinds = self.dense, self.target, self.dense.activations
        weights, last = [weight for weight, _ in dense.matrices(vectors)], len(kinds) - 1
        pre, out = forward(dense, vectors, target.x)
        energy = target.total(pre[-1])
        for visit, (layer, unit, place, at) in enumerate(self.visits):
            w = vectors[:, at]
            if place == dense.widths[layer]:
                below = 1.0  # a bias
            else:
                below = target.x[:, place] if layer == 0 else out[layer - 1][:, place]
            new_pre = pre[layer][:, unit] - 2 * w[:, None] * below
            new_out = activated(kinds[layer], new_pre)
            # New values of all units above, each of shape (C, units, N).
            above, outs = [], []
            if layer == last:
                above.append(pre[last].clone())
                above[0][:, unit] = new_pre
            else:
                change = new_out - out[layer][:, unit]
                above.append(pre[layer + 1] + weights[layer + 1][:, :, unit, None] * change[:, None])
                for higher in range(layer + 1, last):
                    outs.append(activated(kinds[higher], above[-1]))
                    above.append(pre[higher + 1] + weights[higher + 1] @ (outs[-1] - out[higher]))
            other = target.total(above[-1])
            # P[+1] = σ(2λ), and λ + δ > 0 with that probability, where δ is the noise.
            natural = torch.where(w > 0, other - energy, energy - other) / (2 * temperature)
            flip = (natural + noise[:, visit] > 0) != (w > 0)
            vectors[:, at] = torch.where(flip, -w, w)
            energy = torch.where(flip, other, energy)
            pre[layer][:, unit] = torch.where(flip[:, None], new_pre, pre[layer][:, unit])
            out[layer][:, unit] = torch.where(flip[:, None], new_out, out[layer][:, unit])
            for offset, values in enumerate(above if layer < last else []):
                higher = layer + 1 + offset
                pre[higher] = torch.where(flip[:, None, None], values, pre[higher])
                if higher < last:
                    out[higher] = torch.where(flip[:, None, None], outs[offset], out[higher])
        return energy


class _Sampler(ctypes.Structure):
    """The structure `sampler` in `kernels/gibbs.c`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("chains", "layers", "points", "loss", "weights", "visits", "room")),
        *((name, ctypes.c_double) for name in ("cold", "gain", "scale")),
        *((name, ctypes.c_void_p) for name in ("width", "inputs", "targets", "valid", "visit", "noise", "weight")),
        *((name, ctypes.c_void_p) for name in ("energy", "space")),
    )


class KernelSweep:
    """A sweep by compiled C on a CPU; chains are divided among torch's threads.

    Args:
        library: The compiled kernels.
        dense: The network.
        target: Training points and loss.
        visits: Layer, unit and input of every binary weight.
    """

    name = "kernel"

    def __init__(self, library: ctypes.CDLL, dense: Dense, target: Target, visits: Tensor) -> None:
        self._run = library.bitbayes_gibbs
        self._run.argtypes, self._run.restype = [ctypes.c_void_p, ctypes.c_int], None
        count, widths = len(target.x), dense.widths
        points = -(-count // _LANES) * _LANES
        kinds = [ACTIVATIONS[kind] for kind in dense.activations]
        self._room = 3 * points + 4 * sum(widths[1:]) * points
        self._space = torch.empty(0, dtype=torch.float32)
        self._sampler = _Sampler(
            layers=len(kinds),
            points=points,
            loss=LOSSES[target.loss],
            weights=dense.size,
            visits=len(visits),
            room=self._room,
            gain=target.gain,
            scale=target.scale,
        )
        padded = [torch.zeros(columns, points, dtype=torch.float32) for columns in (widths[0], widths[-1])]
        for room, values in zip(padded, (target.x, target.y), strict=True):
            room[:, :count] = values.mT
        valid = (torch.arange(points) < count).float()
        self._constant = {
            "width": torch.tensor([*widths, *kinds]),
            "inputs": padded[0],
            "targets": padded[1],
            "valid": valid,
            "visit": visits.contiguous(),
        }
        for name, tensor in self._constant.items():
            setattr(self._sampler, name, tensor.data_ptr())

    def __call__(self, vectors: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """Visit every sign of every chain once; see `Sweep`."""
        chains, sampler = len(vectors), self._sampler
        energy = torch.empty(chains, dtype=torch.float64)
        changing = {"noise": noise.contiguous(), "weight": vectors, "energy": energy}
        if len(self._space) < chains * self._room:
            self._space = torch.empty(chains * self._room, dtype=torch.float32)
        changing["space"] = self._space
        for name, tensor in changing.items():
            setattr(sampler, name, tensor.data_ptr())
        sampler.chains, sampler.cold = chains, 0.5 / temperature
        self._run(ctypes.addressof(sampler), build.threads(min(torch.get_num_threads(), chains)))
        return energy


def make_sweep(dense: Dense, target: Target, visits: Tensor, places: Tensor, *, compile: bool) -> Sweep:
    """Return the kernel where it is wanted and can run, else torch's sweep."""
    library = build.library("gibbs") if compile and target.x.device.type == "cpu" else None
    if library is None or len(dense.linear) > _MOST_LAYERS:
        return TorchSweep(dense, target, visits, places)
    return KernelSweep(library, dense, target, visits)
