"""Decoded images kept on disk, so that the next run maps them instead of decoding them again."""

from __future__ import annotations

import json
import warnings
import zlib
from pathlib import Path
from typing import final

from pffdst.data.dataset import ImageSet
from pffdst.data.npy import write_tensor
from pffdst.runs.files import write_whole

__all__ = ["ImageCache"]

_PIECE = 1 << 20


@final
class ImageCache:
    """Image sets under a folder, by key. Every file is checked against its checksum when it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser()
        self._usable = True

    def load(self, key: str) -> ImageSet | None:
        """The mapped image set of the key, None when it is not there or is damaged."""
        images, labels, sums = self._files(key)
        try:
            if json.loads(sums.read_bytes()) != _checksums(images, labels):
                return None
            return ImageSet.mapped(images, labels)
        except (OSError, ValueError, TypeError, EOFError):
            return None

    def store(self, key: str, fresh: ImageSet) -> ImageSet:
        """Keeps the image set and gives it back mapped; where the folder cannot be written, warns once and gives
        back what it got."""
        if not self._usable:
            return fresh
        try:
            self._write(key, fresh)
        except OSError as error:
            self._usable = False
            warnings.warn(
                f"decoded images are not kept: cannot write to {self._folder} ({error.strerror or error}); "
                "write paths.cache=FOLDER to name another folder",
                RuntimeWarning,
                stacklevel=2,
            )
            return fresh
        kept = self.load(key)
        return fresh if kept is None else kept

    def _write(self, key: str, fresh: ImageSet) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        images, labels, sums = self._files(key)
        write_tensor(images, fresh.images)
        write_tensor(labels, fresh.labels)
        write_whole(sums, json.dumps(_checksums(images, labels)).encode())

    def _files(self, key: str) -> tuple[Path, Path, Path]:
        return self._folder / f"{key}.images.npy", self._folder / f"{key}.labels.npy", self._folder / f"{key}.json"


def _checksums(images: Path, labels: Path) -> dict[str, int]:
    return {"images": _crc32(images), "labels": _crc32(labels)}


def _crc32(path: Path) -> int:
    """Of the file's bytes, read piece by piece: checked through the mapping, all of it would count as our memory."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            crc = zlib.crc32(piece, crc)
    return crc
