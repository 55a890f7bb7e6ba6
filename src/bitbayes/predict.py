"""Predictions of a binary network: of what its parameters hold, or averaged over networks drawn from a posterior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bitbayes.batchnorm import Batches, as_found, refresh
from bitbayes.packed import PackedNetwork, load, pack
from bitbayes.posterior import Posterior

__all__ = ["Prediction", "draws", "predict"]

# Networks that one batched pass computes, where they are so small (weights times inputs) that a pass of one is mostly
# dispatch; larger ones are faster one by one, see benchmarks/predict.py.
_TOGETHER, _SMALL = 32, 10_000_000


@dataclass(frozen=True)
class Prediction:
    """Outputs of one or several networks for the same inputs.

    Args:
        outputs: Raw outputs (logits, or regression values), shape (C, N, K) for C networks.

    Example:
        >>> both = Prediction(torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]]))  # two sure networks that disagree
        >>> both.probs
        tensor([[0.5000, 0.5000]])
        >>> both.entropy, both.mutual_information
        (tensor([0.6931]), tensor([0.6931]))
    """

    outputs: Tensor

    @property
    def sample_probs(self) -> Tensor:
        """Class probabilities of every network, shape (C, N, K); K = 1 means one logit: P[class 1], (C, N, 1)."""
        outputs = _widened(self.outputs)
        return torch.sigmoid(outputs) if outputs.shape[-1] == 1 else torch.softmax(outputs, -1)

    @property
    def probs(self) -> Tensor:
        """Mean of the networks' class probabilities, shape (N, K) (BayesBiNN, eq. 18)."""
        return self.sample_probs.mean(0)

    def tempered(self, temperature: float) -> Prediction:
        """The prediction with all logits divided by a temperature; see `bitbayes.calibration.fit_temperature`.

        Args:
            temperature: Above 1 the networks become less sure.

        Returns:
            A new prediction.

        Raises:
            ValueError: If it is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        return Prediction(self.outputs / temperature)

    @property
    def entropy(self) -> Tensor:
        """Entropy of `probs` in nats, shape (N,): all of the uncertainty."""
        return _entropy(self.probs)

    @property
    def mutual_information(self) -> Tensor:
        """Entropy of the mean minus mean of the entropies in nats, shape (N,): how much the networks disagree."""
        return (self.entropy - _entropy(self.sample_probs).mean(0)).clamp(min=0)

    @property
    def probs_std(self) -> Tensor:
        """Standard deviation of each class's probability over networks, shape (N, K); zeros for one network."""
        return _std(self.sample_probs)

    @property
    def mean(self) -> Tensor:
        """Mean of the raw outputs, shape (N, K); for regression."""
        return self.outputs.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation of the raw outputs over networks, shape (N, K); zeros for one network."""
        return _std(self.outputs)


def _widened(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _std(values: Tensor) -> Tensor:
    return values.std(0) if len(values) > 1 else torch.zeros_like(values[0])


def _entropy(probs: Tensor) -> Tensor:
    if probs.shape[-1] == 1:
        probs = torch.cat([probs, 1 - probs], -1)
    return torch.special.entr(probs).sum(-1)


@torch.no_grad()
def predict(
    model: nn.Module,
    x: Tensor,
    posterior: Posterior | None = None,
    samples: int = 32,
    *,
    seed: int = 0,
    chunk: int | None = None,
    batches: Batches | None = None,
    backend: str | None = None,
) -> Prediction:
    """Predicts with what the parameters hold, or with networks drawn from a posterior.

    The model is in eval mode meanwhile, and is left as it was found. Under `torch.autocast` in bfloat16 weights of ±1
    are drawn in bfloat16, which holds them exactly: the same outputs in less time.

    Args:
        model: The network. One wrapped by torch.compile or DistributedDataParallel is unwrapped where the posterior
            speaks of the inner network's names.
        x: Inputs, shape (N, ...).
        posterior: Over the binary parameters, keyed by the model's names; None: one network, the parameters' own.
        samples: Number of networks to draw.
        seed: Seed of the draws.
        chunk: Inputs at a time; None for all at once. Does not change the draws. Small networks are computed several
            at a time (`torch.func.vmap`) where that is faster.
        batches: Training batches (x or (x, ...)); BatchNorm statistics are re-estimated from them for every
            network, which costs that many passes more. None uses the model's statistics.
        backend: Packs the networks to one bit a weight and runs them so: "native" is faster on a CPU for hundreds of
            inputs and more, with the same outputs to rounding. `bitbayes.pack` has what can be packed, and
            `bitbayes.packed.load` the backends. None runs the model itself.

    Returns:
        Outputs of shape (C, N, K), with means and uncertainties as properties.

    Raises:
        ValueError: If `samples` or `chunk` is less than 1, or the posterior's names are not the model's; with a
            backend also if a layer cannot be packed.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = bb.BayesBiNN([("weight", model.weight)], ess=10, seed=0)
        >>> predict(model, torch.ones(5, 3), optimizer.posterior(), samples=4).outputs.shape
        torch.Size([4, 5, 2])
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None for all inputs at once; got {chunk}")
    if posterior is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; leave the posterior out for one network")
    reusable = None if batches is None else list(batches)
    if backend is not None:
        network = pack(model, x[:1], posterior, samples, seed=seed, batches=reusable)
        return Prediction(_outputs_of_packed(network, backend, x, chunk))
    if posterior is None:
        with as_found(model):
            if reusable is not None:
                refresh(model, reusable, {})
            return Prediction(_outputs(model, {}, x, chunk)[None])
    model = _unwrapped(model, set(posterior.shapes))
    shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False) if name in posterior.shapes}
    posterior.check_like(shapes, "the model")
    small = sum(shape.numel() for shape in shapes.values()) * min(chunk or len(x), len(x)) <= _SMALL
    # One by one for statistics of their own, and under autocast, whose mixed types vmap's BatchNorm refuses.
    together = _TOGETHER if small and reusable is None and not torch.is_autocast_enabled(x.device.type) else 1
    outputs = []
    with as_found(model):
        for drawn in draws(model, posterior, samples, seed, together):
            if reusable is not None:
                refresh(model, reusable, drawn[0])
            outputs += _outputs_of_all(model, drawn, x, chunk)
    return Prediction(torch.stack(outputs))


