"""Splitting parameters, following a model's mode, counting bits."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import bitbayes as bb
from networks import UserNetwork


def names(pairs) -> list[str]:
    return [name for name, _ in pairs]


def test_a_users_own_network_is_split() -> None:
    model = UserNetwork()
    binary, real = bb.split_parameters(model)
    assert names(binary) == [
        "stem.weight",
        "depthwise.weight",
        "grouped.weight",
        "up.weight",
        "mix.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]
    assert {"norm.weight", "norm.bias", "stem.bias", "attention.in_proj_bias"} <= set(names(real))
    assert "embedding.weight" in names(real)  # tied to the head, which is Linear
    assert len(binary) + len(real) == len(list(model.parameters()))


def test_embeddings_that_are_not_tied_stay_real() -> None:
    model = nn.ModuleDict({"e": nn.Embedding(4, 3), "l": nn.Linear(3, 2)})
    assert names(bb.split_parameters(model)[1]) == ["e.weight", "l.bias"]


@pytest.mark.parametrize("real", [["head.*"], ["head.weight"], ["embedding.weight"], "head.*"])
def test_real_by_pattern_also_for_a_tied_weight(real) -> None:
    assert "embedding.weight" in names(bb.split_parameters(UserNetwork(), real=real)[1])


def test_real_by_module() -> None:
    model = UserNetwork()
    binary, real = bb.split_parameters(model, real=[model.stem, model.attention])
    assert "stem.weight" in names(real) and "attention.in_proj_weight" in names(real)
    assert "up.weight" in names(binary)


def test_many_weights_of_unknown_layers_are_named_and_few_are_not() -> None:
    """A table of positions is such a tensor, too, but a small one."""
    model = nn.Module()
    model.layer, model.table = nn.Linear(8, 8), nn.Parameter(torch.ones(5, 3))
    assert "table" in names(bb.split_parameters(model)[1])
    model.table = nn.Parameter(torch.ones(4, 4))
    with pytest.warns(UserWarning, match=r"does not know stay real \(1, the largest 'table' of a Module\); name them"):
        bb.split_parameters(model)
    bb.split_parameters(model, real=["table"])
    assert "table" in names(bb.split_parameters(model, binary=["table"])[0])


def test_real_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'head.wieght' matches no parameter; the nearest name is 'head.weight'"):
        bb.split_parameters(UserNetwork(), real=["head.wieght"])
    with pytest.raises(ValueError, match="not a module of this network"):
        bb.split_parameters(UserNetwork(), real=[nn.Linear(2, 2)])


@pytest.mark.parametrize("how", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_mark_keeps_a_layer_real(how) -> None:
    head = nn.Linear(3, 2)
    assert bb.nn.keep_real(head) is head
    binary, real = bb.split_parameters(how(nn.Sequential(nn.Linear(4, 3, bias=False), head)))
    assert names(binary) == ["0.weight"] and names(real) == ["1.weight", "1.bias"]


def test_a_mark_holds_for_all_inside() -> None:
    model = UserNetwork()
    bb.nn.keep_real(model.attention)  # its projections, and the Linear inside it
    binary, real = bb.split_parameters(model, real=["stem.*"])
    kept = {"attention.in_proj_weight", "attention.out_proj.weight", "stem.weight"}
    assert kept <= set(names(real)) and "up.weight" in names(binary)
    outer = nn.ModuleDict({"a": bb.nn.keep_real(nn.Sequential(nn.Sequential(nn.Linear(2, 2)))), "b": nn.Linear(2, 2)})
    assert names(bb.split_parameters(outer)[0]) == ["b.weight"]
    with pytest.raises(ValueError, match="ModuleDict has no binary parameters"):
        bb.split_parameters(bb.nn.keep_real(outer))


def test_a_mark_wins_for_a_shared_weight() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[2].weight = bb.nn.keep_real(model[0]).weight
    assert names(bb.split_parameters(model)[0]) == ["1.weight"]


def test_nothing_binary_is_refused() -> None:
    with pytest.raises(ValueError, match="LayerNorm has no binary parameters"):
        bb.split_parameters(nn.LayerNorm(3))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="Linear has no binary parameters"):
        bb.split_parameters(frozen)


def followed() -> tuple[nn.Module, bb.BinaryOptimizer]:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=10, seed=0)
    bb.follow(model, optimizer)
    return model, optimizer


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_follow_their_own_optimizer(how) -> None:
    model, optimizer = followed()
    clone, other = how((model, optimizer))
    clone.eval()
    assert not other.training and optimizer.training and model.training
    model.eval()
    clone.train()
    assert not optimizer.training and other.training
    assert (clone[0].weight.abs() == 1).all()


def test_a_copy_of_the_model_alone_has_an_optimizer_of_its_own() -> None:
    model, optimizer = followed()
    clone = copy.deepcopy(model)
    clone.eval()
    other = vars(clone)["train"].optimizer
    assert optimizer.training and not other.training
    held = dict(other.named_binary())
    assert all(held[name] is parameter for name, parameter in clone.named_parameters() if name in held)


def test_a_second_optimizer_is_refused() -> None:
    model, optimizer = followed()
    other = bb.STE([model[0].weight], seed=0)
    with pytest.raises(RuntimeError, match=r"a BayesBiNN already follows this Sequential; call model.train.remove"):
        bb.follow(model, other)
    first = bb.follow(model, optimizer)  # the same again is fine
    vars(model)["train"].remove()
    handle = bb.follow(model, other)
    first.remove()  # not its own any more
    model.eval()
    assert not other.training and optimizer.training
    handle.remove()


def test_wrappers_pass_the_mode_on() -> None:
    model, optimizer = followed()
    compiled = torch.compile(model, backend="eager")
    compiled.eval()
    assert not optimizer.training and not model.training
    nn.ModuleList([model]).train()
    assert optimizer.training


def test_following_begins_at_once_and_ends() -> None:
    model = nn.Linear(3, 3).eval()
    optimizer = bb.STE([model.weight], seed=0)
    handle = bb.follow(model, optimizer)
    assert not optimizer.training
    handle.remove()
    model.train()
    assert not optimizer.training and model.training
    assert "train" not in model.__dict__


def test_summary_counts() -> None:
    model = UserNetwork()
    counted = bb.summary(model)
    binary, real = bb.split_parameters(model)
    assert counted.binary_weights == sum(p.numel() for _, p in binary)
    assert counted.real_weights == sum(p.numel() for _, p in real)
    assert counted.bytes_float == 4 * sum(p.numel() for p in model.parameters())
    assert counted.bytes_packed < counted.bytes_float / 4
    assert "attention.in_proj_weight" in str(counted)
    assert str(bb.summary(nn.ReLU(), binary=[])).strip().startswith("binary weights 0, real 0")


@pytest.mark.parametrize(
    ("scale", "size"), [("one", 16), ("channel", 16 + 64), ("normal", 512), ("weight", 512), ("group:4", 512)]
)
def test_an_optimizer_tells_the_summary_what_pack_stores(scale: str, size: int, tmp_path) -> None:
    """Weights of which each has a size of its own are real numbers in a packed file."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 8, bias=False))
    first, second = bb.split_parameters(model)[0]
    groups = [{"params": [first], "scale": scale, "scale_lr": 0.1}, {"params": [second]}]
    optimizer = bb.STE(groups, lr=0.1, seed=0)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    optimizer.eval()
    counted = bb.summary(model, optimizer)
    assert (counted.binary_weights, counted.bytes_packed) == (256, size + 16)
    packed = bb.pack(model, x)
    assert packed.summary().bytes == size + 16
    packed.save(tmp_path / "net.safetensors")
    found = bb.packed.load(tmp_path / "net.safetensors").predict(x.numpy()).outputs[0]
    torch.testing.assert_close(torch.as_tensor(found), model(x).detach())


