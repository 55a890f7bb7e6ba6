"""Packing of a module, or of networks sampled from a posterior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bitbayes.packed.format.inputs import Inputs
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import check_about

if TYPE_CHECKING:  # packed networks run where torch is not installed
    from torch import Tensor, nn

    from bitbayes.batchnorm import Weights
    from bitbayes.posterior import Posterior


def pack(
    model: nn.Module,
    example: Tensor,
    posterior: Posterior | None = None,
    samples: int = 32,
    *,
    seed: int = 0,
    batches: Iterable[Any] | None = None,
    real: Literal["float32", "float16"] = "float32",
    about: Mapping[str, str] | None = None,
    inputs: Inputs | None = None,
    draw: bool = False,
) -> PackedNetwork:
    """Pack a network, or networks sampled from a posterior, with one bit per binary weight.

    The weight of a linear layer or convolution is binary if it is exactly ±s: with one s, one s per output channel or,
    in a linear layer, one s per group of at least 32 inputs. Other weights stay real. BatchNorm becomes a scale and a
    shift, and a sign after it becomes a comparison of integers. `docs/packing.md` lists the layers that can be packed.

    Args:
        model: Network to pack. It is evaluated in eval mode, and its state is restored afterwards.
        example: Inputs in float32, shape (N, ...), or token ids in int64, shape (N, tokens), with any N. They determine
            the shape of the packed network's inputs.
        posterior: Posterior over the binary parameters, keyed by the model's parameter names. None packs a single
            network with the model's current weights.
        samples: Number of networks to sample. They equal those that `bitbayes.predict` samples.
        seed: Seed of the samples.
        batches: Training batches, as x or (x, ...), from which the BatchNorm statistics of every network are
            re-estimated. None uses the model's statistics.
        real: Type of real-valued tensors in the file. "float16" halves their bytes and rounds them to three digits.
            Computation is always in float32.
        about: Texts to store in the file.
        inputs: Size, colours and normalisation of the inputs, and names of the classes. With this description, the
            packed network accepts images; see `PackedNetwork.prepare`.
        draw: Whether to pack weights that a training step drew; by default, this is an error. In a copy of a network,
            such weights are recognised only if `bitbayes.follow` connects it with its optimizer.

    Returns:
        The packed network.

    Raises:
        RuntimeError: If the parameters hold weights that a training step drew, not the mode, and `draw` is False.
        TypeError: If the example is no tensor.
        ValueError: If a layer cannot be packed (the message names it), if no weight is binary, if a number is not
            finite or too large for float16, or if the example is neither float32 inputs nor token ids of shape
            (N, tokens), or if `about` holds anything but texts.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False), torch.nn.ReLU(), torch.nn.Linear(32, 2))
        >>> optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
        >>> _ = optimizer.eval()
        >>> pack(model, torch.zeros(1, 64)).summary().bytes
        272
        >>> pack(model, torch.zeros(1, 64), optimizer.posterior(), samples=4)
        PackedNetwork(input (64,), output (2,), 4 networks, 4 steps, 1064 bytes of tensors)
    """
    from bitbayes.draws import drawn_networks, unwrapped
    from bitbayes.packed.convert.refusals import check_mode, check_packable

    if posterior is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; leave the posterior out for one network")
    if real not in ("float32", "float16"):
        raise ValueError(f"real must be 'float32' or 'float16', got {real!r}")
    model = unwrapped(model)
    check_packable(model, example)
    check_about(about or {})
    if inputs is not None:
        inputs.check_shape(example.shape[1:])
    if posterior is None and not draw:
        check_mode(model, ", or pass draw=True to pack the draw")
    networks = drawn_networks(model, posterior, samples, seed=seed, batches=batches)
    count = 1 if posterior is None else samples
    try:
        return pack_networks(model, example, networks, count, real=real, about=about, inputs=inputs)
    finally:
        networks.close()  # a refusal keeps it waiting, until Python collects it at some other time


def pack_networks(
    model: nn.Module,
    example: Tensor,
    networks: Iterable[Weights],
    count: int,
    *,
    real: Literal["float32", "float16"] = "float32",
    about: Mapping[str, str] | None = None,
    inputs: Inputs | None = None,
) -> PackedNetwork:
    """Pack networks that are given by their weights, as `bitbayes.draws.drawn_networks` yields them.

    The model has no wrappers, `check_packable` has accepted it, `count` is the number of networks, and all else is as
    in `pack`.
    """
    from bitbayes.batchnorm import as_found
    from bitbayes.draws import complete_states
    from bitbayes.packed.convert.draft import finished
    from bitbayes.packed.convert.fold import shortened
    from bitbayes.packed.convert.trace import drafts_of, exported

    with as_found(model):
        program = exported(model, example)
        drafts = drafts_of(program, complete_states(model, networks))
    shape = tuple(example.shape[1:])
    shapes = [value.shape for value in finished(drafts, shape, count).values]
    network = finished(shortened(drafts, shapes), shape, count, np.dtype(real), about, inputs)
    if not any(tensor.dtype == np.uint8 for tensor in network.tensors.values()):
        raise ValueError(
            "no weight of a linear layer or convolution is binary, that is ±s with one s, one for each output channel, "
            "or one for each group of at least 32 inputs of a linear layer; call optimizer.eval() first, so that the "
            "parameters hold the mode"
        )
    return network
