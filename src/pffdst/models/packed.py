"""A sparse weight in a model's file: its alive values and where they are.

The weight NAME is split:

    values/NAME   float32 [n], its alive values in the order of their positions in the flattened weight
    alive/NAME    uint8, these positions: zlib-compressed bytes, one for each alive weight, the number of dead ones
                  before it; 255 stands for 255 dead ones with no alive one after them
    frozen/NAME   uint8, zlib-compressed bits (numpy's packbits), one for each alive weight: 1 if it is frozen; left
                  out if none is

A weight without dead ones is stored whole as NAME, without `values/` and `alive/`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.blobs import bytes_of, tensor_of

__all__ = ["KINDS", "packed", "unpacked"]

KINDS: Final = ("values/", "alive/", "frozen/")
_FAR: Final = 255


def packed(name: str, weight: Tensor, alive: Tensor, frozen: Tensor | None) -> dict[str, Tensor]:
    """A maskable weight as it is stored: one to three tensors by their names in the file."""
    found = {name: weight} if bool(alive.all()) else {f"values/{name}": weight[alive], f"alive/{name}": _gaps(alive)}
    if frozen is not None and bool(frozen.any()):
        found[f"frozen/{name}"] = _compressed(np.packbits(frozen[alive].numpy()))
    return found


def unpacked(stored: Mapping[str, Tensor], name: str, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The weight, its mask and its frozen part, each of this `shape`. ValueError or zlib.error for a damaged file."""
    alive = _places(stored.get(f"alive/{name}"), math.prod(shape)).view(*shape)
    if f"values/{name}" in stored:
        own = stored[f"values/{name}"]
        weight = torch.zeros(*shape, dtype=own.dtype).masked_scatter_(alive, own)
    else:
        weight = stored[name]
    frozen = torch.zeros(*shape, dtype=torch.bool)
    if f"frozen/{name}" in stored:
        count = int(alive.sum())
        bits = np.unpackbits(_bytes(stored[f"frozen/{name}"], count), count=count).astype(bool)
        frozen[alive] = torch.from_numpy(bits)
    return weight, alive, frozen


def _gaps(alive: Tensor) -> Tensor:
    """The True positions of a mask, in the form of `alive/NAME`."""
    places = np.flatnonzero(alive.numpy())
    far, near = np.divmod(np.diff(places, prepend=-1) - 1, _FAR)
    codes = np.full(len(places) + int(far.sum()), _FAR, dtype=np.uint8)
    codes[np.cumsum(far + 1) - 1] = near
    return _compressed(codes)


def _compressed(codes: NDArray[np.uint8]) -> Tensor:
    # Gaps of a random mask contain no repetitions: coded by frequency alone they are 0.2 % above the entropy.
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return tensor_of(packer.compress(codes.tobytes()) + packer.flush())


def _places(codes: Tensor | None, size: int) -> Tensor:
    """The mask [size] from `alive/NAME`; all True if there is none."""
    mask = torch.full((size,), codes is None)
    if codes is not None:
        steps = _bytes(codes, size).astype(np.int64)
        ends = steps < _FAR
        mask[torch.from_numpy((np.cumsum(steps + ends) - 1)[ends])] = True
    return mask


def _bytes(codes: Tensor, most: int) -> NDArray[np.uint8]:
    """The decompressed bytes; ValueError if there are more than `most`, which no valid file has."""
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(bytes_of(codes), max(most, 1))
    if not unpacker.eof:
        raise ValueError("a mask is longer than its weight")
    return np.frombuffer(found, dtype=np.uint8)
