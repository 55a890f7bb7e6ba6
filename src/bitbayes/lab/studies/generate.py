"""Text from a trained language model of bytes, one byte at a time."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from bitbayes.draws import drawn_networks
from bitbayes.lab.data.text import BOUNDARY, BYTES, WINDOW
from bitbayes.lab.recipes import recipe_of_run
from bitbayes.lab.recipes.configure import open_device
from bitbayes.lab.studies.load import load_network
from bitbayes.lab.train import RunConfig, RunFolder
from bitbayes.lab.train.results import load_posterior
from bitbayes.nn import Decoder


def load_language_model(
    folder: str | Path, *, sample: int | None = None, device: str = "cpu", trust: bool = False
) -> nn.Module:
    """Load the network of a text run, in eval mode. The text that it was trained on is not read.

    Args:
        folder: Folder of the run.
        sample: Seed of a network that is sampled from the posterior; None for the mode.
        device: Torch device.
        trust: Run the recipe file of the run, a program, although this account has not run it before.

    Raises:
        ValueError: If the device does not exist, the folder is not a run of text, or the rule keeps no posterior to
            sample from.
        RunError: If a file of the run is missing or damaged.
    """
    config, files = RunConfig.load(folder).changed(device=device), RunFolder(folder)
    recipe = recipe_of_run(folder, config, trust=trust)
    if not recipe.loss.text:
        raise ValueError(
            f"{folder} is a run of {config.recipe}, which does not model text; give one of `bitbayes train text`"
        )
    model = load_network(config, files, recipe)
    if sample is not None:
        posterior = load_posterior(files, open_device(device))
        if posterior is None:
            raise ValueError(f"{config.rule} keeps no posterior; leave out --sample to take its only network")
        weights = next(drawn_networks(model, posterior, 1, seed=sample))
        model.load_state_dict(weights, strict=False)
    return model


def next_bytes(
    model: nn.Module,
    prompt: bytes,
    count: int,
    *,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Return an iterator over the bytes with which a language model continues a prompt, until it ends the text.

    The model reads at most as many bytes as it has positions (a decoder) or as in training. When the text is longer, it
    goes on with the last half of them.

    Args:
        model: Network from bytes (1, T) to logits (1, T, 256), in eval mode.
        prompt: Beginning of the text.
        count: Largest number of bytes to generate.
        temperature: Number by which logits are divided; 0 takes the most probable byte every time.
        top_k: Number of most probable bytes from which one is drawn; None for all.
        seed: Seed of the draws.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> class Counts(torch.nn.Module):  # the next byte is one larger
        ...     def forward(self, tokens):
        ...         return 9.0 * torch.nn.functional.one_hot(tokens + 1, 256)
        >>> bytes(next_bytes(Counts(), b"a", 4, temperature=0))
        b'bcde'
    """
    _check(count, temperature, top_k)  # at once, and not at the first byte
    return _next_bytes(model, prompt, count, temperature, top_k, seed)


@torch.no_grad()
def _next_bytes(
    model: nn.Module, prompt: bytes, count: int, temperature: float, top_k: int | None, seed: int
) -> Iterator[int]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    cached = isinstance(model, Decoder)
    most = model.config.max_position_embeddings if cached else WINDOW
    text, cache, fresh = [BOUNDARY, *prompt], [], 0  # the cache knows `text[:fresh]`
    for _ in range(count):
        if len(text) > most:
            text, cache, fresh = text[-(most // 2) :], [], 0
        tokens = torch.tensor([text[fresh:]], device=device)
        logits: Tensor = model(tokens, cache) if cached else model(tokens)
        fresh = len(text) if cached else 0
        chosen = _drawn(logits[0, -1].double().cpu(), temperature, top_k, generator)
        if chosen == BOUNDARY:
            return
        text.append(chosen)
        yield chosen


def _check(count: int, temperature: float, top_k: int | None) -> None:
    if count < 1:
        raise ValueError(f"the number of bytes must be at least 1, got {count}")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be 0 or a positive number, got {temperature}")
    if top_k is not None and not 1 <= top_k <= BYTES:
        raise ValueError(f"top_k must be from 1 to {BYTES}, got {top_k}")


def _drawn(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Return a byte drawn from logits of shape (256,)."""
    if temperature == 0:
        return int(logits.argmax())
    values, places = logits.topk(top_k or len(logits))
    probabilities = ((values - values[0]) / temperature).softmax(0)  # the difference of equal logits is finite
    return int(places[torch.multinomial(probabilities, 1, generator=generator)])


def shown(codes: Iterable[int]) -> Iterator[str]:
    r"""Yield generated bytes as text that a terminal can show, in pieces as they come.

    Bytes that are no UTF-8 and control characters, which might drive the terminal, become the replacement character.

    Example:
        >>> print(*shown("né".encode() + bytes([27, 255])), sep="")
        né��
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for code in codes:
        yield _printable(decoder.decode(bytes([code])))
    yield _printable(decoder.decode(b"", final=True))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
