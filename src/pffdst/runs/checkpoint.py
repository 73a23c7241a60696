"""Checkpoints that are whole or absent: written to a temporary file, synced, renamed; verified before use.

    8 bytes   magic "PFFDSTC1"
    8 bytes   length of the body, little-endian
    32 bytes  sha256 of the body
    ...       body: torch.save of tensors and plain values, read with weights_only

`save` also keeps the previous one, so that the last good checkpoint survives whatever happens to the newest.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.core.words import one_line
from pffdst.runs.files import LAST, PREVIOUS, FileProblem, opened, write_whole

__all__ = [
    "CheckpointError",
    "check_readable",
    "check_vector",
    "from_sparse",
    "latest",
    "load",
    "packed",
    "save",
    "save_packed",
    "to_sparse",
    "write",
]

MAGIC = b"PFFDSTC1"
_HEAD = len(MAGIC) + 8 + 32
_MOST = 2**62  # bytes, so no limit: a checkpoint is as large as its model


class CheckpointError(UserError):
    """A file that is not a whole checkpoint; the message says which file and what to do."""


def packed(state: dict[str, Any]) -> memoryview:
    """The body of a checkpoint: `state` (tensors and plain values) as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def check_readable(state: Mapping[str, Any]) -> None:
    """UserError naming the part of `state` that could not be read back: no resumed run would get past it."""
    for name, part in state.items():
        try:
            torch.load(io.BytesIO(packed({name: part})), weights_only=True)
        except Exception as error:  # whatever a part's own objects, or torch reading them, raise
            why = one_line(error, 200)
            raise UserError(
                f"checkpoint: the state of {name} cannot be read back ({why}); a state_dict() returns tensors and "
                "plain values: numbers, text, lists and mappings"
            ) from error


def save(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) as the folder's last checkpoint; the former last becomes previous."""
    save_packed(folder, packed(state))


def save_packed(folder: Path, body: memoryview) -> None:
    """Like `save`, for a state that is already packed. The run's folder is not recreated if it is gone."""
    folder.mkdir(exist_ok=True)
    # a damaged last one must not replace the good one before it
    _write(folder / LAST, body, keep=folder / PREVIOUS if _is_whole(folder / LAST) else None)


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to one file, which `load` reads."""
    _write(path, packed(state))


def _write(path: Path, body: memoryview, keep: Path | None = None) -> None:
    head = MAGIC + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest()
    write_whole(path, head, body, keep=keep)


def _is_whole(path: Path) -> bool:
    """Whether `path` exists and matches its checksum."""
    try:
        with opened(path, _MOST) as file:
            head = file.read(_HEAD)
            if not head.startswith(MAGIC) or _size(file) != int.from_bytes(head[8:16], "little"):
                return False  # before reading a terabyte of nothing
            return head[16:] == hashlib.file_digest(file, "sha256").digest()
    except (OSError, FileProblem):
        return False


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint. Raises CheckpointError if it is missing, truncated, damaged or something else."""
    try:
        with opened(path, _MOST) as file:
            head, size = file.read(_HEAD), _size(file)
            length = int.from_bytes(head[8:16], "little")
            body = memoryview(file.read(length) if head.startswith(MAGIC) and size == length else b"")
    except FileProblem as error:
        raise CheckpointError(f"checkpoint {path.parent}/{error}") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {error.strerror}") from error
    if not head.startswith(MAGIC):
        raise CheckpointError(f"checkpoint {path}: not a checkpoint of this program, or its beginning is damaged")
    if len(body) != length:
        raise CheckpointError(
            f"checkpoint {path}: truncated, {max(size, 0)} of {length} bytes are there" + _sibling_hint(path)
        )
    if hashlib.sha256(body).digest() != head[16:]:
        raise CheckpointError(f"checkpoint {path}: damaged, its checksum does not match" + _sibling_hint(path))
    try:
        return torch.load(io.BytesIO(body), weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # whatever torch raises for intact bytes that are not tensors and plain values
        raise CheckpointError(f"checkpoint {path}: it holds more than tensors and plain values") from error


def _size(file: BinaryIO) -> int:
    """The size of an open checkpoint's body in bytes."""
    return os.fstat(file.fileno()).st_size - _HEAD


def check_vector(name: str, found: Any, length: int) -> None:
    """ValueError unless `found` is a vector of floats of this length."""
    if not isinstance(found, Tensor) or found.ndim != 1 or not found.is_floating_point():
        raise ValueError(f"expected {name} to be a vector of {length}, but it is a {type(found).__name__}")
    if len(found) != length:
        raise ValueError(f"expected {name} to be a vector of {length}, but it has {len(found)} values")


def to_sparse(values: Tensor) -> tuple[int, Tensor, Tensor]:
    """A vector as its length, its nonzero positions and their values: with very many clients most hold nothing."""
    places = values.nonzero().flatten()
    return len(values), places, values[places]


def from_sparse(packed: tuple[int, Tensor, Tensor], like: Tensor) -> Tensor:
    """The inverse of `to_sparse`. ValueError if its length is not that of `like`, or a position is beyond it."""
    length, places, values = packed
    if length != len(like):
        raise ValueError(f"expected a number for each of {len(like)}, but there are {length}")
    if len(places) != len(values) or (len(places) and not 0 <= int(places.min()) <= int(places.max()) < length):
        raise ValueError(f"expected positions below {length}")
    return torch.zeros(length, dtype=values.dtype).index_copy_(0, places, values)


def _sibling_hint(path: Path) -> str:
    siblings = [n for n in (LAST, PREVIOUS) if n != path.name and _is_whole(path.parent / n)]
    return "".join(f"; write resume={path.parent / name} to resume from the one next to it" for name in siblings)


def latest(
    folder: Path, check: Callable[[dict[str, Any], Path], None] | None = None
) -> tuple[dict[str, Any], Path] | None:
    """The newest whole checkpoint of a folder, or None if there is no file at all.

    If the newest one is damaged, or `check` raises CheckpointError for it, the previous one is used; if none is whole,
    CheckpointError.
    """
    paths = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    problem: CheckpointError | None = None
    for path in paths:
        try:
            state = load(path)
            if check is not None:
                check(state, path)
            return state, path
        except CheckpointError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None
