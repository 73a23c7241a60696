"""Reads W&B's offline runs back from disk: what was really written, not what was asked to be.

A `.wandb` file is a LevelDB log of protobuf records: a 7-byte header, then blocks of 32 KiB holding chunks of
crc (4 bytes), length (2), type (1) and payload; a record is one FULL chunk, or FIRST, MIDDLE..., LAST.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_FILE_HEADER = 7
_CHUNK_HEADER = struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def read_offline_history(folder: Path, patience: float = 5.0) -> list[dict]:
    """The rows of the offline runs below a run's folder, as `wandb sync` sends them: one file after the other."""
    rows = []
    for record in read_records(folder, patience):
        if record.WhichOneof("record_type") == "history":
            row = {_key(item): json.loads(item.value_json) for item in record.history.item}
            rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return rows


def read_records(folder: Path, patience: float = 5.0) -> list[wandb_internal_pb2.Record]:
    """Every record of every offline run below the folder that would be uploaded, oldest run first.

    W&B's own process writes the end of a file some milliseconds after `finish` returned: a file without its end is
    read again for `patience` seconds (give 0 for the file of a killed run), then taken as it is.
    """
    files = sorted(folder.rglob("offline-run-*/*.wandb"))
    if not files:
        raise FileNotFoundError(f"no .wandb file below {folder}")
    deadline = time.monotonic() + patience
    return [record for file in files for record in _finished(file, deadline)]


def _finished(file: Path, deadline: float) -> list[wandb_internal_pb2.Record]:
    while True:
        records = [wandb_internal_pb2.Record.FromString(payload) for payload in _payloads(file.read_bytes())]
        ended = any(record.WhichOneof("record_type") == "exit" for record in records)
        if ended or time.monotonic() >= deadline:
            return records
        time.sleep(0.01)


def _payloads(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B", "not a .wandb file"
    position, parts = _FILE_HEADER, []
    while position + _CHUNK_HEADER.size <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _CHUNK_HEADER.size:
            position += room
            continue
        _, length, kind = _CHUNK_HEADER.unpack_from(data, position)
        position += _CHUNK_HEADER.size
        if position + length > len(data):  # not written to its end
            return
        parts.append(data[position : position + length])
        position += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def _key(item: wandb_internal_pb2.HistoryItem) -> str:
    return item.key or "/".join(item.nested_key)
