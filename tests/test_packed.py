"""Packed networks say what `model.eval()` says, on every backend; what cannot be packed is named."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bitbayes as bb
import needs
from bitbayes.packed import PackedNetwork, load
from bitbayes.packed.format.sliding import Sliding


def settled(model: nn.Module, *, scale: float | None = None) -> nn.Module:
    """±1 (or ±s) weights, and BatchNorm as after training: other statistics, factors of either sign."""
    generator = torch.Generator().manual_seed(1)
    for _, weight in bb.split_parameters(model)[0]:
        s = 1.0 if scale is None else scale
        weight.data = torch.where(torch.rand(weight.shape, generator=generator) < 0.5, -s, s)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 30, generator=generator)
            if module.affine:
                module.weight.data.normal_(generator=generator)
                module.bias.data.normal_(generator=generator)
        elif isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0.0, 0.5, generator=generator)
        elif isinstance(module, bb.nn.Shift):
            module.shift.data.normal_(generator=generator)
    return model.eval()


def grid(*shape: int) -> Tensor:
    """Inputs whose sums with ±1 are exact in float32, so that no sign hangs on the order of a sum."""
    return torch.randint(-16, 17, shape, generator=torch.Generator().manual_seed(2)) / 16


def agree(model: nn.Module, x: Tensor, tmp_path, rtol: float = 1e-5) -> PackedNetwork:
    """Packs, saves, loads, and compares both backends with the model; for one input, several, and none."""
    packed = bb.pack(model, x[:1])
    packed.save(tmp_path / "net.safetensors")
    with torch.no_grad():
        wanted = model(x)
    for backend in ("reference", "torch"):
        runtime = load(tmp_path / "net.safetensors", backend)
        for part in (x, x[:1], x[:0]):
            got = torch.as_tensor(runtime.outputs(part.numpy() if backend == "reference" else part))
            assert got.dtype == torch.float32 and got.shape == (1, len(part), *wanted.shape[1:])
            if len(part):
                bound = rtol * float(wanted.abs().max())
                torch.testing.assert_close(got[0], wanted[: len(part)], rtol=rtol, atol=bound)
                assert torch.equal(got[0].argmax(1), wanted[: len(part)].argmax(1))
    return packed


class Narrow(nn.Module):
    """All of the issue's layers in one small network of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(3, 8, 4, padding="same", bias=True)
        self.norm, self.sign = nn.BatchNorm1d(8), bb.nn.BinaryActivation("reste")
        self.depthwise = nn.Conv1d(8, 16, 3, stride=2, padding=2, dilation=2, groups=8, bias=False)
        self.act = nn.Sequential(nn.BatchNorm1d(16), nn.PReLU(16), bb.nn.BinaryActivation("swish"))
        self.point = nn.Conv1d(16, 16, 1, bias=False)
        self.rprelu, self.clip, self.drop = bb.nn.RPReLU(16), nn.Hardtanh(-2, 1.5), nn.Dropout(0.3)
        self.relu = nn.ReLU(inplace=True)
        self.pools = nn.ModuleList(
            [nn.MaxPool1d(3, 2, padding=1, ceil_mode=True), nn.AvgPool1d(3, 2, padding=1, count_include_pad=False)]
        )
        self.adapt = nn.AdaptiveAvgPool1d(3)
        self.split = nn.Unflatten(1, (4, 24))
        self.head = nn.Linear(96, 5)
        self.scale = bb.nn.LogitScale(3.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sign(self.norm(self.front(x)))
        y = self.act(self.depthwise(x))
        z = self.relu(self.clip(self.rprelu(self.point(y))) + y)
        z = self.drop(torch.cat([self.pools[0](z), self.pools[1](2 - z / 4)], 1))
        z = self.split(self.adapt(z).transpose(1, 2).flatten(1))
        return self.scale(self.head(z.view(z.shape[0], -1))).softmax(-1)


def test_mnist_mlp(tmp_path):
    packed = agree(settled(bb.nn.mlp(784, [96, 64], 10, dropout=0.2)), torch.randn(64, 784), tmp_path)
    steps = [step.op for step in packed.program.steps]
    assert steps == ["linear", "affine", "clamp"] * 2 + ["linear", "affine"]  # BatchNorm and the logit scale are one
    bits = [row.bits for row in packed.summary().rows if row.op == "linear"]
    assert bits == [784 * 96, 96 * 64, 64 * 10]
    assert (tmp_path / "net.safetensors").stat().st_size < packed.summary().bytes + 2000


@pytest.mark.parametrize("activation", ["relu", "sign"])
def test_binaryconnect_vgg(activation, tmp_path):
    model = settled(bb.nn.binaryconnect_vgg(10, width=0.0625, activation=activation))
    x = grid(6, 3, 32, 32) if activation == "sign" else torch.randn(6, 3, 32, 32)
    packed = agree(model, x, tmp_path)
    steps = [step.op for step in packed.program.steps]
    # The images are real, so the first layer's sums are no counts; every other sign is a comparison of integers.
    assert steps.count("threshold") == (7 if activation == "sign" else 0)
    assert steps.count("sign") == (1 if activation == "sign" else 0)
    assert steps.count("affine") == (2 if activation == "sign" else 9)
    assert (packed.summary().binary_ops > 0) == (activation == "sign")


def halved(model: nn.Module, factor: int) -> nn.Module:
    """The same network with a fraction of all channels but the input's and the classes'."""
    for name, module in list(model.named_modules()):
        parent = model.get_submodule(name.rpartition(".")[0])
        fewer: nn.Module | None = None
        if isinstance(module, nn.Conv2d):
            inputs = module.in_channels if module.in_channels == 3 else module.in_channels // factor
            fewer = nn.Conv2d(
                inputs, module.out_channels // factor, module.kernel_size, module.stride, module.padding, bias=False
            )
            fewer.__dict__["stays_real"] = getattr(module, "stays_real", False)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            fewer = type(module)(module.num_features // factor, affine=module.affine)
        elif isinstance(module, nn.PReLU | bb.nn.ChannelScale):
            (tensor,) = module.parameters()
            fewer = type(module)(len(tensor) // factor)
        elif isinstance(module, nn.Linear):
            fewer = bb.nn.keep_real(nn.Linear(module.in_features // factor, module.out_features))
        elif hasattr(module, "side"):
            module.side //= factor
        if fewer is not None:
            setattr(parent, name.rpartition(".")[2], fewer)
    for module in model.modules():
        if getattr(module, "stays_real", False):  # real weights with which sums are exact
            module.weight.data = (module.weight.data * 8).round() / 8
    return model


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: bb.nn.vgg_small(10), 32),
        (lambda: bb.nn.resnet18(10), 16),
        (lambda: bb.nn.resnet18(10, activation="sign"), 16),
    ],
    ids=["vgg_small", "resnet18", "resnet18-sign"],
)
def test_networks_of_the_experiments(make, size, tmp_path):
    packed = agree(settled(halved(make(), 8)), grid(3, 3, size, size), tmp_path)
    real = [row for row in packed.summary().rows if row.op in ("conv", "linear") and row.bits == 32 * row.weights]
    assert len(real) in (2, 5)  # stem, head, and the shortcuts that have weights


@pytest.mark.parametrize("activation", ["relu", "gelu", "sign"])
def test_speed_net(activation, tmp_path):
    torch.manual_seed(0)
    packed = agree(settled(bb.nn.speed_net(width=0.375, activation=activation)), torch.randn(3, 3, 32, 32), tmp_path)
    rows = [row for row in packed.summary().rows if row.op in ("conv", "linear")]
    assert [row.bits == row.weights for row in rows] == [False, *[True] * 6, False]  # whitening and head are real
    assert (packed.summary().binary_ops > 0) == (activation == "sign")


def test_network_of_a_user(tmp_path):
    packed = agree(settled(Narrow(), scale=0.125), grid(5, 3, 21), tmp_path)
    steps = [step.op for step in packed.program.steps]
    assert {"pad", "conv", "threshold", "prelu", "max_pool", "avg_pool", "adaptive_avg_pool", "add"} <= set(steps)
    assert {"concat", "permute", "reshape", "softmax", "clamp"} <= set(steps)
    depthwise = next(row for row in packed.summary().rows if row.layer == "depthwise (Conv1d)" and row.op == "conv")
    assert (depthwise.bits, depthwise.bytes, depthwise.real_ops) == (48, 16, 0)


def test_two_dimensional_corners(tmp_path):
    """Rectangular windows, grouped and dilated signs, comparisons and constants of every form."""

    class Corners(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=2, bias=True)
            self.last = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            signs = torch.where(x >= 0.25, 1.0, -1.0)
            x = self.grouped(signs) - torch.where(x.mean((2, 3)) < 0, 1.0, 0.5)[:, :1, None, None].expand(-1, 6, 1, 1)
            return self.last(nn.functional.leaky_relu(x, 0.2).mean((2, 3)))

    # torch 2.6 cannot trace it: its [:] of the batch has a largest length.
    with pytest.raises(ValueError, match=r"expand has no packed form|cannot trace Corners: Constraints violated"):
        bb.pack(settled(Corners()), grid(1, 4, 9, 5))

    class Allowed(Corners):
        def forward(self, x: Tensor) -> Tensor:
            x = self.grouped(torch.where(x >= 0.25, 1.0, -1.0))
            x = (
                1
                - 3 * (nn.functional.relu6(x) / 2 + x.clamp(max=1.0).neg())
                + (x > 0)
                + (x <= 2).float()
                - (x < -1) / 4
            )
            x = nn.functional.max_pool2d(nn.functional.pad(x, (1, 0, 2, 1)), (2, 1), (1, 2)).tanh()
            return self.last(nn.functional.leaky_relu(x, 0.2).mean((2, 3))).sigmoid()

    packed = agree(settled(Allowed()), grid(4, 4, 9, 5), tmp_path)
    grouped = next(row for row in packed.summary().rows if row.op == "conv")
    assert grouped.binary_ops > 0 and grouped.real_ops == 0


def test_thresholds_are_exact_at_every_count():
    """A single layer of signs: all sums that are possible, against BatchNorm and PReLU in float64."""
    inputs = 24
    layers = [nn.Linear(inputs, 5, bias=True), nn.BatchNorm1d(5), nn.PReLU(5), bb.nn.BinaryActivation()]
    model = settled(nn.Sequential(bb.nn.BinaryActivation(), *layers))
    model[1].weight.data[:] = 1.0
    model[2].running_mean.copy_(torch.tensor([0.0, 4.0, -6.0, 100.0, 1.0]))  # ties, and a channel that is never +1
    model[1].bias.data.zero_()
    model[2].weight.data[:] = torch.tensor([1.0, -2.0, 3.0, 1.0, -0.5])
    model[2].bias.data.zero_()
    packed = bb.pack(model, torch.zeros(1, inputs))
    assert [step.op for step in packed.program.steps] == ["sign", "linear", "threshold"]
    x = torch.ones(inputs + 1, inputs) - 2 * torch.ones(inputs + 1, inputs).tril(-1)  # sums 24, 22, ..., -24
    wanted = copy.deepcopy(model).double()(x.double()).detach().numpy()
    for backend in ("reference", "torch"):
        got = np.asarray(load(packed, backend).outputs(x.numpy() if backend == "reference" else x))[0]
        assert np.array_equal(got, wanted)
    assert (wanted[:, 3] == -1).all() and len({row.tobytes() for row in wanted}) > 4


@pytest.mark.parametrize(
    ("before", "kept"),
    [(0.3, []), (-0.3, ["prelu"]), (0.0, ["prelu"]), (nn.Hardtanh(), []), (nn.ReLU(), ["clamp"])],
    ids=str,
)
def test_what_changes_no_sign_is_not_computed_before_one(before, kept, tmp_path):
    activation = nn.PReLU(4) if isinstance(before, float) else before
    first = bb.nn.keep_real(nn.Linear(9, 4))
    model: Any = settled(nn.Sequential(first, activation, bb.nn.BinaryActivation(), nn.Linear(4, 3, bias=False)))
    if isinstance(before, float):
        activation.weight.data[1:], activation.weight.data[0] = 0.5, before
    packed = agree(model, torch.randn(64, 9), tmp_path)
    assert [step.op for step in packed.program.steps] == ["linear", "affine", *kept, "sign", "linear"]


def test_batchnorm_is_rounded_where_torch_rounds_it():
    """A sign may be taken of its result: at one and at zero torch shows the scale and shift that it computes with."""
    norm = nn.BatchNorm1d(200)
    model: Any = settled(nn.Sequential(nn.Linear(3, 200, bias=False), norm))
    packed = bb.pack(model, torch.zeros(1, 3))
    found = {role: packed.tensors[name] for role, name in packed.program.steps[-1].tensors.items()}
    bare = F.batch_norm(torch.ones(1, 200), torch.zeros(200), norm.running_var, norm.weight, None, eps=norm.eps)
    assert np.array_equal(found["scale"], bare.detach().numpy()[0])
    np.testing.assert_array_max_ulp(found["shift"], norm(torch.zeros(1, 200)).detach().numpy()[0], 1)


def test_a_scale_for_each_channel_and_a_tied_weight(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).relu())

    model: Any = settled(Tied())
    model.one.weight.data *= torch.linspace(0.1, 2, 16)[:, None]
    packed = agree(model, torch.randn(8, 16), tmp_path)
    assert sum(tensor.nbytes for tensor in packed.tensors.values() if tensor.dtype == np.uint8) == 32
    model.one.weight.data[0, 0] *= 1.0001
    with pytest.raises(ValueError, match="no weight of a linear layer or convolution is binary"):
        bb.pack(model, torch.randn(8, 16))


def test_ensemble_is_predict(tmp_path):
    """C networks in one file: the same outputs, mean probabilities and uncertainty as `bb.predict`."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), bb.nn.BinaryActivation(), nn.Flatten())
    model += nn.Sequential(nn.Linear(64, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, scale="fan_in", seed=0)
    optimizer.eval()
    nn.init.uniform_(model.get_buffer("5.running_mean"))
    posterior, x = optimizer.posterior(), grid(7, 2, 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = []
    for batches in (None, [grid(40, 2, 10)]):
        packed = bb.pack(model, x, posterior, samples=5, seed=4, batches=batches)
        packed.save(tmp_path / "net.safetensors")
        sizes.append(packed.summary().bytes)
        wanted = bb.predict(model, x, posterior, samples=5, seed=4, batches=batches)
        for backend in ("reference", "torch"):
            got = load(tmp_path / "net.safetensors", backend).predict(x.numpy() if backend == "reference" else x)
            for name in ("outputs", "probs", "entropy", "mutual_information", "mean", "std"):
                ours = torch.as_tensor(getattr(got, name))
                torch.testing.assert_close(ours, getattr(wanted, name), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training and packed.summary().samples == 5
    bits = sum(8 * np.ceil(fan / 8) / 8 * outputs for fan, outputs in ((6, 8), (64, 24), (24, 3)))
    norms, biases = 2 * 4 * (8 + 24), 4 * 3 + 4  # of the last layer, its scale too
    assert sizes == [5 * bits + norms + biases, 5 * (bits + norms) + biases]  # what all share is there once


def test_float16_halves_what_is_real(tmp_path):
    model, x = settled(bb.nn.mlp(64, [32], 4)), torch.randn(20, 64)
    whole, half = bb.pack(model, x), bb.pack(model, x, real="float16", about={"for": "tests"})
    assert whole.summary().bytes - half.summary().bytes == 2 * 2 * (32 + 4)
    half.save(tmp_path / "net.safetensors")
    with torch.no_grad():
        wanted = model(x)
    runtime = load(tmp_path / "net.safetensors", "torch")
    torch.testing.assert_close(runtime.outputs(x)[0], wanted, rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(load(half).outputs(x.numpy())[0], wanted, rtol=5e-3, atol=5e-3)
    assert runtime.network.program.about == {"for": "tests"}


class Refused(nn.Module):
    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.first, self.odd = nn.Linear(8, 8), odd

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.first(x))


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2) @ x.unsqueeze(1)


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sign()


class Drop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


class Pooled(nn.Module):
    """Pools what torch takes for one image of N channels."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x.unflatten(1, (2, 4)), 2)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 2, 4).flatten(1)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(8)


class Either(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x >= 0) + (x >= 1)).float()


