"""Learned scales: of groups of weights, and those that begin with trained weights."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

import bitbayes as bb
import needs
from bitbayes.kernels import build
from bitbayes.rules.marks import mark_transposed


def groups(weights: torch.Tensor, size: int) -> torch.Tensor:
    return weights.detach().reshape(len(weights), -1, size)


def test_a_scale_of_a_group_learns_from_its_weights_alone() -> None:
    for layer, inputs in ((nn.Linear(12, 5, bias=False), (7, 12)), (nn.Conv2d(3, 4, 2, bias=False), (2, 3, 5, 5))):
        optimizer = bb.BayesBiNN(bb.split_parameters(layer)[0], ess=1.0, lr=0.1, scale="group:4", scale_lr=0.1, seed=0)
        before = groups(layer.weight, 4).clone()
        layer(torch.randn(inputs, generator=torch.Generator().manual_seed(0))).square().mean().backward()
        optimizer.step()
        assert layer.weight.grad is not None
        slope = (groups(layer.weight.grad, 4) * before).sum(2)
        torch.testing.assert_close(optimizer.state[layer.weight]["scale_first"], 0.1 * slope)
        size = groups(layer.weight, 4).abs()
        # The first step of Adam moves the logarithm by its rate, against the slope.
        expected = (before.abs()[..., 0].log() - 0.1 * slope.sign()).exp()
        torch.testing.assert_close(size, expected[..., None].expand_as(size))


def test_the_posterior_of_groups_has_the_scale_of_every_weight() -> None:
    layer = nn.Linear(12, 5, bias=False)
    for make in (bb.BayesBiNN, bb.VISPA):
        options = {"ess": 10.0} if make is bb.BayesBiNN else {}
        optimizer = make([("weight", layer.weight)], lr=0.1, scale="group:6", scale_lr=0.5, seed=0, **options)
        for step in range(3):
            layer(torch.randn(1, 12, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.eval()
        posterior = optimizer.posterior()
        assert len(layer.weight.detach().abs().unique()) == 10
        assert torch.equal(posterior.mode()["weight"], layer.weight)
        assert torch.equal(posterior.sample(seed=0)["weight"][0].abs(), layer.weight.abs())


@pytest.mark.parametrize(("scale", "size"), [("channel", 12), ("group:4", 4), ("group:1", 1)])
def test_scales_begin_with_the_mean_size_of_trained_weights(scale: str, size: int) -> None:
    layer = nn.Linear(12, 5, bias=False)
    trained = layer.weight.detach().clone()
    bb.STE(bb.split_parameters(layer)[0], lr=0.1, scale=scale, init="weights", seed=0).eval()
    mean = groups(trained, size).abs().mean(2, keepdim=True)
    torch.testing.assert_close(groups(layer.weight, size), groups(trained, size).sign() * mean)


def test_a_group_of_zeros_has_a_scale() -> None:
    layer = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.5)[0, :4] = 0
    bb.STE(bb.split_parameters(layer)[0], lr=0.1, scale="group:4", init="weights", seed=0).eval()
    sizes = groups(layer.weight, 4).abs()[..., 0]
    torch.testing.assert_close(sizes, torch.tensor([[0.375e-3, 0.5], [0.5, 0.5]]))


def test_a_scale_per_output_of_a_layer_that_keeps_its_outputs_last() -> None:
    """As in GPT-2's Conv1D, whose weight is (in, out)."""
    weight = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    mark_transposed(weight, 1)
    optimizer = bb.STE([("weight", weight)], lr=0.1, scale="channel", scale_lr=0.3, seed=0)
    for step in range(3):
        weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    optimizer.eval()
    sizes = weight.detach().abs()
    assert torch.equal(sizes, sizes[:1].expand(6, 4)) and len(sizes[0].unique()) == 4


