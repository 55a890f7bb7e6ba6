"""Predictions of a single network, or of an ensemble that is sampled from a posterior."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import vmap

from bitbayes.batchnorm import Batches, Weights, as_found
from bitbayes.ensemble import Output, drawn_networks, network_outputs, unwrapped
from bitbayes.packed import PackedNetwork, load, pack
from bitbayes.posterior import Posterior
from bitbayes.prediction import Prediction

# Small networks (weights times inputs) are computed in groups of this size, because a pass of a single one is mostly
# dispatch. Larger networks are faster one by one; see benchmarks/predict.py.
_TOGETHER, _SMALL = 32, 10_000_000


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
    output: Output | None = None,
) -> Prediction[Tensor]:
    """Predict with the model's current weights, or with networks sampled from a posterior.

    The model computes in eval mode, and its mode and buffers are restored afterwards. Under `torch.autocast` in
    bfloat16, weights of ±1 are sampled in bfloat16, which represents them exactly. The outputs are the same and take
    less time.

    Args:
        model: Network. If torch.compile or DistributedDataParallel wraps the network and the posterior has the
            parameter names of the inner network, the inner network is used.
        x: Inputs, shape (N, ...). Without `chunk`, dimension 0 may also be time, as in recurrent layers.
        posterior: Posterior over the binary parameters, keyed by the model's parameter names. None predicts with the
            model's current weights.
        samples: Number of networks to sample.
        seed: Seed of the samples.
        chunk: Number of inputs at a time; None for all at once. It does not change the samples.
        batches: Training batches, as x or (x, ...), from which the BatchNorm statistics of every sampled network are
            re-estimated. This costs one more forward pass per batch and network. None uses the model's statistics.
        backend: Backend of `bitbayes.packed.load` that runs the networks packed to one bit per weight. On a CPU,
            "native" is faster from hundreds of inputs on, and its outputs are equal up to rounding. None runs the model
            itself.
        output: How to find the logits if the model returns more than one tensor: a key, an attribute, a tuple index, or
            a function of the outputs. None uses a tensor itself, and otherwise the entry or attribute "logits" of a
            dictionary, a dataclass, or an output of Hugging Face Transformers.

    Returns:
        Outputs of shape (C, N, K) for C networks, with means and uncertainties as properties.

    Raises:
        ValueError: If `samples` or `chunk` is less than 1, if the names of the posterior differ from those of the
            model, if the backend does not exist or cannot run a layer, or if the logits are not found among the
            outputs.

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
    if backend is not None:
        if output is not None:
            raise ValueError(f"a packed network has a single output, so output={output!r} has no effect; leave it out")
        network = pack(model, x[:1], posterior, samples, seed=seed, batches=batches, draw=True)
        return Prediction(_packed_outputs(network, backend, x, chunk))
    together = 1
    if posterior is not None:
        model = unwrapped(model, posterior.shapes)
        small = sum(map(torch.Size.numel, posterior.shapes.values())) * min(chunk or len(x), len(x)) <= _SMALL
        # One by one if each network has its own statistics, and under autocast, whose mixed types vmap's BatchNorm
        # refuses.
        together = _TOGETHER if small and batches is None and not torch.is_autocast_enabled(x.device.type) else 1
    networks = drawn_networks(model, posterior, samples, seed=seed, batches=batches)
    count = 1 if posterior is None else samples
    outputs: list[Tensor] = []
    with as_found(model):
        for done in range(0, count, together):
            outputs += _next_outputs(model, networks, min(together, count - done), x, chunk, output)
    return Prediction(torch.stack(outputs))


def _next_outputs(
    model: nn.Module, networks: Iterator[Weights], count: int, x: Tensor, chunk: int | None, output: Output | None
) -> list[Tensor]:
    """Return the outputs of the next networks, in one batched pass if there are several and the model allows it."""
    if count == 1:
        return [network_outputs(model, next(networks), x, chunk, output)]
    stacked: Weights = {}
    for place, weights in enumerate(itertools.islice(networks, count)):
        for name, weight in weights.items():
            if name not in stacked:
                stacked[name] = weight.new_empty((count, *weight.shape))
            stacked[name][place] = weight
    # Recurrent layers, branches on values and much else cannot be batched, with errors of no fixed type. One by
    # one the network computes as it was written, so that errors of its own are raised as they are.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        # torch warns of operations that it runs one by one after all. Warnings of the network itself are raised below.
        warnings.simplefilter("error", UserWarning)
        return list(vmap(lambda weights: network_outputs(model, weights, x, chunk, output))(stacked))
    alone = ({name: tensor[place] for name, tensor in stacked.items()} for place in range(count))
    return [network_outputs(model, weights, x, chunk, output) for weights in alone]


def _packed_outputs(network: PackedNetwork, backend: str, x: Tensor, chunk: int | None) -> Tensor:
    """Return outputs of packed networks, on as many threads as torch uses if the backend takes a number of threads."""
    threads = {"threads": torch.get_num_threads()} if backend in ("native", "openvino") else {}
    runtime = load(network, backend, **threads)
    pieces = [torch.as_tensor(runtime.outputs(piece.numpy(force=True))) for piece in x.split(chunk or max(len(x), 1))]
    outputs = torch.cat(pieces, 1).to(x.device)
    return outputs[..., None] if outputs.dim() == 2 else outputs
