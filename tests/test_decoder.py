"""The decoder: the logits of Hugging Face's Llama with the same weights, causality, and its cache."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import bitbayes as bb
from bitbayes.nn import Decoder, DecoderConfig, decoder
from needs import TRANSFORMERS


def small(**changes) -> Decoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "layers": 2, "heads": 4, "positions": 32}
    model = decoder(**{**sizes, **changes}).eval()
    for parameter in model.parameters():  # norms differ from 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tokens(count: int = 32) -> torch.Tensor:
    return torch.randint(256, (2, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_the_logits_are_those_of_llama_with_the_same_weights(groups: int) -> None:
    transformers = TRANSFORMERS.module("transformers")
    model = small(key_value_heads=groups, rope_theta=500.0, rms_norm_eps=1e-3)
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**dataclasses.asdict(model.config))).eval()
    llama.load_state_dict(model.state_dict())  # the same names and shapes
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), llama(tokens()).logits, atol=1e-4, rtol=1e-4)


def test_the_logits_are_those_of_llama_with_binary_weights() -> None:
    transformers = TRANSFORMERS.module("transformers")
    model = small()
    optimizer = bb.STE(bb.split_parameters(model)[0], scale="channel", seed=0)
    optimizer.eval()
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**dataclasses.asdict(model.config))).eval()
    llama.load_state_dict(model.state_dict())
    assert len(llama.model.layers[0].mlp.up_proj.weight.abs().unique()) == 1
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), llama(tokens()).logits, atol=1e-4, rtol=1e-4)


def test_only_projections_are_binary() -> None:
    binary, real = bb.split_parameters(small())
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(binary) == 2 * len(projections)
    assert {name.split(".")[-2] for name, _ in binary} == projections
    assert {name for name, _ in real if "layers" not in name} == {
        *("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
    }


def test_a_byte_does_not_see_those_after_it() -> None:
    model, text = small(), tokens()
    other = text.clone()
    other[:, 20:] = 255 - other[:, 20:]
    with torch.no_grad():
        one, two = model(text), model(other)
    torch.testing.assert_close(one[:, :20], two[:, :20])
    assert (one[:, 20:] - two[:, 20:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("pieces", [[32], [1] * 32, [5, 1, 9, 2, 15]])
def test_the_cache_changes_nothing(pieces: list[int]) -> None:
    model, text, cache = small(key_value_heads=2), tokens(), []
    with torch.no_grad():
        found = [model(piece, cache) for piece in text.split(pieces, 1)]
        torch.testing.assert_close(torch.cat(found, 1), model(text), atol=1e-5, rtol=1e-5)
    assert cache[1][0].shape == (2, 2, 32, 32)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"hidden_size": 256.0}, "hidden_size must be a positive whole number, got 256.0"),
        ({"layers": "4"}, "num_hidden_layers must be a positive whole number, got '4'"),
        ({"hidden_size": 100, "heads": 4, "positions": 0}, "max_position_embeddings must be a positive whole number"),
        ({"layers": True}, "num_hidden_layers must be a positive whole number, got True"),
        ({"rope_theta": math.inf}, "rope_theta must be a positive number, got inf"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a positive number, got '1e-5'"),
        ({"hidden_size": 100, "heads": 3}, r"multiple of twice num_attention_heads \(3\), got 100"),
        ({"hidden_size": 12, "heads": 4}, r"multiple of twice num_attention_heads \(4\), got 12"),
        ({"heads": 4, "key_value_heads": 3}, r"must divide num_attention_heads \(4\), got 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decoder(**sizes)


def test_wrong_tokens_are_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"expected integer tokens of shape \(N, T\), got torch.float32 \(2, 3\)"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"got torch.int64 \(3,\)"):
        model(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got torch.bool \(2, 3\)"):
        model(torch.zeros(2, 3, dtype=torch.bool))
    cache: list = []
    model(tokens(30), cache)
    with pytest.raises(ValueError, match="the decoder takes 32 tokens, got 33"):
        model(tokens(3), cache)
    assert cache[0][0].shape[2] == 30


def test_the_default_has_rows_for_one_bit_blocks() -> None:
    model = Decoder(DecoderConfig())
    binary, _ = bb.split_parameters(model)
    assert all(weight.shape[1] % 128 == 0 for _, weight in binary)
    assert sum(weight.numel() for _, weight in binary) == 3_014_656


@pytest.mark.parametrize("assign", [False, True])
def test_a_decoder_that_begins_on_the_meta_device_is_whole_after_loading(assign: bool) -> None:
    whole = small()
    with torch.device("meta"):
        empty = small()
    if not assign:
        empty = empty.to_empty(device="cpu")
    empty.load_state_dict(whole.state_dict(), assign=assign)
    assert torch.equal(empty(tokens()), whole(tokens()))
