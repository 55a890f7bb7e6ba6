"""Splitting of parameters into binary and real ones, memory summaries, and `follow` for train and eval mode."""

from __future__ import annotations

import fnmatch
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.nn.parameter import UninitializedParameter

from bitbayes.errors import closest
from bitbayes.rules import scales
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.marks import is_untouched, mark_drawn, mark_stacked, mark_transformer, mark_transposed
from bitbayes.rules.optimizer import BinaryOptimizer
from bitbayes.rules.shards import reshard
from bitbayes.table import Table

Named = list[tuple[str, Parameter]]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_REAL_LAYERS = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
_TRANSFORMER = (("attention", "attn"), ("layernorm", "rmsnorm"))  # in names of classes, one of each pair
_EXPERTS = ("gate_up_proj", "up_proj", "down_proj")
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def split_parameters(
    model: nn.Module, *, real: Iterable[str | nn.Module] = (), binary: Iterable[str | nn.Module] = ()
) -> tuple[Named, Named]:
    """Split a network's parameters into binary and real ones.

    The weights of Linear, Conv, ConvTranspose, RNN, LSTM and GRU layers and the projections of MultiheadAttention are
    binary, and so are those of `Conv1D` of the library transformers. All other parameters are real: biases,
    normalisation, embeddings, and everything that `bitbayes.nn.keep_real` has marked. The output embeddings of a
    language model of transformers stay real, too. A tensor that several layers share appears once, under its first
    name. It is binary if it is the weight of such a layer, and none of the layers that share it is marked or an
    embedding.

    The experts of transformers' mixtures, such as those of Mixtral, stay real unless `binary` names them. A parameter
    then has the weights of all experts, and scales and starts treat each expert as a linear layer of its own. Scales
    that depend on which dimension is the inputs are refused for other weights of three or more dimensions that `binary`
    names, among them the experts of Llama 4, JetMoE, LongCat Flash, Step and Inkling.

    Binary parameters of a transformer are marked, because recommended settings differ for them. A transformer is a
    network with a module whose class name contains "attention" or "attn", and a module whose class name contains
    "layernorm" or "rmsnorm", in any case. A parameter keeps its mark when its layer is later split alone.

    Args:
        model: Any network.
        real: Further parameters to keep real: names, patterns such as "head.*", or modules of the network.
        binary: Further parameters to make binary, such as the weights of a custom layer, in the same form as `real`. A
            module stands for all of its parameters. If both match a parameter, `real` takes precedence.

    Returns:
        Two lists of (name, parameter) pairs: binary and real. Parameters with `requires_grad=False` are in neither
        list.

    Raises:
        ValueError: If no parameter is binary, an entry of `real` or `binary` matches nothing, or a lazy layer has seen
            no input yet.

    Warns:
        UserWarning: If layers of other kinds have many weights that neither `real` nor `binary` names, so that they
            stay real.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
        >>> binary, real = split_parameters(model, real=["2.*"])
        >>> [name for name, _ in binary]
        ['0.weight']
        >>> [name for name, _ in real]
        ['0.bias', '1.weight', '1.bias', '2.weight', '2.bias']
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name} has no shape yet; pass one batch through the network first")
    first, others, stacked = _split(model, real, binary)
    for module in model.modules():
        if isinstance(module, _TRANSPOSED) and isinstance(module.weight, Parameter):
            mark_transposed(module.weight, module.groups)
        elif _is_conv1d(module) and isinstance(module.weight, Parameter):
            mark_transposed(module.weight, 1)  # a weight of shape (in, out)
    _mark_stacked(model, stacked)
    if _is_transformer(model):
        for _, parameter in first:
            mark_transformer(parameter)
    return first, others


def _split(
    model: nn.Module, real: Iterable[str | nn.Module] = (), binary: Iterable[str | nn.Module] = ()
) -> tuple[Named, Named, list[Parameter]]:
    """Return the binary and the real parameters, and the binary ones of layers of unknown kinds."""
    found = {id(weight) for module in model.modules() for weight in _weights(module) if isinstance(weight, Parameter)}
    layers = found
    # Modules that `bitbayes.nn.keep_real` has marked, and all of their submodules.
    marked = [module for module in model.modules() if getattr(module, "stays_real", False)]
    kept = {id(parameter) for module in (*marked, *_embeddings(model)) for parameter in module.parameters()}
    names = dict(model.named_parameters())
    wished = {id(names[name]) for name in _matched(model, "binary", binary)}
    refused = {id(names[name]) for name in _matched(model, "real", real)}
    known = found | kept | wished | refused
    found = ((found - kept) | wished) - refused
    learnt = [(name, parameter) for name, parameter in names.items() if parameter.requires_grad]
    first = [pair for pair in learnt if id(pair[1]) in found]
    _warn_of_others(model, known, sum(parameter.numel() for _, parameter in first))
    if not first:
        raise ValueError(
            f"{type(model).__name__} has no binary parameters: no trainable weights of Linear, Conv, recurrent or "
            "attention layers besides those kept real; name yours with binary=[...]"
        )
    stacked = [parameter for parameter in names.values() if id(parameter) in wished - layers]
    return first, [pair for pair in learnt if id(pair[1]) not in found], stacked


def _weights(module: nn.Module) -> Iterable[object]:
    if isinstance(module, _WEIGHT_LAYERS) or _is_conv1d(module):
        yield module.weight
    elif isinstance(module, nn.MultiheadAttention):
        yield from (getattr(module, name) for name in _ATTENTION)
    elif isinstance(module, nn.RNNBase):
        yield from (weight for name, weight in module.named_parameters(recurse=False) if name.startswith("weight_"))


def _is_transformer(model: nn.Module) -> bool:
    """Return whether a network has attention and LayerNorm or RMSNorm, by the names of the classes of its modules."""
    kinds = {type(module).__name__.lower() for module in model.modules()}
    return all(any(word in kind for kind in kinds for word in words) for words in _TRANSFORMER)


def _is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is the linear layer of GPT-2 in transformers, which is no subclass of nn.Linear."""
    transformers = sys.modules.get("transformers.pytorch_utils")
    return transformers is not None and isinstance(module, transformers.Conv1D)


