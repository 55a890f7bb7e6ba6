"""GGUF files of Llamas: read back and computed by other means, run by llama.cpp, and refused where they must be."""

from __future__ import annotations

import copy
import errno
import importlib
import importlib.util
import math
import os
import re
import runpy
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.lab import cli
from bitbayes.lab.data.text import TextData
from bitbayes.lab.recipes import file
from bitbayes.packed import write_gguf

PROJECTIONS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()

# A network with the names and the config of a Llama, in plain torch. The bytes of its texts are columns of a table, and
# it has no attention, because a recipe needs a loss and no more.
RECIPE = """
from types import SimpleNamespace

import torch
from torch import nn
from bitbayes.lab.data import from_arrays
from bitbayes.lab.recipes import Recipe
from bitbayes.nn import keep_real

SIZES = dict(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, rms_norm_eps=1e-5, rope_theta=5000.0, max_position_embeddings=64)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        self.self_attn = nn.ModuleDict(
            dict(q_proj=linear(128, 128), k_proj=linear(128, 64), v_proj=linear(128, 64), o_proj=linear(128, 128)))
        self.mlp = nn.ModuleDict(
            dict(gate_proj=linear(128, 256), up_proj=linear(128, 256), down_proj=linear(256, 128)))
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(128, 1e-5), nn.RMSNorm(128, 1e-5)

    def forward(self, x):
        values = self.self_attn["v_proj"](self.input_layernorm(x))
        x = x + self.self_attn["o_proj"](torch.cat([values, values], -1))
        y = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](nn.functional.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(**SIZES)
        self.model = nn.ModuleDict(
            dict(embed_tokens=nn.Embedding(256, 128), layers=nn.ModuleList([Layer()]), norm=nn.RMSNorm(128, 1e-5)))
        self.lm_head = keep_real(nn.Linear(128, 256, bias=False))

    def forward(self, x):
        return self.lm_head(self.model["norm"](self.model["layers"][0](x @ self.model["embed_tokens"].weight[:4])))


def load(where, device, seed):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return from_arrays(x, (x[:, 0] > 0).long(), classes=256, device=device, seed=seed)


recipe = Recipe(load=load, network=Network, epochs=1, batch_size=20)
"""


@pytest.fixture(scope="module")
def gguf() -> Any:
    return needs.GGUF.module("gguf")


@pytest.fixture(autouse=True)
def account(tmp_path, monkeypatch):
    """An account that has not run any recipe file, in an empty folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file, "_OPENED", {})


def plain() -> Any:
    """The network of the recipe with binary projections, of one scale for each row."""
    Path("mine.py").write_text(RECIPE)
    return binarised(runpy.run_path("mine.py")["Network"]())


def llama(**changes: Any) -> Any:
    """A Llama of Hugging Face with binary projections, whose real numbers are exact in float16."""
    transformers = needs.TRANSFORMERS.module("transformers")
    sizes = {
        "vocab_size": 257,
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | changes)).eval()
    return binarised(model)


@torch.no_grad()
def binarised(model: torch.nn.Module) -> Any:
    for name, parameter in model.named_parameters():
        if name.split(".")[-2] in PROJECTIONS:
            scale = torch.exp2(torch.randint(-7, -3, (len(parameter), 1)).float())  # one for each row
            parameter.copy_(torch.where(torch.rand_like(parameter) < 0.5, -scale, scale))
        elif parameter.dim() == 2:
            parameter.copy_(torch.randn_like(parameter).half())
        else:
            parameter.uniform_(0.5, 2)
    return model


def unpacked(tensor: Any) -> np.ndarray:
    """The numbers of a tensor of a file in float64, block by block as the format says."""
    shape = tuple(int(size) for size in reversed(tensor.shape))
    kind, content = tensor.tensor_type.name, tensor.data.tobytes()
    if kind in ("F16", "F32"):
        return np.frombuffer(content, {"F16": "<f2", "F32": "<f4"}[kind]).astype(np.float64).reshape(shape)
    size, numbers = {"Q1_0": 18, "Q8_0": 34}[kind], []
    for start in range(0, len(content), size):
        (scale,), block = struct.unpack("<e", content[start : start + 2]), content[start + 2 : start + size]
        if kind == "Q1_0":
            numbers += [scale if block[j // 8] >> j % 8 & 1 else -scale for j in range(128)]
        else:
            numbers += [scale * number for number in struct.unpack("32b", block)]
    return np.array(numbers).reshape(shape)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata of a file, by names."""
    gguf = needs.GGUF.module("gguf")
    reader = gguf.GGUFReader(path)
    return {t.name: unpacked(t) for t in reader.tensors}, {key: f.contents() for key, f in reader.fields.items()}


