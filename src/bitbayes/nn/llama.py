"""Causal decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention and SwiGLU.

The names of the parameters, the order of operations and the rotation of halves are those of `LlamaForCausalLM` in
Hugging Face Transformers. The two load each other's state dict and compute the same logits. The block follows Touvron
et al. (2023, "LLaMA"), the rotary positions Su et al. (2021, "RoFormer"), the activation Shazeer (2020, "GLU Variants
Improve Transformer"), and grouped heads Ainslie et al. (EMNLP 2023, "GQA").

The file is not called `decoder`, because the documentation could not distinguish it from the function `decoder`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitbayes.nn.layers import keep_real

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer so far, each of shape (N, key-value heads, positions, head size); empty at first."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder, under the names of `LlamaConfig` in Hugging Face Transformers.

    Args:
        vocab_size: Number of tokens.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the SwiGLU layers.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads. Each serves as many query heads.
        rms_norm_eps: Constant that RMSNorm adds to the mean square.
        rope_theta: Base of the wavelengths of the rotary positions.
        max_position_embeddings: Largest number of positions that the decoder takes.

    Raises:
        ValueError: If a size is not a whole number, a number is not positive, heads do not divide each other or the
            width, or the head size is odd.

    Example:
        >>> DecoderConfig(hidden_size=256, num_attention_heads=4).head_dim
        64
    """

    vocab_size: int = 256
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind, what = (Real, "number") if name in ("rms_norm_eps", "rope_theta") else (Integral, "whole number")
            if isinstance(value, bool) or not (isinstance(value, kind) and 0 < float(value) < math.inf):
                raise ValueError(f"{name} must be a positive {what}, got {value!r}")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):
            raise ValueError(
                f"hidden_size must be a multiple of twice num_attention_heads ({heads}), got {self.hidden_size}"
            )
        if heads % groups:
            raise ValueError(f"num_key_value_heads must divide num_attention_heads ({heads}), got {groups}")

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden_size // self.num_attention_heads


def decoder(
    vocab_size: int = 256,
    hidden_size: int = 256,
    intermediate_size: int = 640,
    layers: int = 4,
    heads: int = 4,
    key_value_heads: int | None = None,
    *,
    positions: int = 256,
    rms_norm_eps: float = 1e-5,
    rope_theta: float = 10000.0,
) -> Decoder:
    """Return a causal language model whose projections are binary; the embedding, the norms and the head are real.

    The projections have no BatchNorm, so their weights need a scale: train them with `scale="channel"`. At the default
    sizes, they have 3,014,656 weights.

    Args:
        vocab_size: Number of tokens; 256 for bytes.
        hidden_size: Width of the residual stream. Multiples of 128 suit the one-bit blocks of llama.cpp.
        intermediate_size: Width of the SwiGLU layers. Multiples of 128 suit the one-bit blocks of llama.cpp.
        layers: Number of blocks.
        heads: Number of query heads.
        key_value_heads: Number of key and value heads; None for as many as query heads.
        positions: Largest number of tokens that the decoder takes.
        rms_norm_eps: Constant that RMSNorm adds to the mean square.
        rope_theta: Base of the wavelengths of the rotary positions.

    Returns:
        The decoder, input shape (N, T) of tokens, output shape (N, T, vocab_size) of logits for the next token.

    Raises:
        ValueError: If sizes do not fit each other; see `DecoderConfig`.

    Example:
        >>> model = decoder(hidden_size=128, intermediate_size=256, layers=1)
        >>> model(torch.tensor([[100, 101, 102]])).shape
        torch.Size([1, 3, 256])
        >>> binary, real = bb.split_parameters(model)
        >>> [name for name, _ in real][:2]
        ['model.embed_tokens.weight', 'model.layers.0.input_layernorm.weight']
    """
    return Decoder(
        DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads if key_value_heads is None else key_value_heads,
            rms_norm_eps=rms_norm_eps,
            rope_theta=rope_theta,
            max_position_embeddings=positions,
        )
    )


