"""The architecture "llama" of GGUF: its sizes, its tensors, and where they are in a network of Hugging Face's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bitbayes.packed.format.bits import Array

_MOST = 2**31 - 1  # llama.cpp counts in int32
_LARGEST = 3.4e38  # of float32

# What must have one value, because llama.cpp computes nothing else. A config without the attribute has this value.
_FIXED = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "num_local_experts": (None, 0, 1),
}
_PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network of architecture "llama".

    Args:
        vocab: Number of tokens.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layers.
        layers: Number of layers.
        heads: Number of heads of the queries.
        kv_heads: Number of heads of the keys and values.
        head: Width of a head.
        context: Number of positions that the network was trained with.
        eps: Constant in the root of RMSNorm.
        theta: Base of the rotary frequencies.
        tied: Whether the head may be missing, because it is the embedding.

    Example:
        >>> Sizes(257, 256, 512, 2, 4, 2, 64, 128, 1e-6, 1e4, False).kv_heads
        2
    """

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int
    eps: float
    theta: float
    tied: bool

    @classmethod
    def of(cls, config: Any) -> Sizes:
        """Read the sizes from a config with the attributes of Hugging Face's `LlamaConfig`.

        Args:
            config: The config. Attributes that it lacks have the values of a plain Llama.

        Raises:
            ValueError: If a size is missing or out of range, or if the network has more than the architecture, such
                as biases or scaled rotary positions.
        """
        for name, allowed in _FIXED.items():
            if (value := getattr(config, name, allowed[0])) not in allowed:
                raise ValueError(f"config.{name} is {value!r:.60}; a GGUF file of a Llama needs {allowed[0]!r}")
        hidden, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
        kv_heads = _whole(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise ValueError(f"config.num_attention_heads is {heads}, expected a multiple of {kv_heads}, the kv heads")
        if (head := _whole(config, "head_dim", hidden // heads)) % 2:
            raise ValueError(f"config.head_dim is {head}, but rotary positions turn pairs; expected an even number")
        return cls(
            vocab=_whole(config, "vocab_size"),
            hidden=hidden,
            intermediate=_whole(config, "intermediate_size"),
            layers=_whole(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head=head,
            context=_whole(config, "max_position_embeddings"),
            eps=_positive("config.rms_norm_eps", getattr(config, "rms_norm_eps", None)),
            theta=_theta(config),
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )


@dataclass(frozen=True)
class Place:
    """Where a tensor of a GGUF file is in the network.

    Args:
        name: Name of the tensor in the GGUF file.
        source: Name of the parameter in the network.
        shape: Shape of the parameter.
        kind: "norm" for the weight of a norm, "table" for embedding and head, "projection" for all else.
        heads: Number of heads whose rows rotary positions turn; 0 if they turn none.

    Example:
        >>> Place("output_norm.weight", "model.norm.weight", (256,), "norm").heads
        0
    """

    name: str
    source: str
    shape: tuple[int, ...]
    kind: str
    heads: int = 0

    def ordered(self, weight: Array) -> Array:
        """Return the weight with the rows of each head in the order that llama.cpp needs.

        Hugging Face turns row i of a head with row i + head / 2, and llama.cpp row 2i with row 2i + 1.

        Example:
            >>> import numpy as np
            >>> Place("", "", (4, 1), "projection", heads=1).ordered(np.arange(4).reshape(4, 1)).ravel()
            array([0, 2, 1, 3])
        """
        if not self.heads:
            return weight
        return weight.reshape(self.heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def places(sizes: Sizes, state: Mapping[str, Any]) -> list[Place]:
    """Return where each tensor of the GGUF file is in the network, in the order of the file.

    A head that is tied to the embedding has no tensor of its own.

    Args:
        sizes: Sizes of the network.
        state: Parameters and buffers by name.

    Raises:
        ValueError: If a parameter is missing, has another shape, or has no place in the architecture.
    """
    if sizes.layers > len(state):  # before a list of that length is made
        raise ValueError(f"config.num_hidden_layers is {sizes.layers}, but the network has only {len(state)} tensors")
    shared = _HEAD in state and _EMBEDDING in state and _same(state[_HEAD], state[_EMBEDDING])
    tied = shared or (sizes.tied and _HEAD not in state)
    found = [place for place in _places(sizes) if not (tied and place.source == _HEAD)]
    shapes = {place.source: place.shape for place in found}
    for name in state:
        if name not in shapes and not (shared and name == _HEAD):
            raise ValueError(f"{name!r:.100} has no place in a GGUF file of a Llama, whose layers have only weights")
    for name, shape in shapes.items():
        if name not in state:
            raise ValueError(f"the network has no tensor {name!r}, which a Llama with its config has")
        if (got := tuple(state[name].shape)) != shape:
            raise ValueError(f"{name!r} has shape {got}, expected {shape} from the config")
    return found


def _places(sizes: Sizes) -> Iterator[Place]:
    query, key = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    shapes = {
        "attn_q": (query, sizes.hidden),
        "attn_k": (key, sizes.hidden),
        "attn_v": (key, sizes.hidden),
        "attn_output": (sizes.hidden, query),
        "ffn_gate": (sizes.intermediate, sizes.hidden),
        "ffn_up": (sizes.intermediate, sizes.hidden),
        "ffn_down": (sizes.hidden, sizes.intermediate),
    }
    turned = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}
    table = sizes.vocab, sizes.hidden
    yield Place("token_embd.weight", _EMBEDDING, table, "table")
    for layer in range(sizes.layers):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for source, name in _NORMS.items():
            yield Place(f"{theirs}{name}.weight", f"{ours}{source}.weight", (sizes.hidden,), "norm")
        for source, name in _PROJECTIONS.items():
            heads = turned.get(name, 0)
            yield Place(f"{theirs}{name}.weight", f"{ours}{source}.weight", shapes[name], "projection", heads)
    yield Place("output_norm.weight", "model.norm.weight", (sizes.hidden,), "norm")
    yield Place("output.weight", _HEAD, table, "table")


def _same(one: Any, other: Any) -> bool:
    """Return whether two tensors are one in memory."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _whole(config: Any, name: str, default: int | None = None) -> int:
    """Return a size of the config."""
    value = getattr(config, name, None)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise ValueError(f"config.{name} is {value!r:.60}, expected a whole number from 1 to {_MOST}")
    return value


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
        raise ValueError(f"{name} is {value!r:.60}, expected a positive number")
    return float(value)


def _theta(config: Any) -> float:
    """Return the base of the rotary frequencies, which versions of Hugging Face keep in two places."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    plain = isinstance(rope, Mapping) and rope.get("rope_type", rope.get("type", "default")) == "default"
    if not plain or rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"config has the rotary positions {rope!r:.100}; only those without scaling can be written")
    return _positive("rope_theta of the config", rope.get("rope_theta", getattr(config, "rope_theta", None)))
