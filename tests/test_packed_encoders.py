"""Transformers as packed networks: what torch's models say, every backend says, and masks or mixtures are refused."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import json
import math
from collections.abc import Callable
from types import GeneratorType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bitbayes as bb
import needs
from bitbayes.kernels import build
from bitbayes.lab import cli
from bitbayes.lab.bench.engines import bench
from bitbayes.packed import Inputs, PackedFileError, PackedNetwork, Program, Step, c_header, load, onnx_model
from bitbayes.packed.backends.load import BACKENDS
from bitbayes.packed.format.check import held
from bitbayes.packed.format.ops import Value
from bitbayes.packed.format.program import parse_program, program_text

TOKENS, WIDTH, HEADS, WORDS = 12, 16, 4, 50


class Attention(nn.Module):
    """Self-attention, written in one of the ways that are common."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style, self.out = style, nn.Linear(WIDTH, WIDTH)
        self.projections = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        size, mixed = width // HEADS, self.projections(x)
        if self.style == "permuted":  # timm: the batch becomes the second axis
            query, key, value = mixed.view(batch, tokens, 3, HEADS, size).permute(2, 0, 3, 1, 4)
        elif self.style == "interleaved":  # GPT-NeoX: query, key and value of a head lie side by side
            query, key, value = mixed.view(batch, tokens, HEADS, 3, size).transpose(1, 2).unbind(3)
        else:
            query, key, value = (part.view(batch, tokens, HEADS, size).transpose(1, 2) for part in mixed.chunk(3, -1))
        if self.style == "causal":
            made = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3)
        elif self.style in ("matmul", "masked"):
            scores = query @ key.mT / math.sqrt(size)
            if self.style == "masked":
                hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, float("-inf"))
            made = F.dropout(scores.softmax(-1), 0.1, self.training) @ value
        elif self.style == "added":
            mask = nn.Transformer.generate_square_subsequent_mask(tokens)
            made = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            made = F.scaled_dot_product_attention(query, key, value)
        return self.out(made.transpose(1, 2).reshape(batch, tokens, width))


class Together(nn.Module):
    """Attention of torch that also returns its weights, which nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)[0]


class Block(nn.Module):
    """A block with the normalisation first, of SiLU and RMSNorm, or of GELU and LayerNorm."""

    def __init__(self, style: str, *, rms: bool = False) -> None:
        super().__init__()
        norm = nn.RMSNorm if rms else nn.LayerNorm
        self.before, self.after = norm(WIDTH), norm(WIDTH)
        self.attention = Attention(style)
        self.up, self.act, self.down = nn.Linear(WIDTH, 24), nn.SiLU() if rms else nn.GELU(), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.down(self.act(self.up(self.after(x))))


class Vit(nn.Module):
    """A small vision transformer with a class token and learned positions."""

    def __init__(self, style: str = "plain", *, unfold: bool = False, rms: bool = False) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * 16, WIDTH) if unfold else nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.blocks = nn.Sequential(Block(style, rms=rms), Block(style, rms=rms))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.patches, nn.Linear):
            x = x.view(x.shape[0], 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
            x = self.patches(x)
        else:
            x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Reader(nn.Module):
    """A classifier of texts: embeddings, positions, an encoder, and the mean or the first token."""

    def __init__(self, encoder: nn.Module, pool: str = "mean") -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.encoder, self.pool, self.head = encoder, pool, nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        x = self.encoder(x)
        return self.head(x.mean(1) if self.pool == "mean" else x[:, 0])


def torch_encoder(*, first: bool, batch_first: bool = True, activation: str = "gelu") -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 24, batch_first=batch_first, norm_first=first, activation=activation
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Turned(nn.Module):
    """An encoder that has tokens before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch_encoder(first=False, batch_first=False, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x.transpose(0, 1)).transpose(0, 1)


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def texts(count: int) -> Tensor:
    return torch.randint(0, WORDS, (count, TOKENS), generator=torch.Generator().manual_seed(4))


