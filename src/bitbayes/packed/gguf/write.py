"""Writing of GGUF files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bitbayes.errors import chosen, require
from bitbayes.files import replacing
from bitbayes.packed.format.bits import Array

if TYPE_CHECKING:  # packed networks run where torch is not installed
    from torch import Tensor, nn

    from bitbayes.packed.gguf.llama import Place, Sizes

GGUFType = Literal["Q1_0", "Q8_0", "F16"]

_BYTES = 256  # tokens of the vocabulary, before the end token
_END = "<|endoftext|>"


def write_gguf(model: nn.Module, path: str | Path, type: GGUFType = "Q1_0", *, name: str = "") -> None:
    """Write a Llama with binary projections as a GGUF file, which llama.cpp and the programs around it run.

    The network has the parameter names and the config of Hugging Face's `LlamaForCausalLM`. Its tokens are the 256
    bytes, and may include an end token as number 256. Embedding and head become float16 and norms float32. The
    projections become the given type.

    Signs are exact. A scale s is rounded to the nearest float16, which changes it by at most one part in 2048. The
    types "Q1_0" and "F16" round it alike, so their files hold the same network.

    Args:
        model: The network, whose binary parameters hold the mode.
        path: File to write. It replaces an existing file only when it is complete.
        type: Type of the projections. "Q1_0" takes 1.125 bits per weight, because 128 weights of a row share a scale
            of 16 bits. "Q8_0" (8.5 bits) and "F16" (16 bits) serve for comparison and also take real weights.
        name: Name of the network to store in the file.

    Raises:
        ImportError: If gguf is not installed.
        RuntimeError: If the parameters hold weights that a training step drew, not the mode.
        ValueError: If the name is no Unicode text, the network is not such a Llama, a number is not finite or too large
            for float16, or the length of a row is not a multiple of the type's block. For "Q1_0", also if a weight is
            not ±s with one s for each 128 weights of a row. The message names the parameter.

    Example:
        >>> import tempfile
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2)
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=257, **sizes))
        >>> binary, _ = bb.split_parameters(model, real=["lm_head.weight"])
        >>> _ = bb.STE(binary, scale="fan_in", seed=0).eval()
        >>> path = Path(tempfile.mkdtemp(), "net.gguf")
        >>> write_gguf(model, path)
        >>> from gguf import GGUFReader
        >>> [tensor.tensor_type.name for tensor in GGUFReader(path).tensors][:4]
        ['F16', 'F32', 'F32', 'Q1_0']
    """
    from bitbayes.draws import unwrapped
    from bitbayes.nn import BinaryActivation
    from bitbayes.packed.convert.refusals import check_mode
    from bitbayes.packed.gguf.llama import Sizes, places

    gguf = require("gguf", "gguf")
    kinds = {kind: gguf.GGMLQuantizationType[kind] for kind in ("Q1_0", "Q8_0", "F16", "F32")}
    projections = chosen("type", type, {kind: kinds[kind] for kind in ("Q1_0", "Q8_0", "F16")})
    try:
        name.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ValueError(f"name is {name!r:.60}, expected Unicode text, without surrogates") from None
    model = unwrapped(model)
    check_mode(model)
    if (config := getattr(model, "config", None)) is None:
        raise ValueError(f"{model.__class__.__name__} has no config; a GGUF file needs a network like LlamaForCausalLM")
    for layer, module in model.named_modules():
        if isinstance(module, BinaryActivation):
            raise ValueError(f"{layer!r:.100} makes activations binary, which a GGUF file of a Llama cannot express")
    sizes, state = Sizes.of(config), model.state_dict()
    if sizes.vocab not in (_BYTES, _BYTES + 1):
        raise ValueError(
            f"config.vocab_size is {sizes.vocab}, but only networks on bytes can be written: {_BYTES} tokens, or "
            f"{_BYTES + 1} with an end token"
        )
    types = {"projection": projections, "table": kinds["F16"], "norm": kinds["F32"]}
    tensors = [(place, types[place.kind]) for place in places(sizes, state)]
    for place, kind in tensors:
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if place.shape[-1] % block:
            raise ValueError(
                f"{place.source!r} has rows of {place.shape[-1]} weights, but a row of {kind.name} is a multiple of "
                f"{block}; choose the type F16, or other sizes of the network"
            )
    with replacing(path) as partial:
        writer = gguf.GGUFWriter(partial, "llama")
        try:
            writer.add_name(name)
            writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{type}"])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            _add_sizes(writer, sizes)
            _add_bytes(gguf, writer, sizes.vocab)
            _write_tensors(gguf, writer, tensors, state)
        finally:
            writer.close()


def _add_sizes(writer: Any, sizes: Sizes) -> None:
    writer.add_vocab_size(sizes.vocab)
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.hidden)
    writer.add_feed_forward_length(sizes.intermediate)
    writer.add_block_count(sizes.layers)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(sizes.head)
    writer.add_value_length(sizes.head)
    writer.add_rope_dimension_count(sizes.head)
    writer.add_rope_freq_base(sizes.theta)
    writer.add_layer_norm_rms_eps(sizes.eps)


def _add_bytes(gguf: Any, writer: Any, count: int) -> None:
    """Add the vocabulary of bytes, each by the letter that GPT-2's tokenizer has for it."""
    letters, kinds = gguf.vocab.bytes_to_unicode(), gguf.TokenType
    ends = [_END] * (count - _BYTES)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*(letters[byte] for byte in range(_BYTES)), *ends])
    writer.add_token_types([kinds.NORMAL] * _BYTES + [kinds.CONTROL] * len(ends))
    # llama.cpp refuses an empty list of merges. The result of this merge is no token, so it never happens.
    writer.add_token_merges([f"{letters[0]} {letters[0]}"])
    # Without an end token, llama.cpp would take byte 11 for it. A text has no byte 0.
    end = _BYTES if ends else 0
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def _write_tensors(gguf: Any, writer: Any, tensors: Sequence[tuple[Place, Any]], state: Mapping[str, Tensor]) -> None:
    """Write the file; only one tensor at a time is converted, because a network may fill the memory."""
    for place, kind in tensors:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        length = math.prod(place.shape) // block * size
        writer.add_tensor_info(place.name, place.shape, np.dtype(np.float32), length, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for place, kind in tensors:
        try:
            writer.write_tensor_data(_encoded(gguf, place.ordered(_numbers(state[place.source])), kind))
        except ValueError as error:
            raise ValueError(f"{place.source!r} {error}") from None


def _numbers(tensor: Tensor) -> Array:
    """Return a tensor as float32."""
    if tensor.is_meta or not tensor.is_floating_point():
        raise ValueError(f"has type {tensor.dtype} on device {tensor.device}, expected real numbers")
    numbers = tensor.detach().float().cpu().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError("has NaN or infinite numbers; train again, or load an earlier checkpoint")
    return numbers


def _encoded(gguf: Any, numbers: Array, kind: Any) -> Array:
    """Return numbers as a type of GGUF, row by row."""
    from bitbayes.packed.gguf.blocks import q1_0

    if kind.name == "Q1_0":
        return q1_0(numbers)
    largest, half = np.abs(numbers).max(), np.finfo(np.float16)
    if kind.name != "F32" and largest > half.max:
        raise ValueError(f"has a number of size {largest:.6g}, but the largest float16 is {half.max:g}")
    if kind.name != "F32" and 0 < largest < half.tiny:
        raise ValueError(
            f"has no number above {largest:.6g}, but float16 is exact only from {half.tiny:.6g} on; move the scale "
            "into the norm or the layer before"
        )
    return gguf.quantize(numbers, kind)
