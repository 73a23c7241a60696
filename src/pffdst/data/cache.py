"""Decoded images and tokenized texts cached on disk: the next run maps them instead of making them again."""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, final

from pffdst.data.npy import write_tensor
from pffdst.data.samples import Samples
from pffdst.runs.files import write_whole

__all__ = ["SampleCache", "key_of"]

_PIECE = 1 << 20
S = TypeVar("S", bound=Samples)


@final
class SampleCache:
    """Samples with notes on them, under a folder, by key. Every file is checked against its checksum when it is
    read; notes are what JSON can hold."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser()
        self._usable = True

    def load(self, key: str, kind: type[S]) -> tuple[S, dict[str, Any]] | None:
        """The mapped samples of the key and their notes, None if they are missing or damaged."""
        try:
            checked = json.loads(self._record(key).read_bytes())
            record = checked["record"]
            if checked["crc32"] != _text_crc32(record):
                return None
            files = {name: self._file(key, name) for name in record["crc32"]}
            if record["crc32"] != {name: _crc32(path) for name, path in files.items()}:
                return None
            return kind.mapped(files, record["digest"]), dict(record["notes"])
        except (OSError, ValueError, TypeError, EOFError, KeyError):
            return None

    def store(self, key: str, fresh: S, notes: Mapping[str, Any]) -> S:
        """Stores the samples and returns them mapped; if the folder cannot be written to, warns once and returns
        them as they are."""
        if not self._usable:
            return fresh
        known = fresh.known()
        try:
            self._write(key, known, notes)
        except OSError as error:
            self._usable = False
            warnings.warn(
                f"decoded samples are not cached: cannot write to {self._folder} ({error.strerror or error}); "
                "write paths.cache=FOLDER to name another folder",
                RuntimeWarning,
                stacklevel=2,
            )
            return fresh
        kept = self.load(key, type(fresh))
        return fresh if kept is None else kept[0]

    def _write(self, key: str, fresh: Samples, notes: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = fresh.columns()
        for name, tensor in tensors.items():
            write_tensor(self._file(key, name), tensor)
        crc32 = {name: _crc32(self._file(key, name)) for name in tensors}
        record = {"crc32": crc32, "digest": fresh.kept_digest, "notes": dict(notes)}
        text = json.dumps({"crc32": _text_crc32(record), "record": record})
        write_whole(self._record(key), text.encode("utf-8"))

    def _file(self, key: str, name: str) -> Path:
        return self._folder / f"{key}.{name}.npy"

    def _record(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def key_of(*asked: object) -> str:
    """The cache key: a digest of everything that the samples depend on, as text."""
    return hashlib.blake2b(repr(asked).encode("utf-8"), digest_size=16).hexdigest()


def _text_crc32(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode("utf-8"))


def _crc32(path: Path) -> int:
    """CRC of the file, read in pieces: read through the mapping, the whole file would count as our memory."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            crc = zlib.crc32(piece, crc)
    return crc