class Wider(nn.Module):
    """Adds zeros that make its output wider."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] + (x - x)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Bytes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(torch.int32).float()


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half() + 1


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (nn.GroupNorm(2, 8), r"cannot pack layer 'odd \(GroupNorm\)': group_norm has no packed form"),
        (nn.LayerNorm(8, eps=0), r"cannot pack layer 'odd \(LayerNorm\)': its eps must be at least 1e-30, got 0"),
        (nn.Softplus(), r"cannot pack layer 'odd \(Softplus\)': softplus has no packed form"),
        (nn.BatchNorm1d(8, track_running_stats=False), r"'odd \(BatchNorm1d\)': it has no running statistics"),
        (Product(), r"'odd \(Product\)': the product of two activations has no packed form"),
        (Sign(), r"'odd \(Sign\)': torch.sign is 0 at 0, .* use bitbayes.nn.BinaryActivation"),
        (Drop(), r"'odd \(Drop\)': dropout has no packed form"),
        (Noisy(), r"'odd \(Noisy\)': randn has no packed form"),
        (Either(), r"'odd \(Either\)': the sum of two comparisons is true if one of them is; call \.float\(\)"),
        (Wider(), r"'odd \(Wider\)': shapes \(N, 1\) and \(N, 8\) cannot be combined here"),
        (Counting(), "the network changes its buffer 'odd.calls' whenever it computes; remove that for packing"),
        (Mean(), r"'odd \(Mean\)': a mean must not be over the batch"),
        (Pooled(), r"pooling needs inputs with a batch axis"),
        (Branch(), "torch.export cannot trace Refused"),
        (Half(), r"'odd \(Half\)': it computes in torch.float16"),
        (Bytes(), r"'odd \(Bytes\)': it reads the bytes of torch.float32 as torch.int32"),
        (Fixed(), r"cannot trace Refused: .*; it treats the batch size as fixed: write x.shape\[0\] where it has len"),
    ],
)
def test_refusals_name_the_layer(odd, message):
    with pytest.raises(ValueError, match=message) as caught:
        bb.pack(settled(Refused(odd)), torch.zeros(1, 8))
    assert "\n" not in str(caught.value)


class Tokens(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        bag = nn.EmbeddingBag(11, 8)
        self.words = {"tokens": nn.Embedding(11, 8), "bag": bag}.get(kind, nn.Identity())
        self.mix = nn.GRU(8, 8, batch_first=True) if kind == "gru" else nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.words(x))
        x = x[0] if isinstance(x, tuple) else x
        return self.head(x.mean(1) if x.dim() == 3 else x)


@pytest.mark.parametrize(
    ("kind", "example", "message"),
    [
        ("tokens", torch.zeros(2, 5), r"cannot trace Tokens: .*; it has an embedding, so give token ids \(int64\)"),
        (
            "bag",
            torch.zeros(2, 5, dtype=torch.int64),
            r"layer 'words \(EmbeddingBag\)': a bag of embeddings has no packed form; pack the part",
        ),
        (
            "gru",
            torch.zeros(2, 5, 8),
            r"layer 'mix \(GRU\)': a recurrent layer has no packed form; pack the part",
        ),
    ],
)
def test_whole_layers_without_a_packed_form(kind, example, message):
    model = Tokens(kind)
    bb.STE([model.head.weight], seed=0).eval()
    with pytest.raises(ValueError, match=message) as caught:
        bb.pack(model, example)
    assert "\n" not in str(caught.value)


def test_an_average_of_networks_is_refused():
    model = settled(nn.Sequential(nn.Linear(8, 4)))
    with pytest.raises(ValueError, match=r"got an AveragedModel, whose weights are means .* optimizer\.eval\(\)"):
        bb.pack(torch.optim.swa_utils.AveragedModel(model), torch.zeros(1, 8))


def test_refusals_of_arguments():
    model = settled(nn.Sequential(nn.Linear(8, 4)))
    packed = bb.pack(model, torch.zeros(3, 8))
    optimizer = bb.BayesBiNN([("0.weight", model[0].weight)], ess=10, seed=0)
    for wrong, message in [
        (
            lambda: bb.pack(model, torch.zeros(1, 8).double()),
            r"got torch.float64; give x.float\(\), .* whatever the type",
        ),
        (lambda: bb.pack(model, torch.zeros(0, 8)), r"got torch.float32 of shape \(0, 8\)"),
        (lambda: bb.pack(model, torch.zeros(1, 8), real="bfloat16"), "real must be 'float32' or 'float16'"),
        (lambda: bb.pack(model, torch.zeros(1, 8), optimizer.posterior(), samples=0), "samples must be at least 1"),
        (lambda: load(packed, "openvino2"), r"backend must be one of 'reference', .*, got 'openvino2'"),
        (lambda: load(packed, "torch", device="nowhere"), "device 'nowhere' cannot be used"),
        (
            lambda: load(packed, "reference", threads=2),
            "the backend 'reference' has no option 'threads'; it has none",
        ),
        (lambda: load(packed, "native", device="cpu"), "the backend 'native' has no option 'device'; it has threads"),
        (lambda: load(packed, "native", threads=-1), "threads must be at least 0, got -1"),
        (
            lambda: bb.pack(model, torch.zeros(1, 8), about={"accuracy": 97.5}),
            "texts to texts, got 97.5 for 'accuracy'",
        ),
        (lambda: bb.pack(model, torch.zeros(1, 8), about=["x"]), "about must map texts to texts, got"),
        (lambda: bb.pack(model, torch.zeros(1, 8), about={"x": "y" * 300_000}), "about has 300001 characters, but a"),
        (lambda: load(packed).outputs(np.zeros((2, 7))), r"expected inputs of shape \(N, 8\), got \(2, 7\)"),
        (lambda: load(packed).outputs(np.zeros((2, 8), np.uint8)), "floating-point inputs, got uint8"),
        (lambda: load(packed, "torch").outputs(torch.full((2, 8), torch.nan)), "expected finite inputs, got NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
    for wrong, message in [
        (
            lambda: bb.pack(model, {"input_ids": torch.zeros(1, 8)}),
            "the example must be .*, got dict; convert",
        ),
        (
            lambda: bb.pack(model, (torch.zeros(1, 8),)),
            "the example must be .*, got tuple; convert",
        ),
        (
            lambda: bb.pack(model, np.zeros((1, 8), np.float32)),
            "the example must be .*, got ndarray; convert",
        ),
        (lambda: bb.predict(model, {"x": torch.zeros(1, 8)}), "x must be one tensor of shape .*, got dict; convert"),
        (
            lambda: bb.Ensemble(model, optimizer.posterior(), 2).predict([0]),
            "x must be one .*, got list; convert",
        ),
        (lambda: load(packed, "native", threads="2"), "threads must be an integer, got '2'"),
    ]:
        with pytest.raises(TypeError, match=message):
            wrong()
    optimizer.eval()
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match="numbers that are not finite"):
        bb.pack(model, torch.zeros(1, 8))
    assert not model.training


@pytest.mark.parametrize("backend", ["reference", "torch", pytest.param("native", marks=needs.kernels("inference"))])
def test_backends_take_tensors_as_they_come(backend):
    model, x = settled(nn.Sequential(nn.Linear(8, 4))), torch.randn(3, 8)
    runtime = load(bb.pack(nn.DataParallel(model), x), backend)
    wanted = np.asarray(runtime.outputs(x))
    for given in (x.clone().requires_grad_(), x.double(), x.bfloat16()):
        found = np.asarray(torch.as_tensor(runtime.outputs(given)).detach())
        np.testing.assert_allclose(found, wanted, rtol=0.02, atol=0.05)


def test_packing_leaves_the_optimizer_alone():
    """A followed model is not switched to its mode, whatever pack does to its modules."""
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5))
    optimizer = bb.BayesBiNN([("0.weight", model[0].weight)], ess=10, seed=0)
    bb.follow(model, optimizer)
    bb.pack(model, torch.zeros(1, 8), draw=True)
    assert model.training and model[1].training and optimizer.training


@pytest.mark.parametrize("size", [5, 8, 13])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 0, 2), (2, 3, 1, 1), (4, 2, 2, 1)]
)
def test_windows_are_those_of_torch(size, kernel, stride, padding, dilation):
    """Numbers of places, with both roundings, what windows see, and which taps lie inside the input."""
    for ceil in (False, True):
        sliding = Sliding((kernel,), (stride,), (padding,), (dilation,), ceil)
        x = torch.arange(1.0, size + 1)[None, None]
        wanted = F.max_pool1d(x, kernel, stride, padding, dilation, ceil)[0, 0]
        ((before, after),), places = sliding.pads((size,)), sliding.places((size,))
        windows = sliding.windows(np.pad(x.numpy(), ((0, 0), (0, 0), (before, after))))[0, 0, : places[0]]
        assert places == tuple(wanted.shape) and np.array_equal(windows.max(-1), wanted)
        (ends,) = sliding.seen((size,))
        inside = [[first <= tap < end for tap in range(kernel)] for first, end in ends]
        assert np.array_equal(inside, windows > 0)
    conv = F.conv1d(x, torch.ones(1, 1, kernel), None, stride, padding, dilation)
    two = Sliding((kernel,), (stride,), (padding,), (dilation,)).in_two_axes()
    assert two.places((1, size)) == (1, conv.shape[-1]) and Sliding.covering((2, size)).places((2, size)) == (1, 1)


def test_weights_as_the_layers_have_them():
    """±1 or real, in torch's shapes, for each of the C networks."""
    model = nn.Sequential(nn.Conv2d(4, 6, (3, 2), groups=2, bias=False), nn.Flatten(), nn.Linear(24, 3, bias=False))
    bb.nn.keep_real(model[2])
    optimizer = bb.BayesBiNN([("0.weight", model[0].weight)], ess=10, seed=0)
    posterior, x = optimizer.posterior(), torch.zeros(1, 4, 4, 3)
    packed = bb.pack(model, x, posterior, samples=3, seed=1)
    layers = [step for step in packed.program.steps if step.op in ("conv", "linear")]
    for sample in range(3):
        wanted = posterior.sample_at(sample, seed=1)["0.weight"]
        assert np.array_equal(packed.weight(layers[0], sample), wanted)
        assert np.array_equal(packed.weight(layers[1], sample), model[2].weight.detach())
    assert [len(packed.stacked(step)["weight"]) for step in layers] == [3, 1]
