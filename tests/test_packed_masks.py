"""Masks of padding in packed networks: however a network makes them, every backend says what the network says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph
from torch.nn import functional as F

import bitbayes as bb
import needs
from bitbayes.packed import PackedFileError, PackedNetwork, Program, Step, c_header, onnx_model
from bitbayes.packed.backends.load import BACKENDS
from bitbayes.packed.convert import masks
from bitbayes.packed.convert.axes import Traced
from bitbayes.packed.convert.draft import Builder
from bitbayes.packed.format.check import held
from bitbayes.packed.format.ops import Value
from bitbayes.packed.format.program import parse_program, program_text
from test_packed_encoders import EMBED, HEADS, TABLE, TOKENS, WIDTH, WORDS, logits, outputs, program, settled

PADDING = 3
Make = Callable[[], nn.Module]
LATER = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)


class Reader(nn.Module):
    """Self-attention and a mean over tokens, both by functions of the token ids and of the embedded tokens."""

    def __init__(self, attend: Callable[..., Tensor], pool: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.attend, self.pool = nn.Embedding(WORDS, WIDTH), attend, pool
        self.mix, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)
        if isinstance(attend, nn.Module):
            self.inner = attend

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.pool(ids, self.attend(ids, self.mix(self.words(ids)))))


def heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def booleans(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    return joined(F.scaled_dot_product_attention(query, query, query, (ids != PADDING)[:, None, None, :]))


def added(ids: Tensor, x: Tensor) -> Tensor:
    query, mask = heads(x), (1 - (ids != PADDING).long()) * -1e9  # as many write it
    return joined((query @ query.mT / 2 + mask[:, None, None]).softmax(-1) @ query)


def filled(ids: Tensor, x: Tensor) -> Tensor:
    query, hidden = heads(x), ids.eq(torch.tensor(PADDING)).view(-1, 1, 1, TOKENS)
    return joined((query @ query.mT).masked_fill(hidden, float("-inf")).softmax(-1) @ query)


def causal(ids: Tensor, x: Tensor) -> Tensor:
    seen = (ids != PADDING)[:, None, None] & ~LATER
    query = heads(x)
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    return joined(F.scaled_dot_product_attention(query, query, query, mask))


def twice(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    scores = (query @ query.mT).masked_fill(LATER, -torch.inf).masked_fill((ids == PADDING)[:, None, None], -torch.inf)
    return joined(scores.softmax(-1) @ query)


def nonzero(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    return joined(F.scaled_dot_product_attention(query, query, query, ids.bool()[:, None, None]))


class Layer(nn.Module):
    """A layer of torch that takes a mask of padding."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True, norm_first=kind == "causal")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        hidden = ids == PADDING
        if self.kind == "attention":
            return self.attention(x, x, x, key_padding_mask=hidden)[0]
        if self.kind == "encoder":
            return self.encoder(x, src_key_padding_mask=hidden)
        later = nn.Transformer.generate_square_subsequent_mask(TOKENS)
        return self.encoder(x, later, torch.zeros(ids.shape).masked_fill(hidden, -torch.inf), is_causal=True)


def bytes_(ids: Tensor, x: Tensor) -> Tensor:
    query, mask = heads(x), ((ids != PADDING).byte().float() - 1) * 1e9
    return joined((query @ query.mT + mask[:, None, None]).softmax(-1) @ query)


def first(ids: Tensor, x: Tensor) -> Tensor:
    return x[:, 0]


def last(ids: Tensor, x: Tensor) -> Tensor:
    return x[:, -1]


def turned_count(ids: Tensor, x: Tensor) -> Tensor:
    keep = (ids != PADDING).float()
    return (x * keep[..., None]).sum(1) / keep.sum(1)[None].transpose(0, 1)


def plain(ids: Tensor, x: Tensor) -> Tensor:
    return x


def product(ids: Tensor, x: Tensor) -> Tensor:
    keep = (ids != PADDING).unsqueeze(-1).float()
    return (x * keep).sum(1) / keep.sum(1).clamp(min=1)