def _mark_stacked(model: nn.Module, named: Iterable[Parameter]) -> None:
    """Mark the experts of transformers whose modules say how they are stored, and named weights of unknown layers.

    The modules of most mixtures do. The others, such as those of Llama 4, JetMoE, LongCat Flash, Step and Inkling, are
    layers of an unknown kind. Only weights of three or more dimensions can be taken for those of a convolution. All
    other parameters of the network lose the mark that an earlier split may have given them.
    """
    inputs = {id(parameter): 0 for parameter in named}
    for module in model.modules():
        transposed = getattr(module, "is_transposed", None)
        if isinstance(transposed, bool) and hasattr(module, "has_gate") and "transformers" in sys.modules:
            mine = dict(module.named_parameters(recurse=False))
            inputs |= {
                id(mine[name]): 1 if transposed else 2 for name in _EXPERTS if name in mine and mine[name].dim() == 3
            }
    for parameter in model.parameters():
        mark_stacked(parameter, inputs.get(id(parameter)) if parameter.dim() > 2 else None)


def _embeddings(model: nn.Module) -> Iterator[nn.Module]:
    """Iterate over embeddings, and over the last layers of the language models of transformers.

    These layers share their weights with the input embeddings in some configurations and not in others.
    """
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield module
        outputs = getattr(module, "get_output_embeddings", None)
        head = outputs() if callable(outputs) else None
        if isinstance(head, nn.Module):
            yield head


def _warn_of_others(model: nn.Module, known: set[int], binary: int) -> None:
    """Warn of weight matrices in layers that this module does not know, if they hold a quarter of the binary weights.

    Fewer weights are usually a table of positions or the like, which should stay real.
    """
    others: dict[str, tuple[int, str]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, _REAL_LAYERS):
            for name, parameter in module.named_parameters(path, recurse=False):
                several = sum(size > 1 for size in parameter.shape) > 1
                if several and parameter.requires_grad and id(parameter) not in known:
                    others[name] = parameter.numel(), type(module).__name__
    if others and 4 * sum(count for count, _ in others.values()) >= binary:
        largest = max(others, key=lambda name: others[name][0])
        warnings.warn(
            f"weight matrices in layers that split_parameters does not know stay real ({len(others)}, the largest "
            f"{largest!r} of a {others[largest][1]}); name them in binary=[...] to make them binary, or in real=[...] "
            "to silence this warning",
            stacklevel=4,
        )


