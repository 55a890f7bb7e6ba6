"""Updates by torch.compile: on a GPU one call for all tensors of a step, tried here on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

import bitbayes as bb
from bitbayes.noise import Noise
from bitbayes.rules import engine
from bitbayes.rules.engine import Update
from bitbayes.rules.rule import Belief, Options
from laws import ESS, network, same, snapshot, steps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch deprecates
@pytest.mark.parametrize("options", [{}, {"capturable": True}])
def test_all_tensors_in_one_call(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = [], []
    call = engine.call_compiled
    monkeypatch.setattr(engine, "call_compiled", lambda compiled, jobs: (calls.append(len(jobs)), call(compiled, jobs)))
    monkeypatch.setattr(engine, "_JOINED", {})  # fused kernels are for GPUs: torch 2.8 cannot compile them for a CPU
    for alone in ({"cpu"}, set[str]()):
        monkeypatch.setattr(engine, "ALONE", alone)
        engine.compiled_update.cache_clear()
        counters.clear()
        model = network()
        binary, _ = bb.split_parameters(model)
        groups = [{"params": [named], "lr": lr} for named, lr in zip(binary, (0.1, 0.3), strict=True)]
        optimizer = bb.BayesBiNN(groups, ess=ESS, estimator="concrete", tau=0.5, seed=0, compile=True, **options)
        steps(model, optimizer, 4)
        assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
        found.append(snapshot(model, optimizer))
    assert calls == 8 * [1] + 4 * [2]
    assert same(*found)


def test_what_differs_is_not_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors with another rate are, with other options that are no numbers not; and not what has no gradient."""
    calls = []
    monkeypatch.setattr(engine, "ALONE", set[str]())
    monkeypatch.setattr(engine, "call_compiled", lambda compiled, jobs: calls.append([len(j.weights) for j in jobs]))
    sizes = [2, 3, 5, 7]
    tensors = [(str(size), torch.nn.Parameter(torch.ones(size))) for size in sizes]
    others = [{}, {"betas": (0.5, 0.9)}, {"lr": 0.5}, {"jacobian": "exact"}]
    groups = [{"params": [tensor], **other} for tensor, other in zip(tensors, others, strict=True)]
    optimizer = bb.PMF(groups, lr=0.1, seed=0, compile=True)
    for _, parameter in tensors:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors[1][1].grad = None
    optimizer.step()
    assert calls == [[2, 3, 5], [7], [2, 5], [7]]


def test_numbers_from_here_and_from_the_device() -> None:
    there = torch.tensor(3, dtype=torch.int32)
    rows = [[1, there, 0.5], [1, 2.0, there]]
    for given in (rows, [[1, 3, 0.5], [1, 2.0, 3]]):
        found = engine.on_device(given, torch.float32, torch.device("cpu"))
        assert found.dtype == torch.float32 and found.tolist() == [[1, 3, 0.5], [1, 2, 3]]


def test_a_piece_of_an_update_has_its_piece_of_both_noises() -> None:
    tensors = torch.arange(8.0), torch.arange(8.0)
    whole = Update(bb.STE, {"latent": torch.zeros(2, 8)}, *tensors, Options(), Noise(1, 8), Noise(2, 8), False, None)
    piece = whole.part(slice(4, 8))
    assert piece.belief["latent"].shape == (2, 4) and piece.gradient.tolist() == piece.weights.tolist() == [4, 5, 6, 7]
    assert torch.equal(piece.drawn.uniform(), whole.drawn.uniform()[4:])
    assert torch.equal(piece.noise.uniform(), whole.noise.uniform()[4:])


class Uniform(bb.STE):
    """Weights that are the noise of the next draw, and a belief that is that of the last."""

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: Options) -> torch.Tensor:
        """Return the noise."""
        return noise.uniform() + 0 * belief["seen"]

    @staticmethod
    def estimate(belief: Belief, gradient: torch.Tensor, draw: torch.Tensor, noise: Noise, o: Options) -> torch.Tensor:
        """Return the noise."""
        return noise.uniform() + 0 * gradient

    @staticmethod
    def update(belief: Belief, estimate: torch.Tensor, o: Options) -> Belief:
        """Keep the estimate."""
        return {"seen": estimate}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch deprecates
def test_pieces_of_a_tensor_have_their_own_noise_in_the_compiled_form() -> None:
    """As the processes of `fully_shard` need it; pieces may begin within a word."""
    for start in (8, 9):
        tensors = {"seen": torch.zeros(7)}, torch.zeros(7), torch.zeros(7)
        noises = Noise(3, 7, start=start), Noise(4, 7, start=start)
        engine.run_compiled([Update(Uniform, *tensors, Options(lr=0.5), *noises)])
        assert torch.equal(tensors[0]["seen"], Noise(3, 16).uniform()[start : start + 7])
        assert torch.equal(tensors[2], Noise(4, 16).uniform()[start : start + 7])