def test_a_copy_of_a_transposed_convolution_and_its_optimizer_goes_on_alike() -> None:
    """Copies of a parameter lose the mark of its layout, which an optimizer asks for once."""
    model = nn.ConvTranspose2d(4, 64, 3, bias=False)
    binary, _ = bb.split_parameters(model)
    optimizer = bb.BayesBiNN(binary, lr=0.1, ess=100, scale="channel", seed=0)
    twin, other = copy.deepcopy((model, optimizer))
    for module, rule in ((model, optimizer), (twin, other)):
        for _ in range(3):
            module(torch.ones(1, 4, 2, 2)).square().mean().backward()
            rule.step()
            rule.zero_grad()
    assert torch.equal(model.weight, twin.weight)
    again = bb.BayesBiNN(bb.split_parameters(twin)[0], ess=100, scale="channel", seed=0)
    again.load_state_dict(other.state_dict())
    assert torch.equal(twin.weight, model.weight)


def test_scales_of_transposed_convolutions_are_of_their_outputs() -> None:
    """Unit inputs give unit outputs: every output of these layers sees all 3 x 3 taps of stride 1."""
    for layer, shape in (
        (nn.ConvTranspose2d(64, 4, 3, bias=False), (1, 4, 1, 1)),
        (nn.ConvTranspose2d(4, 64, 3, bias=False), (1, 64, 1, 1)),
        (nn.ConvTranspose2d(32, 64, 3, bias=False, groups=4), (1, 16, 1, 1)),
        (nn.Conv2d(32, 64, 3, bias=False, groups=4), (64, 1, 1, 1)),
    ):
        bb.BayesBiNN(bb.split_parameters(layer)[0], ess=1.0, scale="fan_in", seed=0)
        inputs = torch.randn(8, layer.in_channels, 24, 24, generator=torch.Generator().manual_seed(0))
        assert float(layer(inputs)[..., 4:-4, 4:-4].detach().std()) == pytest.approx(1.0, rel=0.1)
        layer.weight.data.normal_()
        learned = bb.BayesBiNN(bb.split_parameters(layer)[0], ess=1.0, lr=0.1, scale="channel", scale_lr=0.1, seed=0)
        before = layer.weight.detach().clone()
        layer(inputs).square().mean().backward()
        learned.step()
        assert learned.posterior().scale["weight"].shape == shape
        others = [axis for axis, size in enumerate(shape) if size == 1]
        assert layer.weight.grad is not None
        slope = (layer.weight.grad * before).sum(others, keepdim=True)
        torch.testing.assert_close(learned.state[layer.weight]["scale_first"], 0.1 * slope)


