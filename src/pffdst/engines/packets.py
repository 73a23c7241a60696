"""Data between ranks as bytes: tensors and plain values, read with weights_only, never pickled classes."""

from __future__ import annotations

import io
from typing import Any

import torch

from pffdst.core.blobs import bytes_of, tensor_of
from pffdst.core.messages import Kept, Residual, Timings, Update
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.wire.downlink import Memory
from pffdst.wire.frame import pack_section, unpack_section

__all__ = [
    "dumps",
    "loads",
    "pack_kept",
    "pack_memory",
    "pack_update",
    "unpack_kept",
    "unpack_memory",
    "unpack_update",
]


def dumps(content: Any) -> bytes:
    """Packs tensors and plain values, nested in dicts, lists and tuples."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def loads(packet: bytes) -> Any:
    """Unpacks the result of `dumps`."""
    return torch.load(io.BytesIO(packet), weights_only=True)


def pack_memory(memory: Memory) -> tuple[Any, ...]:
    """Packs what a client keeps of what it was sent."""
    masks = (None if at is None else at.packed() for at in (memory.trainable, memory.frozen))
    state = None if memory.state is None else [tensor_of(piece) for piece in memory.state]
    weights = None if memory.weights is None else tensor_of(memory.weights)
    return (*masks, pack_section(memory.frozen_values), weights, state)


def unpack_memory(packed: tuple[Any, ...], layout: Layout) -> Memory:
    """Unpacks the result of `pack_memory`."""
    trainable, frozen, values, weights, pieces = packed
    trainable_at, frozen_at = (None if at is None else Positions.unpacked(layout, at) for at in (trainable, frozen))
    state = None if pieces is None else tuple(bytes_of(piece) for piece in pieces)
    held = None if weights is None else bytes_of(weights)
    return Memory(trainable_at, frozen_at, unpack_section(values), held, state)


def pack_kept(kept: Kept) -> tuple[Any, ...]:
    """Packs what a client kept from its own last round."""
    residual = None if kept.residual is None else (kept.residual.at.packed(), kept.residual.values)
    return residual, dict(kept.memory)


def unpack_kept(packed: tuple[Any, ...], layout: Layout) -> Kept:
    """Unpacks the result of `pack_kept`."""
    residual, memory = packed
    if residual is not None:
        residual = Residual(Positions.unpacked(layout, residual[0]), residual[1])
    return Kept(residual, memory)


def pack_update(update: Update) -> dict[str, Any]:
    """Packs a client's answer, with what it keeps."""
    changed = {
        "payload": None if update.payload is None else tensor_of(update.payload),
        "timings": tuple(update.timings),
        "kept": pack_kept(update.kept),
    }
    return vars(update) | changed


def unpack_update(fields: dict[str, Any], layout: Layout) -> Update:
    """Unpacks the result of `pack_update`."""
    payload, kept = fields["payload"], unpack_kept(fields["kept"], layout)
    payload = None if payload is None else bytes_of(payload)
    return Update(**(fields | {"payload": payload, "timings": Timings(*fields["timings"]), "kept": kept}))