@pytest.mark.parametrize("layer", [nn.Conv1d(8, 8, 3), nn.Conv2d(4, 8, 3), nn.Conv2d(6, 3, 1), nn.Linear(6, 3)])
def test_a_group_of_a_whole_row_is_a_channel(layer: nn.Module) -> None:
    found = []
    for scale in ("channel", f"group:{layer.weight[0].numel()}"):
        one = copy.deepcopy(layer)
        optimizer = bb.STE(bb.split_parameters(one)[0], lr=0.1, scale=scale, scale_lr=0.3, init="weights", seed=0)
        for step in range(3):
            one.weight.grad = torch.randn(one.weight.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        found.append(one.weight.detach())
    assert torch.equal(*found)


def test_layers_without_rows_have_no_groups() -> None:
    layer = nn.ConvTranspose2d(4, 8, 2, bias=False)
    with pytest.raises(ValueError, match=r'scale="group:4" needs the weights of an output to lie side by side'):
        bb.STE(bb.split_parameters(layer)[0], lr=0.1, scale="group:4", seed=0)
    with pytest.raises(ValueError, match=r"of shape \(8,\) has 1"):
        bb.STE([("vector", nn.Parameter(torch.zeros(8)))], lr=0.1, scale="group:4", seed=0)


@pytest.mark.parametrize("backend", ["reference", "torch", "native", "openvino"])
@pytest.mark.parametrize("shape", [(6, 128), (6, 5, 128)], ids=["rows", "tokens"])
def test_linear_layers_are_packed_as_bits_of_groups(shape: tuple[int, ...], backend: str) -> None:
    if backend == "native" and build.library("inference") is None:
        needs.COMPILER.skip()
    if backend == "openvino" and importlib.util.find_spec(backend) is None:
        needs.OPENVINO.skip()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 4, bias=False))
    optimizer = bb.BayesBiNN(
        bb.split_parameters(model)[0], ess=10.0, lr=0.1, scale="group:32", scale_lr=0.3, init_lambda=0.5, seed=0
    )
    bb.follow(model, optimizer)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert len(model[0].weight.detach().abs().unique()) == 4 * 64
    inputs = x if backend == "torch" else x.numpy()
    packed = bb.pack(model, x[:1])
    assert packed.summary().bytes == bb.summary(model, optimizer).bytes_packed == 1056 + 4 * (64 * 5 + 4 * 2)
    np.testing.assert_allclose(
        np.asarray(bb.packed.load(packed, backend).outputs(inputs))[0], model(x).detach(), rtol=1e-5, atol=1e-5
    )
    posterior = optimizer.posterior()
    several = bb.packed.load(bb.pack(model, x[:1], posterior, samples=3), backend)
    wanted = bb.predict(model, x, posterior, samples=3).outputs
    np.testing.assert_allclose(np.asarray(several.outputs(inputs)), wanted, rtol=1e-5, atol=1e-5)


def test_small_groups_and_groups_of_convolutions_are_packed_as_numbers() -> None:
    """A last layer is binary, because a network without bits is refused."""
    for layer, x in ((nn.Linear(64, 8), torch.ones(2, 64)), (nn.Conv2d(8, 8, 2, bias=False), torch.ones(2, 8, 2, 2))):
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(8, 8, bias=False))
        groups = [{"params": [layer.weight], "scale": "group:16", "scale_lr": 0.3}, {"params": [model[2].weight]}]
        optimizer = bb.STE(groups, lr=0.1, seed=0)
        for step in range(3):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(step))
            model(x + noise).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.eval()
        packed = bb.pack(model, x[:1])
        numbers = sum(parameter.numel() for parameter in layer.parameters())
        assert packed.summary().bytes == bb.summary(model, optimizer).bytes_packed == 4 * numbers + 8
        found = np.asarray(bb.packed.load(packed).outputs(x.numpy()))[0]
        np.testing.assert_allclose(found, model(x).detach(), rtol=1e-5, atol=1e-5)
