"""Parquet shards of encoded images (JPEG, PNG, ...) as image sets.

The image column is a struct with a field `bytes` (the layout of the Hugging Face hub) or plain binary; the label
column holds integers.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from pffdst.data.cache import ImageCache
from pffdst.data.dataset import DataError, ImageSet

__all__ = ["ParquetFiles", "read_shards"]

_FORMAT = 1  # of the decoded arrays: a change makes every cached file stale
_ROWS = 512  # encoded rows in memory at a time
_TASK = 32  # of them per task of the thread pool
_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


@final
@dataclass(frozen=True)
class ParquetFiles:
    """File name patterns of the training and the test shards in a folder, and the names of the two columns."""

    train: str
    test: str
    image: str
    label: str

    @classmethod
    def from_mapping(cls, keys: Mapping[str, str]) -> ParquetFiles:
        """From the configuration's `dataset.parquet`; DataError when a key is missing or unknown."""
        expected = {"train", "test", "image", "label"}
        if set(keys) != expected:
            raise DataError(f"dataset.parquet needs the keys {sorted(expected)}, got {sorted(keys)}")
        return cls(**{key: str(keys[key]) for key in expected})

    def shards(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Training and test shards lying directly in the folder, in order of name."""
        return _matching(folder, self.train), _matching(folder, self.test)

    def problems(self, folder: Path) -> list[str]:
        """Shards that are missing, or that are training and test shards at once."""
        train, test = self.shards(folder)
        found = [
            f"no file in {folder} matches dataset.parquet.{split}={pattern!r}; put the {split} shards there, "
            f"name their folder with dataset.path=FOLDER or their names with dataset.parquet.{split}=PATTERN"
            for split, pattern, files in (("train", self.train, train), ("test", self.test, test))
            if not files
        ]
        if both := sorted({path.name for path in train} & {path.name for path in test}):
            found.append(
                f"{both[0]} in {folder} matches both dataset.parquet.train={self.train!r} and "
                f"dataset.parquet.test={self.test!r}; write narrower patterns"
            )
        return found


def read_shards(
    shards: Sequence[Path], files: ParquetFiles, channels: int | None, cache: ImageCache, what: str
) -> ImageSet:
    """All rows of the shards, in order: from the cache when these very bytes were decoded before.

    `channels` 1 or 3 converts every image; None takes what the first image has. `what` names the set on the progress
    bar. Raises DataError that names the file and the row.
    """
    key = _content_key(shards, files, channels)
    found = cache.load(key)
    if found is not None:
        return found
    with _thrifty_arrow():
        fresh = _decode_shards(shards, files, channels, what)
    return cache.store(key, fresh)


@contextlib.contextmanager
def _thrifty_arrow() -> Iterator[None]:
    """Arrow takes memory from the C library: its own allocator keeps what it frees for the rest of the run."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _content_key(shards: Sequence[Path], files: ParquetFiles, channels: int | None) -> str:
    digest = hashlib.blake2b(repr((_FORMAT, files.image, files.label, channels)).encode(), digest_size=16)
    for path in shards:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


@final
@dataclass(frozen=True)
class _Rows:
    """Some consecutive rows of one file: encoded images, labels int64, and the first row's number."""

    path: Path
    first: int
    cells: list[bytes]
    labels: NDArray[np.int64]

    def where(self, index: int) -> str:
        return f"{self.path}, row {self.first + index}"


@final
@dataclass(frozen=True)
class _Target:
    """What every image must become. `convert`: the channels were asked for, not read off the first image."""

    channels: int
    width: int
    height: int
    convert: bool


def _decode_shards(shards: Sequence[Path], files: ParquetFiles, channels: int | None, what: str) -> ImageSet:
    total = sum(_count_rows(path, files) for path in shards)
    stream = (rows for path in shards for rows in _read_rows(path, files))
    head = next(stream, None)
    if head is None:
        raise DataError(f"{shards[0]}: it holds no rows; write the images into it, or name another file")
    target = _target(_open(head.cells[0], head.where(0)), channels)
    shape = (total, target.channels, target.height, target.width)
    # Mapped, not from the C library's heap, which keeps far more of what is freed once it has freed as much.
    images = np.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=np.uint8).reshape(shape)
    labels = np.empty(total, dtype=np.int64)
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, _progress(what, total) as advance:
        for rows in itertools.chain([head], stream):
            span = slice(done, done + len(rows.cells))
            _decode_rows(rows, target, images[span], pool)
            labels[span] = rows.labels
            done = span.stop
            advance(len(rows.cells))
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


