"""A small encoder for texts, trained from scratch."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TextTransformer", "seen"]


def seen(tokens: Tensor, padding: int) -> Tensor:
    """Which tokens [B, L] are not padding, bool; the first always counts, so that an empty text has one token."""
    return torch.cat([torch.ones_like(tokens[:, :1], dtype=torch.bool), tokens[:, 1:] != padding], dim=1)


@final
class TextTransformer(nn.Module):
    """Embeddings of tokens and positions, `layers` encoder layers, the mean over the text, a linear `head`.

    `width` is the size of every token's vector, split into `heads` equal parts; `hidden` that of the layers' hidden
    layer. Tokens are embedded in `embedding` numbers, which a linear layer maps to the width (None: directly in the
    width). Each part of a layer normalises its input first and adds its result to that input (pre-norm residual).
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        padding: int,
        classes: int,
        *,
        width: int = 64,
        embedding: int | None = None,
        layers: int = 2,
        heads: int = 4,
        hidden: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads != 0:
            raise ValueError(f"Expected `model.width` to be a multiple of `model.heads`={heads}, but got {width}")
        self.padding = padding
        narrow = width if embedding is None else embedding
        self.tokens = nn.Embedding(vocabulary, narrow)
        self.places = nn.Embedding(length, narrow)
        self.widen = nn.Identity() if embedding is None else nn.Linear(embedding, width)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for part in (self.tokens, self.places):
            nn.init.normal_(part.weight, std=narrow**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, L] to logits [B, classes]."""
        mask = seen(tokens, self.padding)
        x = self.drop(self.widen(self.tokens(tokens) + self.places.weight[: tokens.shape[1]]))
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        shares = mask.to(x.dtype)[:, :, None]
        mean = (self.norm(x) * shares).sum(1) / shares.sum(1)
        return self.head(self.drop(mean))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """Attention, then two linear layers."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, width] to the same; `mask` bool [B, 1, 1, L] is True where a token may be attended to."""
        y = self.norm1(x)
        query, key, value = (self._parts(part(y)) for part in (self.query, self.key, self.value))
        scores = (query @ key.mT / math.sqrt(query.shape[-1])).masked_fill(~mask, float("-inf"))
        y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(y))
        return x + self.drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))  # type: ignore[no-any-return]

    def _parts(self, x: Tensor) -> Tensor:
        """[B, L, width] to [B, heads, L, width / heads]."""
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
