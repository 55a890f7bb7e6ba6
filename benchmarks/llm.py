"""Time a decoder with binary projections in llama.cpp as Q1_0, Q8_0 and F16, and in torch.

    python benchmarks/llm.py [RUN] [--hidden 512] [--layers 4] [--prompt 128] [--tokens 64] [--threads 1] [--turns 3]

RUN is the folder of a finished run whose network is such a decoder. Without RUN, the network is a random Llama, whose
feed-forward layers are three times as wide as the residual stream. All programs read the same tokens: first the prompt
at once, then one token after the other with cached keys and values. They take turns, and the table has the medians.

- "bytes": size of the file; of torch, bytes of the parameters.
- "prompt" and "one by one": tokens per second, over those of F16.

It needs the extra gguf and llama-cpp-python (docs/gguf.md). A random network also needs Transformers.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
    o = parser.parse_args(arguments)
    torch.set_num_threads(o.threads)
    model = random_llama(o.hidden, o.layers, o.prompt + o.tokens) if o.run is None else load_run(o.run).experiment.model
    model.eval()
    tokens = torch.randint(1, 256, (o.prompt + o.tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        sizes, starts = {}, {}
        for kind in TYPES:
            path = Path(folder, kind)
            bb.packed.write_gguf(model, path, kind)
            sizes[kind], starts[kind] = path.stat().st_size, in_llama_cpp(path, len(tokens), o.threads)
        sizes["torch"] = sum(parameter.nbytes for parameter in model.parameters())
        starts["torch"] = lambda: in_torch(model)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
        for _ in range(o.turns):
            for name, start in starts.items():
                times[name].append(timed(start(), tokens[: o.prompt], tokens[o.prompt :]))
    rates = {name: [statistics.median(part) for part in zip(*found, strict=True)] for name, found in times.items()}
    rows = [
        [f"llama.cpp, {name}" if name in TYPES else f"{name}, {next(model.parameters()).dtype}", f"{sizes[name]:,}"]
        + [f"{rate / base:.2f}×" for rate, base in zip(rates[name], rates["F16"], strict=True)]
        for name in starts
    ]
    print(Table("", ["", "bytes", "prompt", "one by one"], rows).text())


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
