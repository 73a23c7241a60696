"""Masks as bytes: all positions, a bitmap, or a list of indices, whichever is smallest.

coding 0  every position: empty body
coding 1  bitmap: ceil(W / 8) bytes, position j in bit j % 8 of byte j // 8, unused bits 0
coding 2  indices: u32 each, strictly increasing
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pffdst.wire.messages import Section, WireError

__all__ = ["decode_positions", "encode_positions", "put_at_", "values_at"]

ALL, BITMAP, INDICES = 0, 1, 2


def values_at(values: Tensor, mask: Tensor) -> Tensor:
    """The values [W] at the True positions of a flat bool mask [W], in order.

    The same as `values[mask]` in a sixth of the time: numpy finds the positions faster than torch does.
    """
    return values.index_select(0, _indices(mask))


def put_at_(values: Tensor, mask: Tensor, chosen: Tensor) -> None:
    """Writes `chosen` to the True positions of a flat bool mask [W]: the other way round."""
    values.index_copy_(0, _indices(mask), chosen)


def _indices(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def encode_positions(mask: Tensor) -> Section:
    """The True positions of a flat bool mask [W] as the smallest section."""
    count, length = int(mask.sum()), mask.numel()
    if count == length:
        return Section(ALL, b"")
    if 4 * count < (length + 7) // 8:
        return Section(INDICES, _indices(mask).numpy().astype("<u4").tobytes())
    return Section(BITMAP, np.packbits(mask.numpy(), bitorder="little").tobytes())


def decode_positions(section: Section, length: int, name: str) -> Tensor:
    """A section back to the mask bool [length]. Raises WireError naming `name` where it is malformed."""
    if section.coding == ALL:
        return _decode_all(section.body, length, name)
    if section.coding == BITMAP:
        return _decode_bitmap(section.body, length, name)
    if section.coding == INDICES:
        return _decode_indices(section.body, length, name)
    raise WireError(f"{name}: position coding {section.coding} is unknown")


def _decode_all(body: bytes, length: int, name: str) -> Tensor:
    if body:
        raise WireError(f"{name}: expected an empty body for coding 'all', but got {len(body)} bytes")
    return torch.ones(length, dtype=torch.bool)


def _decode_bitmap(body: bytes, length: int, name: str) -> Tensor:
    if len(body) != (length + 7) // 8:
        raise WireError(f"{name}: expected a bitmap of {(length + 7) // 8} bytes, but got {len(body)}")
    bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
    if bits[length:].any():
        raise WireError(f"{name}: bits past position {length} are set")
    return torch.from_numpy(bits[:length].view(np.bool_))


def _decode_indices(body: bytes, length: int, name: str) -> Tensor:
    if len(body) % 4 or len(body) > 4 * length:
        raise WireError(f"{name}: expected at most {length} indices of 4 bytes, but got {len(body)} bytes")
    indices = np.frombuffer(body, "<u4").astype(np.int64)
    if indices.size and (indices[-1] >= length or (np.diff(indices) <= 0).any()):
        raise WireError(f"{name}: indices are not strictly increasing below {length}")
    mask = torch.zeros(length, dtype=torch.bool)
    mask[torch.from_numpy(indices)] = True
    return mask
