"""Image networks of the experiments: published sizes, what is real, shapes, refusals."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn

import bitbayes as bb
from bitbayes.lab.recipes import make_config, make_experiment
from bitbayes.lab.train.loop import training_step
from generated import write

bn = bb.nn
RESNET = 10_985_472
STEM = 3 * 64 * 9
SHORTCUTS = 64 * 128 + 128 * 256 + 256 * 512
NORMS = 2 * 4 * (64 + 128 + 256 + 512)  # factor and shift, four a stage
SCALES = 4 * (64 + 128 + 256 + 512)
SPEED = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
SPEED_OUTPUTS = 2 * (64 + 256 + 256)
ALEXNET_FIRST = 3 * 96 * 121 + 96 + 2 * 96
ALEXNET_MIDDLE = 4 * (256 + 384 + 384 + 256 + 4096 + 4096)  # bias, Alpha, BatchNorm's two
IMAGENET_NORMS = NORMS + 2 * (64 + 128 + 256 + 512)  # stem and shortcuts besides


def head(inputs: int, classes: int, norm: bool = True) -> int:
    return inputs * classes + classes + (2 * inputs if norm else 0)


# How it is made, binary weights, real parameters: methods.md 1.6 and 2.3, and sums by hand.
COUNTS = {
    "binaryconnect_vgg-10": (lambda: bn.binaryconnect_vgg(10), 14_022_016, 0),
    "binaryconnect_vgg-100": (lambda: bn.binaryconnect_vgg(100), 14_114_176, 0),
    "binaryconnect_vgg-sign": (lambda: bn.binaryconnect_vgg(10, activation="sign"), 14_022_016, 0),
    "binaryconnect_vgg-scale": (lambda: bn.binaryconnect_vgg(10, logit_scale=True), 14_022_016, 1),
    "vgg16-10": (lambda: bn.vgg16(10), 15_239_872, 2 * (64 + 128) + 3 * 256 + 8 * 512 + 10),
    "vgg16-100": (lambda: bn.vgg16(100), 15_285_952, 2 * (64 + 128) + 3 * 256 + 8 * 512 + 100),
    "vgg_small": (
        lambda: bn.vgg_small(10),
        4_571_136,
        # Stem, BatchNorm and PReLU of six layers, Alpha of five, head.
        3 * 128 * 9 + 3 * 2 * (128 + 256 + 512) + (128 + 2 * 256 + 2 * 512) + head(8192, 10, norm=False),
    ),
    "narrow_vgg": (
        lambda: bn.narrow_vgg(10),
        9 * (32 * 64 + 64 * 128 + 128 * 128) + 128 * 4 * 4 * 256,
        3 * 32 * 9 + 256 * 10 + 1,
    ),
    # Whitening with its bias, BatchNorm's two, head, logit scale.
    "speed_net": (bn.speed_net, SPEED, 24 * 12 + 24 + 2 * SPEED_OUTPUTS + 2560 + 1),
    # Also the shift before every sign, and the three parts of RPReLU.
    "speed_net-sign": (
        lambda: bn.speed_net(activation="sign"),
        SPEED,
        24 * 12 + 24 + 5 * SPEED_OUTPUTS + (2 * 64 + 3 * 256) + 2560 + 1,
    ),
    "resnet18": (lambda: bn.resnet18(10), RESNET, STEM + 128 + SCALES + NORMS + SHORTCUTS + head(512, 10)),
    "resnet18-sign": (
        lambda: bn.resnet18(100, activation="sign"),
        RESNET,
        STEM + 128 + SCALES + NORMS + head(512, 100),
    ),
    "resnet18-tiny": (
        lambda: bn.resnet18(200, input="tiny-imagenet"),
        RESNET,
        STEM + 128 + SCALES + NORMS + SHORTCUTS + head(512, 200),
    ),
    "resnet18_imagenet": (
        bn.resnet18_imagenet,
        RESNET,
        3 * 64 * 49 + SCALES + IMAGENET_NORMS + SHORTCUTS + head(512, 1000),
    ),
    "birealnet18": (bn.birealnet18, RESNET, 3 * 64 * 49 + SCALES + IMAGENET_NORMS + SHORTCUTS + head(512, 1000)),
    "alexnet": (bn.alexnet, 58_236_928, ALEXNET_FIRST + ALEXNET_MIDDLE + head(4096, 1000, norm=False)),
    "alexnet-sign": (
        lambda: bn.alexnet(10, activation="sign"),
        58_236_928,
        ALEXNET_FIRST + ALEXNET_MIDDLE + head(4096, 10, norm=False),
    ),
}


def on_meta(make) -> Any:
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("name", COUNTS)
def test_binary_and_real_counts(name) -> None:
    make, binary, real = COUNTS[name]
    model = on_meta(make)
    counted = bb.summary(model)
    assert (counted.binary_weights, counted.real_weights) == (binary, real)
    assert all(parameter.dim() in (2, 4) for _, parameter in bb.split_parameters(model)[0])


@pytest.mark.parametrize(
    ("make", "shape", "classes"),
    [
        (lambda: bn.binaryconnect_vgg(10, width=0.0625), (2, 3, 32, 32), 10),
        (lambda: bn.binaryconnect_vgg(100, width=0.0625, activation="sign"), (2, 3, 32, 32), 100),
        (lambda: bn.binaryconnect_vgg(10, width=0.0625), (2, 3072), 10),
        (lambda: bn.vgg16(10), (2, 3, 32, 32), 10),
        (lambda: bn.vgg_small(10), (2, 3, 32, 32), 10),
        (lambda: bn.narrow_vgg(10, activation="sign"), (2, 3, 32, 32), 10),
        (lambda: bn.narrow_vgg(10, dropout=0.5), (2, 3, 32, 32), 10),
        (lambda: bn.speed_net(7), (2, 3, 32, 32), 7),
        (lambda: bn.speed_net(activation="relu", width=0.5), (2, 3072), 10),
        (lambda: bn.speed_net(activation="sign", width=1.5), (2, 3, 32, 32), 10),
        (lambda: bn.speed_net(activation="sign", width=0.7), (2, 3, 32, 32), 10),
        (lambda: bn.resnet18(10), (2, 3, 32, 32), 10),
        (lambda: bn.resnet18(10), (2, 3, 13, 21), 10),
        (lambda: bn.resnet18(100, activation="sign"), (2, 3, 32, 32), 100),
        (lambda: bn.resnet18(200, input="tiny-imagenet"), (2, 3, 64, 64), 200),
        (lambda: bn.resnet18(200, input="tiny-imagenet", activation="sign"), (2, 3, 64, 64), 200),
        (bn.resnet18_imagenet, (2, 3, 64, 64), 1000),
        (bn.birealnet18, (2, 3, 64, 64), 1000),
    ],
)
def test_logits_and_gradients(make, shape, classes) -> None:
    torch.manual_seed(0)
    model = make()
    x = torch.randn(shape)
    out = model(x)
    assert out.shape == (shape[0], classes) and out.isfinite().all()
    out.square().sum().backward()
    binary, real = bb.split_parameters(model)
    # Also through every sign, and into real parameters.
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in binary + real)
    assert all(p.grad.abs().sum() > 0 for _, p in binary)
    assert model.eval()(x[:1]).shape == (1, classes)


def kinds(model: nn.Sequential) -> list[str]:
    return [type(m).__name__ for m in model]


def test_only_the_first_binary_convolution_of_the_speed_net_sees_numbers() -> None:
    for width in (0.375, 1.0):  # at the first width, the second convolution has as many inputs as the first
        model, seen = bn.speed_net(activation="sign", width=width, images=torch.randn(20, 3, 32, 32)), []
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(functools.partial(note_input, seen, module.kernel_size == (3, 3)))
        model(torch.randn(2, 3, 32, 32))
        assert seen == [(False, False), (True, False), *[(True, True)] * 5]


def test_dropout_precedes_the_linear_layers() -> None:
    network = bn.narrow_vgg(10, dropout=0.5)
    found = kinds(network)
    before = [index for index, kind in enumerate(found) if kind == "Dropout"]
    assert [found[index + 1] for index in before] == ["Linear", "Linear"]
    assert all(network[index].p == 0.5 for index in before)
    assert network[before[0]] is not network[before[1]]
    assert "Dropout" not in kinds(bn.narrow_vgg(10))
    for wrong in (-0.1, 1.5, float("nan"), "0.5", None):
        for make in (bn.narrow_vgg, functools.partial(bn.mlp, 4, [3])):
            with pytest.raises(ValueError, match=rf"a dropout probability must be in \[0, 1\], got {wrong!r}"):
                make(2, dropout=wrong)


@pytest.mark.parametrize("activation", ["real", "sign"])
def test_alexnet_takes_224(activation) -> None:
    model = on_meta(lambda: bn.alexnet(7, activation=activation))
    assert model(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 7)
    relus, signs = kinds(model).count("ReLU"), kinds(model).count("BinaryActivation")
    assert (relus, signs) == {"real": (7, 0), "sign": (0, 6)}[activation]


def settings(model: nn.Module, kind: type[nn.Module]) -> set[tuple[float, float, bool]]:
    return {(m.eps, m.momentum, m.affine) for m in model.modules() if isinstance(m, kind)}


def test_batchnorm_is_the_published() -> None:
    for make in [lambda: bn.binaryconnect_vgg(10), lambda: bn.vgg16(10)]:
        model = on_meta(make)
        assert settings(model, nn.BatchNorm2d) == {(1e-5, 0.2, False)}
        assert settings(model, nn.BatchNorm1d) == {(1e-5, 0.1, False)}
        assert isinstance(model[-1], nn.BatchNorm1d)
    usual = (1e-5, 0.1, True)
    assert settings(on_meta(lambda: bn.resnet18(10)), nn.BatchNorm2d) == {usual, (1e-5, 0.2, False)}
    for make in [lambda: bn.resnet18(10, activation="sign"), lambda: bn.vgg_small(10), bn.birealnet18]:
        assert settings(on_meta(make), nn.BatchNorm2d) == {usual}
    assert settings(on_meta(bn.alexnet), nn.BatchNorm2d) == {usual, (1e-3, 0.1, True)}
    assert settings(on_meta(bn.alexnet), nn.BatchNorm1d) == {(1e-3, 0.1, True)}
    norms = [m.weight for m in bn.birealnet18(3).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20 and all(torch.equal(w, torch.full_like(w, 1e-8)) for w in norms)


def test_order_of_layers() -> None:
    vgg = kinds(on_meta(lambda: bn.vgg16(10)))
    assert vgg[:10] == [
        "ImageInput",
        *["Conv2d", "ChannelScale", "BatchNorm2d", "ReLU"],
        *["Conv2d", "ChannelScale", "MaxPool2d", "BatchNorm2d", "ReLU"],
    ]
    assert vgg[-3:] == ["Linear", "ChannelScale", "BatchNorm1d"]
    small = kinds(on_meta(lambda: bn.vgg_small(10)))
    assert small[:10] == [
        *["ImageInput", "Conv2d", "BatchNorm2d", "PReLU"],
        *["BinaryActivation", "Conv2d", "ChannelScale", "MaxPool2d", "BatchNorm2d", "PReLU"],
    ]
    plain = kinds(on_meta(lambda: bn.binaryconnect_vgg(10)))
    assert "ChannelScale" not in plain
    signs = kinds(on_meta(lambda: bn.binaryconnect_vgg(10, activation="sign")))
    assert [kind.replace("BinaryActivation", "ReLU") for kind in signs] == plain and "ReLU" not in signs
    sign_block = on_meta(lambda: bn.resnet18(10, activation="sign")).stage2[0]
    assert kinds(sign_block.first) == ["BinaryActivation", "Conv2d", "ChannelScale", "BatchNorm2d"]
    assert isinstance(sign_block.activation, nn.Hardtanh) and not list(sign_block.shortcut.parameters())


def note_input(seen, is_binary, _, inputs) -> None:
    seen.append((is_binary, bool((inputs[0].abs() == 1).all())))


def test_inputs_of_binary_convolutions_are_signs() -> None:
    """In the W1A1 networks every binary convolution sees only ±1, and the real layers do not."""
    torch.manual_seed(0)
    for make, shape in [
        (lambda: bn.vgg_small(10), (2, 3, 32, 32)),
        (lambda: bn.narrow_vgg(10, activation="sign"), (2, 3, 32, 32)),
        (lambda: bn.resnet18(10, activation="sign"), (2, 3, 16, 16)),
        (lambda: bn.birealnet18(10), (2, 3, 32, 32)),
    ]:
        model, seen = make(), []
        binary = {id(p) for _, p in bb.split_parameters(model)[0]}
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                note = functools.partial(note_input, seen, id(module.weight) in binary)
                module.register_forward_pre_hook(note)
        model(torch.randn(shape))
        assert len(seen) > 3 and all(is_binary == are_signs for is_binary, are_signs in seen)


def test_whitened_patches_are_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 3, 16, 16, generator=generator)
    images = (images + images.roll(1, 3) + images.roll(1, 2)) * torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
    filters = bn.whitening(images)
    found = nn.functional.conv2d(images, filters)
    moments = torch.einsum("nchw,ndhw->cd", found, found) / found[:, 0].numel()
    torch.testing.assert_close(moments[:12, :12], torch.eye(12), atol=5e-3, rtol=0)
    assert torch.equal(found[:, 12:], -found[:, :12])
    before = nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1)
    assert (torch.corrcoef(before.T) - torch.eye(12)).abs().max() > 0.3  # there was something to whiten


def test_the_whitening_stays_and_its_bias_learns() -> None:
    model = bn.speed_net(images=torch.randn(20, 3, 32, 32))
    binary, real = bb.split_parameters(model)
    learnt = {name for name, _ in binary + real}
    fixed = {name for name, _ in model.named_parameters()} - learnt
    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    scales = {f"{n}.log_scale" for n, m in model.named_modules() if isinstance(m, bn.LogitScale)}
    assert fixed == {"1.weight"} | norms | scales and len(norms) == 6
    assert "1.bias" in learnt


def test_a_recipe_whitens_its_training_images_and_learns_the_bias(tmp_path) -> None:
    place = write(tmp_path, "cifar10", train=40, test=4)
    config = make_config("cifar10-speed", data=str(place), batch_size=18, epochs=1, out="-", precision="fp32")
    experiment = make_experiment(config)
    data, first = experiment.data.train, experiment.model.get_submodule("1")
    images = data.inputs(torch.arange(len(data)))
    wanted = bn.whitening(images)
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    torch.testing.assert_close(first.weight.data, wanted)
    experiment.model.train()
    training_step(config, experiment, images[:18], data.y[:18])
    torch.testing.assert_close(first.weight.data, wanted, atol=0, rtol=0)
    assert (first.bias != 0).all()


def test_a_float_speed_net_starts_near_the_identity() -> None:
    convolutions = [m for m in bn.speed_net().modules() if isinstance(m, nn.Conv2d)][1:]
    x = torch.randn(1, 64, 5, 5)
    same = convolutions[1](x)  # 64 to 64 channels
    torch.testing.assert_close(same, x)
    wider = convolutions[2](x)
    torch.testing.assert_close(wider[:, :64], x)
    assert wider[:, 64:].abs().sum() > 0


@pytest.mark.parametrize("more", [-2, 3])
def test_channels_are_added_in_pairs(more) -> None:
    with pytest.raises(ValueError, match=f"must be even and not negative, got {more}"):
        bn.PadChannels(more)


def test_skips_of_a_bireal_block_are_double() -> None:
    """With silenced branches the block is its shortcut and two Hardtanhs."""
    block: Any = bn.birealnet18(10).get_submodule("stage1.0")
    x = torch.randn(2, 64, 4, 4)
    for branch in (block.first, block.second):
        nn.init.zeros_(branch.norm.weight)
    assert torch.equal(block(x), x.clamp(-1, 1))
    nn.init.ones_(block.second.norm.bias)
    nn.init.constant_(block.first.norm.bias, -0.5)
    torch.testing.assert_close(block(x), ((x - 0.5).clamp(-1, 1) + 1).clamp(-1, 1))
    single: Any = bn.resnet18(10, activation="sign").get_submodule("stage1.0")
    for branch in (single.first, single.second):
        nn.init.zeros_(branch.norm.weight)
    nn.init.constant_(single.first.norm.bias, -0.5)  # goes into the second branch only
    assert torch.equal(single(x), x.clamp(-1, 1))


def test_shortcut_pools_and_pads_both_sides() -> None:
    shortcut = on_meta(lambda: bn.resnet18(10, activation="sign")).stage2[0].shortcut
    x = torch.randn(1, 64, 4, 4)
    out = shortcut(x)
    assert out.shape == (1, 128, 2, 2)
    assert torch.equal(out[:, 32:96], nn.functional.avg_pool2d(x, 2))
    assert not out[:, :32].any() and not out[:, 96:].any()


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (
            lambda: bn.binaryconnect_vgg(10),
            (2, 1, 28, 28),
            r"expected images of shape \(N, 3, 32, 32\) or \(N, 3072\), got \(2, 1, 28, 28\)",
        ),
        (lambda: bn.vgg16(10), (3, 32, 32), r"expected images of shape \(N, 3, 32, 32\)"),
        (lambda: bn.vgg_small(10), (2, 3, 64, 64), r"got \(2, 3, 64, 64\)"),
        (lambda: bn.ImageInput(1, 28), (2, 783), r"shape \(N, 1, 28, 28\) or \(N, 784\), got \(2, 783\)"),
        (bn.alexnet, (1, 3, 64, 64), r"expected images of shape \(N, 3, 224, 224\)"),
        (lambda: bn.resnet18(10), (2, 4, 32, 32), r"expected images of shape \(N, 3, H, W\), got \(2, 4, 32, 32\)"),
        (
            lambda: bn.resnet18(10, activation="sign"),
            (2, 3, 30, 32),
            r"expected images of shape \(N, 3, H, W\) with H and W multiples of 8, got \(2, 3, 30, 32\)",
        ),
        (lambda: bn.resnet18(9, activation="sign", input="tiny-imagenet"), (2, 3, 24, 24), "multiples of 16"),
        (bn.birealnet18, (2, 3072), r"expected images of shape \(N, 3, H, W\), got \(2, 3072\)"),
    ],
)
def test_wrong_images_are_refused_in_one_line(make, shape, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        on_meta(make)(torch.zeros(shape, device="meta"))
    assert "\n" not in str(caught.value)


def test_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected floating-point images, got torch.uint8; scale and normalise"):
        bn.vgg_small(10)(torch.zeros(2, 3072, dtype=torch.uint8))


def test_unknown_options_name_the_nearest() -> None:
    for make, nearest in [
        (lambda: bn.binaryconnect_vgg(10, activation="relus"), "relu"),
        (lambda: bn.resnet18(10, activation="signs"), "sign"),
        (lambda: bn.resnet18(10, input="tiny_imagenet"), "tiny-imagenet"),
        (lambda: bn.resnet18_imagenet(activation="rea"), "real"),
        (lambda: bn.alexnet(activation="sing"), "sign"),
        (lambda: bn.speed_net(activation="gleu"), "gelu"),
    ]:
        with pytest.raises(ValueError, match=rf"the nearest is '{nearest}'"):
            make()
    for width in [0.0, -1.0, float("nan")]:
        with pytest.raises(ValueError, match="width must be at least 1/128"):
            bn.binaryconnect_vgg(10, width=width)
    for width in [0.0, -1.0, 0.37, float("nan"), float("inf")]:
        with pytest.raises(ValueError, match="width must be at least 3/8, which leaves 24 channels"):
            bn.speed_net(width=width)


def test_imagenet_sign_is_bireal() -> None:
    assert str(on_meta(lambda: bn.resnet18_imagenet(5, activation="sign"))) == str(on_meta(lambda: bn.birealnet18(5)))


def test_casts() -> None:
    """No attribute of a block hides a method of Module."""
    for dtype in [torch.float64, torch.bfloat16]:
        model = bn.resnet18(3, activation="sign").to(dtype)
        assert model(torch.randn(2, 3, 8, 8, dtype=dtype)).dtype == dtype
    for module in on_meta(lambda: bn.resnet18(3, activation="sign")).modules():
        assert module.half() is module and module.double() is module


def test_width_scales_every_layer() -> None:
    whole, half = on_meta(lambda: bn.binaryconnect_vgg(10)), on_meta(lambda: bn.binaryconnect_vgg(10, width=0.5))
    for full, narrow in zip(whole.parameters(), half.parameters(), strict=True):
        assert [2 * n if n not in (3, 10) else n for n in narrow.shape] == list(full.shape)


def test_rules_train_what_is_binary_and_copies_stay_apart() -> None:
    torch.manual_seed(0)
    model = bn.resnet18(3, activation="sign")
    binary, real = bb.split_parameters(copy.deepcopy(model))
    assert [name for name, _ in binary] == [name for name, _ in bb.split_parameters(model)[0]]
    optimizer = bb.STE(bb.split_parameters(model)[0], seed=0)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    weights = [p for _, p in bb.split_parameters(model)[0]]
    assert all((p.abs() == 1).all() for p in weights)
    assert model.get_parameter("head.weight").abs().ne(1).any() and len(real) > 0


def test_exported_with_any_batch() -> None:
    model = bn.resnet18(10, activation="sign").eval()
    program = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)
