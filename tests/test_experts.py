"""Mixtures of experts of the library transformers, whose weights are stacked: scales, starts, and refusals."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import bitbayes as bb
import needs
from bitbayes.parameters import packed_bits
from bitbayes.rules import scales
from bitbayes.rules.marks import mark_stacked

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


@pytest.mark.parametrize(("shape", "kept"), [((4, 3, 64), True), ((2, 1, 32 * 129), False), ((4, 80, 64), True)])
def test_bits_of_groups_of_experts_are_those_of_linear_layers(shape: tuple[int, ...], kept: bool) -> None:
    """Whether a file keeps groups as bits depends on their number in a row, and not in an expert."""
    stacked = nn.Parameter(torch.ones(shape))
    mark_stacked(stacked, 2)
    count, linear = stacked.numel(), [nn.Parameter(torch.ones(shape[1:])) for _ in range(shape[0])]
    found, alone = (sum(packed_bits(bb.STE(w, scale="group:32", seed=3)).values()) for w in ([stacked], linear))
    assert found == alone == (count + 32 * (count // 32) if kept else 32 * count)


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


def unequal(kind: str) -> list[tuple[str, nn.Parameter]]:
    """Return stacked experts whose sizes differ by factors of 100, and of which the last has an output of zeros."""
    _, stacked = experts(kind)
    with torch.no_grad():
        for _, parameter in stacked:
            parameter.normal_().mul_(10.0 ** torch.arange(0, -8, -2).view(4, 1, 1))
            last = parameter[3] if kind.startswith("Mix") else parameter[3].T
            last[5] = 0
    return stacked


def separate(parameter: nn.Parameter, kind: str) -> list[nn.Parameter]:
    """Return the weights of a linear layer for each expert, of shape (out, in)."""
    each = parameter.detach() if kind.startswith("Mix") else parameter.detach().mT
    return [nn.Parameter(weight.clone(memory_format=torch.contiguous_format)) for weight in each]


@pytest.mark.parametrize("kind", STACKED)
def test_trained_experts_begin_as_linear_layers_of_their_own(kind: str) -> None:
    for scale in ("channel", "group:8")[: 2 if kind.startswith("Mix") else 1]:
        options: dict[str, Any] = {"lr": 0.1, "ess": 100, "scale": scale, "init": "weights", "seed": 3}
        stacked = unequal(kind)
        linear = [separate(parameter, kind) for _, parameter in stacked]
        optimizer = bb.BayesBiNN(stacked, **options)
        for (_, parameter), weights in zip(stacked, linear, strict=True):
            alone = bb.BayesBiNN(weights, **options)
            found = optimizer.state[parameter]
            belief = found["belief"]["natural"].view(parameter.shape)
            found_scale = scales.value(found, parameter.shape).expand(parameter.shape)
            if kind.startswith("Gpt"):
                belief, found_scale = belief.mT, found_scale.mT
            for expert, weight in enumerate(weights):
                wanted = alone.state[weight]
                torch.testing.assert_close(belief[expert], wanted["belief"]["natural"].view(weight.shape))
                wanted_scale = scales.value(wanted, weight.shape).expand(weight.shape)
                torch.testing.assert_close(found_scale[expert], wanted_scale, atol=0, rtol=1e-5)


def test_an_expert_of_zeros_has_no_start() -> None:
    stacked = unequal("MixtralForCausalLM")
    with torch.no_grad():
        stacked[1][1][2] = 0
    with pytest.raises(ValueError, match=r"the mean of \|w\| of expert 2 is 0\. Load"):
        bb.STE(stacked, init="weights", seed=3)


@pytest.mark.parametrize("kind", STACKED)
def test_trained_experts_are_recognised_and_random_ones_are_not(kind: str) -> None:
    _, stacked = experts(kind)
    name, parameter = stacked[0]
    with torch.no_grad():
        parameter.normal_().mul_(10.0 ** torch.arange(0, -8, -2).view(4, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bb.STE([(name, nn.Parameter(parameter[1].detach().clone()))], seed=3).step()
        random = bb.STE(stacked[:1], seed=3)
    assert random.param_groups[0]["init"] == "random"
    with torch.no_grad():
        parameter.normal_()
        parameter[2] += torch.linspace(-2, 2, parameter.shape[2])
    assert bb.STE(stacked[:1], seed=3).param_groups[0]["init"] == "weights"


class Mix(nn.Module):
    """A layer of an unknown kind."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


@pytest.mark.parametrize(("shape", "known"), [((4, 3, 2), nn.Conv1d(4, 3, 2)), ((4, 3, 2, 2), nn.Conv2d(4, 3, 2))])
def test_scales_of_an_unknown_layer_are_refused(shape: tuple[int, ...], known: nn.Module) -> None:
    network = nn.Sequential(Mix(*shape), known)
    binary, _ = bb.split_parameters(network, binary=["0.weight", "1.weight"])
    for scale in ("fan_in", "channel", "group:2"):
        shown = re.escape(str(shape))
        message = rf'^scale="{scale}" needs to know which dimension .* of shape {shown} belongs to a layer of an'
        with pytest.raises(ValueError, match=message):
            bb.STE(binary, scale=scale, seed=3)
        bb.STE(binary[1:], scale=scale, seed=3)
    for scale in ("one", "weight"):
        bb.STE(binary, scale=scale, seed=3)


def test_a_convolution_of_a_users_own_has_scales_as_the_refusal_says() -> None:
    network = nn.Sequential(Mix(4, 3, 2), nn.Linear(4, 3))
    binary, _ = bb.split_parameters(network, binary=["0.weight"])
    with pytest.raises(ValueError, match=r"call split_parameters without naming it in .* add it to the binary"):
        bb.STE(binary, scale="channel", seed=3)
    with pytest.warns(UserWarning, match="does not know stay real"):
        binary, _ = bb.split_parameters(network)
    weight = network[0].weight
    optimizer = bb.STE([*binary, ("0.weight", weight)], scale="channel", init="random", seed=3)
    assert optimizer.state[weight]["scale"].shape == (4, 1, 1)
    assert optimizer.state[weight]["scale"].unique() == torch.tensor(6**-0.5)