def _matched(model: nn.Module, option: str, entries: Iterable[str | nn.Module]) -> set[str]:
    """Return the names of the parameters that an option matches."""
    if isinstance(entries, (str, nn.Module)):
        entries = [entries]
    # Every name of a shared tensor matches, but the first one is returned.
    every = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    found = set()
    for entry in entries:
        if isinstance(entry, nn.Module):
            if not any(module is entry for module in model.modules()):
                raise ValueError(f"{option} contains a {type(entry).__name__} that is not a module of this network")
            found |= {first[id(parameter)] for parameter in entry.parameters()}
            continue
        matches = [name for name in every if fnmatch.fnmatchcase(name, entry)]
        if not matches:
            raise ValueError(f"{option}={entry!r} matches no parameter; the nearest name is {closest(entry, every)!r}")
        found |= {first[every[name]] for name in matches}
    return found


class Follower:
    """Replacement of `model.train` that also switches the optimizer; `follow` creates it.

    This is an object rather than a closure, so that deepcopy and pickle of (model, optimizer) keep the pair together. A
    copy of the model alone has a copy of the optimizer. A copied optimizer leaves weights alone that anything else has
    changed since it wrote them, such as an average over training steps.

    Args:
        model: The network.
        optimizer: The optimizer that follows it.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> follower = follow(model, bb.STE([model.weight], seed=0))
        >>> isinstance(follower, Follower)
        True
    """

    def __init__(self, model: nn.Module, optimizer: BinaryOptimizer | JointOptimizer) -> None:
        self.model, self.optimizer, self._is_copy = model, optimizer, False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _is_copy=True)
        for _, parameter in self.binary.named_binary():  # a copy of a tensor has no marks
            mark_drawn(parameter, type(self.binary).__name__ if self.binary.training else None)

    def __call__(self, mode: bool = True) -> nn.Module:
        """Set the mode of the network and of the optimizer."""
        type(self.model).train(self.model, mode)
        if not self._is_copy or all(is_untouched(parameter) for _, parameter in self.binary.named_binary()):
            self.optimizer.train(mode)
        reshard(self.model)
        return self.model

    @property
    def binary(self) -> BinaryOptimizer:
        """The rule that follows the network."""
        return self.optimizer.binary if isinstance(self.optimizer, JointOptimizer) else self.optimizer

    def remove(self) -> None:
        """Stop following; network and optimizer keep their modes."""
        if self.model.__dict__.get("train") is self:
            del self.model.__dict__["train"]