def expanded(ids: Tensor, x: Tensor) -> Tensor:
    keep = (ids != PADDING).unsqueeze(-1).expand(x.size()).float()
    return torch.sum(keep * x, 1) / torch.clamp(keep.sum(1), min=1e-9)


def emptied(ids: Tensor, x: Tensor) -> Tensor:
    hidden = ids == PADDING
    return (x.masked_fill(hidden[..., None], 0).sum(1, keepdim=True) / (~hidden).sum(1)[:, None, None]).squeeze(1)


def chosen(ids: Tensor, x: Tensor) -> Tensor:
    keep = (ids != PADDING).long()
    return torch.where(keep.bool()[..., None], x, 0.0).sum(-2) / keep.sum(-1, keepdim=True)


def of_transformers(name: str, **choices: Any) -> nn.Module:
    transformers = needs.TRANSFORMERS.module("transformers")
    bert = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 24}
    distil = {"dim": WIDTH, "n_layers": 2, "n_heads": HEADS, "hidden_dim": 24}
    sizes = (bert if name == "Bert" else distil) | {"vocab_size": WORDS, "max_position_embeddings": TOKENS}
    config = getattr(transformers, f"{name}Config")(**sizes, num_labels=5, **choices)
    return getattr(transformers, f"{name}ForSequenceClassification")(config)


class Wrapped(nn.Module):
    """A model of the package transformers, which gets its mask from the token ids."""

    def __init__(self, model: nn.Module, mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=self.mask(ids)).logits


MODELS: dict[str, Make] = {
    "booleans": lambda: Reader(booleans, first),
    "numbers": lambda: Reader(added, product),
    "filled": lambda: Reader(filled, expanded),
    "causal": lambda: Reader(causal, emptied),
    "causal, then padding": lambda: Reader(twice, chosen),
    "means alone": lambda: Reader(plain, product),
    "bytes": lambda: Reader(bytes_, turned_count),
    "torch, attention": lambda: Reader(Layer("attention"), product),
    "torch, encoder": lambda: Reader(Layer("encoder"), first),
    "torch, causal": lambda: Reader(Layer("causal"), product),
    "transformers BERT": lambda: Wrapped(of_transformers("Bert"), lambda ids: ids != PADDING),
    "transformers BERT, eager": lambda: Wrapped(
        of_transformers("Bert", attn_implementation="eager"), lambda ids: (ids != PADDING).long()
    ),
    "transformers DistilBERT": lambda: Wrapped(of_transformers("DistilBert"), lambda ids: (ids != PADDING).float()),
}


def texts(padding: int = PADDING) -> Tensor:
    """Texts without padding, with padding of every length, and with padding in the middle; never at the first token."""
    ids = torch.randint(4, WORDS, (TOKENS + 4, TOKENS), generator=torch.Generator().manual_seed(5))
    for length in range(1, TOKENS):
        ids[length, length:] = padding
    ids[-2, 4:6] = ids[-1, 2::3] = padding
    return ids