def vit_of_transformers() -> nn.Module:
    transformers = needs.TRANSFORMERS.module("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 24}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=5)
    )


def bert_of_transformers() -> nn.Module:
    transformers = needs.TRANSFORMERS.module("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 24}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**sizes, vocab_size=WORDS, max_position_embeddings=TOKENS, num_labels=5)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "vit": (Vit, pictures),
    "vit of patches": (lambda: Vit("permuted", unfold=True, rms=True), pictures),
    "vit of matmuls": (lambda: Vit("matmul"), pictures),
    "reader": (lambda: Reader(Block("plain")), texts),
    "reader, class token": (lambda: Reader(Block("interleaved", rms=True), "first"), texts),
    "reader, causal": (lambda: Reader(nn.Sequential(*map(Block, ("causal", "masked", "added")))), texts),
    "torch, weights": (lambda: Reader(nn.Sequential(Together(), nn.RMSNorm(WIDTH), Together())), texts),
    "torch, pre-norm": (lambda: Reader(torch_encoder(first=True)), texts),
    "torch, post-norm": (lambda: Reader(torch_encoder(first=False), "first"), texts),
    "torch, tokens first": (lambda: Reader(Turned()), texts),
    "transformers ViT": (vit_of_transformers, pictures),
    "transformers BERT": (bert_of_transformers, texts),
}


def settled(model: nn.Module) -> nn.Module:
    """Binary weights of one scale for each tensor; all other parameters as after training."""
    generator = torch.Generator().manual_seed(1)
    binary, real = bb.split_parameters(model)
    assert binary, "a network without a binary weight shows nothing"
    for _, weight in binary:
        s = 1 / math.sqrt(weight[0].numel())
        weight.data = torch.where(torch.rand(weight.shape, generator=generator) < 0.5, -s, s)
    for _, weight in real:
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def made(name: str) -> tuple[nn.Module, Callable[[int], Tensor]]:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    model = settled(make())
    *_, bias = (parameter for path, parameter in model.named_parameters() if path.endswith("bias"))
    bias.data -= torch.as_tensor(logits(model, inputs(64)).mean(0))  # so that no class wins everywhere
    return model, inputs


def logits(model: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        found = model(x)
    return np.asarray(found if isinstance(found, Tensor) else found.logits)


def outputs(packed: PackedNetwork, backend: str, x: Tensor) -> np.ndarray:
    if backend == "native" and build.library("inference") is None:
        needs.COMPILER.skip()
    if backend == "openvino" and importlib.util.find_spec(backend) is None:
        needs.OPENVINO.skip()
    return np.asarray(load(packed, backend).outputs(x if backend == "torch" else x.numpy()))[0]


def packed_and_saved(model: nn.Module, x: Tensor, folder: Any) -> PackedNetwork:
    bb.pack(model, x[:1]).save(folder / "net.safetensors")
    return PackedNetwork.read(folder / "net.safetensors")


def agree(name: str, count: int, backends: tuple[str, ...], folder: Any) -> PackedNetwork:
    """Packs a model, and compares outputs and classes."""
    model, inputs = made(name)
    x = inputs(count)
    packed, wanted = packed_and_saved(model, x, folder), logits(model, x)
    assert len(np.unique(wanted.argmax(1))) > 1, "one class for everything shows little"
    for backend in backends:
        got = outputs(packed, backend, x)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, err_msg=backend)
        assert np.array_equal(got.argmax(1), wanted.argmax(1)), backend
    return packed


@pytest.mark.parametrize("name", MODELS)
def test_backends_say_what_the_model_says(name, tmp_path):
    packed = agree(name, 20, ("reference", "torch", "native"), tmp_path)
    ops = [step.op for step in packed.program.steps]
    assert "attention" in ops and "norm" in ops and ("embed" in ops) == (packed.tokens is not None)
    assert ops.count("permute") == (name in ("vit of patches", "reader, class token")), "channels are in order else"
    rows = [row for row in packed.summary().rows if row.op in ("conv", "linear") and row.bits == row.weights]
    assert len(rows) >= 3


