"""The loop over drawn networks: the same weights however it runs, reused memory, statistics of each network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import bitbayes as bb
from bitbayes.batchnorm import as_found, batch_buffers
from bitbayes.draws import complete_states, drawn_networks, network_outputs, unwrapped


def network() -> tuple[nn.Module, bb.Posterior]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    return model, bb.BernoulliPosterior({"0.weight": torch.randn(6, 5), "3.weight": torch.randn(3, 6)})


def test_draws_are_the_posteriors_and_share_memory() -> None:
    model, posterior = network()
    places = set()
    for index, weights in enumerate(drawn_networks(model, posterior, 3, seed=7)):
        expected = posterior.sample_at(index, seed=7)
        assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)
        places |= {tensor.data_ptr() for tensor in weights.values()}
    assert index == 2 and len(places) == 2


def test_without_a_posterior_there_is_one_network() -> None:
    model, _ = network()
    assert list(drawn_networks(model, None, 32)) == [{}]


def test_each_network_has_the_statistics_of_its_batches() -> None:
    model, posterior = network()
    batches = iter([torch.randn(20, 5), torch.randn(20, 5)])  # of which every network sees both
    before, found = batch_buffers(model), []
    with as_found(model):
        for weights in drawn_networks(model, posterior, 2, batches=batches):
            found.append((weights["0.weight"].clone(), batch_buffers(model)["1.running_mean"]))
    assert not torch.equal(found[0][1], found[1][1])
    assert all(torch.equal(before[name], value) for name, value in batch_buffers(model).items())


def test_a_complete_state_gives_the_outputs_of_the_network() -> None:
    model, posterior = network()
    x = torch.randn(7, 5)
    networks = drawn_networks(model, posterior, 2)
    for index, state in enumerate(complete_states(model, networks)):
        assert state.keys() == model.state_dict().keys()
        wanted = network_outputs(model, posterior.sample_at(index), x, chunk=None)
        torch.testing.assert_close(network_outputs(model, state, x, chunk=2), wanted)


def test_wrappers_are_taken_off_down_to_the_names() -> None:
    model, posterior = network()
    compiled = torch.compile(model, backend="eager")
    assert unwrapped(compiled) is unwrapped(compiled, posterior.shapes) is unwrapped(model) is model
    assert unwrapped(compiled, ["_orig_mod.0.weight"]) is compiled
    assert unwrapped(compiled, ["nowhere"]) is compiled
    packed = [bb.pack(part, torch.zeros(1, 5), posterior, 2).tensors for part in (model, compiled)]
    assert packed[0].keys() == packed[1].keys()
    assert all(np.array_equal(packed[0][name], packed[1][name]) for name in packed[0])
