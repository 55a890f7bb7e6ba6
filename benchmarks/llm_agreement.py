"""Compare what llama.cpp computes from a run's decoder as F16, Q8_0 and Q1_0 with what torch computes.

    python benchmarks/llm_agreement.py RUN [--windows 16] [--prompts 50] [--start 20] [--more 200] [--data FOLDER]

RUN is the folder of a finished run of the recipe text, whose test data are the texts. The parameters in torch are
rounded to float16, as in the files. After the perplexity, the columns compare a row with F16, and F16 with torch.

- "bytes": size of the file.
- "perplexity": exponential of the mean negative log-probability of a byte, over the test windows.
- "error": norm of the difference of the logits, over the norm of the logits.
- "same byte": share of bytes for which the most likely next byte is the same.
- "same text": number of prompts whose continuation by the most likely byte is the same. The prompts are the first bytes
  of other test windows.
- "same until": median number of continued bytes before the first different one, over the prompts whose texts differ.

It needs the extra gguf and llama-cpp-python (docs/gguf.md).
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from llm import TYPES, parsed

import bitbayes as bb
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.train import RunError
from bitbayes.lab.train.measure import whole
from bitbayes.table import Table


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="folder of a run whose network is a decoder of bytes")
    parser.add_argument("--data", help="folder of the text, if it is not where the run found it")
    parser.add_argument("--windows", type=int, default=16, help="test windows of the first columns")
    parser.add_argument("--prompts", type=int, default=50, help="texts that are continued")
    parser.add_argument("--start", type=int, default=20, help="bytes of a prompt")
    parser.add_argument("--more", type=int, default=200, help="bytes of a continuation")
    o = parsed(parser, arguments)
    if small := [name for name in ("windows", "prompts", "start", "more") if getattr(o, name) < 1]:
        parser.error(f"--{small[0]} must be at least 1, got {getattr(o, small[0])}")
    try:
        run = load_run(o.run, data=o.data)
        prompts, windows = texts(run, o.prompts, o.windows)
    except (ValueError, RunError) as error:
        parser.error(str(error))
    if o.start + o.more > len(windows[0]):
        parser.error(f"--start and --more together are {o.start + o.more}, and windows have {len(windows[0])} bytes")
    found = compared(run.experiment.model.float().eval(), windows, [text[: o.start] for text in prompts], o.more)
    heads = ["", "bytes", "perplexity", "error", "same byte", "same text", "same until"]
    print(Table("", heads, [row.cells() for row in found]).text())


def texts(run: FinishedRun, *counts: int) -> list[list[list[int]]]:
    """Return several lists of different windows of a run's test data, whose order is random and always the same.

    Raises:
        ValueError: If the run has no test windows, or too few.
    """
    data = run.experiment.data.test
    if not run.experiment.loss.text or data is None:
        raise ValueError("the run has no text as test data; give a run of the recipe text")
    if sum(counts) > len(data):
        raise ValueError(f"the test data have {len(data)} windows, and {sum(counts)} are asked for")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    chosen = whole(data)[0][order[: sum(counts)]]
    return [part.tolist() for part in chosen.split(counts)]


@dataclass(frozen=True)
class Compared:
    """Row of the table; the module says what each number is, and `first` has the last one for every prompt."""

    name: str
    bytes: int | None
    perplexity: float
    error: float
    same_byte: float
    first: list[int | None]

    def cells(self) -> list[str]:
        """Return the texts of the row."""
        places = [place for place in self.first if place is not None]
        far = f"{statistics.median(places):g}" if places else "-"
        size = "-" if self.bytes is None else f"{self.bytes:,}"
        shares = [f"{100 * self.error:.3f}%", f"{100 * self.same_byte:.2f}%"]
        same = f"{len(self.first) - len(places)} of {len(self.first)}"
        return [self.name, size, f"{self.perplexity:.3f}", *shares, same, far]


@torch.inference_mode()
def compared(model: Any, windows: list[list[int]], prompts: list[list[int]], more: int) -> list[Compared]:
    """Return the rows of torch and of every type, whose difference is measured to `F16`, and that of F16 to torch.

    Args:
        model: The decoder. Its parameters are rounded to float16.
        windows: Texts whose bytes are predicted.
        prompts: Texts that are continued.
        more: Bytes of a continuation.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.half())  # what the files hold
    context = max(*map(len, windows), max(map(len, prompts)) + more)
    programs: dict[str, Program] = {"torch, float32": InTorch(model)}
    sizes: dict[str, int | None] = {"torch, float32": None}
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            path, name = Path(folder, kind), f"llama.cpp, {kind}"
            bb.packed.write_gguf(model, path, kind)
            programs[name], sizes[name] = InLlamaCpp(path, context), path.stat().st_size
    logits = {name: [program.logits(text) for text in windows] for name, program in programs.items()}
    continued = {name: [program.continued(text, more) for text in prompts] for name, program in programs.items()}
    rows = []
    for name in programs:
        other = "torch, float32" if name == "llama.cpp, F16" else "llama.cpp, F16"
        found, wanted = (np.concatenate(logits[which]) for which in (name, other))
        rows.append(
            Compared(
                name=name,
                bytes=sizes[name],
                perplexity=perplexity(logits[name], windows),
                error=float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)),
                same_byte=float((found.argmax(1) == wanted.argmax(1)).mean()),
                first=[first_difference(*pair) for pair in zip(continued[name], continued[other], strict=True)],
            )
        )
    return rows