def follow(model: nn.Module, optimizer: BinaryOptimizer | JointOptimizer) -> Follower:
    """Make the optimizer follow `model.train()` and `model.eval()`, starting with the current mode.

    Args:
        model: The network whose mode the optimizer follows. Wrappers such as torch.compile and DistributedDataParallel
            pass their mode on to the network.
        optimizer: The optimizer of its binary parameters, or a JointOptimizer.

    Returns:
        A handle whose `remove()` stops the following.

    Raises:
        TypeError: If `model` is no module, or `optimizer` none of these optimizers.
        ValueError: If the network has none of the optimizer's binary parameters.
        RuntimeError: If another optimizer already follows this network.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = bb.BayesBiNN([model.weight], ess=10, seed=0)
        >>> handle = follow(model, optimizer)
        >>> _ = model.eval()
        >>> optimizer.training
        False
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"follow(model, optimizer) needs a network first, got {type(model).__name__}")
    optimizer = getattr(optimizer, "optimizer", optimizer)  # inside the wrapper of Accelerate or Lightning
    if not isinstance(optimizer, BinaryOptimizer | JointOptimizer):
        raise TypeError(
            "follow(model, optimizer) needs a learning rule such as bitbayes.BayesBiNN, or a bitbayes.JointOptimizer, "
            f"got {type(optimizer).__name__}"
        )
    new = Follower(model, optimizer)
    known = set(map(id, model.parameters()))
    if not any(id(parameter) in known for _, parameter in new.binary.named_binary()):
        raise ValueError(
            "the network has none of the optimizer's binary parameters; give the network whose parameters it has"
        )
    present = model.__dict__.get("train", new)
    if not isinstance(present, Follower):
        present = new
    if present.optimizer is not optimizer:
        raise RuntimeError(
            f"a {type(present.optimizer).__name__} already follows this {type(model).__name__}; call "
            "model.train.remove() first, or use one optimizer with all parameters in groups"
        )
    optimizer.train(model.training)
    model.__dict__["train"] = present
    return present


@dataclass(frozen=True)
class SummaryRow:
    """One parameter of a network.

    Args:
        name: Name of the parameter.
        shape: Shape of the parameter.
        binary: Whether the parameter is binary.
        weights: Number of entries.
        bits: Number of bits in a packed file.

    Example:
        >>> SummaryRow("weight", (2, 3), True, 6, 6).bits
        6
    """

    name: str
    shape: tuple[int, ...]
    binary: bool
    weights: int
    bits: int


@dataclass(frozen=True)
class Summary:
    """Table of a network's parameters with their sizes.

    Args:
        rows: One entry per parameter.

    Example:
        >>> print(summary(torch.nn.Linear(32, 4)))
        weight  (4, 32)  binary  128  128 bits
        bias    (4,)     real      4  128 bits
        binary weights 128, real 4; 528 bytes as float32, 32 bytes packed
    """

    rows: tuple[SummaryRow, ...]

    @property
    def binary_weights(self) -> int:
        """Number of binary weights."""
        return sum(row.weights for row in self.rows if row.binary)

    @property
    def real_weights(self) -> int:
        """Number of real parameters."""
        return sum(row.weights for row in self.rows if not row.binary)

    @property
    def bytes_float(self) -> int:
        """Bytes of all parameters as float32."""
        return 4 * (self.binary_weights + self.real_weights)

    @property
    def bytes_packed(self) -> int:
        """Bytes with one bit per binary weight and float32 for real parameters."""
        return sum((row.bits + 7) // 8 for row in self.rows)

    def __str__(self) -> str:
        total = (
            f"binary weights {self.binary_weights}, real {self.real_weights}; "
            f"{self.bytes_float} bytes as float32, {self.bytes_packed} bytes packed"
        )
        kinds = {True: "binary", False: "real"}
        rows = [(r.name, str(r.shape), kinds[r.binary], str(r.weights), f"{r.bits} bits") for r in self.rows]
        return Table("", (), rows, total, align="lllrr").text()


def packed_bits(optimizer: BinaryOptimizer) -> dict[str, int]:
    """Return the bits of every binary tensor in a packed file, by name: those of its signs and of its scales.

    Example:
        >>> packed_bits(bb.STE([("w", torch.ones(3, 8))], lr=0.1, scale="weight", seed=0))
        {'w': 768}
    """
    return {name: scales.bits(parameter, optimizer.state[parameter]) for name, parameter in optimizer.named_binary()}


def summary(model: nn.Module, binary: Named | BinaryOptimizer | JointOptimizer | None = None) -> Summary:
    """Count binary and real parameters, their bits and bytes.

    Args:
        model: The network.
        binary: Binary (name, parameter) pairs of the network, or the optimizer that has them. Only an optimizer knows
            scales: a learned scale per channel adds 32 bits per channel, and weights of different sizes
            (`scale="normal"` or "weight") take 32 bits each. None calls `split_parameters`.

    Returns:
        The summary, which prints as a table. Its packed sizes include parameters of layers that `bb.pack` refuses, such
        as stacked experts and recurrent layers, as though it took them.

    Example:
        >>> model = torch.nn.Linear(32, 4)
        >>> summary(model).bytes_packed
        32
        >>> summary(model, bb.STE([model.weight], lr=0.1, scale="weight", seed=0)).bytes_packed
        528
    """
    if isinstance(binary, JointOptimizer):
        binary = binary.binary
    if isinstance(binary, BinaryOptimizer):
        sizes = packed_bits(binary)
        bits = {id(parameter): sizes[name] for name, parameter in binary.named_binary()}
    else:
        bits = {id(p): p.numel() for _, p in (_split(model)[0] if binary is None else binary)}
    named = [(name, p, id(p) in bits) for name, p in model.named_parameters()]
    rows = (SummaryRow(n, tuple(p.shape), one, p.numel(), bits.get(id(p), 32 * p.numel())) for n, p, one in named)
    return Summary(tuple(rows))