def test_following_twice_is_following_once() -> None:
    model = nn.Linear(2, 2)
    optimizer = bb.STE([model.weight], seed=0)
    first = bb.follow(model, optimizer)
    assert bb.follow(model, optimizer) is first
    first.remove()
    model.eval()
    assert optimizer.training


class Reader(nn.Module):
    """Tokens to a class: an embedding, two recurrent layers, a head."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.recurrent = kind(8, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_weights_of_recurrent_layers_are_binary_and_learn(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model = Reader(kind)
    binary, real = bb.split_parameters(model)
    recurrent = [f"recurrent.weight_{part}_l{layer}" for layer in (0, 1) for part in ("ih", "hh")]
    assert names(binary) == [*recurrent, "head.weight"]
    assert "embedding.weight" in names(real) and "recurrent.bias_ih_l0" in names(real)
    optimizer = bb.STE(binary, lr=0.03, scale="fan_in", seed=0)
    adam = torch.optim.Adam([p for _, p in real], lr=0.03)
    tokens = torch.randint(12, (64, 5))
    classes = (tokens[:, 0] + tokens[:, -1]) % 3
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(tokens), classes)
        loss.backward()
        losses.append(loss.item())
        for each in (optimizer, adam):
            each.step()
            each.zero_grad()
    assert losses[-1] < 0.6 * losses[0]


def test_further_parameters_can_be_made_binary() -> None:
    model = Reader()
    binary, real = bb.split_parameters(model, binary=["embedding.*"], real=[model.recurrent])
    assert names(binary) == ["embedding.weight", "head.weight"]
    assert not set(names(binary)) & set(names(real))
    kept = nn.Sequential(bb.nn.keep_real(nn.Linear(4, 3)), nn.Linear(3, 2))
    assert names(bb.split_parameters(kept, binary=["0.weight"])[0]) == ["0.weight", "1.weight"]
    with pytest.raises(ValueError, match="binary='embeding' matches no parameter; the nearest name is 'embed"):
        bb.split_parameters(model, binary="embeding")


def test_a_lazy_layer_needs_an_input_first() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet; pass one batch through the network first"):
        bb.split_parameters(model)
    model(torch.zeros(1, 4))
    assert [name for name, _ in bb.split_parameters(model)[0]] == ["0.weight", "1.weight"]


def test_follow_refuses_what_it_cannot_follow_and_changes_nothing() -> None:
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = bb.STE([("w", model.weight)], lr=0.1, seed=0)
    adam: Any = torch.optim.Adam(model.parameters())
    with pytest.raises(TypeError, match=r"needs a learning rule such as bitbayes.BayesBiNN.* got Adam"):
        bb.follow(model, adam)
    swapped: tuple[Any, Any] = optimizer, model
    with pytest.raises(TypeError, match="needs a network first, got STE"):
        bb.follow(*swapped)
    with pytest.raises(ValueError, match="the network has none of the optimizer's binary parameters"):
        bb.follow(other, optimizer)
    for each in (model, other):
        assert "train" not in vars(each) and not each.eval().training
    assert optimizer.training


def test_follow_finds_the_rule_inside_a_wrapper() -> None:
    """Accelerate's optimizer has a `train` of its own, without a mode."""

    class Wrapped:
        def __init__(self, optimizer: bb.STE) -> None:
            self.optimizer = optimizer

        def train(self) -> None:
            raise AssertionError

    model = torch.nn.Linear(2, 2)
    optimizer = bb.STE([("w", model.weight)], lr=0.1, seed=0)
    wrapped: Any = Wrapped(optimizer)
    bb.follow(model, wrapped)
    model.eval()
    assert not optimizer.training
