"""Predictions of a single network, or of an ensemble that is sampled from a posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import Batches, as_found
from bitbayes.draws import (
    Output,
    check_sampling,
    check_tensor,
    drawn_networks,
    group_size,
    outputs_of,
    stacks,
    unwrapped,
)
from bitbayes.packed import PackedNetwork, Runtime, load, pack
from bitbayes.posterior import Posterior
from bitbayes.prediction import Prediction


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

    The networks are sampled at every call; `bitbayes.Ensemble` samples them once and predicts many times.

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
        TypeError: If `x` is not a tensor, `posterior` is not a `Posterior`, `samples` is not a whole number, or
            `batches` is one tensor or data set.
        ValueError: If `samples` or `chunk` is less than 1, if the names of the posterior differ from those of the
            model, if the backend does not exist or cannot run a layer, or if the logits are not found among the
            outputs.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = bb.BayesBiNN([("weight", model.weight)], ess=10, seed=0)
        >>> predict(model, torch.ones(5, 3), optimizer.posterior(), samples=4).outputs.shape
        torch.Size([4, 5, 2])
    """
    check_tensor("x", x)
    check_chunk(chunk)
    if posterior is not None:
        check_sampling(posterior, samples)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}; leave the posterior out for one network")
    if backend is not None:
        check_output(output)
        network = pack(model, x[:1], posterior, samples, seed=seed, batches=batches, draw=True)
        return Prediction(packed_outputs(runtime_of(network, backend), x, chunk))
    count, size = 1, 1
    if posterior is not None:
        model = unwrapped(model, posterior.shapes)
        count, size = samples, group_size(posterior, x, chunk)
    with as_found(model):
        networks = drawn_networks(model, posterior, samples, seed=seed, batches=batches)
        return Prediction(outputs_of(model, stacks(networks, count, size), x, chunk, output))


def check_chunk(chunk: int | None) -> None:
    """Raise ValueError for a number of inputs at a time that is no number."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None for all inputs at once; got {chunk}")


def check_output(output: Output | None) -> None:
    """Raise ValueError if the choice of an output is given to a packed network."""
    if output is not None:
        raise ValueError(f"a packed network has a single output, so output={output!r} has no effect; leave it out")


def runtime_of(network: PackedNetwork, backend: str) -> Runtime:
    """Return a runtime on as many threads as torch uses, if the backend takes a number of threads."""
    threads = {"threads": torch.get_num_threads()} if backend in ("native", "openvino") else {}
    return load(network, backend, **threads)


def packed_outputs(runtime: Runtime, x: Tensor, chunk: int | None) -> Tensor:
    """Return the outputs of packed networks, shape (C, N, K), on the device of the inputs."""
    pieces = [torch.as_tensor(runtime.outputs(piece.numpy(force=True))) for piece in x.split(chunk or max(len(x), 1))]
    outputs = torch.cat(pieces, 1).to(x.device)
    return outputs[..., None] if outputs.dim() == 2 else outputs
