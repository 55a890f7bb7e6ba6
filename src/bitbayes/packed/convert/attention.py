"""Conversion of attention: of torch's function, and of the same written as two products and a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from bitbayes.packed.convert.axes import BATCH, Atom, Axis, Traced, flat, size_of, stored_as, traced
from bitbayes.packed.convert.draft import Builder, Refusal

_HIDDEN = -1e9  # largest number that a mask adds to scores in order to hide a key


@dataclass(frozen=True)
class Scores:
    """Products of queries and keys that are not computed yet, because only attention as a whole has a packed form.

    Args:
        query: Queries; the last two axes are tokens and channels.
        key: Keys, in the same order.
        scale: Factor of the products.
        causal: Whether a mask hides later tokens.
        weights: Whether a softmax has been taken.
    """

    query: Traced
    key: Traced
    scale: float = 1.0
    causal: bool = False
    weights: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of queries and keys."""
        return self.query.sizes[-2], self.key.sizes[-2]


def scores_of(b: Builder, node: Any) -> Scores | None:
    """Return the scores that a node stands for; None for any other node."""
    found = b.values.get(node) if isinstance(node, Node) else None
    return found if isinstance(found, Scores) else None


def attention(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    """Convert torch's `scaled_dot_product_attention`."""
    query, key, value = (traced(b, a[name]) for name in ("query", "key", "value"))
    if a["dropout_p"]:
        raise Refusal("dropout has no packed form")
    scores = Scores(query, key, 1 / math.sqrt(query.sizes[-1]) if a["scale"] is None else a["scale"], a["is_causal"])
    return _attended(b, scores if a["attn_mask"] is None else masked(b, scores, a["attn_mask"]), value)


def matmul(b: Builder, node: Node, a: dict[str, Any]) -> Any:
    """Convert a product of two tensors: scores, or the values that they weigh."""
    left, right = a["self"], a["other"] if "other" in a else a["mat2"]
    if b.constant(left) or b.constant(right):
        raise Refusal("a product with a constant matrix has no packed form; use torch.nn.Linear")
    scores, other = scores_of(b, left), traced(b, right)
    if scores is not None and scores.weights:
        return _attended(b, scores, other)
    query = traced(b, left)
    if len(query.axes) < 3 or len(other.axes) < 3:
        raise Refusal("the product of two activations has no packed form, except in attention")
    return Scores(query, replace(other, axes=(*other.axes[:-2], other.axes[-1], other.axes[-2])))


def scaled(b: Builder, node: Any, factor: Any, *, divide: bool = False) -> Scores | None:
    """Return scores times a number, or divided by it; None if the node stands for no scores."""
    scores = scores_of(b, node)
    if scores is None:
        return None
    number = factor if isinstance(factor, int | float) else b.evaluate(factor)
    if (isinstance(number, torch.Tensor) and number.numel() != 1) or scores.weights:
        raise Refusal("only the scores of all heads together have a factor, before the softmax")
    if scores.causal and not float(number) > 0:
        raise Refusal("a factor after the mask must be positive")
    return replace(scores, scale=scores.scale / float(number) if divide else scores.scale * float(number))


def softmax(b: Builder, node: Node, a: dict[str, Any]) -> Scores | None:
    """Return the weights of attention; None if the node takes the softmax of anything else."""
    scores = scores_of(b, a["self"])
    if scores is not None and (a["dim"] not in (-1, len(scores.query.axes) - 1) or scores.weights):
        raise Refusal("the softmax of attention must be over the keys")
    return scores and replace(scores, weights=True)


def masked(b: Builder, scores: Scores, mask: Node, *, hidden: bool = False) -> Scores:
    """Return scores with a constant mask that hides nothing, or later tokens.

    A mask of numbers is added. A mask of booleans is True for keys that are seen, or for `hidden` ones.
    """
    if mask not in b.constants:
        raise Refusal(
            "its mask depends on the input, as a mask of padding does; pack the network for sequences of one length"
        )
    given = b.evaluate(mask)
    if given.dtype != torch.bool:
        seen = given == 0
        known = bool((seen | (given <= _HIDDEN)).all())
    else:
        seen, known = given ^ hidden, True
    seen = seen.expand(*seen.shape[:-2], *scores.counts)
    if known and bool(seen.all()):
        return scores
    if known and bool((seen == torch.ones(scores.counts, dtype=torch.bool).tril()).all()):
        return replace(scores, causal=True)
    raise Refusal("its mask must be causal, so that a token sees itself and all earlier ones, or hide nothing")


def masked_fill(b: Builder, node: Node, a: dict[str, Any]) -> Scores:
    """Convert the filling of scores with a large negative number where a mask is True."""
    scores = scores_of(b, a["self"])
    if scores is None or isinstance(a["value"], Node) or not a["value"] <= _HIDDEN:
        raise Refusal("masked_fill has no packed form, except that it hides keys in attention")
    return masked(b, scores, a["mask"], hidden=True)


def _attended(b: Builder, scores: Scores, value: Traced) -> Traced:
    query, key = scores.query, scores.key
    if not (_shared(query) == _shared(key) == _shared(value)):
        raise Refusal("queries, keys and values must have the same batch and the same number of heads")
    sources = [stored_as(b, x, ((BATCH,), (*_heads(x), *x.axes[-1]), x.axes[-2])) for x in (query, key, value)]
    heads, channels = _heads(query), tuple(Atom(atom.size) for atom in value.axes[-1])
    settings = {"heads": size_of(heads), "scale": float(scores.scale), "causal": scores.causal}
    made = b.add("attention", [source.value for source in sources], **settings)
    return Traced(made, ((BATCH,), (*heads, *channels), query.axes[-2]), (*query.axes[:-1], channels))


def _heads(x: Traced) -> Axis:
    """Return the atoms of all axes but tokens and channels, without the batch."""
    return tuple(atom for atom in flat(x.axes[:-2]) if atom is not BATCH)


def _shared(x: Traced) -> list[tuple[int, ...]]:
    """Return the sizes of the axes that all tensors of an attention share: the batch, and heads before and after it."""
    atoms = flat(x.axes[:-2])
    if BATCH not in atoms:
        raise Refusal("attention must not be over the batch")
    place = atoms.index(BATCH)
    return [tuple(size_of(axis) for axis in x.axes[:-2]), (size_of(atoms[:place]), size_of(atoms[place + 1 :]))]
