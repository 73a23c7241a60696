"""What goes between ranks, as bytes: tensors and plain values, read with weights_only, never a pickle of classes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pffdst.core.messages import Residual, Timings, Update
from pffdst.wire.downlink import Memory
from pffdst.wire.frame import pack_section, unpack_section

__all__ = [
    "bytes_of",
    "dumps",
    "loads",
    "pack_memory",
    "pack_residual",
    "pack_update",
    "tensor_of",
    "unpack_memory",
    "unpack_residual",
    "unpack_update",
]


def dumps(content: Any) -> bytes:
    """Tensors and plain values, nested in dicts, lists and tuples."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def loads(packet: bytes) -> Any:
    """The other way round."""
    return torch.load(io.BytesIO(packet), weights_only=True)


def tensor_of(body: bytes | None) -> Tensor | None:
    """Bytes as a weights_only reader takes them: it takes no empty ones, and is slow with others."""
    return None if body is None else torch.from_numpy(np.frombuffer(body, np.uint8).copy())


def bytes_of(packed: Tensor | None) -> bytes | None:
    """The other way round."""
    return None if packed is None else packed.numpy().tobytes()


def pack_memory(memory: Memory) -> tuple[Any, ...]:
    """What a client keeps."""
    return (*map(tensor_of, (memory.trainable, memory.frozen)), pack_section(memory.frozen_values))


def unpack_memory(packed: tuple[Any, ...]) -> Memory:
    """The other way round."""
    trainable, frozen, values = packed
    return Memory(bytes_of(trainable), bytes_of(frozen), unpack_section(values))


def pack_residual(residual: Residual | None) -> tuple[Any, ...] | None:
    """What rounding took from a client's update, if that is kept."""
    return None if residual is None else (tensor_of(residual.mask), residual.values)


def unpack_residual(packed: tuple[Any, ...] | None) -> Residual | None:
    """The other way round."""
    return None if packed is None else Residual(bytes_of(packed[0]) or b"", packed[1])


def pack_update(update: Update) -> dict[str, Any]:
    """A client's answer, with what it keeps."""
    changed = {
        "payload": tensor_of(update.payload),
        "timings": tuple(update.timings),
        "residual": pack_residual(update.residual),
    }
    return vars(update) | changed


def unpack_update(fields: dict[str, Any]) -> Update:
    """The other way round."""
    payload, residual = bytes_of(fields["payload"]), unpack_residual(fields["residual"])
    return Update(**(fields | {"payload": payload, "timings": Timings(*fields["timings"]), "residual": residual}))
