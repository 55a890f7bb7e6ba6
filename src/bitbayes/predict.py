"""Predictions of what a network's parameters hold, or of the networks that a posterior draws."""

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

# Small networks (by weights times inputs) are computed so many at a time, because a pass of one of them is mostly
# dispatch. Larger ones are faster one by one; see benchmarks/predict.py.
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
    """Predict with the weights that the parameters hold, or with networks drawn from a posterior.

    The model computes in eval mode and is left as it was found. Under `torch.autocast` in bfloat16, weights of ±1 are
    drawn in bfloat16, which holds them exactly: the outputs are the same and take less time.

    Args:
        model: Network. If torch.compile or DistributedDataParallel wraps it and the posterior has the names of the
            inner network, the inner network is used.
        x: Inputs, shape (N, ...). Without `chunk`, dimension 0 may also be time, as recurrent layers have it.
        posterior: Posterior over the binary parameters, with the model's names. None predicts with one network, the
            parameters' own.
        samples: Number of networks to draw.
        seed: Seed of the draws.
        chunk: Number of inputs at a time; None for all at once. It does not change the draws.
        batches: Training batches, x or (x, ...). Each network's BatchNorm statistics are estimated anew from them,
            which costs that many more passes. None uses the model's statistics.
        backend: Backend of `bitbayes.packed.load` that runs the networks packed to one bit a weight. On a CPU,
            "native" is faster for hundreds of inputs and more; its outputs are the same up to rounding. None runs the
            model itself.
        output: What finds the logits where the model returns more than one tensor: a key or an attribute, a place in a
            tuple, or a function of the outputs. None takes a tensor itself, and the entry or attribute "logits" of a
            dictionary, of a dataclass, or of an output of Hugging Face Transformers.

    Returns:
        Outputs of shape (C, N, K), with means and uncertainties as properties.

    Raises:
        ValueError: If `samples` or `chunk` is less than 1, if the posterior's names are not the model's, if the
            backend does not exist or cannot run a layer, or if the logits are not found among the outputs.

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
            raise ValueError(f"a packed network has one output, so output={output!r} is of no use; leave it out")
        network = pack(model, x[:1], posterior, samples, seed=seed, batches=batches, draw=True)
        return Prediction(_packed_outputs(network, backend, x, chunk))
    together = 1
    if posterior is not None:
        model = unwrapped(model, posterior.shapes)
        small = sum(map(torch.Size.numel, posterior.shapes.values())) * min(chunk or len(x), len(x)) <= _SMALL
        # One by one with statistics of their own, and under autocast, whose mixed types vmap's BatchNorm refuses.
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
    """Outputs of the next networks, in one batched pass if there are several and the model can be batched."""
    if count == 1:
        return [network_outputs(model, next(networks), x, chunk, output)]
    stacked: Weights = {}
    for place, weights in enumerate(itertools.islice(networks, count)):
        for name, weight in weights.items():
            if name not in stacked:
                stacked[name] = weight.new_empty((count, *weight.shape))
            stacked[name][place] = weight
    # Recurrent layers, branches on values and much else cannot be batched, in words that nobody has promised. One by
    # one the network computes as it was written, so that errors of its own are raised as they are.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        # torch warns of operations that it does one by one after all. What the network warns of is heard below.
        warnings.simplefilter("error", UserWarning)
        return list(vmap(lambda weights: network_outputs(model, weights, x, chunk, output))(stacked))
    alone = ({name: tensor[place] for name, tensor in stacked.items()} for place in range(count))
    return [network_outputs(model, weights, x, chunk, output) for weights in alone]


def _packed_outputs(network: PackedNetwork, backend: str, x: Tensor, chunk: int | None) -> Tensor:
    """Outputs of packed networks, on as many threads as torch has where the backend can be told."""
    threads = {"threads": torch.get_num_threads()} if backend in ("native", "openvino") else {}
    runtime = load(network, backend, **threads)
    pieces = [torch.as_tensor(runtime.outputs(piece.numpy(force=True))) for piece in x.split(chunk or max(len(x), 1))]
    outputs = torch.cat(pieces, 1).to(x.device)
    return outputs[..., None] if outputs.dim() == 2 else outputs