@pytest.mark.parametrize("name", ["vit", "reader"])
@needs.OPENVINO.unless(importlib.util.find_spec("openvino") is not None)
def test_openvino_says_what_the_model_says(name, tmp_path):
    agree(name, 20, ("openvino",), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_classes_of_a_thousand_inputs(name, tmp_path):
    agree(name, 1000, BACKENDS, tmp_path)


@pytest.mark.parametrize("name", ["vit of patches", "reader, causal"])
def test_onnx_says_what_the_model_says(name):
    runtime = needs.ONNX.module("onnxruntime")
    model, inputs = made(name)
    x = inputs(7)
    exported = onnx_model(bb.pack(model, x[:1])).SerializeToString()
    session = runtime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(got, logits(model, x), rtol=1e-4, atol=1e-4)


def test_c_headers_name_what_they_lack():
    model, inputs = made("vit")
    with pytest.raises(ValueError, match=r"'pad' of layer 'Vit' cannot be written as C, only: linear") as caught:
        c_header(bb.pack(model, inputs(1)))
    assert "\n" not in str(caught.value)


def test_samples_of_a_posterior():
    """Embeddings and norms are there once, and what differs runs on every backend as each network does alone."""
    model, inputs = made("reader")
    binary = bb.split_parameters(model)[0]
    optimizer = bb.BayesBiNN(binary, ess=100, seed=0)
    optimizer.eval()
    x = inputs(6)
    packed = bb.pack(model, x, optimizer.posterior(), samples=3, seed=5)
    assert packed.program.samples == 3 and packed.tensors[packed.program.steps[0].tensors["table"]].ndim == 2
    wanted = np.asarray(bb.predict(model, x, optimizer.posterior(), samples=3, seed=5).outputs)
    for backend in ("reference", "torch", "native"):
        if backend == "native" and build.library("inference") is None:
            continue
        got = np.asarray(load(packed, backend).outputs(x if backend == "torch" else x.numpy()))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


class Odd(nn.Module):
    """One operation on embedded tokens, which stands between layers that can be packed."""

    def __init__(self, odd: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.words, self.mix, self.odd = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), odd

    def forward(self, ids: Tensor) -> Tensor:
        return self.odd(self.mix(self.words(ids)))


WORD = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(0))
LATER = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)


def crossed(x: Tensor) -> Tensor:
    """Every query with every key: axes of heads that broadcast."""
    heads = x.unflatten(2, (HEADS, -1)).transpose(1, 2)
    keys = heads[:, None]
    return ((heads[:, :, None] @ keys.mT).softmax(-1) @ keys).mean((1, 2))


def windowed(x: Tensor) -> Tensor:
    near = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril().triu(-2)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=near)


