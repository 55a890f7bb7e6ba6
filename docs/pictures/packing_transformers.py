"""Bytes of a classifier of texts in float32 and packed, and how many of them are its embedding."""

import style
import torch
from matplotlib.figure import Figure
from parts.sizes import size_bars
from torch import Tensor, nn

import bitbayes as bb

WORDS, TOKENS, WIDTH = 8000, 64, 256


class Classifier(nn.Module):
    """Four layers of an encoder on embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (N, 4) of token ids (N, tokens)."""
        return self.head(self.encoder(self.words(ids)).mean(1))


def draw() -> Figure:
    """Pack the classifier with real numbers of 32 and of 16 bits, and draw the bytes of all three."""
    torch.manual_seed(0)
    model = Classifier()
    binary, _ = bb.split_parameters(model)
    bb.STE(binary, seed=0).eval()
    ids = torch.zeros(1, TOKENS, dtype=torch.int64)
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    packed, half = (bb.pack(model, ids, real=real).summary().bytes for real in ("float32", "float16"))
    bars = {
        "float32": (whole, style.MUTED),
        "its embedding": (4 * WORDS * WIDTH, style.MUTED),
        "packed": (packed, style.BLUE),
        'packed,\nreal="float16"': (half, style.BLUE),
        "packed, without\nthe embedding": (packed - 4 * WORDS * WIDTH, style.BLUE),
    }
    title = f"A text classifier of {whole / 4e6:.1f} million parameters"
    return size_bars(title, bars, ("MB", 1e6), lambda size: f"{size / 1e6:.1f} MB")
