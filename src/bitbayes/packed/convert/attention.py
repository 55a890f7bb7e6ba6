"""Conversion of attention: of torch's function, and of the same written as two products and a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from bitbayes.packed.convert.axes import BATCH, Atom, Axis, Traced, flat, size_of, stored_as, traced
from bitbayes.packed.convert.draft import Builder, Refusal
from bitbayes.packed.convert.masks import Mask, MaskedTokens, hidden_keys, masked_tokens, numbers_of, presence

_HIDDEN = -1e9  # largest number that a mask adds to scores in order to hide a key


@dataclass(frozen=True)
class Scores:
    """Products of queries and keys that are not computed yet, because only attention as a whole has a packed form.

    Args:
        query: Queries; the last two axes are tokens and channels.
        key: Keys, in the same order.
        scale: Factor of the products.
        causal: Whether a mask hides later tokens.
        padding: Id of the tokens that a mask hides; None for no such mask.
        hidden: Largest number that has been added to hidden scores.
        weights: Whether a softmax has been taken.
    """

    query: Traced
    key: Traced
    scale: float = 1.0
    causal: bool = False
    padding: int | None = None
    hidden: float = -math.inf
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
    factor = 1 / float(number) if divide else float(number)
    if scores.causal or scores.padding is not None:
        if not factor > 0:
            raise Refusal("a factor after the mask must be positive")
        if scores.hidden * factor > _HIDDEN:
            raise Refusal(f"a factor after the mask must leave it at most {_HIDDEN:g}")
    return replace(scores, scale=scores.scale * factor, hidden=scores.hidden * factor)


def softmax(b: Builder, node: Node, a: dict[str, Any]) -> Scores | None:
    """Return the weights of attention; None if the node takes the softmax of anything else."""
    scores = scores_of(b, a["self"])
    if scores is not None and (a["dim"] not in (-1, len(scores.query.axes) - 1) or scores.weights):
        raise Refusal("the softmax of attention must be over the keys")
    return scores and replace(scores, weights=True)


def masked(b: Builder, scores: Scores, mask: Any, *, filled: float | None = None) -> Scores:
    """Return scores with a mask that hides nothing, keys that are padding, later tokens, or both.

    A mask of numbers is added. A mask of booleans is True for keys that are seen; with `filled`, it is True for keys
    that are hidden, and their scores are this number.
    """
    if scores.weights:
        raise Refusal("a mask must come before the softmax")
    if isinstance(mask, int | float) and math.isfinite(mask):
        return scores  # the softmax is the same
    made = b.values.get(mask) if isinstance(mask, Node) else None
    if not isinstance(mask, Node) or not (isinstance(made, Mask) or mask in b.constants):
        raise Refusal("its mask may depend on the input only by which tokens are padding: ids == PADDING, or !=")
    numbers = numbers_of(b, mask)[0] if isinstance(made, Mask) else b.evaluate(mask)
    if numbers.dtype == torch.bool:
        seen, largest = numbers ^ (filled is not None), -math.inf if filled is None else filled
    else:
        seen = numbers == 0
        largest = float(numbers[~seen].max()) if bool((~seen).any()) else -math.inf
    if largest > _HIDDEN:
        raise Refusal(f"its mask must add 0 to the scores of keys that are seen, and at most {_HIDDEN:g} to others")
    scores = replace(scores, hidden=max(largest, scores.hidden))
    if isinstance(made, Mask):
        padding, causal = hidden_keys(b, made, list(scores.query.axes[:-2]), scores.counts, seen)
        if None not in (padding, scores.padding) and padding != scores.padding:
            raise Refusal(f"its masks must hide one token id, but they hide {scores.padding} and {padding}")
        padding = scores.padding if padding is None else padding
        return replace(scores, causal=scores.causal or causal, padding=padding)
    seen = seen.expand(*seen.shape[:-2], *scores.counts)
    if bool(seen.all()):
        return scores
    if bool((seen == torch.ones(scores.counts, dtype=torch.bool).tril()).all()):
        return replace(scores, causal=True)
    raise Refusal("its mask must be causal, so that a token sees itself and all earlier ones, or hide nothing")


def baddbmm(b: Builder, node: Node, a: dict[str, Any]) -> Scores:
    """Convert a product of queries and keys that is added to a mask."""
    scores = matmul(b, node, {"self": a["batch1"], "other": a["batch2"]})
    if (a["beta"], a["alpha"]) != (1, 1) or not isinstance(scores, Scores):
        raise Refusal("the product of two activations has no packed form, except in attention")
    return masked(b, scores, a["self"])


def masked_fill(b: Builder, node: Node, a: dict[str, Any]) -> Scores | MaskedTokens:
    """Convert the filling of scores with a large negative number, or of tokens with 0, where a mask is True."""
    scores, mask = scores_of(b, a["self"]), b.values.get(a["mask"])
    if scores is None and isinstance(mask, Mask) and a["value"] == 0:
        return masked_tokens(b, a["self"], mask, hidden=True)
    if scores is None or isinstance(a["value"], Node) or not a["value"] <= _HIDDEN:
        raise Refusal("masked_fill has no packed form, except that it hides keys in attention")
    return masked(b, scores, a["mask"], filled=a["value"])


def _attended(b: Builder, scores: Scores, value: Traced) -> Traced:
    query, key = scores.query, scores.key
    if not (_shared(query) == _shared(key) == _shared(value)):
        raise Refusal("queries, keys and values must have the same batch and the same number of heads")
    sources = [stored_as(b, x, ((BATCH,), (*_heads(x), *x.axes[-1]), x.axes[-2])) for x in (query, key, value)]
    heads, channels = _heads(query), tuple(Atom(atom.size) for atom in value.axes[-1])
    settings = {"heads": size_of(heads), "scale": float(scores.scale), "causal": scores.causal}
    op, values = "attention", [source.value for source in sources]
    if scores.padding is not None:
        op, values = "masked_attention", [*values, presence(b, scores.padding)]
    made = b.add(op, values, **settings)
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