def draws(
    model: nn.Module, posterior: Posterior, samples: int, seed: int = 0, together: int = 1
) -> Iterator[list[dict[str, Tensor]]]:
    """Weights of networks that a posterior draws, as the model computes with them.

    Args:
        model: The network whose parameters they replace.
        posterior: Over its binary parameters.
        samples: Number of networks.
        seed: Seed of the draws.
        together: How many at a time.

    Yields:
        Weights of each of some networks, by name; overwritten when the next are asked for.
    """
    wanted = {name: _kept_in(model.get_parameter(name), posterior.scale[name]) for name in posterior.shapes}
    room: dict[int, dict[str, Tensor]] = {}
    for first in range(0, samples, together):
        places = range(min(together, samples - first))
        for place in places:
            out = room[place] if place in room else _room(posterior, wanted)
            room[place] = posterior.sample_at(first + place, seed=seed, out=out)
        yield [{name: weight.to(*wanted[name]) for name, weight in room[place].items()} for place in places]


def _kept_in(parameter: Tensor, scale: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where weights are wanted and in which type: autocast's if it holds them exactly, as it rounds to it anyway."""
    device, dtype = parameter.device, parameter.dtype
    if dtype == torch.float32 and torch.is_autocast_enabled(device.type) and bool((scale == 1).all()):
        dtype = torch.get_autocast_dtype(device.type)
    return device, dtype


def _room(posterior: Posterior, wanted: dict[str, tuple[torch.device, torch.dtype]]) -> dict[str, Tensor]:
    """Memory for a draw: kernels write float32 and bfloat16, and what else is wanted is converted."""
    room = {}
    for name, shape in posterior.shapes.items():
        dtype = torch.bfloat16 if wanted[name][1] == torch.bfloat16 else torch.float32
        room[name] = posterior.scale[name].new_empty(shape, dtype=dtype)
    return room


def _outputs_of_all(model: nn.Module, drawn: list[dict[str, Tensor]], x: Tensor, chunk: int | None) -> list[Tensor]:
    """Outputs of several networks, in one batched pass if there is more than one and the model can be batched."""
    if len(drawn) > 1:
        stacked = {name: torch.stack([weights[name] for weights in drawn]) for name in drawn[0]}
        try:
            return list(vmap(lambda weights: _outputs(model, weights, x, chunk))(stacked))
        except RuntimeError as error:
            if "vmap" not in str(error):  # else an operation that cannot be batched, such as a branch on values
                raise
    return [_outputs(model, weights, x, chunk) for weights in drawn]


def _unwrapped(model: nn.Module, names: set[str]) -> nn.Module:
    """The network inside torch.compile or DistributedDataParallel, if the names are those of the inside."""
    inside: Any = model
    while not names <= {name for name, _ in inside.named_parameters(remove_duplicate=False)}:
        if isinstance(inside, nn.parallel.DistributedDataParallel):
            inside = inside.module
        elif isinstance(getattr(inside, "_orig_mod", None), nn.Module):
            inside = inside._orig_mod
        else:
            return model
    return inside


def _outputs(model: nn.Module, weights: dict[str, Tensor], x: Tensor, chunk: int | None) -> Tensor:
    pieces = [functional_call(model, weights, (piece,)) for piece in x.split(chunk or max(len(x), 1))]
    outputs = _widened(torch.cat(pieces))
    return outputs[:, None] if outputs.dim() == 1 else outputs


def _outputs_of_packed(network: PackedNetwork, backend: str, x: Tensor, chunk: int | None) -> Tensor:
    """Outputs of packed networks, on as many threads as torch has where the backend can be told."""
    threads = {"threads": torch.get_num_threads()} if backend in ("native", "openvino") else {}
    runtime = load(network, backend, **threads)
    pieces = [torch.as_tensor(runtime.outputs(piece.numpy(force=True))) for piece in x.split(chunk or max(len(x), 1))]
    outputs = torch.cat(pieces, 1).to(x.device)
    return outputs[..., None] if outputs.dim() == 2 else outputs