def waiting() -> set[int]:
    """Suspended generators of sampled networks."""
    found = (each for each in gc.get_objects() if type(each) is GeneratorType and "drawn_networks" in each.__qualname__)
    return {id(each) for each in found if inspect.getgeneratorstate(each) == inspect.GEN_SUSPENDED}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Odd(windowed), "its mask must be causal, so that a token sees itself and all earlier ones, or hide"),
        (lambda: Odd(lambda x: x @ x.transpose(1, 2)), "the product of two activations has no packed form"),
        (lambda: Odd(lambda x: x @ torch.ones(WIDTH, 3)), "a product with a constant matrix has no packed form; use"),
        (lambda: Odd(lambda x: x.mean(0)), "a mean must not be over the batch"),
        (lambda: Odd(lambda x: torch.cat([x, x], 0)), "it must not work along the batch"),
        (
            lambda: Odd(lambda x: x + torch.ones(x.shape[0]).sum()),
            "a sum has a packed form only in the mean",
        ),  # it is the batch size
        (lambda: Odd(lambda x: x.flip(1)), "flip has no packed form"),
        (lambda: Odd(lambda x: x[:, ::2]), "a slice must have fixed ends and a step of 1"),
        (lambda: Odd(lambda x: x.narrow(1, 12, 0)), "it must keep at least one entry"),
        (lambda: Odd(lambda x: x.mean((1, 2))), "the batch must not be the only axis"),
        (lambda: Odd(lambda x: x * torch.ones(TOKENS, WIDTH)), "is neither a number nor one for each channel"),
        (lambda: Odd(lambda x: x + x.mean(1, keepdim=True)), r"shapes \(N, 12, 16\) and \(N, 1, 16\) cannot"),
        (
            lambda: Odd(lambda x: x + WORD.expand(x.shape[0], -1, -1).softmax(0)),
            "a constant depends on the number of inputs",
        ),
        (lambda: Odd(lambda x: ((x @ x.mT).masked_fill(LATER, -1e9) / -2).softmax(-1) @ x), "after the mask must be"),
        (lambda: Odd(lambda x: ((x @ x.mT).softmax(-1) + LATER * -1e9) @ x), "a mask must come before the softmax"),
        (lambda: Odd(lambda x: (x @ x.mT).softmax(-1).masked_fill(LATER, -1e9) @ x), "must come before the softmax"),
        (lambda: Odd(crossed), "queries, keys and values must have the same batch and the same number of heads"),
        (lambda: Odd(lambda x: (x @ x.mT).softmax(1) @ x), "the softmax of attention must be over the keys"),
    ],
)
def test_what_cannot_be_packed_is_named_in_one_line(make, message):
    model, before = settled(make()), waiting()
    with pytest.raises(ValueError, match=message) as caught:
        bb.pack(model, texts(1))
    assert "\n" not in str(caught.value) and "cannot pack layer" in str(caught.value)
    assert waiting() <= before  # a generator that Python collects in the middle of other work can disturb it


class Weighed(nn.Module):
    """Attention that also returns its weights, as torch's does unless it is told not to, with a mask of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, attn_mask=nn.Transformer.generate_square_subsequent_mask(TOKENS))[0]


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: (x @ x.mT).masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -1e9).softmax(-1) @ x,
        lambda x: (x @ x.mT + 1.0).softmax(-1) @ x,
        Weighed(),
    ],
)
def test_masks_that_are_made_inside(odd):
    model = settled(Odd(odd))
    packed = bb.pack(model, texts(1))
    np.testing.assert_allclose(outputs(packed, "torch", texts(5)), logits(model, texts(5)), rtol=1e-4, atol=1e-4)


class Doubled(nn.Module):
    """Takes integers, but looks nothing up."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(TOKENS, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(ids.float())


def test_integers_that_are_no_token_ids_are_refused():
    with pytest.raises(ValueError, match=r"layer 'last \(Linear\)': token ids can only be looked up in an embedding"):
        bb.pack(settled(Doubled()), texts(1))


class Converted(nn.Module):
    """It converts token ids before it looks them up."""

    def __init__(self, *kinds: torch.dtype) -> None:
        super().__init__()
        self.kinds, self.words, self.last = kinds, nn.Embedding(300, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        for kind in self.kinds:
            ids = ids.to(kind)
        return self.last(self.words(ids).mean(1))


@pytest.mark.parametrize("before", [torch.int32, torch.int64])
@pytest.mark.parametrize("after", [torch.int32, torch.int64])
def test_ids_may_change_their_type_where_they_keep_their_value(before, after):
    model, ids = settled(Converted(after)), torch.arange(290, 300).view(2, 5)
    with torch.no_grad():
        wanted = model(ids)
    np.testing.assert_allclose(outputs(bb.pack(model, ids.to(before)), "torch", ids), wanted, rtol=1e-5, atol=1e-6)
    for kind in (torch.uint8, torch.int16):
        message = rf"it changes {before} to {kind}; only token ids may change, to torch\.int32 or torch\.int64"
        with pytest.raises(ValueError, match=message):
            bb.pack(settled(Converted(kind, torch.int64)), ids.to(before))
    with pytest.raises(ValueError, match=r"computes in torch.float64; call \.float\(\)"):
        bb.pack(settled(Converted(torch.float64, torch.int64)), ids.to(before))
    with pytest.raises(ValueError, match=rf"it changes torch.float32 to {after}; only token ids may change"):
        bb.pack(settled(Converted(after)), ids.float())


def test_the_mask_of_a_torch_encoder_needs_is_causal():
    class Masked(nn.Module):
        def __init__(self, is_causal: bool | None) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.is_causal = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), is_causal
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x, mask=self.mask, is_causal=self.is_causal)

    x = torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match=r"; pass is_causal=True or False beside the mask of a torch.nn.Transf") as e:
        bb.pack(settled(Masked(None)), x)
    assert "\n" not in str(e.value)
    for is_causal in (True, False):
        model = settled(Masked(is_causal))
        with torch.no_grad():
            wanted = model(x)
        np.testing.assert_allclose(outputs(bb.pack(model, x), "torch", x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "torch", "native"])
