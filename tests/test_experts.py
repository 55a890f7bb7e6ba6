"""Mixtures of experts of the library transformers, whose weights are stacked: scales, starts, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import bitbayes as bb
import needs
from bitbayes.rules import scales

STACKED = {
    "MixtralForCausalLM": ("gate_up_proj", (4, 2 * 24, 16), (4, 16, 24)),
    "GptOssForCausalLM": ("gate_up_proj", (4, 16, 2 * 24), (4, 24, 16)),
}


def experts(kind: str) -> tuple[nn.Module, list[tuple[str, nn.Parameter]]]:
    """Return a tiny mixture of experts, whose projections have 16 and 24 inputs, and the experts' weights."""
    tf = needs.TRANSFORMERS.module("transformers")
    config = getattr(tf, kind.replace("ForCausalLM", "Config"))(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=16,
        layer_types=["full_attention"] if kind.startswith("Gpt") else None,
    )  # fmt: skip
    model = getattr(tf, kind)(config)
    binary, _ = bb.split_parameters(model, binary=["*.experts.*_proj"])
    return model, [pair for pair in binary if ".experts." in pair[0]]


@pytest.mark.parametrize("kind", STACKED)
def test_scales_of_stacked_experts_are_those_of_linear_layers(kind: str) -> None:
    """The bound of the first latent weights, too: each expert is compared with a linear layer of its shape."""
    _, stacked = experts(kind)
    assert [tuple(parameter.shape) for _, parameter in stacked] == list(STACKED[kind][1:])
    fans = [(16, 48), (24, 16)]
    linear = [nn.Linear(*each, bias=False).weight for each in fans]
    assert [scales.fans(parameter) for _, parameter in stacked] == fans == [scales.fans(weight) for weight in linear]
    options: dict[str, Any] = {"seed": 3, "init": "random"}
    fixed, channel = (bb.STE(stacked, scale=scale, **options) for scale in ("fan_in", "channel"))
    for (_, parameter), (inputs, outputs), axis in zip(stacked, fans, (2, 2) if "Mix" in kind else (1, 1), strict=True):
        assert fixed.state[parameter]["scale"] == torch.tensor(inputs**-0.5)
        shape = [4, outputs, outputs]
        shape[axis] = 1
        assert channel.state[parameter]["scale"].shape == tuple(shape)
        latent = fixed.state[parameter]["belief"]["latent"]
        bound = (1.5 / (inputs + outputs)) ** 0.5
        assert 0.98 * bound < latent.abs().max() <= bound


@pytest.mark.parametrize("kind", STACKED)
def test_the_first_factors_of_vispa_are_those_of_one_expert(kind: str) -> None:
    _, stacked = experts(kind)
    optimizer = bb.VISPA(stacked, rank=3, seed=3, init="random")
    for (_, parameter), (inputs, outputs) in zip(stacked, [(16, 48), (24, 16)], strict=True):
        factors = optimizer.state[parameter]["belief"]["latent"][1:]
        expected = (2 / (inputs * outputs + 3 * inputs)) ** 0.5
        assert factors.std().item() == pytest.approx(expected, rel=0.1)


def test_groups_of_stacked_experts_lie_in_the_rows_of_one_output() -> None:
    _, stacked = experts("MixtralForCausalLM")
    optimizer = bb.STE(stacked, scale="group:8", init="weights", seed=3)
    sizes = {name: mode.abs() for name, mode in optimizer.named_mode()}
    for name, parameter in stacked:
        assert optimizer.state[parameter]["scale"].numel() == parameter.numel() // 8
        rows = sizes[name].view(4, parameter.shape[1], -1, 8)
        assert (rows == rows[..., :1]).all() and len(rows.unique()) > 100
    assert bb.STE(stacked[:1], scale="group:16", seed=3).state[stacked[0][1]]["scale"].shape == (4, 48, 1)
    with pytest.raises(ValueError, match=r"per output that is a multiple of 32, but .* \(4, 48, 16\) has 16; take"):
        bb.STE(stacked, scale="group:32", seed=3)
    with pytest.raises(ValueError, match=r"and of experts of shape \(experts, in, out\) do not; take"):
        bb.STE(experts("GptOssForCausalLM")[1], scale="group:8", seed=3)


def test_experts_with_learned_scales_train() -> None:
    model, stacked = experts("MixtralForCausalLM")
    optimizer = bb.BayesBiNN(stacked, lr=0.1, ess=100, scale="channel", init="weights", seed=3)
    before = [optimizer.state[parameter]["scale"].clone() for _, parameter in stacked]
    for _ in range(2):
        model(torch.arange(16)[None], labels=torch.arange(16)[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, parameter), scale in zip(stacked, before, strict=True):
        learned = optimizer.state[parameter]["scale"]
        assert not torch.equal(learned, scale)
        assert torch.equal(optimizer.posterior().mode()[name].abs(), learned.expand(parameter.shape))


def test_scales_of_three_dimensions_of_an_unknown_layer_are_refused() -> None:
    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, 2))

    network = nn.Sequential(Mix(), nn.Conv1d(4, 3, 2))
    binary, _ = bb.split_parameters(network, binary=["0.weight", "1.weight"])
    for scale in ("fan_in", "channel", "group:2"):
        message = rf'^scale="{scale}" needs to know which dimension .* of shape \(4, 3, 2\) belongs to a layer of an'
        with pytest.raises(ValueError, match=message):
            bb.STE(binary, scale=scale, seed=3)
        bb.STE(binary[1:], scale=scale, seed=3)
    for scale in ("one", "weight"):
        bb.STE(binary, scale=scale, seed=3)
