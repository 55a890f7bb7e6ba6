"""Time a decoder with binary projections in llama.cpp as Q1_0, Q8_0 and F16, in torch, and from bits.

    python benchmarks/llm.py [RUN] [--hidden 512] [--layers 4] [--prompt 128] [--tokens 64] [--threads 1] [--turns 3]

RUN is the folder of a finished run whose network is such a decoder. Without RUN, the network is a random Llama, whose
feed-forward layers are three times as wide as the residual stream. All programs read the same tokens: first the prompt
at once, then one token after the other with cached keys and values. They take turns, and the table has the medians.

- "bytes": size of the file; of the others, bytes of the parameters and buffers.
- "prompt" and "one by one": tokens per second, over those of F16. The line below the table has those of F16.
- "bitbayes, native": the decoder in torch, whose projections our backend `native` computes from bits, in float32.

It needs the extra gguf and llama-cpp-python (docs/gguf.md). A random network also needs Transformers.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes.lab.studies.load import load_run
from bitbayes.packed.gguf.write import GGUFType
from bitbayes.table import Table

TYPES: tuple[GGUFType, ...] = ("F16", "Q8_0", "Q1_0")

Run = Callable[[list[int]], Any]  # computes tokens after those before


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", nargs="?", help="folder of a run; without it, a random network")
    parser.add_argument("--hidden", type=int, default=512, help="width of the random network, a multiple of 128")
    parser.add_argument("--layers", type=int, default=4, help="layers of the random network")
    parser.add_argument("--prompt", type=int, default=128, help="tokens that are read at once")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are read one by one")
    parser.add_argument("--threads", type=int, default=1, help="threads of each program")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each program")
    o = parsed(parser, arguments)
    torch.set_num_threads(o.threads)
    model = random_llama(o.hidden, o.layers, o.prompt + o.tokens) if o.run is None else load_run(o.run).experiment.model
    model.float().eval()
    tokens = torch.randint(1, 256, (o.prompt + o.tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        sizes, starts = {}, {}
        for kind in TYPES:
            path = Path(folder, kind)
            bb.packed.write_gguf(model, path, kind)
            sizes[kind], starts[kind] = path.stat().st_size, in_llama_cpp(path, len(tokens), o.threads)
        for name, network in {"torch, float32": model, "bitbayes, native": from_bits(model, o.threads)}.items():
            sizes[name] = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
            starts[name] = partial(in_torch, network)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
        for _ in range(o.turns):
            for name, start in starts.items():
                times[name].append(timed(start(), tokens[: o.prompt], tokens[o.prompt :]))
    rates = {name: [statistics.median(part) for part in zip(*found, strict=True)] for name, found in times.items()}
    rows = [
        [f"llama.cpp, {name}" if name in TYPES else name, f"{sizes[name]:,}"]
        + [f"{rate / base:#.3g}×" for rate, base in zip(rates[name], rates["F16"], strict=True)]
        for name in starts
    ]
    print(Table("", ["", "bytes", "prompt", "one by one"], rows).text())
    print("Tokens per second of llama.cpp, F16: {:.0f} of the prompt, {:.0f} one by one.".format(*rates["F16"]))


def parsed(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Return the options, or end the program with one line if llama.cpp is missing."""
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("llama_cpp") is None:
        parser.error("llama-cpp-python is not installed; docs/gguf.md has the command that installs it")
    return options


def random_llama(hidden: int, layers: int, context: int) -> Any:
    """Return a Llama on bytes with random binary projections."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=context,
    )
    model = LlamaForCausalLM(config)
    binary, _ = bb.split_parameters(model, real=["lm_head.weight"])
    bb.STE(binary, scale="fan_in", seed=0).eval()
    return model


def from_bits(model: nn.Module, threads: int) -> nn.Module:
    """Return a copy of a decoder whose binary projections run on our backend `native`."""
    copied = copy.deepcopy(model)
    for name, _ in bb.split_parameters(model)[0]:
        layer = name.removesuffix(".weight")
        copied.set_submodule(layer, FromBits(model.get_submodule(layer), threads))
    return copied


class FromBits(nn.Module):
    """Linear layer that our backend `native` computes from one bit per weight and a scale per output.

    Args:
        layer: Linear layer with binary weights and no bias.
        threads: Number of threads.
    """

    def __init__(self, layer: nn.Module, threads: int) -> None:
        super().__init__()
        packed = bb.pack(layer, torch.zeros(1, layer.get_parameter("weight").shape[1]))
        self.runtime = bb.packed.load(packed, "native", threads=threads)
        for role, tensor in packed.tensors.items():  # counted as the bytes of the layer
            self.register_buffer(role.replace(".", "_"), torch.from_numpy(tensor))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., outputs) of inputs (..., inputs)."""
        rows = self.runtime.outputs(x.flatten(0, -2).numpy())[0]
        return torch.from_numpy(rows).unflatten(0, x.shape[:-1])


def timed(run: Run, prompt: list[int], rest: list[int]) -> tuple[float, float]:
    """Return tokens per second of the prompt, and one by one."""
    start = time.perf_counter()
    run(prompt)
    between = time.perf_counter()
    for token in rest:
        run([token])
    return len(prompt) / (between - start), len(rest) / (time.perf_counter() - between)


def in_llama_cpp(path: Path, context: int, threads: int) -> Callable[[], Run]:
    """Return a function that begins a text in llama.cpp."""
    llama_cpp = importlib.import_module("llama_cpp")  # no dependency of the project
    settings = {"n_ctx": context, "n_batch": context, "n_threads": threads, "n_threads_batch": threads}
    llama = llama_cpp.Llama(str(path), verbose=False, **settings)

    def start() -> Run:
        llama.reset()
        return llama.eval

    return start


def in_torch(model: Any) -> Run:
    """Begin a text in torch, with cached keys and values in the way of the network's class."""
    if hasattr(model, "generate"):  # of Transformers
        from transformers import DynamicCache

        past = DynamicCache(config=model.config)
        return lambda tokens: model(torch.tensor([tokens]), cache=past, logits_to_keep=1)
    cache: list[Any] = []
    return lambda tokens: model(torch.tensor([tokens]), cache)


if __name__ == "__main__":
    main()
