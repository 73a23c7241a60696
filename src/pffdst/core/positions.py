"""A set of maskable positions (alive, frozen or trainable ones), in whichever form is needed."""

from __future__ import annotations

import weakref
import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.blobs import bytes_of, tensor_of

if TYPE_CHECKING:
    from pffdst.core.model import Layout

__all__ = ["Positions", "bitmap_of", "bits_of"]


def bitmap_of(bits: Tensor) -> bytes:
    """A flat bool mask [W] as ceil(W / 8) bytes: position j is bit j mod 8 of byte j // 8, unused bits are 0."""
    return np.packbits(bits.numpy(), bitorder="little").tobytes()


def bits_of(bitmap: bytes, length: int) -> Tensor:
    """The mask bool [length] of a bitmap. ValueError if the bytes are not a bitmap of that many positions."""
    if len(bitmap) != (length + 7) // 8:
        raise ValueError(f"expected a bitmap of {(length + 7) // 8} bytes, but got {len(bitmap)}")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    if bits[length:].any():
        raise ValueError(f"bits past position {length} are set")
    return torch.from_numpy(bits[:length].view(np.bool_))


_FEW = 16  # a set smaller than 1/_FEW of what it is compared with is looked up instead of expanded


def _found(among: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The index of each of `wanted` among increasing numbers (at least one), and whether it is there."""
    at = np.searchsorted(among, wanted)
    np.minimum(at, len(among) - 1, out=at)
    return at, among[at] == wanted


@final
class Positions:
    """A subset of the W maskable positions of a `layout`. Its tensors must not be written to.

    `index` int64 [k], increasing, and `bits` bool [W] are the same set; the one not given is computed once on demand.
    O(k) operations use `index` and `counts`.
    """

    def __init__(self, layout: Layout, *, bits: Tensor | None = None, index: Tensor | None = None) -> None:
        if (bits is None) == (index is None):
            raise ValueError("Expected one of `bits` and `index`")
        self.layout = layout
        if bits is not None:
            self.__dict__["bits"] = bits
        if index is not None:
            self.__dict__["index"] = index

    @classmethod
    def none(cls, layout: Layout) -> Positions:
        """The empty set."""
        return cls(layout, index=torch.empty(0, dtype=torch.int64))

    @classmethod
    def all(cls, layout: Layout) -> Positions:
        """Every maskable position."""
        return cls(layout, bits=torch.ones(layout.maskable, dtype=torch.bool))

    @cached_property
    def bits(self) -> Tensor:
        """bool [W], True at the positions."""
        bits = torch.zeros(self.layout.maskable, dtype=torch.bool)
        bits.numpy()[self.index.numpy()] = True
        return bits

    @cached_property
    def index(self) -> Tensor:
        """The positions int64 [k], increasing."""
        return torch.from_numpy(np.flatnonzero(self.bits.numpy()))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of positions in each layer."""
        if "index" not in self.__dict__:
            return tuple(self.layout.per_layer(self.bits))
        ends = np.searchsorted(self.index.numpy(), [e.span.stop for e in self.layout.layers])
        return tuple(np.diff(ends, prepend=0).tolist())

    @cached_property
    def bitmap(self) -> bytes:
        """ceil(W / 8) bytes: the form in which both ends keep and check masks."""
        return bitmap_of(self.bits)

    def packed(self) -> Tensor:
        """The set as stored in a checkpoint: uint8, the compressed bitmap."""
        return tensor_of(zlib.compress(self.bitmap, 1))

    @classmethod
    def unpacked(cls, layout: Layout, packed: Tensor) -> Positions:
        """The set from `packed`. ValueError if it does not fit this layout."""
        most = (layout.maskable + 7) // 8
        try:
            bitmap = zlib.decompressobj().decompress(bytes_of(packed), most + 1)
        except zlib.error as error:
            raise ValueError(f"expected a compressed bitmap: {error}") from error
        return cls(layout, bits=bits_of(bitmap, layout.maskable))

    @cached_property
    def digest(self) -> int:
        """32 bits of xxh3 of the positions as increasing u32, by which both ends verify that they have the same set."""
        return xxhash.xxh3_64_intdigest(self.index.numpy().astype("<u4").data) & 0xFFFFFFFF

    def __len__(self) -> int:
        return sum(self.counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Positions):
            return NotImplemented
        if self is other:
            return True
        if "index" in self.__dict__ and "index" in other.__dict__:
            return torch.equal(self.index, other.index)
        return torch.equal(self.bits, other.bits)

    def __hash__(self) -> int:
        return self.digest

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_bitmap, (self.layout, self.bitmap)

    @property
    def everything(self) -> bool:
        """Whether the set contains every position."""
        return len(self) == self.layout.maskable

    def gather(self, weights: Tensor) -> Tensor:
        """The values [k] of a flat [W] at these positions, in order."""
        return weights if self.everything else weights.index_select(0, self.index.to(weights.device))

    def spread(self, values: Tensor) -> Tensor:
        """A flat [W] with `values` [k] at these positions and 0 elsewhere."""
        if self.everything:
            return values
        return values.new_zeros(self.layout.maskable).index_copy_(0, self.index, values)

    def __contains__(self, position: int) -> bool:
        return bool(self.bits[position])

    def inside(self, other: Positions) -> Tensor:
        """bool [k]: which of these positions are also in `other`."""
        mine = self.index.numpy()
        if len(other) == 0:
            return torch.zeros(len(mine), dtype=torch.bool)
        if "bits" in other.__dict__ or _FEW * len(self) > self.layout.maskable:
            return torch.from_numpy(other.bits.numpy()[mine])
        return torch.from_numpy(_found(other.index.numpy(), mine)[1])

    def marked(self, few: Positions) -> Tensor:
        """bool [k]: as `inside`, for a much smaller set."""
        marks = np.zeros(len(self.index), np.bool_)
        if len(few) and len(self):
            at, found = _found(self.index.numpy(), few.index.numpy())
            marks[at[found]] = True
        return torch.from_numpy(marks)

    def without(self, other: Positions) -> Positions:
        """These positions, less those of `other`."""
        if len(other) == 0 or len(self) == 0:
            return self
        mine = self.index.numpy()
        keep = ~self.marked(other).numpy() if _FEW * len(other) < len(self) else ~self.inside(other).numpy()
        return Positions(self.layout, index=torch.from_numpy(mine[keep]))

    def complement(self) -> Positions:
        """All other positions."""
        return Positions(self.layout, bits=~self.bits)

    def plus(self, other: Positions) -> Positions:
        """These positions and those of `other`."""
        if len(other) == 0 or len(self) == 0:
            return self if len(other) == 0 else other
        if _FEW * (len(self) + len(other)) < self.layout.maskable:
            both = np.concatenate([self.index.numpy(), other.index.numpy()])
            both.sort(kind="stable")  # merges two sorted runs
            fresh = np.ones(len(both), np.bool_)
            np.not_equal(both[1:], both[:-1], out=fresh[1:])
            return Positions(self.layout, index=torch.from_numpy(both[fresh]))
        bits = self.bits.clone()
        bits.numpy()[other.index.numpy()] = True
        return Positions(self.layout, bits=bits)

    def _lookup(self, wanted: Positions) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """`_found` of another set, cached until the next one, since values follow the same mask several times.

        The other set is referenced weakly; otherwise every mask would keep the next one alive, and a run all of them.
        """
        kept: tuple[Any, NDArray[np.int64], NDArray[np.bool_]] | None = self.__dict__.get("_kept")
        if kept is None or kept[0]() is not wanted:
            kept = (weakref.ref(wanted), *_found(self.index.numpy(), wanted.index.numpy()))
            self.__dict__["_kept"] = kept
        return kept[1], kept[2]

    def carry(self, values: Tensor, to: Positions) -> Tensor:
        """`values` [k] of these positions moved to those of `to`; 0 at positions only in `to`."""
        if to is self or to == self:
            return values
        if len(self) == 0 or len(to) == 0:
            return values.new_zeros(len(to))
        at, found = self._lookup(to)
        carried = values[torch.from_numpy(at)]
        return carried.masked_fill_(torch.from_numpy(~found), 0.0)

    def spans(self) -> list[slice]:
        """For each layer, the slice of its positions in `index`."""
        ends = np.cumsum(self.counts).tolist()
        return [slice(end - count, end) for end, count in zip(ends, self.counts, strict=True)]


def _of_bitmap(layout: Layout, bitmap: bytes) -> Positions:
    return Positions(layout, bits=bits_of(bitmap, layout.maskable))
