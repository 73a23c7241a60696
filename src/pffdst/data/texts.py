"""Texts as token ids, concatenated in one tensor; a batch is padded to the smallest of a few widths that fits."""

from __future__ import annotations

import functools
import hashlib
import mmap
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from pffdst.data.npy import map_tensor, write_tensor
from pffdst.data.samples import digest_of

__all__ = ["SharedTexts", "TextSet", "width_of"]

_LEAST: Final = 8


def width_of(longest: int, limit: int) -> int:
    """The width of a batch whose longest text has `longest` tokens: 8, 12, 16, 24, 32, 48, ..., at most the limit.

    Few widths, so that an accelerator records few steps; at most half more than needed.
    """
    width, step = _LEAST, _LEAST // 2
    while width < longest:
        width += step
        if width & (width - 1) == 0:
            step = width // 2
    return min(width, max(limit, 1))


@final
@dataclass(frozen=True, eq=False)
class TextSet:
    """N texts: `tokens` int32 [T], of which text i has tokens[starts[i] : starts[i + 1]]; `starts` int64 [N + 1].

    `padding` int32 [2] has the padding token and the maximum number of tokens in a text. `labels` int64 [N], and
    `owners` if the data name them. `files` names the .npy files of the columns, if they are mapped.
    """

    tokens: Tensor
    starts: Tensor
    padding: Tensor
    labels: Tensor
    owners: Tensor | None = None
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)
    mapping: mmap.mmap | None = field(default=None, repr=False)
    token_digest: str | None = field(default=None, repr=False)

    @classmethod
    def mapped(cls, files: Mapping[str, Path], digest: str | None = None) -> TextSet:
        """The set of these .npy files. Raises OSError or ValueError if one is missing or damaged."""
        tokens, mapping = map_tensor(files["tokens"])
        found = {name: map_tensor(files[name])[0] for name in files if name != "tokens"}
        return cls(tokens=tokens, **found, files=dict(files), mapping=mapping, token_digest=digest)

    def __post_init__(self) -> None:
        shapes = self.tokens.dim(), self.starts.shape, self.padding.shape
        if shapes != (1, (len(self.labels) + 1,), (2,)) or int(self.starts[-1]) != len(self.tokens):
            raise ValueError(f"Expected texts of {len(self.labels)} labels, but got tokens and starts of {shapes}")

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of tokens, labels and owners."""
        rest = [tensor for tensor in (self.labels, self.owners) if tensor is not None]
        text = f"{self.known().token_digest} {digest_of(*rest)}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def _numbers(self) -> tuple[int, int]:
        padding, limit = self.padding.tolist()
        return padding, limit

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, int64 [N]."""
        return self.starts.diff()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens int32 [b, L], padded, and labels int64 [b]."""
        first, lengths = self._spans(indices)
        padding, limit = self._numbers
        width = width_of(int(lengths.max()), limit) if len(indices) else _LEAST
        inside = torch.arange(width)
        at, mine = first[:, None] + inside, inside < lengths[:, None]
        device = self.tokens.device
        if len(self.tokens):
            at = at.clamp_(max=len(self.tokens) - 1).to(device, non_blocking=True)
            tokens = self.tokens[at].masked_fill_(~mine.to(device, non_blocking=True), padding)
        else:  # all texts are empty
            tokens = self.tokens.new_full(tuple(at.shape), padding)
        return tokens, self.labels.index_select(0, indices.to(self.labels.device, non_blocking=True))

    def batch_shape(self, indices: Tensor) -> tuple[int, ...]:
        """(b, L)."""
        return len(indices), width_of(int(self._spans(indices)[1].max()), self._numbers[1])

    def _spans(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        first = self.starts.index_select(0, indices)
        return first, self.starts.index_select(0, indices + 1) - first

    def part(self, span: slice) -> Tensor:
        """Tokens of a span of texts, padded."""
        return self.batch(torch.arange(*span.indices(len(self))))[0]

    def take(self, indices: Tensor) -> TextSet:
        """The texts `indices` int64 [n], copied."""
        first, lengths = self._spans(indices)
        starts = torch.zeros(len(indices) + 1, dtype=torch.int64)
        torch.cumsum(lengths, 0, out=starts[1:])
        at = torch.arange(int(starts[-1])) + (first - starts[:-1]).repeat_interleave(lengths)
        owners = None if self.owners is None else self.owners.index_select(0, indices)
        return TextSet(self.tokens[at], starts, self.padding, self.labels.index_select(0, indices), owners)

    def to(self, device: torch.device | str) -> TextSet:
        """Tokens and labels on a device; the texts' offsets are only needed on the CPU."""
        return TextSet(self.tokens.to(device), self.starts, self.padding, self.labels.to(device))

    def numbered(self, labels: Tensor, owners: Tensor | None) -> TextSet:
        """The same texts with these labels and owners; the labels' file is dropped if it no longer matches."""
        files = self.files if labels is self.labels else {}
        return replace(self, labels=labels, owners=owners, files=files)

    def columns(self) -> dict[str, Tensor]:
        """The tensors by the names of the fields."""
        names = ("tokens", "starts", "padding", "labels", "owners")
        return {name: found for name in names if (found := getattr(self, name)) is not None}

    def known(self) -> TextSet:
        """With the digest of the tokens."""
        if self.token_digest is not None:
            return self
        return replace(self, token_digest=digest_of(self.tokens, self.starts, self.padding))

    @property
    def kept_digest(self) -> str | None:
        """The tokens' digest."""
        return self.token_digest

    def open(self) -> TextSet:
        """Itself."""
        return self

    def share(self, folder: Path) -> SharedTexts:
        """The columns as files: those they are mapped from, else new ones under `folder`. Raises OSError."""
        if self.files:
            return SharedTexts(tuple(self.files.items()))
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=folder, prefix="texts-"))
        for name, tensor in self.columns().items():
            write_tensor(place / f"{name}.npy", tensor)
        return SharedTexts(tuple((name, place / f"{name}.npy") for name in self.columns()))

    def forget_pages(self) -> None:
        """Releases mapped tokens from this process's memory until the next access."""
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)


@final
@dataclass(frozen=True)
class SharedTexts:
    """The columns of a set in .npy files: pickles as paths, opens as a mapping whose pages all processes share."""

    files: tuple[tuple[str, Path], ...]

    def open(self) -> TextSet:
        """The set mapped into memory. Raises OSError or ValueError if a file is gone or damaged."""
        return TextSet.mapped(dict(self.files))

    def share(self, folder: Path) -> SharedTexts:
        """Itself."""
        return self