def logits(path: str | Path, tokens: list[int]) -> np.ndarray:
    """The logits that the architecture "llama" computes from a file, in float64, shape (T, V)."""
    tensors, about = read(path)
    assert about["general.architecture"] == "llama"
    sizes = {key.removeprefix("llama."): value for key, value in about.items() if key.startswith("llama.")}
    heads, groups, width = (sizes[f"attention.{key}"] for key in ("head_count", "head_count_kv", "key_length"))
    assert sizes["attention.value_length"] == sizes["rope.dimension_count"] == width
    angles = np.outer(np.arange(len(tokens)), sizes["rope.freq_base"] ** (-np.arange(0, width, 2) / width))
    turn = np.exp(1j * angles)[:, None]
    future = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + sizes["attention.layer_norm_rms_epsilon"]) * tensors[name]

    def turned(x: np.ndarray, count: int) -> np.ndarray:
        """Entries 2i and 2i + 1 of a head are the parts of a complex number."""
        pairs = x.reshape(len(tokens), count, -1, 2)
        pairs = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([pairs.real, pairs.imag], -1).reshape(len(tokens), count, -1)

    x = tensors["token_embd.weight"][tokens]
    for layer in range(sizes["block_count"]):
        w = {key: tensors[f"blk.{layer}.{key}.weight"].T for key in ("attn_q", "attn_k", "attn_v", "attn_output")}
        y = norm(x, f"blk.{layer}.attn_norm.weight")
        q, k = turned(y @ w["attn_q"], heads), turned(y @ w["attn_k"], groups)
        v = (y @ w["attn_v"]).reshape(len(tokens), groups, -1)
        k, v = (np.repeat(each, heads // groups, 1) for each in (k, v))
        scores = np.exp(np.einsum("ihd,jhd->hij", q, k) / math.sqrt(width) + future)
        mixed = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v)
        x = x + mixed.reshape(len(tokens), -1) @ w["attn_output"]
        y = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate, up, down = (tensors[f"blk.{layer}.ffn_{key}.weight"].T for key in ("gate", "up", "down"))
        x = x + ((y @ gate) / (1 + np.exp(-(y @ gate))) * (y @ up)) @ down
    return norm(x, "output_norm.weight") @ tensors.get("output.weight", tensors["token_embd.weight"]).T


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 96, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "vocab_size": 256},
    ],
    ids=["plain", "grouped", "tied"],
)
def test_a_file_computes_what_torch_computes(changes, gguf):
    model, tokens = llama(**changes), np.random.default_rng(0).integers(0, 256, 40).tolist()
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    for kind, error in ("Q1_0", 1e-5), ("F16", 1e-5), ("Q8_0", 2e-2):
        write_gguf(model, "net.gguf", kind)
        got = logits("net.gguf", tokens)
        assert np.abs(got - wanted).max() < error * np.abs(wanted).max(), kind
        if kind != "Q8_0":
            assert np.array_equal(got.argmax(1), wanted.argmax(1))
    tensors, _ = read("net.gguf")
    assert ("output.weight" in tensors) != ("tie_word_embeddings" in changes)


def test_types_and_bytes(gguf):
    model = llama()
    model.generation_config = None
    sizes = {}
    for kind, number in ("Q1_0", 40), ("Q8_0", 7), ("F16", 1):
        write_gguf(model, "net.gguf", kind, name="a net")
        reader = gguf.GGUFReader("net.gguf")
        about = {key: field.contents() for key, field in reader.fields.items()}
        assert (about["general.name"], about["general.file_type"]) == ("a net", number)
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        assert types["token_embd.weight"] == types["output.weight"] == "F16"
        assert {name for name, found in types.items() if found == "F32"} == {
            "output_norm.weight", *(f"blk.{i}.{norm}.weight" for i in (0, 1) for norm in ("attn_norm", "ffn_norm"))
        }  # fmt: skip
        binary = [tensor for tensor in reader.tensors if tensor.name.startswith("blk.") and tensor.n_elements > 256]
        assert len(binary) == 14 and {tensor.tensor_type.name for tensor in binary} == {kind}
        sizes[kind] = sum(int(tensor.n_bytes) for tensor in binary)
    weights = sum(p.numel() for name, p in model.named_parameters() if name.split(".")[-2] in PROJECTIONS)
    assert {kind: 8 * size / weights for kind, size in sizes.items()} == {"Q1_0": 1.125, "Q8_0": 8.5, "F16": 16}


