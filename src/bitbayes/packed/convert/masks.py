"""Conversion of masks of padding: tensors that depend on the input only by which of its tokens are padding.

Networks make them in many ways, and only the result matters. So a mask is not converted operation by operation: it is
computed for inputs with padding at some places, which tell all tokens apart, and recognised by its numbers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from bitbayes.packed.convert.axes import BATCH, BATCH_SIZE, Axis, Traced, flat, sizes_of, stored_as, traced, with_batch
from bitbayes.packed.convert.draft import Builder, Refusal

# Operations each of whose entries depends on the same entry of every argument, but for broadcasting.
_BY_ENTRY = {
    *("eq", "ne", "ge", "gt", "le", "lt", "logical_not", "bitwise_not", "logical_and", "bitwise_and", "__and__"),
    *("logical_or", "bitwise_or", "__or__", "mul", "add", "sub", "rsub", "neg", "div", "where", "masked_fill"),
    *("zeros_like", "ones_like", "full_like", "to", "_to_copy", "type_as", "clamp", "clamp_min"),
}
_SHAPES = {
    *("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten", "expand", "expand_as"),
    *("permute", "transpose"),
}
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)  # of copies, which tracing has removed
_RANDOM = 16  # inputs with padding at random places, beside those that tell tokens apart


@dataclass(frozen=True)
class Mask:
    """Tensor that depends on the input only by which tokens are padding, and on the number of inputs.

    Args:
        node: Node that computes the tensor.
        padding: Token id of padding; None if the tensor depends on the number of inputs alone.
        counts: Whether the tensor holds the number of tokens that are not padding.
        compares: Operation by which the node compares token ids with that of padding; "" for any other node.
    """

    node: Node
    padding: int | None
    counts: bool = False
    compares: str = ""

    alone = "a mask of padding has a packed form only in attention, and in the mean over all other tokens"


@dataclass(frozen=True)
class MaskedTokens:
    """Tokens that are 0 where they are padding, or their sum; only their mean has a packed form.

    Args:
        x: The tokens before.
        padding: Token id of padding.
        axis: Axis of the tokens.
        summed: Whether the sum over the tokens has been taken.
        keepdim: Whether the sum has kept the axis.
    """

    x: Traced
    padding: int
    axis: int
    summed: bool = False
    keepdim: bool = False

    alone = "masked tokens have a packed form only in their mean, which is their sum divided by that of the mask"


def compared(b: Builder, node: Node, name: str, a: dict[str, Any]) -> Mask:
    """Convert the comparison of token ids with the id of padding, or their change to booleans."""
    if name in ("to", "_to_copy") and node.meta["val"].dtype == torch.bool:
        return Mask(node, 0, compares="ne")
    if name not in ("eq", "ne"):
        raise Refusal("token ids can only be looked up in an embedding, or compared with the id of padding by == or !=")
    other = a["other"]
    if b.constant(other) and isinstance(other, Node):
        other = b.evaluate(other).tolist()
    if type(other) is not int or other < 0:
        raise Refusal("token ids can only be compared with one number from 0, which is the id of padding")
    return Mask(node, other, compares=name)


def mask_of(b: Builder, node: Node, name: str) -> Mask | None:
    """Return the mask that a node computes from other masks and constants; None for any other node."""
    inputs = [source for source in node.all_input_nodes if source not in b.constants and source not in b.sizes]
    masks = [found for source in inputs if isinstance(found := b.values.get(source), Mask)]
    if name == "arange" and not inputs:
        return Mask(node, None)
    if len(masks) < max(len(inputs), 1):
        return None
    ids = {mask.padding for mask in masks if mask.padding is not None}
    if len(ids) > 1:
        raise Refusal(f"a mask can hide one token id, but this one depends on {' and '.join(map(str, sorted(ids)))}")
    numbered = any(mask.padding is None for mask in masks)  # the inputs are numbered only to pick all of them in order
    known = _picks_all(b, node) if name == "index" else name in _SHAPES or (name in _BY_ENTRY and not numbered)
    return Mask(node, next(iter(ids), None), counts=any(mask.counts for mask in masks)) if known else None


def _picks_all(b: Builder, node: Node) -> bool:
    """Return whether an index picks every entry of its axes in order, as transformers picks those of a mask."""
    source, places = cast("tuple[Node, list[Node | None]]", node.args[:2])
    shape = numbers_of(b, source)[0].shape
    picked = [numbers_of(b, place)[0] if isinstance(place, Node) else None for place in places]
    axes = [
        place.numel() == size and torch.equal(place.flatten(), torch.arange(size))
        for place, size in zip(picked, shape, strict=False)
        if place is not None
    ]
    return None not in picked and len(picked) == len(shape) and all(axes)


def hidden_keys(
    b: Builder, mask: Mask, lead: list[Axis], counts: tuple[int, int], seen: Tensor
) -> tuple[int | None, bool]:
    """Return the id of padding whose keys a mask hides, if any, and whether it hides later tokens.

    Args:
        b: Builder.
        mask: Mask that is applied to scores.
        lead: Axes of the scores but the last two.
        counts: Numbers of queries and keys, which are the last two axes.
        seen: Which keys are seen in the inputs of `numbers_of`.
    """
    present, earlier = numbers_of(b, mask.node)[1], torch.ones(counts, dtype=torch.bool).tril()
    for padding, keys in ((None, torch.ones_like(present)), (mask.padding, present)):
        if keys.shape[1] != counts[1]:
            continue
        # Axes without the batch stay of size 1, because heads have the same mask.
        inputs = [len(present) if atom is BATCH else 1 for atom in flat(lead)]
        sizes = [
            [len(present) if atom is BATCH else atom.size if BATCH in axis else 1 for atom in axis] for axis in lead
        ]
        wanted = keys.reshape(*inputs, 1, -1).expand(*itertools.chain(*sizes), 1, -1)
        wanted = wanted.reshape(*map(math.prod, sizes), 1, counts[1])
        for causal in (False, True):
            if bool((seen == (wanted & earlier if causal else wanted)).all()):
                return padding, causal
    raise Refusal("its mask may hide keys that are padding, and later tokens, but it hides other keys")


def masked_tokens(b: Builder, node: Any, mask: Mask, *, hidden: bool = False) -> MaskedTokens:
    """Convert tokens times a mask of 1 and 0, or filled with 0 where a mask is True for `hidden` ones."""
    x = traced(b, node)
    numbers, present = numbers_of(b, mask.node)
    for axis in range(1, len(x.axes)):
        if mask.padding is None or x.axes[0] != (BATCH,) or x.sizes[axis] != present.shape[1]:
            continue
        sizes = [len(present), *x.sizes[1:]]
        along = [size if place in (0, axis) else 1 for place, size in enumerate(sizes)]
        wanted = (present ^ hidden).reshape(along)
        if numbers.ndim <= len(sizes) and torch.equal(numbers.double().expand(sizes), wanted.double().expand(sizes)):
            return MaskedTokens(x, mask.padding, axis)
    raise Refusal(Mask.alone)


def summed(b: Builder, node: Node, a: dict[str, Any]) -> MaskedTokens | Mask:
    """Convert the sum of tokens that are not padding, or their number."""
    source, axes = b.values.get(a["self"]), a.get("dim") or []
    if a.get("dtype") not in (None, torch.float32, torch.int64):
        raise Refusal(f"it sums in {a['dtype']}; leave out the type")
    if isinstance(source, MaskedTokens) and not source.summed:
        if [axis % len(source.x.axes) for axis in axes] == [source.axis]:
            return replace(source, summed=True, keepdim=a["keepdim"])
    elif isinstance(source, Mask) and source.padding is not None and len(axes) == 1:
        numbers, present = numbers_of(b, source.node)
        if numbers.ndim > 1 and axes[0] % numbers.ndim:
            numbers = numbers.movedim(axes[0], -1)
            wanted = present.double().reshape(len(present), *[1] * (numbers.ndim - 2), -1)
            if numbers.shape[-1] == wanted.shape[-1] and torch.equal(numbers.double(), wanted.expand_as(numbers)):
                return Mask(node, source.padding, counts=True)
    raise Refusal("a sum has a packed form only in the mean over the tokens that are not padding")


def masked_mean(b: Builder, node: Node, tokens: MaskedTokens, divisor: Any) -> Traced:
    """Convert the sum of the tokens that are not padding, divided by their number."""
    count = b.values.get(divisor) if isinstance(divisor, Node) else None
    if not (tokens.summed and isinstance(count, Mask) and count.counts and count.padding == tokens.padding):
        raise Refusal(MaskedTokens.alone)
    numbers, present = numbers_of(b, count.node)
    some = present.any(1)  # without any, a network may divide by another number to avoid a division by zero
    counts = present.sum(1).reshape(-1, *[1] * (numbers.ndim - 1))
    if len(numbers) != len(present) or not bool((numbers == counts)[some].all()):
        raise Refusal("the number of tokens can only divide their sum; before that, it may be raised to at most 1")
    axes, along = tokens.x.axes, tokens.x.axes[tokens.axis]
    channels = tuple(atom for atom in flat(axes[1:]) if atom not in along)
    x = stored_as(b, tokens.x, ((BATCH,), channels, along))
    left = [() if place == tokens.axis else axis for place, axis in enumerate(axes)]
    if not tokens.keepdim:
        del left[tokens.axis]
    found = Traced(b.add("masked_mean", [x.value, presence(b, tokens.padding)]), ((BATCH,), channels), tuple(left))
    if found.sizes != sizes_of(node):
        raise Refusal("the number of tokens divides their sum in other axes; give both sums the same keepdim")
    return found


def presence(b: Builder, padding: int) -> int:
    """Return the number of the value that is 0 for tokens that are padding, and 1 for all others."""
    return b.once("mask", 0, id=padding)


def numbers_of(b: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """Return what a node computes for inputs with padding at some places, and where these inputs have no padding.

    For every two tokens, one of the inputs has padding at the first alone, and another one at the second alone. The
    numbers of other tokens include 0, 1, the powers of two, and all. Further inputs have padding at random places.
    """
    tokens = torch.arange(next(iter(b.values.values())).sizes[1])
    powers = [1 << bit for bit in range(len(tokens).bit_length())]
    bits = [(tokens & power) > 0 for power in powers]
    random = torch.rand(_RANDOM, len(tokens), generator=torch.Generator().manual_seed(0)) < 0.5
    some = [tokens < 0, tokens >= 0, *bits, *(~each for each in bits), *(tokens < p for p in powers)]
    present = torch.stack([*some, *random])

    def compute(node: Node) -> Any:
        if node in b.constants:
            return b.evaluate(node)
        if node not in b.shown:
            compares = getattr(b.values.get(node), "compares", "")
            if node in b.sizes:
                b.shown[node] = with_batch(node.meta["val"]) // BATCH_SIZE * len(present)
            elif compares:
                b.shown[node] = present if compares == "ne" else ~present
            else:
                args, kwargs = map_arg((node.args, node.kwargs), compute)
                make: Any = torch.ops.aten.reshape.default if node.target in _VIEWS else node.target
                b.shown[node] = make(*args, **kwargs)
        return b.shown[node]

    return compute(node), present