@pytest.mark.parametrize("name", MODELS)
def test_backends_say_what_the_model_says(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, ids = settled(MODELS[name]()), texts()
    bb.pack(model, ids[:1]).save(tmp_path / "net.safetensors")
    packed, wanted = PackedNetwork.read(tmp_path / "net.safetensors"), logits(model, ids)
    unmasked = ids.where(ids != PADDING, 4)
    assert np.abs(logits(model, unmasked) - wanted).max() > 0.01, "a mask that changes nothing shows nothing"
    for backend in ("reference", "torch", "native"):
        np.testing.assert_allclose(outputs(packed, backend, ids), wanted, rtol=1e-4, atol=1e-4, err_msg=backend)
    assert [step.op for step in packed.program.steps].count("mask") == 1, "all layers share one mask"


@pytest.mark.parametrize("pool", [product, last])
def test_padding_on_the_left_of_a_causal_mask(pool: Any) -> None:
    """What padding itself sees there differs from network to network, so it must not be part of the result."""
    model, ids = settled(Reader(causal, pool)), texts().flip(1)[:TOKENS]
    assert (ids[1:, 0] == PADDING).all() and (ids[:, -1] != PADDING).all()
    packed, wanted = bb.pack(model, ids), logits(model, ids)
    for backend in ("reference", "torch", "native"):
        np.testing.assert_allclose(outputs(packed, backend, ids), wanted, rtol=1e-4, atol=1e-4, err_msg=backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_openvino_and_onnx_say_what_the_model_says(name: str) -> None:
    runtime = needs.ONNX.module("onnxruntime")
    torch.manual_seed(0)
    model, ids = settled(MODELS[name]()), texts()
    packed, wanted = bb.pack(model, ids[:1]), logits(model, ids)
    session = runtime.InferenceSession(onnx_model(packed).SerializeToString())
    found = {"onnx": session.run(None, {"input": ids.numpy()})[0], "openvino": outputs(packed, "openvino", ids)}
    for name_, got in found.items():
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, err_msg=name_)


def test_ids_that_become_booleans_hide_token_0() -> None:
    model, ids = settled(Reader(nonzero, first)), texts(padding=0)
    np.testing.assert_allclose(outputs(bb.pack(model, ids), "torch", ids), logits(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: Reader(added, product), lambda: Reader(causal, product)])
def test_an_input_of_padding_alone_is_as_with_a_mask_that_is_added(make: Make) -> None:
    model, ids = settled(make()), torch.full((2, TOKENS), PADDING)
    packed, wanted = bb.pack(model, ids), logits(model, ids)
    for backend in ("reference", "torch", "native"):
        np.testing.assert_allclose(outputs(packed, backend, ids), wanted, rtol=1e-4, atol=1e-4, err_msg=backend)


def queries_too(ids: Tensor, x: Tensor) -> Tensor:
    seen = ids != PADDING
    query = heads(x)
    return joined(F.scaled_dot_product_attention(query, query, query, (seen[:, None] & seen[:, :, None])[:, None]))


def weak(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    return joined((query @ query.mT + -5.0 * (ids == PADDING)[:, None, None].float()).softmax(-1) @ query)


def shifted(ids: Tensor, x: Tensor) -> Tensor:
    query, seen = heads(x), ids != PADDING
    late = torch.cat([seen[:, 1:], seen[:, :1]], 1)
    return joined(F.scaled_dot_product_attention(query, query, query, late[:, None, None]))


def reordered(ids: Tensor, x: Tensor) -> Tensor:
    query, late = heads(x), (ids != PADDING)[:, torch.arange(TOKENS).roll(1)]
    return joined(F.scaled_dot_product_attention(query, query, query, late[:, None, None]))


def masked_by(mask: Callable[[Tensor], Tensor]) -> Make:
    """Attention whose mask is a function of which tokens are not padding."""

    def attend(ids: Tensor, x: Tensor) -> Tensor:
        query = heads(x)
        return joined(F.scaled_dot_product_attention(query, query, query, mask(ids != PADDING)[:, None, None]))

    return lambda: Reader(attend, first)


def of_five_tokens(seen: Tensor) -> Tensor:
    return seen & ~(seen[:, 0] & seen[:, 1] & seen[:, 2] & ~seen[:, 3] & seen[:, 4])[:, None]


def shuffled(seen: Tensor) -> Tensor:
    """A function of five tokens that equals `seen` wherever a pattern of padding is regular."""

    def turned(given: Tensor, rows: int) -> Tensor:
        return given.view(-1, rows, TOKENS // rows).transpose(1, 2).reshape(-1, TOKENS)

    one = turned(seen, 3)
    return seen & ~(one & ~turned(seen, 4) & turned(seen, 2) & ~turned(one, 3))


def shrunk(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    mask = ((ids != PADDING).float() - 1)[:, None, None] * 1e9
    return joined(((query @ query.mT + mask) * 1e-9).softmax(-1) @ query)


def two_ids(ids: Tensor, x: Tensor) -> Tensor:
    query, seen = heads(x), (ids != PADDING) & (ids != 5)
    return joined(F.scaled_dot_product_attention(query, query, query, seen[:, None, None]))


def two_masks(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    scores = query @ query.mT
    for word in (PADDING, 5):
        scores = scores.masked_fill((ids == word)[:, None, None], -torch.inf)
    return joined(scores.softmax(-1) @ query)


def turned(ids: Tensor, x: Tensor) -> Tensor:
    query = heads(x)
    scores = (query @ query.mT).masked_fill((ids == PADDING)[:, None, None], -1e9) / -2
    return joined(scores.softmax(-1) @ query)


def mean(numerator: Callable[..., Tensor], divisor: Callable[..., Tensor]) -> Make:
    def pool(ids: Tensor, x: Tensor) -> Tensor:
        keep = (ids != PADDING).float()[..., None]
        return numerator(x, keep) / divisor(keep)

    return lambda: Reader(plain, pool)


def shown(x: Tensor, keep: Tensor) -> Tensor:
    return (x * keep).sum(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reader(queries_too, first), "may hide keys that are padding, and later tokens, but it hides other"),
        (lambda: Reader(reordered, first), "a mask of padding has a packed form only in"),
        (lambda: Reader(shifted, first), "its arguments must depend on the input|a mask of padding has a packed form"),
        (masked_by(lambda seen: seen & seen[1]), "a mask of padding has a packed form only in"),
        (masked_by(lambda seen: seen | seen[:1]), "a mask of padding has a packed form only in"),
        (
            masked_by(lambda seen: seen & (torch.arange(seen.shape[0]) < 99)[:, None]),
            "a mask of padding has a packed form",
        ),
        (masked_by(shuffled), "may hide keys that are padding, and later tokens, but it hides other keys"),
        (masked_by(of_five_tokens), "a mask of padding has a packed form only in"),
        (lambda: Reader(shrunk, first), "a factor after the mask must leave it at most -1e"),
        (lambda: Reader(weak, first), "must add 0 to the scores of keys that are seen, and at most -1e"),
        (lambda: Reader(two_ids, first), "a mask can hide one token id, but this one depends on 3 and 5"),
        (lambda: Reader(two_masks, first), "its masks must hide one token id, but they hide 3 and 5"),
        (lambda: Reader(turned, first), "a factor after the mask must be positive"),
        (
            lambda: Reader(plain, lambda ids, x: x[:, 0] * (ids > 3).float().mean()),
            "or compared with the id of padding",
        ),
        (
            lambda: Reader(plain, lambda ids, x: x[:, 0] * (ids == -1)[:, :1].float()),
            "one number from 0, which is the id of",
        ),
        (lambda: Reader(plain, lambda ids, x: x[:, 0] * (ids == ids)[:, :1].float()), "one number from 0, which is"),
        (
            lambda: Reader(plain, lambda ids, x: x[:, 0] * (ids != PADDING)[:, :1]),
            "a mask of padding has a packed form",
        ),
        (mean(shown, lambda keep: keep.sum(1) + 1), "before that, it may be raised to at most 1"),
        (mean(shown, lambda keep: keep.sum(1).clamp(min=2)), "before that, it may be raised to at most 1"),
        (mean(shown, lambda keep: keep.sum(2).sum(1, keepdim=True) * 2), "a sum has a packed form only in the mean"),
        (mean(shown, lambda keep: keep.sum(1, dtype=torch.bool)), "it sums in torch.bool; leave out the type"),
        (
            mean(shown, lambda keep: keep.sum(1)[:, None]),
            "the number of tokens divides their sum in other axes; give both sums the same keepdim",
        ),
        (mean(shown, lambda keep: TOKENS), "masked tokens have a packed form only in their mean"),
        (mean(lambda x, keep: (x * keep).mean(1), lambda keep: 1), "masked tokens have a packed form only in their"),
        (
            mean(lambda x, keep: (x * keep).sum((1, 2))[:, None] + x[:, 0], lambda keep: 1),
            "a sum has a packed form only",
        ),
        (
            mean(lambda x, keep: (x * (keep + 1)).sum(1), lambda keep: keep.sum(1)),
            "a mask of padding has a packed form",
        ),
    ],
)
def test_what_cannot_be_packed_is_named_in_one_line(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        bb.pack(settled(make()), texts()[:1])
    assert "\n" not in str(caught.value) and "cannot pack layer" in str(caught.value)


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 12, 33])
def test_inputs_tell_all_tokens_apart(tokens: int) -> None:
    graph = Graph()
    ids, builder = graph.placeholder("ids"), Builder(lambda node: None)
    builder.values[ids] = Traced.plain(0, [tokens])
    node = graph.call_function(torch.ops.aten.ne.Scalar, (ids, PADDING))
    builder.values[node] = mask = masks.Mask(node, PADDING, compares="ne")
    present = masks.numbers_of(builder, mask.node)[1]
    assert {0, 1, tokens} <= set(present.sum(1).tolist())
    for one, two in itertools.permutations(range(tokens), 2):
        assert (present[:, one] & ~present[:, two]).any()


MASK = Step("mask", (0,), "", {"id": PADDING})
SHORT = Step("slice", (1,), "", {"axis": 2, "begin": 0, "end": 2})


ATTENTION = {"heads": 2, "scale": 1.0, "causal": False}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (program(MASK), "a mask takes token ids, but no embed says how many there are"),
        (program(MASK, shape=(3, 2)), r"an input of one axis, got shape \[3, 2\]"),
        (program(EMBED, Step("mask", (1,), "", {"id": 0}), **TABLE), "takes token ids, which are an input of one axis"),
        (program(EMBED, Step("mask", (0,), "", {"id": -1}), **TABLE), "id must be an integer from 0"),
        (program(EMBED, Step("mask", (0,), "", {}), **TABLE), r"needs the settings \['id'\]"),
        (program(EMBED, Step("masked_mean", (1, 1)), **TABLE), "the last value that it takes must be that of a mask"),
        (program(EMBED, MASK, Step("masked_mean", (2, 2)), **TABLE), r"takes channels and tokens, got shape \[3\]"),
        (program(EMBED, Step("masked_attention", (1,) * 3, "", ATTENTION), **TABLE), "takes 4 values, got 3"),
        (program(EMBED, Step("masked_attention", (1,) * 4, "", ATTENTION), **TABLE), "must be that of a mask"),
        (
            program(EMBED, MASK, SHORT, Step("masked_mean", (3, 2)), **TABLE),
            r"a mask of shape \[3\] does not fit 2 tokens",
        ),
    ],
)
def test_unsound_programs_are_refused(make: Callable[[], PackedNetwork], message: str) -> None:
    with pytest.raises(PackedFileError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_masks_are_of_version_4() -> None:
    text = program_text(Program((3,), 1, (EMBED, MASK, Step("masked_mean", (1, 2)))))
    assert parse_program(text).steps[1].op == "mask" and '"version":4' in text
    with pytest.raises(PackedFileError, match="version 3 of the format has no operation 'mask'"):
        parse_program(text.replace('"version":4', '"version":3'))


def test_scores_count_as_memory() -> None:
    steps = (Step("masked_attention", (0, 0, 0, 0), "", ATTENTION),)
    assert held(Program((2, 100), 1, steps), [Value((2, 100))] * 2, set()) == 2 * 200 + 2 * 100 * 100


def test_the_c_header_names_what_it_refuses() -> None:
    packed = bb.pack(settled(Reader(plain, product)), texts()[:1])
    with pytest.raises(ValueError, match="embed"):
        c_header(packed)


def test_several_networks_share_their_mask() -> None:
    model, ids = Reader(booleans, product), texts()
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, init_lambda=0.5, seed=0)
    packed = bb.pack(model.eval(), ids[:1], optimizer.posterior(), samples=3)
    wanted = bb.predict(model, ids, optimizer.posterior(), samples=3).outputs.numpy()
    for backend in BACKENDS[:3]:
        found = bb.packed.load(packed, backend).outputs(ids if backend == "torch" else ids.numpy())
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-4, err_msg=backend)