@pytest.mark.parametrize("count", [256, 257])
def test_tokens_are_bytes(count, gguf):
    write_gguf(llama(vocab_size=count), "net.gguf")
    _, about = read("net.gguf")
    tokens = about["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == count and (tokens[65], tokens[32], tokens[10]) == ("A", "Ġ", "Ċ")
    assert about["tokenizer.ggml.token_type"] == [1] * 256 + [3] * (count - 256)
    end = {256: 0, 257: 256}[count]
    assert about["tokenizer.ggml.eos_token_id"] == about["tokenizer.ggml.bos_token_id"] == end
    assert about["tokenizer.ggml.add_bos_token"] is False
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    assert merges and not {"".join(pair) for pair in merges} & set(tokens)


def test_scales_of_rows_and_blocks_are_rounded_to_float16(gguf):
    model = plain()
    layer = model.model["layers"][0]
    with torch.no_grad():
        layer.self_attn["v_proj"].weight.sign_().mul_(torch.linspace(0.01, 0.1, 64)[:, None])  # one for each row
        down = layer.mlp["down_proj"].weight.sign_()
        down[:, :128] *= 0.3  # one for each block
        down[:, 128:] *= 0.7
        layer.mlp["up_proj"].weight.sign_().mul_(1 / 3)  # one for the tensor
    for kind in ("Q1_0", "F16"):
        write_gguf(model, "net.gguf", kind)
        tensors, _ = read("net.gguf")
        for name, source in ("attn_v", layer.self_attn["v_proj"]), ("ffn_down", layer.mlp["down_proj"]), (
            "ffn_up", layer.mlp["up_proj"]
        ):  # fmt: skip
            weight = source.weight.detach().numpy()
            got = tensors[f"blk.0.{name}.weight"]
            assert np.array_equal(got, weight.astype(np.float16)), (kind, name)
            assert 0 < np.abs(got / weight - 1).max() <= 2**-11


@pytest.mark.parametrize("scale", ["one", "fan_in", "channel", "group:128", "group:64", "normal"])
def test_scales_of_the_rules(scale, gguf):
    model = plain()
    optimizer = bb.STE(bb.split_parameters(model)[0], lr=0.1, scale=scale, init="random", seed=0)
    for _ in range(2):  # learned scales move apart
        model(torch.randn(20, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.eval()
    if scale in ("group:64", "normal"):
        with pytest.raises(ValueError, match=r"[qv]_proj.weight' is not binary: .* up to weight (63|0) and then"):
            write_gguf(model, "net.gguf")
        return
    write_gguf(model, "net.gguf")
    weight = weight_of(model, "model.layers.0.mlp.down_proj.weight").numpy()
    assert len(np.unique(np.abs(weight))) > {"channel": 100, "group:128": 200}.get(scale, 0)
    assert np.array_equal(read("net.gguf")[0]["blk.0.ffn_down.weight"], weight.astype(np.float16))


def test_bfloat16_and_compiled_networks(gguf):
    model = plain()
    write_gguf(model, "net.gguf")
    wanted = Path("net.gguf").read_bytes()
    write_gguf(torch.compile(copy.deepcopy(model)), "net.gguf")
    assert Path("net.gguf").read_bytes() == wanted
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    for parameter in [*norms, model.model["embed_tokens"].weight, model.lm_head.weight]:
        parameter.data = parameter.data.bfloat16().float()
    write_gguf(model, "net.gguf")
    wanted = Path("net.gguf").read_bytes()
    write_gguf(model.bfloat16(), "net.gguf")
    assert Path("net.gguf").read_bytes() == wanted


def test_real_weights_have_files_of_other_types(gguf):
    model = plain()
    torch.nn.init.normal_(model.model["layers"][0].mlp["up_proj"].weight)
    weight = model.model["layers"][0].mlp["up_proj"].weight.detach().numpy()
    for kind, error in ("F16", 2**-10), ("Q8_0", 0.02):
        write_gguf(model, "net.gguf", kind)
        assert np.abs(read("net.gguf")[0]["blk.0.ffn_up.weight"] - weight).max() < error * np.abs(weight).max()


def weight_of(model: Any, name: str) -> torch.Tensor:
    return dict(model.named_parameters())[name].data


def fill(name: str, index: Any, value: float) -> Any:
    return lambda model: weight_of(model, name).__setitem__(index, value)


UP = "model.layers.0.mlp.up_proj.weight"
REFUSED = {
    "no config": (lambda m: delattr(m, "config"), "Network has no config"),
    "words": ({"vocab_size": 32000}, r"config.vocab_size is 32000, but only networks on bytes .* 256 tokens, or 257"),
    "another family": ({"model_type": "qwen3"}, "config.model_type is 'qwen3'; .* needs 'llama'"),
    "activation": ({"hidden_act": "gelu"}, "config.hidden_act is 'gelu'"),
    "biases": ({"attention_bias": True}, "config.attention_bias is True"),
    "a window": ({"sliding_window": 4096}, "config.sliding_window is 4096"),
    "experts": ({"num_local_experts": 8}, "config.num_local_experts is 8"),
    "scaled": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}},
        "rotary positions .*'llama3'",
    ),
    "scaled, old": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary positions .*'linear'"),
    "partial": ({"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1.0}}, "rotary positions"),
    "no mapping": ({"rope_parameters": "llama3"}, "rotary positions 'llama3'"),
    "no base": ({"rope_theta": None}, "rope_theta of the config is None, expected a positive"),
    "negative": ({"rms_norm_eps": -1.0}, "config.rms_norm_eps is -1.0, expected a positive"),
    "infinite": ({"rope_theta": math.inf}, "rope_theta of the config is inf"),
    "text": ({"hidden_size": "128"}, "config.hidden_size is '128', expected a whole number from 1 to 2147483647"),
    "zero": ({"num_attention_heads": 0}, "config.num_attention_heads is 0"),
    "truth": ({"num_hidden_layers": True}, "config.num_hidden_layers is True"),
    "context": ({"max_position_embeddings": 2**40}, "config.max_position_embeddings is 1099511627776"),
    "heads": (
        {"num_attention_heads": 3, "num_key_value_heads": 2},
        "num_attention_heads is 3, .* multiple of 2",
    ),
    "odd": ({"head_dim": 63}, "head_dim is 63, .* even"),
    "other heads": ({"num_attention_heads": 4}, r"k_proj.weight' has shape \(64, 128\), expected \(32, 128\)"),
    "many layers": ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers is 2147483647, but the network has only 12"),
    "few layers": ({"num_hidden_layers": 2}, "no tensor 'model.layers.1.input_layernorm.weight'"),
    "no head": (lambda m: delattr(m, "lm_head"), "no tensor 'lm_head.weight'"),
    "hostile": (
        lambda m: m.register_parameter("blk\n\0//" + "x" * 1000, torch.nn.Parameter(torch.ones(1))),
        r"^'blk\\n\\x00//x+ has no place in a GGUF file",
    ),
    "a bias": (
        lambda m: setattr(m.model["layers"][0].mlp["up_proj"], "bias", torch.nn.Parameter(torch.ones(256))),
        "'model.layers.0.mlp.up_proj.bias' has no place",
    ),
    "binary activations": (
        lambda m: m.model["layers"][0].self_attn.update({"act": bb.nn.BinaryActivation()}),
        "'model.layers.0.self_attn.act' makes activations binary",
    ),
    "a norm of queries": (
        lambda m: m.model["layers"][0].self_attn.update({"q_norm": torch.nn.RMSNorm(64)}),
        "'model.layers.0.self_attn.q_norm.weight' has no place",
    ),
    "real": (
        fill(UP, (3, 5), 0.3),
        r"^'model.layers.0.mlp.up_proj.weight' is not .*: row 3 has ±.* up to weight 4",
    ),
    "ternary": (fill(UP, (2, slice(0, 128)), 0.0), "weight 0 of row 2 is 0, but Q1_0 has one scale"),
    "NaN": (fill(UP, (0, 0), math.nan), "up_proj.weight' has NaN or infinite"),
    "infinity": (fill("model.norm.weight", 0, math.inf), "'model.norm.weight' has NaN or infinite"),
    "large": (fill("lm_head.weight", (0, 0), -1e5), "'lm_head.weight' has a number of size 100000, .* 65504"),
    "small": (
        lambda m: m.lm_head.weight.data.fill_(-1e-6),
        "'lm_head.weight' has no number above 1e-06, but float16 is exact only from 6.1.*e-05 on",
    ),
    "a large scale": (lambda m: weight_of(m, UP).sign_().mul_(1e5), "has the scale 100000, but .* 65504"),
    "a small scale": (lambda m: weight_of(m, UP).sign_().mul_(1e-5), "has the scale 1e-05, but .* from 6.1e-05"),
    "whole numbers": (
        lambda m: m.lm_head.__dict__["_parameters"].update(
            weight=torch.nn.Parameter(torch.ones(256, 128, dtype=torch.int8), requires_grad=False)
        ),
        "'lm_head.weight' has type torch.int8 .* expected real numbers",
    ),
    "nothing": (lambda m: m.to("meta"), "on device meta, expected real numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_not_compute_is_refused(case, gguf):
    change, message = REFUSED[case]
    model = plain()
    if isinstance(change, dict):
        vars(model.config).update(change)
    else:
        change(model)
    Path("net.gguf").write_text("an old file")
    with pytest.raises(ValueError, match=message) as caught:
        write_gguf(model, "net.gguf")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value) and "\0" not in str(caught.value)
    assert Path("net.gguf").read_text() == "an old file"
    assert sorted(path.name for path in Path().iterdir()) == ["mine.py", "net.gguf"]


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        ({"hidden_size": 200}, "Q1_0", "'model.layers.0.self_attn.q_proj.weight' has rows of 200 weights, .* of 128"),
        (
            {"intermediate_size": 320},
            "Q1_0",
            "down_proj.weight' has rows of 320 weights, .* multiple of 128",
        ),
        (
            {"intermediate_size": 328},
            "Q8_0",
            "down_proj.weight' has rows of 328 weights, .* multiple of 32;",
        ),
    ],
)
def test_rows_that_are_no_whole_blocks_are_refused(sizes, kind, message, gguf):
    model = llama(**sizes)
    with pytest.raises(ValueError, match=message):
        write_gguf(model, "net.gguf", kind)
    write_gguf(model, "net.gguf", "F16")


@pytest.mark.parametrize("group", [64, 96, 100])
def test_groups_that_are_no_whole_blocks_are_refused(group, gguf):
    model = plain()
    scales = torch.exp2(torch.arange(256) // group % 2)
    weight_of(model, "model.layers.0.mlp.down_proj.weight").sign_().mul_(scales)
    with pytest.raises(ValueError, match=rf"row 0 has ±1 up to weight {group - 1} and then ±2, .* 128 weights"):
        write_gguf(model, "net.gguf")


def test_types_are_named_in_the_message(gguf):
    with pytest.raises(ValueError, match=r"type must be one of 'Q1_0', 'Q8_0', 'F16', got 'q1_0'; the nearest"):
        write_gguf(plain(), "net.gguf", "q1_0")


@pytest.mark.parametrize("follow", [False, True])
def test_weights_of_a_training_step_are_refused(follow, gguf):
    model = plain()
    binary, _ = bb.split_parameters(model)
    optimizer = bb.BayesBiNN(binary, ess=10, scale="fan_in", init="random", seed=0)
    model.train()
    if follow:
        bb.follow(model, optimizer)
        model = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"holds weights that a training step of BayesBiNN drew.*bitbayes.follow\)$"):
        write_gguf(model, "net.gguf")
    if not follow:
        optimizer.eval()
        write_gguf(model, "net.gguf")


def test_gguf_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"gguf is not installed; run: pip install .*\[gguf\]"):
        write_gguf(plain(), "net.gguf")