def test_ids_that_the_network_lacks_are_refused(backend):
    model, inputs = made("reader")
    x = inputs(3)
    packed = bb.pack(model, x)
    assert packed.tokens == WORDS
    wanted = outputs(packed, "reference", x)
    for kind in (torch.int32, torch.int16, torch.uint8):
        np.testing.assert_allclose(outputs(packed, backend, x.to(kind)), wanted, rtol=1e-4, atol=1e-4)
    assert outputs(packed, backend, x[:0]).shape == (0, 3)
    for kind in (">i4", ">u2"):
        found = bb.packed.load(packed, backend).outputs(x.numpy().astype(kind))
        np.testing.assert_allclose(np.asarray(found)[0], wanted, rtol=1e-4, atol=1e-4)
    for kind in (torch.uint16, torch.uint32, torch.uint64):
        runtime = bb.packed.load(packed, backend)
        for ids in (x.to(kind), x.to(kind).numpy(), x.to(kind).numpy()[:, ::-1][:, ::-1]):
            np.testing.assert_allclose(np.asarray(runtime.outputs(ids))[0], wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match=f"from 0 to {WORDS - 1}, got {torch.iinfo(kind).max}$"):
            runtime.outputs(torch.full(x.shape, torch.iinfo(kind).max, dtype=kind))
    runtime = bb.packed.load(packed, backend)
    backwards = np.asarray(runtime.outputs(x.numpy()[::-1]))[0, ::-1]
    np.testing.assert_allclose(backwards, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=rf"token ids, which are integers below {WORDS}, got object"):
        runtime.outputs(x.numpy().astype(object))
    for wrong, message in [
        (torch.full_like(x, WORDS), f"expected token ids from 0 to {WORDS - 1}, got {WORDS}"),
        (torch.full_like(x, -1), f"expected token ids from 0 to {WORDS - 1}, got -1"),
        (torch.full_like(x, 1 << 40), f"got {1 << 40}"),
        (x.float(), rf"expected token ids, which are integers below {WORDS}, got (torch\.)?float32"),
        (x > 3, "expected token ids, which are integers below"),
        (x[:, 1:], r"expected inputs of shape \(N, 12\), got \(3, 11\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            outputs(packed, backend, wrong)


TABLE = {"t": np.ones((5, 4), np.float32)}
EMBED = Step("embed", (0,), "", {}, {"table": "t"})


def program(*steps: Step, shape: tuple[int, ...] = (3,), **tensors: np.ndarray) -> Callable[[], PackedNetwork]:
    return lambda: PackedNetwork(Program(shape, 1, steps), tensors)


def attention(heads: int = 2, scale: Any = 1.0, causal: Any = False) -> dict[str, Any]:
    return {"heads": heads, "scale": scale, "causal": causal}


def cut(axis: int, begin: int, end: int) -> Step:
    return Step("slice", (0,), "", {"axis": axis, "begin": begin, "end": end})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            program(EMBED, Step("tanh", (0,)), **TABLE),
            "the input is token ids, so no operations but embed and mask may take it",
        ),
        (program(Step("tanh", (0,)), Step("embed", (1,), "", {}, {"table": "t"}), **TABLE), "takes token ids, which"),
        (program(EMBED, shape=(3, 2), **TABLE), r"an input of one axis, got shape \[3, 2\]"),
        (program(EMBED, t=np.ones((0, 4), np.float32)), r"expected \[ids, channels\]"),
        (program(EMBED, t=np.ones((5, 4, 1), np.float32)), r"shape \[5, 4, 1\], expected \[ids, channels\]"),
        (program(EMBED, t=np.ones(5, np.float32)), r"shape \[5\], expected \[ids, channels\]"),
        (program(EMBED, t=np.ones((5, 0), np.float32)), "1 to 16777216 numbers"),
        (program(EMBED, t=np.ones((5, 4), np.uint8)), "table cannot have the type U8"),
        (program(EMBED, t=np.full((5, 4), np.inf, np.float32)), "has numbers that are not finite"),
        (program(Step("norm", (0,), "", {"centre": True, "eps": 0})), "eps must be from 1e-30 to 1, got 0"),
        (program(Step("norm", (0,), "", {"centre": 1, "eps": 0.1})), "centre must be true or false"),
        (program(Step("norm", (0,), "", {"centre": True, "eps": True})), "eps must be a finite number, got True"),
        (program(Step("attention", (0, 0), "", attention()), shape=(4, 3)), "takes 3 values, got 2"),
        (program(Step("attention", (0,) * 3, "", attention(3)), shape=(4, 3)), "takes channels of 3 heads and tokens"),
        (program(Step("attention", (0,) * 3, "", attention()), shape=(4,)), "takes channels of 2 heads and tokens"),
        (program(Step("attention", (0,) * 3, "", attention(0)), shape=(4, 3)), "heads must be an integer from 1"),
        (program(Step("attention", (0,) * 3, "", attention(2, "x")), shape=(4, 3)), "scale must be a finite number"),
        (program(cut(2, 1, 2), Step("attention", (0, 1, 0), "", attention()), shape=(4, 3)), "do not fit together"),
        (program(cut(1, 1, 3), Step("attention", (0, 1, 0), "", attention()), shape=(4, 3)), "do not fit together"),
        (program(Step("attention", (0,) * 3, "", attention()), shape=(2, 4096)), r"shape \[2, 4096, 4096\] must have"),
        (program(cut(2, 2, 4), shape=(4, 3)), "entries 2 to 4 are not within the 3 of axis 2"),
        (program(cut(2, 1, 1), shape=(4, 3)), "entries 1 to 1 are not within"),
        (program(cut(3, 0, 1), shape=(4, 3)), "axis must be from 1 to 2"),
        (program(Step("offset", (0,), "", {}, {"offset": "o"}), o=np.ones(2, np.float32)), r"expected \[3\]"),
        (program(Step("multiply", (0,)), shape=(4, 3)), "takes 2 values, got 1"),
    ],
)
def test_unsound_programs_are_refused(make, message):
    with pytest.raises(PackedFileError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_scores_count_as_memory():
    """Scores of all networks are needed at the same time as the values around them."""
    values = [Value((2, 100)), Value((2, 100))]
    steps = (Step("attention", (0, 0, 0), "", attention()),)
    assert held(Program((2, 100), 1, steps), values, set()) == 2 * 200 + 2 * 100 * 100
    step = Step("offset", (0,), "", {}, {"offset": "o"})
    tensors = {"o": np.zeros((16, 2 * 2048), np.float32)}
    small = Step("attention", (1, 1, 1), "", attention())
    assert PackedNetwork(Program((2, 2048), 15, (step, small)), {"o": tensors["o"][:15]}).values[-1].size == 4096
    with pytest.raises(PackedFileError, match="more than 134217728 numbers at the same time"):
        PackedNetwork(Program((2, 2048), 16, (step, small)), tensors)


def test_older_versions_have_no_operations_of_transformers():
    text = program_text(Program((3,), 1, (EMBED,)))
    assert parse_program(text).steps[0].op == "embed" and '"version":3' in text
    for version in (1, 2):
        with pytest.raises(PackedFileError, match=f"version {version} of the format has no operation 'embed'"):
            parse_program(text.replace('"version":3', f'"version":{version}'))


def test_token_ids_have_no_description():
    about = Inputs("vector")
    with pytest.raises(PackedFileError, match="the input is token ids, which have no description"):
        PackedNetwork(Program((3,), 1, (EMBED,), {}, about), TABLE)
    with pytest.raises(ValueError, match=r"the network takes token ids; give integers of shape \(N, tokens\)"):
        program(EMBED, **TABLE)().prepare(np.zeros((1, 3)))


def test_bench_gives_a_network_of_tokens_token_ids():
    model, inputs = made("reader")
    timings = bench(bb.pack(model, inputs(1)), 2, 1, turns=1)
    assert [row.engine for row in timings if row.seconds is None and "OpenVINO" not in row.why] == []


class Square(nn.Module):
    """Attention whose values are its queries turned, so that tokens and channels trade places."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        return self.last(F.scaled_dot_product_attention(x, x, x.transpose(1, 2)))


class Moves(nn.Module):
    """Axes that are split, joined, cut and moved in ways that no attention has."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.bias = nn.Linear(12, 12), nn.Parameter(torch.randn(4, 3, 2))
        self.token, self.last, self.more = nn.Parameter(torch.randn(2, 12)), nn.Linear(24, 5), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)  # (N, 6, 12)
        x = x + x.view(x.shape[0], 6, 3, 4).transpose(1, 2).sigmoid().transpose(1, 2).flatten(2)
        y = x.view(x.shape[0], 6, 3, 4).permute(0, 3, 2, 1)  # (N, 4, 3, 6)
        y = y[..., 1:3] * torch.arange(1.0, 4)[:, None] - self.bias  # (N, 4, 3, 2)
        first, second = y.split([1, 3], 1)
        y = torch.cat([second, first.sigmoid()], 1).flatten(2).transpose(1, 2).reshape(x.shape[0], 8, 3)
        z = torch.cat([self.token.repeat(x.shape[0], 1, 1), x, x.neg(), self.token[None].expand(x.shape[0], -1, -1)], 1)
        steps = torch.where(y > 0.1, torch.tensor([1.0, 2, 3]), 0.5).mean(2)[:, 2:7].softmax(1)
        y = self.last(y.transpose(1, 2).reshape(x.shape[0], 24))
        return y + steps + self.more(z[:, 1:-1].narrow(-1, -4, 4).mean(2))


