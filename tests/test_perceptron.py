"""Networks of the experiments, with the published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitbayes as bb


def test_mnist_mlp_is_the_papers() -> None:
    model = bb.nn.mnist_mlp()
    binary, real = bb.split_parameters(model)
    assert sum(p.numel() for _, p in binary) == 10_014_720 and real == []
    norms = [m for m in model if isinstance(m, nn.BatchNorm1d)]
    assert [m.num_features for m in norms] == [2048, 2048, 2048, 10]
    assert all(m.eps == 1e-4 and m.momentum == 0.15 and not m.affine for m in norms)
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [0.2] * 4
    kinds = [type(m).__name__ for m in model]
    assert kinds[1:6] == ["Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout"] and kinds[-1] == "BatchNorm1d"


def test_logit_scale_is_the_only_real_parameter() -> None:
    _, real = bb.split_parameters(bb.nn.mnist_mlp(logit_scale=True))
    assert [p.numel() for _, p in real] == [1]


def test_synthetic_mlp() -> None:
    moons, snelson = bb.nn.synthetic_mlp(2, norm_output=False), bb.nn.synthetic_mlp(1, norm_output=True)
    assert sum(p.numel() for p in moons.parameters()) == 2 * 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert isinstance(snelson[-1], nn.BatchNorm1d) and not isinstance(moons[-1], nn.BatchNorm1d)


def test_logit_scale_lifts_the_cap_on_confidence() -> None:
    scale = bb.nn.LogitScale(2.0)
    assert torch.equal(scale(torch.ones(2)), torch.full((2,), 2.0))
    scale(torch.ones(1)).sum().backward()
    assert scale.log_scale.grad is not None
    with pytest.raises(ValueError, match="positive"):
        bb.nn.LogitScale(0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logit_scale_has_a_dimension_and_computes_as_without(dtype: torch.dtype) -> None:
    """`fully_shard` refuses a parameter without dimensions."""
    scale, logits = bb.nn.LogitScale(3.0), torch.randn(7, 3).to(dtype)
    assert scale.log_scale.shape == (1,)
    old = torch.tensor(3.0).log()
    assert torch.equal(scale(logits), logits * old.exp()) and scale(logits).dtype == dtype


def test_logit_scale_loads_what_was_saved_without_a_dimension() -> None:
    model = nn.Sequential(nn.Linear(2, 2), bb.nn.LogitScale())
    state = model.state_dict() | {"1.log_scale": torch.tensor(0.5)}
    for assign in (False, True):
        model.load_state_dict(state, assign=assign)
        assert torch.equal(model[1].log_scale.detach(), torch.tensor([0.5]))
    assert state["1.log_scale"].dim() == 0


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="activation must be one of"):
        bb.nn.mlp(2, [2], 2, activation="gelu")