def test_a_full_disk_leaves_the_old_file(monkeypatch, gguf):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = plain()
    write_gguf(model, "net.gguf")
    before = Path("net.gguf").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
        with pytest.raises(OSError, match="No space left"):
            write_gguf(model, "net.gguf", "F16")
    assert Path("net.gguf").read_bytes() == before
    for path in ("nowhere/net.gguf", "."):
        with pytest.raises(OSError) as caught:
            write_gguf(model, path)
        assert caught.value.filename == path
    assert sorted(path.name for path in Path().iterdir()) == ["mine.py", "net.gguf"]


def complaint(capsys: Any, *words: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert cli.main(list(words)) in (1, 2)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "Traceback" not in error
    return error


def test_command(capsys, monkeypatch, gguf):
    Path("mine.py").write_text(RECIPE)
    assert cli.main(["train", "mine.py", "--rule", "ste", "--out", "run"]) == 0
    assert cli.main(["export", "run", "--gguf", "net.gguf"]) == 0
    assert f"written: net.gguf, {Path('net.gguf').stat().st_size:,} bytes" in capsys.readouterr().out
    tensors, about = read("net.gguf")
    assert about["general.name"] == "mine" and about["general.file_type"] == 40
    from bitbayes.lab.studies.load import load_run

    mode = load_run("run").experiment.model.state_dict()
    assert np.array_equal(tensors["blk.0.ffn_up.weight"], mode["model.layers.0.mlp.up_proj.weight"].numpy())
    assert np.array_equal(np.unique(np.abs(tensors["blk.0.ffn_up.weight"])), [1])
    assert cli.main(["export", "run", "--gguf", "net.gguf", "--gguf-type", "F16"]) == 0
    assert read("net.gguf")[1]["general.file_type"] == 1
    assert "--gguf takes a run, and" in complaint(capsys, "export", "run", "--gguf", "a", "--onnx", "b")
    assert "--gguf-type" in complaint(capsys, "export", "run", "--onnx", "b", "--gguf-type", "F16")
    assert "folder" in complaint(capsys, "export", "nothing", "--gguf", "net.gguf")
    Path("file.safetensors").touch()
    assert "file.safetensors" in complaint(capsys, "export", "file.safetensors", "--gguf", "net.gguf")
    for place in ("recipes.configure", "studies.load"):
        monkeypatch.setattr(f"bitbayes.lab.{place}.load_data", lambda *_: pytest.fail("the data are not read"))
    (Path("run") / "summary.json").rename("summary.json")
    assert "run is not finished" in complaint(capsys, "export", "run", "--gguf", "net.gguf")
    Path("summary.json").rename(Path("run") / "summary.json")
    # Another account has to trust the recipe file first.
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("elsewhere").absolute()))
    file._OPENED.clear()
    assert "give --trust" in complaint(capsys, "export", "run", "--gguf", "net.gguf")
    assert cli.main(["export", "run", "--gguf", "net.gguf", "--trust"]) == 0