class Decoder(nn.Module):
    """Causal language model; `decoder` makes it, and `config` has its sizes.

    Args:
        config: Sizes.

    Example:
        >>> model = Decoder(DecoderConfig(hidden_size=128, num_hidden_layers=1))
        >>> text, cache = torch.tensor([[7, 8, 9]]), []
        >>> _ = model(text[:, :2], cache)  # fills the cache with two positions
        >>> torch.allclose(model(text[:, 2:], cache), model(text)[:, 2:], atol=1e-5)
        True
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)
        self.lm_head = keep_real(nn.Linear(config.hidden_size, config.vocab_size, bias=False))

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits of the next token at every position, shape (N, T, vocab_size).

        Args:
            tokens: Tokens, integers of shape (N, T).
            cache: Keys and values of the tokens before, which this call extends in place; None if there are none.

        Raises:
            ValueError: If the tokens are not integers of shape (N, T), or there are more than the decoder takes.
        """
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(f"expected integer tokens of shape (N, T), got {tokens.dtype} {tuple(tokens.shape)}")
        past = cache[0][0].shape[2] if cache else 0
        if past + tokens.shape[1] > self.config.max_position_embeddings:
            most = self.config.max_position_embeddings
            raise ValueError(f"the decoder takes {most} tokens, got {past + tokens.shape[1]}; give the last ones")
        return self.lm_head(self.model(tokens, past, cache))


class _Body(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.config = config
        self.set_turns(None, torch.float32)
        self.register_load_state_dict_post_hook(_renew_turns)

    def set_turns(self, device: torch.device | None, dtype: torch.dtype) -> None:
        """Compute the cosines and sines of all positions, which no file has."""
        config = self.config
        even = torch.arange(0, config.head_dim, 2, device=device).float()
        positions = torch.arange(config.max_position_embeddings, device=device).float()
        angles = positions[:, None] / config.rope_theta ** (even / config.head_dim)
        turns = torch.cat([angles, angles], -1)  # each frequency turns an entry of either half
        self.register_buffer("cos", turns.cos().to(dtype), persistent=False)
        self.register_buffer("sin", turns.sin().to(dtype), persistent=False)

    def forward(self, tokens: Tensor, past: int, cache: Cache | None) -> Tensor:
        x = self.embed_tokens(tokens)
        here = slice(past, past + tokens.shape[1])
        turns = self.get_buffer("cos")[here], self.get_buffer("sin")[here]
        for index, layer in enumerate(self.layers):
            x = layer(x, turns, index, cache)
        return self.norm(x)


def _renew_turns(body: _Body, _: object) -> None:
    """Compute the buffers of a body that has been loaded, which had no values if it was made on the meta device."""
    body.set_turns(body.embed_tokens.weight.device, body.get_buffer("cos").dtype)


class _Block(nn.Module):
    """Attention and a SwiGLU layer, each added to the residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _SwiGLU(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], index: int, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turns, index, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    """Causal attention of several query heads for each key-value head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.size = config.head_dim
        wide, narrow = config.hidden_size, config.num_key_value_heads * self.size
        self.q_proj = nn.Linear(wide, wide, bias=False)
        self.k_proj = nn.Linear(wide, narrow, bias=False)
        self.v_proj = nn.Linear(wide, narrow, bias=False)
        self.o_proj = nn.Linear(wide, wide, bias=False)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], index: int, cache: Cache | None) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _rotated(query, *turns), _rotated(key, *turns)
        if cache is not None:
            if index == len(cache):
                cache.append((key, value))
            else:
                key, value = (torch.cat(pair, 2) for pair in zip(cache[index], (key, value), strict=True))
                cache[index] = key, value
        now, every = query.shape[2], key.shape[2]
        mask = None
        if 1 < now < every:  # `is_causal` would count positions from the first key
            mask = torch.ones(now, every, dtype=torch.bool, device=x.device).tril(every - now)
        grouped = query.shape[1] != key.shape[1]
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=now == every, enable_gqa=grouped
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of entries, one of each half, by the angles of their positions."""
    cos, sin = (
        cos.to(x.dtype),
        sin.to(x.dtype),
    )  # float32 angles would double the work of bfloat16
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


class _SwiGLU(nn.Module):
    """Gated layer W₃(silu(W₁x) ⊙ W₂x)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        wide, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(wide, inner, bias=False)
        self.up_proj = nn.Linear(wide, inner, bias=False)
        self.down_proj = nn.Linear(inner, wide, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
