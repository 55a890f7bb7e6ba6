"""A network such as a user might bring: every kind of layer, a tied weight, real and binary parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UserNetwork(nn.Module):
    """Depthwise and grouped Conv2d, Conv1d, ConvTranspose2d, Embedding, LayerNorm, attention, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.embedding = nn.Embedding(11, 8)
        self.mix = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        picture = torch.tanh(self.grouped(self.depthwise(self.stem(image))))
        picture = torch.tanh(self.up(picture)).flatten(2).transpose(1, 2)
        words = self.mix(self.embedding(tokens).transpose(1, 2)).transpose(1, 2)
        sequence = self.norm(torch.cat([picture, words], 1))
        attended, _ = self.attention(sequence, sequence, sequence)
        return self.head(attended.mean(1))

    @staticmethod
    def example() -> tuple[Tensor, Tensor]:
        """A small batch of images and tokens."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, 3, 4, 4, generator=generator), torch.randint(11, (2, 5), generator=generator)