def test_command_refuses_a_run_of_another_network(capsys, gguf):
    assert cli.main(["train", "digits", "--rule", "ste", "--out", "run", "--epochs", "1"]) == 0
    assert "Sequential has no config" in complaint(capsys, "export", "run", "--gguf", "net.gguf")
    assert not Path("net.gguf").exists()


@pytest.fixture(scope="module")
def trained() -> Any:
    """A Llama that has learned to write this file for a moment, with scales that are no float16."""
    transformers = needs.TRANSFORMERS.module("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5
    )
    model = transformers.LlamaForCausalLM(config)
    binary, real = bb.split_parameters(model, real=["lm_head.weight"])
    optimizers = [
        bb.STE(binary, lr=1e-2, scale="group:128", seed=0),
        torch.optim.Adam([parameter for _, parameter in real], lr=3e-3),
    ]
    text = torch.tensor(list(Path(__file__).read_bytes()))
    for _ in range(400):
        starts = torch.randint(len(text) - 65, (8, 1))
        rows = text[starts + torch.arange(65)]
        found = model(rows[:, :-1]).logits
        torch.nn.functional.cross_entropy(found.flatten(0, 1), rows[:, 1:].flatten()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    optimizers[0].eval()
    return model.eval()


@pytest.fixture
def agreement(monkeypatch) -> Any:
    """The benchmark that compares what llama.cpp and torch compute."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("llm_agreement")


def loaded(agreement: Any, path: str) -> Any:
    needs.LLAMA_CPP.module("llama_cpp")
    return agreement.InLlamaCpp(path, 512)


# The kernel of llama.cpp for Q8_0 ends the process where AMX is reported but not allowed.
AMX = "amx" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q1_0", pytest.param("Q8_0", marks=needs.NO_AMX.unless(not AMX))])
def test_llama_cpp_runs_the_files(kind, trained, gguf, agreement):
    text = list(Path(cli.__file__).with_name("packed.py").read_bytes()[:400])  # no training data
    ours, perplexity = agreement.InTorch(trained), agreement.perplexity
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.copy_(parameter.half())  # what the files hold
    wanted = ours.logits(text)
    assert perplexity([wanted], [text]) < 30  # of 257 tokens
    write_gguf(trained, "net.gguf", kind)
    runner = loaded(agreement, "net.gguf")
    assert runner.llama.tokenize(b"def \n", add_bos=False) == list(b"def \n")
    assert runner.llama.detokenize(list(b"def \n")) == b"def \n"
    assert runner.llama.token_eos() == 256
    found = runner.logits(text)
    if kind == "F16":  # The mapping is right: what is left is float16's rounding.
        assert np.linalg.norm(found - wanted) < 2**-11 * np.linalg.norm(wanted)
        assert runner.continued(text[:20], 200) == ours.continued(text[:20], 200)
    else:  # The blocks are right: what is left is the rounding to eight bits, of activations and, in Q8_0, of weights.
        assert perplexity([found], [text]) == pytest.approx(perplexity([wanted], [text]), rel=5e-3)
        assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95


@pytest.mark.slow
def test_llama_cpp_runs_networks_of_256_tokens_and_tied_heads(gguf, agreement):
    model = llama(vocab_size=256, tie_word_embeddings=True, num_key_value_heads=1)
    with torch.no_grad():
        model.model.norm.weight.mul_(0.02)  # for logits of usual sizes
        tokens = list(b"Binary weights.")
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    write_gguf(model, "net.gguf", "F16")
    runner = loaded(agreement, "net.gguf")
    assert np.linalg.norm(runner.logits(tokens) - wanted) < 2**-9 * np.linalg.norm(wanted)
    assert runner.llama.tokenize(b"\x0b ok", add_bos=False) == list(b"\x0b ok") and runner.llama.token_eos() == 0


@pytest.mark.parametrize("name", ["a\0b", "\x1b[31m", "ünï ../..", "x" * 100_000])
def test_any_text_is_a_name(name, gguf):
    write_gguf(plain(), "net.gguf", name=name)
    found = gguf.GGUFReader("net.gguf").fields["general.name"]
    assert bytes(found.parts[found.data[0]]).decode() == name


def test_a_name_that_is_no_text_is_refused(gguf):
    with pytest.raises(ValueError, match=r"^name is '\\udcff', expected Unicode text, without surrogates$"):
        write_gguf(plain(), "net.gguf", name=os.fsdecode(b"\xff"))
    assert not Path("net.gguf").exists()


def test_the_decoder_of_the_benchmark_computes_from_bits(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    torch.manual_seed(0)
    model = bb.nn.decoder(hidden_size=128, intermediate_size=256, layers=2)
    binary, _ = bb.split_parameters(model)
    bb.STE(binary, scale="channel", seed=0).eval()
    with torch.no_grad():
        for _, weight in binary:
            weight.mul_(0.5 + torch.rand(len(weight), 1))
    text, cache = torch.randint(256, (1, 12)), []
    bits = importlib.import_module("llm").from_bits(model, 1)
    with torch.inference_mode():
        wanted = model(text)
        torch.testing.assert_close(bits(text[:, :8], cache), wanted[:, :8], rtol=1e-4, atol=1e-4)
        for place in range(8, 12):
            found = bits(text[:, place : place + 1], cache)
            torch.testing.assert_close(found[:, 0], wanted[:, place], rtol=1e-4, atol=1e-4)
    weights, scales = sum(parameter.numel() for _, parameter in binary), 2 * (5 * 128 + 2 * 256)
    real = sum(parameter.nbytes for name, parameter in model.named_parameters() if "_proj" not in name)
    assert sum(tensor.nbytes for tensor in bits.state_dict().values()) == weights // 8 + 4 * scales + real
    assert not [name for name, _ in bits.named_parameters() if "_proj" in name]


def test_types_are_compared_with_torch_and_with_f16(agreement, monkeypatch, gguf):
    torch.manual_seed(0)
    model = bb.nn.decoder(hidden_size=128, intermediate_size=256, layers=1, positions=32)
    binary, _ = bb.split_parameters(model)
    bb.STE(binary, scale="channel", seed=0).eval()

    class InNumPy(agreement.InTorch):
        """The file as this module computes it, in float64."""

        def __init__(self, path: Path, context: int) -> None:
            self.path, self.context = Path("kept", path.name), context
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_bytes(path.read_bytes())

        def logits(self, text: list[int]) -> np.ndarray:
            assert len(text) <= self.context
            return logits(self.path, text)

    monkeypatch.setattr(agreement, "InLlamaCpp", InNumPy)
    generator = np.random.default_rng(0)
    windows, prompts = generator.integers(0, 256, (3, 24)).tolist(), generator.integers(0, 256, (4, 6)).tolist()
    rows = {row.name: row for row in agreement.compared(model.eval(), windows, prompts, 5)}
    assert list(rows) == ["torch, float32", "llama.cpp, F16", "llama.cpp, Q8_0", "llama.cpp, Q1_0"]
    with torch.no_grad():
        outputs = model(torch.tensor(windows)).log_softmax(-1)
        wanted = torch.nn.functional.nll_loss(outputs[:, :-1].flatten(0, 1), torch.tensor(windows)[:, 1:].flatten())
    for name, row in rows.items():
        exact = name != "llama.cpp, Q8_0"
        assert row.perplexity == pytest.approx(float(wanted.exp()), rel=1e-5 if exact else 1e-2)
        assert row.error < 1e-5 if exact else 1e-4 < row.error < 5e-2
        assert row.same_byte == 1 if exact else 0.8 < row.same_byte <= 1
        assert len(row.first) == 4 and (row.first == [None] * 4 or not exact)
        assert row.bytes is None or row.bytes == Path("kept", name.removeprefix("llama.cpp, ")).stat().st_size
    assert [row.bytes is None for row in rows.values()] == [True, False, False, False]
    # In float64, Q1_0 is F16, and both differ from torch by its rounding.
    errors = [rows[name].error for name in ("torch, float32", "llama.cpp, F16", "llama.cpp, Q1_0")]
    assert errors[0] > 1e-8 and errors[1] == pytest.approx(errors[0], rel=1e-3) and errors[2] < 1e-12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--windows", "0"], "--windows must be at least 1, got 0"),
        (["--more", "0"], "--more must be at least 1, got 0"),
        ([], "run is not a run: it has no config.json"),
    ],
)
def test_the_comparison_refuses_what_it_cannot_measure(agreement, words, message, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SystemExit):
        agreement.main(["run", *words])
    assert message in capsys.readouterr().err


def test_the_comparison_takes_text_alone(agreement, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert cli.main(["train", "digits", "--rule", "ste", "--out", "run", "--epochs", "1"]) == 0
    with pytest.raises(SystemExit):
        agreement.main(["run"])
    assert "the run has no text as test data" in capsys.readouterr().err


def test_the_texts_of_the_comparison_are_different_windows(agreement):
    bundle = SimpleNamespace(test=TextData(torch.arange(200, dtype=torch.uint8), window=10))
    run = SimpleNamespace(experiment=SimpleNamespace(data=bundle, loss=SimpleNamespace(text=True)))
    first, others = agreement.texts(run, 4, 6)
    assert (len(first), len(others)) == (4, 6)
    assert len({tuple(text) for text in first + others}) == 10
    assert agreement.texts(run, 4, 3)[0] == first
    with pytest.raises(ValueError, match="the test data have 19 windows, and 20 are asked for"):
        agreement.texts(run, 10, 10)


def test_the_table_counts_the_same_texts(agreement):
    row = agreement.Compared("Q1_0", 1234567, 3.25, 0.001, 0.99, [None, 7, None, 3, 100])
    assert row.cells() == ["Q1_0", "1,234,567", "3.250", "0.100%", "99.00%", "2 of 5", "7"]
    alike = agreement.Compared("torch", None, 3.25, 0, 1, [None])
    assert alike.cells() == ["torch", "-", "3.250", "0.000%", "100.00%", "1 of 1", "-"]
    assert agreement.first_difference([1, 2, 3], [1, 2, 4]) == 2
    assert agreement.first_difference([1, 2, 3], [1, 2, 3]) is None


@pytest.mark.slow
def test_the_benchmark_compares_files_and_torch(monkeypatch, capsys, gguf):
    needs.TRANSFORMERS.module("transformers")
    needs.LLAMA_CPP.module("llama_cpp")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    importlib.import_module("llm").main("--hidden 128 --layers 1 --prompt 8 --tokens 4 --turns 1".split())
    heads, *rows, last = capsys.readouterr().out.splitlines()
    assert heads.split() == ["bytes", "prompt", "one", "by", "one"]
    assert re.fullmatch(r"Tokens per second of llama.cpp, F16: \d+ of the prompt, \d+ one by one\.", last)
    names, *columns = zip(*(re.split(r" {2,}", row) for row in rows), strict=True)
    assert names[:3] == ("llama.cpp, F16", "llama.cpp, Q8_0", "llama.cpp, Q1_0")
    assert names[3:] == ("torch, float32", "bitbayes, native")
    sizes = [int(size.replace(",", "")) for size in columns[0]]
    assert sizes[3] > sizes[0] > sizes[1] > sizes[2]
    for column in columns[1:]:
        assert column[0] == "1.00×" and all(float(cell.removesuffix("×")) > 0 for cell in column)