def _decode_rows(rows: _Rows, target: _Target, out: NDArray[np.uint8], pool: ThreadPoolExecutor) -> None:
    def decode(start: int) -> None:
        for index in range(start, min(start + _TASK, len(rows.cells))):
            out[index] = _decode(rows.cells[index], rows.where(index), target)

    for _ in pool.map(decode, range(0, len(rows.cells), _TASK)):
        pass  # asking for the results raises what went wrong in the threads, the first row first


def _decode(data: bytes, where: str, target: _Target) -> NDArray[np.uint8]:
    """Pixels uint8 [C, H, W] of one encoded image."""
    image = _open(data, where)
    if image.size != (target.width, target.height):
        raise DataError(
            f"{where}: the image is {image.width}x{image.height} pixels, the first one {target.width}x{target.height}; "
            "all images must have one size: resize or crop them"
        )
    if not target.convert and _channels(image) > target.channels:
        raise DataError(
            f"{where}: the image has colours, the first one is grey; "
            "write dataset.channels=3 (or 1) to convert them all alike"
        )
    pixels = np.asarray(_convert(image, target.channels))
    return pixels[None] if target.channels == 1 else pixels.transpose(2, 0, 1)


def _open(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise DataError(
            f"{where}: the image cannot be decoded, it is damaged or of an unknown kind ({error})"
        ) from error
    if image.mode not in _GREY | _COLOUR:
        raise DataError(
            f"{where}: images need 8 bits per channel, got Pillow's mode {image.mode!r}; convert them to 8 bits"
        )
    return image


def _target(first: Image.Image, channels: int | None) -> _Target:
    wanted = _channels(first) if channels is None else channels
    return _Target(wanted, first.width, first.height, convert=channels is not None)


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in _GREY else 3


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way Pillow warns to go
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


@contextlib.contextmanager
def _open_file(path: Path, files: ParquetFiles) -> Iterator[pq.ParquetFile]:
    """The file, its columns checked; whatever the reader finds wrong with it becomes a DataError."""
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow, files)
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: the parquet file cannot be read ({error}); it is damaged or no parquet") from error


def _check_columns(path: Path, schema: pa.Schema, files: ParquetFiles) -> None:
    for key, column in (("image", files.image), ("label", files.label)):
        if column not in schema.names:
            raise DataError(
                f"{path}: there is no column {column!r}; its columns are {', '.join(schema.names)}: "
                f"write dataset.parquet.{key}=COLUMN"
            )
    label, image = schema.field(files.label).type, schema.field(files.image).type
    if not pa.types.is_integer(label):
        raise DataError(f"{path}: labels must be integers, column {files.label!r} holds {label}")
    if not _is_binary(image) and not _is_struct_of_bytes(image):
        raise DataError(
            f"{path}: images must be encoded bytes or a struct with a field 'bytes', "
            f"column {files.image!r} holds {image}"
        )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def _count_rows(path: Path, files: ParquetFiles) -> int:
    with _open_file(path, files) as file:
        return int(file.metadata.num_rows)


def _read_rows(path: Path, files: ParquetFiles) -> Iterator[_Rows]:
    first = 0
    with _open_file(path, files) as file:
        for batch in file.iter_batches(_ROWS, columns=[files.image, files.label]):
            cells, labels = batch.column(files.image), batch.column(files.label)
            if pa.types.is_struct(cells.type):
                cells = pc.struct_field(cells, "bytes")
            for column, values in ((files.image, cells), (files.label, labels)):
                _check_nulls(path, first, column, values)
            if batch.num_rows:
                yield _Rows(path, first, cells.to_pylist(), labels.cast(pa.int64()).to_numpy(zero_copy_only=False))
            first += batch.num_rows


def _check_nulls(path: Path, first: int, column: str, values: pa.Array) -> None:
    if values.null_count:
        row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{path}, row {row}: the cell of column {column!r} is null; fill it or drop the row")


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to be told of finished rows; a bar is shown on a terminal alone."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"decoding {what}", total=total)
        yield lambda count: bar.advance(task, count)
