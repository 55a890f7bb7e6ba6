"""Binary activations: exact signs forward, the stated formulas backward, under every way of running them."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitbayes as bb

NAMES = ["clipped", "approx", "reste", "swish"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def activation(name: str, o: float = 2.0) -> bb.nn.BinaryActivation:
    module = bb.nn.BinaryActivation(name)
    if name == "reste":
        module.o = o
    return module


def slope(name: str, x: float, o: float = 2.0) -> float:
    """The derivatives once more, one number at a time."""
    size = abs(x)
    if name == "clipped":
        return 1.0 if size <= 1 else 0.0
    if name == "approx":
        return max(0.0, 2 - 2 * size)
    if name == "reste":
        return max(size, 0.1) ** ((1 - o) / o) / o if size <= 1.5 else 0.0
    return 5 * (2 - 5 * x * math.tanh(5 * x / 2)) / (1 + math.cosh(5 * x)) if size < 100 else 0.0


def primitive(name: str, x: Tensor, o: float = 2.0) -> Tensor:
    """The smooth function that stands for sign, where the derivative is that of a published one."""
    if name == "clipped":
        return x.clamp(-1, 1)
    if name == "approx":
        return torch.where(x.abs() < 1, x * (2 - x.abs()), x.sign())
    if name == "reste":  # the power between 0.1 and 1.5
        return x.sign() * x.abs() ** (1 / o)
    sigmoid = torch.sigmoid(5 * x)
    return 2 * sigmoid * (1 + 5 * x * (1 - sigmoid)) - 1


def gradient(module: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    return x.grad


EDGES = [0.0, -0.0, 1e-30, -1e-30, 0.1, -0.1, 0.05, 1.0, -1.0, 1.5, -1.5, 1.0001, 2.0, 99.0, -101.0, 1e4, -6e4]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_forward_is_exactly_the_sign(name, dtype) -> None:
    random = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 2
    x = torch.cat([torch.tensor(EDGES), random, random / 100]).to(dtype)
    x = torch.cat([x, torch.tensor([math.inf, -math.inf], dtype=dtype)])
    out = activation(name)(x)
    assert out.dtype == dtype
    assert torch.equal(out, torch.where(x >= 0, 1.0, -1.0).to(dtype))
    assert out[:2].tolist() == [1.0, 1.0]  # of 0 and of −0
    assert activation(name)(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_the_formula(name) -> None:
    x = torch.cat([torch.linspace(-3, 3, 1201, dtype=torch.float64), torch.tensor(EDGES, dtype=torch.float64)])
    expected = torch.tensor([slope(name, value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(gradient(activation(name), x), expected, rtol=1e-12, atol=1e-14)
    infinite = torch.tensor([math.inf, -math.inf])
    assert gradient(activation(name), infinite).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", NAMES)
def test_backward_in_low_precision(name, dtype) -> None:
    x = torch.linspace(-2, 2, 101).to(dtype)
    found = gradient(activation(name), x)
    expected = torch.tensor([slope(name, value) for value in x.tolist()], dtype=torch.float64)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps * 5)


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_integrates_to_the_published_function(name) -> None:
    # Midpoints, on pieces whose ends are the kinks.
    for low, high in [(-1.0, -0.1), (-1.0, -0.25), (0.1, 1.0), (0.5, 1.0), (1.0, 1.5)]:
        ends = torch.linspace(low, high, 20_001, dtype=torch.float64)
        middle = (ends[1:] + ends[:-1]) / 2
        integral = gradient(activation(name), middle).mean() * (high - low)
        change = primitive(name, torch.tensor(high).double()) - primitive(name, torch.tensor(low).double())
        assert abs(integral - change) < 1e-7, (low, high)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 'aprox'; the nearest is 'approx'"):
        bb.nn.BinaryActivation("aprox")


def test_o_of_reste_is_set_saved_and_checked() -> None:
    module = bb.nn.BinaryActivation("reste")
    x = torch.linspace(-1.4, 1.4, 9)
    assert module.o == 1 and torch.equal(gradient(module, x), torch.ones(9))  # the identity
    module.o = 3
    assert module.o == 3
    for other in [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]:
        assert other.o == 3
    other = bb.nn.BinaryActivation("reste")
    other.load_state_dict(module.state_dict())
    assert other.o == 3
    for value in [0.5, math.nan]:
        with pytest.raises(ValueError, match="o must be at least 1"):
            module.o = value
    with pytest.raises(AttributeError):
        bb.nn.BinaryActivation("approx").o = 2


def test_changing_o_compiles_nothing_anew() -> None:
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    module = activation("reste", 1.0)
    compiled = torch.compile(module, backend=counting, fullgraph=True)
    for o in [1.0, 2.0, 3.0]:
        module.o = o
        x = torch.tensor([0.5], dtype=torch.float64)
        assert gradient(compiled, x).item() == pytest.approx(slope("reste", 0.5, o), abs=1e-12)
    assert len(graphs) == 1


class Block(nn.Module):
    """Everything of the file at once."""

    def __init__(self, name: str = "approx") -> None:
        super().__init__()
        self.shift, self.sign = bb.nn.Shift(3), activation(name)
        self.convolution = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.scale, self.norm, self.after = bb.nn.ChannelScale(4), nn.BatchNorm2d(4), bb.nn.RPReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        signs = self.sign(self.shift(x))
        return self.after(self.norm(self.scale(self.convolution(signs))))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_compiled_is_eager(name) -> None:
    block, x = Block(name), images(2, 3, 5, 5)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))
    torch.testing.assert_close(gradient(compiled, x), gradient(block, x))


# The first jvp of a process makes torch import a module of its own that still uses torch.jit.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning:torch.jit._script")
@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_jvp(name) -> None:
    block, x = Block(name).eval(), images(2, 3, 5, 5)
    stacked = {key: torch.stack([p, -p, 2 * p]) for key, p in block.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(block, parameters, (x,)).square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(stacked)
    for index in range(3):
        single = torch.func.grad(loss)({key: value[index] for key, value in stacked.items()})
        for key, value in single.items():
            torch.testing.assert_close(together[key][index], value, rtol=1e-4, atol=1e-5)
    module = activation(name).double()
    points = torch.linspace(-2, 2, 41, dtype=torch.float64)
    result = torch.func.jvp(module, (points,), (torch.ones_like(points),))
    torch.testing.assert_close(result[1], gradient(module, points))


@pytest.mark.parametrize("name", NAMES)
def test_autocast_stays_bfloat16(name) -> None:
    block, x = Block(name), images(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        signs = block.sign(x.bfloat16())
        out = block(x)
        narrow = nn.Sequential(bb.nn.ChannelScale(3), bb.nn.Shift(3))(x.bfloat16())
    assert signs.dtype == narrow.dtype == torch.bfloat16
    assert torch.equal(signs.abs(), torch.ones_like(signs))
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_exported_with_any_batch(name) -> None:
    block = nn.Sequential(bb.nn.ImageInput(3, 5), Block(name)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(block, (images(2, 3, 5, 5),), dynamic_shapes=({0: batch},))
    x = images(7, 3, 5, 5)
    torch.testing.assert_close(program.module()(x), block(x))


def test_double_precision() -> None:
    block = Block().double()
    assert block(images(2, 3, 5, 5).double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (4, 3, 2, 5, 6)])
def test_channels_are_dimension_one_at_every_rank(shape) -> None:
    x = images(*shape)
    shift, scale, rprelu = bb.nn.Shift(3), bb.nn.ChannelScale(3), bb.nn.RPReLU(3)
    values = torch.tensor([1.0, -2.0, 0.5])
    with torch.no_grad():
        for parameter in [shift.shift, scale.scale, rprelu.before.shift, rprelu.prelu.weight]:
            parameter.copy_(values)
        rprelu.after.shift.copy_(values.flip(0))
    for channel, value in enumerate(values):
        one = x[:, channel]
        torch.testing.assert_close(shift(x)[:, channel], one + value)
        torch.testing.assert_close(scale(x)[:, channel], one * value)
        moved = one + value
        expected = torch.where(moved > 0, moved, value * moved) + values[2 - channel]
        torch.testing.assert_close(rprelu(x)[:, channel], expected)
    assert bb.nn.BinaryActivation()(x).shape == x.shape


@pytest.mark.parametrize("module", [bb.nn.Shift(3), bb.nn.ChannelScale(3), bb.nn.RPReLU(3), bb.nn.ChannelScale(1)])
def test_a_wrong_number_of_channels_is_refused(module) -> None:
    for shape in [(2, 4, 5), (3,)]:
        with pytest.raises(ValueError, match=r"expected [13] channels in dimension 1, got shape"):
            module(torch.zeros(shape))


def test_starts() -> None:
    torch.manual_seed(0)
    scale = bb.nn.ChannelScale(10_000).scale
    assert scale.min() >= 0 and scale.max() < 1 and abs(scale.mean() - 0.5) < 0.02
    assert abs(scale.std() - 12**-0.5) < 0.01
    assert torch.equal(bb.nn.Shift(3).shift, torch.zeros(3))
    assert torch.equal(bb.nn.RPReLU(2).prelu.weight, torch.full((2,), 0.25))


class ReActBlock(nn.Module):
    """A block of ReActNet (Liu et al., ECCV 2020): RSign, 3x3, BatchNorm, skip, RPReLU, and the same with 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                bb.nn.Shift(channels),
                bb.nn.BinaryActivation(),
                nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(channels),
            )
            for kernel in (3, 1)
        )
        self.activations = nn.ModuleList(bb.nn.RPReLU(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for branch, activation in zip(self.branches, self.activations, strict=True):
            x = activation(branch(x) + x)
        return x


def test_a_network_of_reactnet_blocks_learns_and_packs() -> None:
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 3, 6, 6) + 2 * torch.eye(3)[y][:, :, None, None]
    stem, pool = bb.nn.keep_real(nn.Conv2d(3, 8, 3, padding=1)), nn.AdaptiveAvgPool2d(1)
    head = bb.nn.keep_real(nn.Linear(8, 3))
    model = nn.Sequential(stem, ReActBlock(8), ReActBlock(8), pool, nn.Flatten(), head)
    binary, real = bb.split_parameters(model)
    assert [parameter.shape[-1] for _, parameter in binary] == [3, 1, 3, 1]
    before = {name: parameter.detach().clone() for name, parameter in real}
    optimizers = bb.STE(binary, lr=1e-2, seed=0), torch.optim.Adam([parameter for _, parameter in real], lr=1e-2)
    for _ in range(40):
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    rprelu = [name for name in before if "activations" in name]
    assert len(rprelu) == 3 * 4 and all(not torch.equal(before[name], model.get_parameter(name)) for name in rprelu)
    optimizers[0].eval()
    found = bb.predict(model, x, batches=[x])
    assert float((found.probs.argmax(1) == y).float().mean()) > 0.95
    packed = bb.predict(model, x, batches=[x], backend="reference")
    torch.testing.assert_close(packed.outputs, found.outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(), (4,), (3, 4), (2, 3, 4)])
def test_channels_are_padded_in_dimension_1(sizes):
    x = torch.randn(5, 3, *sizes)
    wide = bb.nn.PadChannels(4)(x)
    assert wide.shape == (5, 7, *sizes) and torch.equal(wide[:, 2:5], x) and not wide[:, [0, 1, 5, 6]].any()
    with pytest.raises(ValueError, match=r"expected inputs of shape \(N, C, ...\), got \(3,\)"):
        bb.nn.PadChannels(2)(torch.ones(3))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_logit_scale_is_positive_and_finite(scale):
    with pytest.raises(ValueError, match="the initial scale must be positive and finite"):
        bb.nn.LogitScale(scale)