@pytest.mark.parametrize(("make", "shape"), [(Square, (6, 6)), (Moves, (6, 12))])
def test_axes_may_be_moved_in_any_way(make, shape, tmp_path):
    torch.manual_seed(0)
    model, x = settled(make()), torch.randn(9, *shape)
    packed = packed_and_saved(model, x, tmp_path)
    for backend in ("reference", "torch", "native", "openvino"):
        np.testing.assert_allclose(outputs(packed, backend, x), logits(model, x), rtol=1e-4, atol=1e-4, err_msg=backend)


def test_the_command_line_runs_token_ids(tmp_path, capsys):
    model, inputs = made("reader")
    packed_and_saved(model, inputs(1), tmp_path)
    x = inputs(6)
    np.save(tmp_path / "ids.npy", x.numpy().astype(np.uint8))
    file, out = str(tmp_path / "net.safetensors"), tmp_path / "rows.jsonl"
    cli.main(["run", file, "--data", str(tmp_path / "ids.npy"), "--out", str(out)])
    assert "6 inputs, 1 network" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["class"] for row in rows] == logits(model, x).argmax(1).tolist()
    cli.main(["summary", file])
    assert f"inputs: token ids below {WORDS}" in capsys.readouterr().out
    facts = dict(PackedNetwork.read(file)._description("").facts)
    assert facts["inputs"] == f"token ids below {WORDS} of shape (N, {TOKENS})"