class Program(Protocol):
    """What computes a decoder."""

    def logits(self, text: list[int]) -> np.ndarray:
        """Return the logits of the byte after each one, shape (T, V)."""
        ...

    def continued(self, text: list[int], count: int) -> list[int]:
        """Return the bytes that follow, each the most likely one."""
        ...


class InLlamaCpp:
    """A GGUF file in llama.cpp, on one thread.

    Args:
        path: The file.
        context: Largest number of tokens of a text.
    """

    def __init__(self, path: str | Path, context: int) -> None:
        llama_cpp = importlib.import_module("llama_cpp")  # no dependency of the project
        settings = {"n_ctx": context, "n_batch": context, "n_threads": 1, "n_threads_batch": 1}
        self.llama = llama_cpp.Llama(str(path), logits_all=True, verbose=False, **settings)

    def logits(self, text: list[int]) -> np.ndarray:
        self.llama.reset()
        self.llama.eval(text)
        return np.array(self.llama.scores[: len(text)], np.float64)

    def continued(self, text: list[int], count: int) -> list[int]:
        self.llama.reset()
        self.llama.eval(text)
        found = []
        for _ in range(count):
            found.append(int(self.llama.scores[self.llama.n_tokens - 1].argmax()))
            self.llama.eval(found[-1:])
        return found


class InTorch:
    """A decoder in torch.

    Args:
        model: Bytes (N, T) to logits (N, T, V), or to an object that has such `logits`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.inference_mode()
    def logits(self, text: list[int]) -> np.ndarray:
        found = self.model(torch.tensor([text]))
        return getattr(found, "logits", found)[0].double().numpy()

    def continued(self, text: list[int], count: int) -> list[int]:
        whole = list(text)
        for _ in range(count):
            whole.append(int(self.logits(whole)[-1].argmax()))
        return whole[len(text) :]


def perplexity(logits: Sequence[np.ndarray], texts: Sequence[list[int]]) -> float:
    """Return the exponential of the mean negative log-probability of all bytes but the first of each text."""
    parts = []
    for scores, text in zip(logits, texts, strict=True):
        logs = torch.from_numpy(scores[:-1]).log_softmax(-1)
        parts.append(-logs[torch.arange(len(text) - 1), text[1:]])
    return float(torch.cat(parts).mean().exp())


def first_difference(these: list[int], those: list[int]) -> int | None:
    """Return the index of the first different byte, or None."""
    return next((place for place, pair in enumerate(zip(these, those, strict=True)) if pair[0] != pair[1]), None)


if __name__ == "__main__":
    main()
