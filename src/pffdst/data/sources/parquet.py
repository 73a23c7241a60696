"""Tables of encoded images as samples: parquet shards, and the arrow files of a data set saved by `datasets`.

The image column is a struct with a field `bytes` (the layout of the Hugging Face hub) or plain binary; the label
column holds integers or words, named classes where the file's own metadata has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pffdst.data.cache import SampleCache
from pffdst.data.columns import Column, of_words
from pffdst.data.dataset import DataError
from pffdst.data.samples import ImageSet
from pffdst.data.sources.base import Split
from pffdst.data.sources.decode import CHUNK, Cells, Form, decode_all
from pffdst.data.sources.shards import TableFiles

__all__ = ["read_shards", "remarks_on"]

_FORMAT = 2  # of the decoded arrays: a change makes every cached file stale


def read_shards(
    shards: Mapping[Path, str], files: TableFiles, form: Form, cache: SampleCache, what: str
) -> Split[ImageSet] | None:
    """All rows of the shards, in order: from the cache when these very bytes were decoded before; None for no rows.

    `shards` gives the digest of each file's bytes. Columns that `files` leaves open are read off them; `what` names
    the set on the progress bar. Raises DataError that names the file and the row.
    """
    asked = (_FORMAT, files.image, files.label, files.owner, form, *shards.values())
    name = hashlib.blake2b(repr(asked).encode("utf-8"), digest_size=16).hexdigest()
    found = cache.load(name, ImageSet)
    if found is not None:
        return Split.noted(*found)
    with _thrifty_arrow():
        tables = [table for path in shards if (table := _Table.of(path)).rows]
        if not tables:
            return None
        fresh = _read(tables, files, form, what)
    return Split.noted(cache.store(name, fresh.samples, fresh.notes()), fresh.notes())


def remarks_on(total: int, transparent: int, repeated: int) -> tuple[str, ...]:
    """What a user should know of decoded images."""
    lines = []
    if transparent:
        lines.append(f"{transparent:,} of {total:,} images are transparent in places: they are laid over white")
    if repeated:
        lines.append(f"{repeated:,} of {total:,} images have the same bytes as an earlier one")
    return tuple(lines)


@contextlib.contextmanager
def _thrifty_arrow() -> Iterator[None]:
    """Arrow takes memory from the C library: its own allocator keeps what it frees for the rest of the run."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


@final
@dataclass(frozen=True)
class _Table:
    """One file with its columns' types and number of rows."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def of(cls, path: Path) -> _Table:
        with _named_errors(path):
            if path.suffix == ".arrow":
                with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                    return cls(path, stream.schema, sum(batch.num_rows for batch in stream))
            with pq.ParquetFile(path) as table:
                return cls(path, table.schema_arrow, int(table.metadata.num_rows))

    def batches(self, column: str) -> Iterator[pa.Array]:
        """A column, piece by piece."""
        with _named_errors(self.path):
            if self.path.suffix == ".arrow":
                with pa.memory_map(str(self.path)) as file, pa.ipc.open_stream(file) as stream:
                    for batch in stream:
                        for start in range(0, batch.num_rows, CHUNK):
                            yield batch.column(column).slice(start, CHUNK)
                return
            with pq.ParquetFile(self.path) as table:
                for batch in table.iter_batches(CHUNK, columns=[column]):
                    yield batch.column(column)

    def checked(self, column: str) -> Iterator[tuple[int, pa.Array]]:
        """The pieces of a column with the number of their first row; DataError at a null."""
        first = 0
        for cells in self.batches(column):
            values = pc.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells
            if values.null_count:
                index = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
                raise DataError(f"{self.path}, row {first + index}: {_null(column, cells[index].as_py())}")
            yield first, values
            first += len(values)


def _null(column: str, cell: Any) -> str:
    named = cell.get("path") if isinstance(cell, dict) else None
    if named is not None:
        return f"column {column!r} names the file {named} and holds no bytes; write the file's bytes into the column"
    return f"the cell of column {column!r} is null; fill it or drop the row"


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Whatever the reader finds wrong with the file becomes a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = "arrow" if path.suffix == ".arrow" else "parquet"
        raise DataError(f"{path}: the {kind} file cannot be read ({error}); it is damaged or no {kind}") from error


def _read(tables: Sequence[_Table], files: TableFiles, form: Form, what: str) -> Split[ImageSet]:
    image = _chosen(tables[0], "image", files.image, _image_columns)
    label = _chosen(tables[0], "label", files.label, lambda table: _label_columns(table, files.owner))
    for table in tables:
        _check_columns(table, image, label, files.owner)
    total = sum(table.rows for table in tables)
    labels = _column(tables, label, _class_names(tables[0], label))
    owners = None if files.owner is None else _column(tables, files.owner, ())
    decoded = decode_all(_cells(tables, image), total, form, what)
    samples = ImageSet(decoded.images, labels.codes, None if owners is None else owners.codes)
    return Split(samples, labels, owners, remarks_on(total, decoded.transparent, decoded.repeated))


def _cells(tables: Sequence[_Table], column: str) -> Iterator[Cells]:
    for table in tables:
        for first, values in table.checked(column):
            if len(values):
                yield Cells(values.to_pylist(), _namer(table.path, first))


def _namer(path: Path, first: int) -> Callable[[int], str]:
    return lambda index: f"{path}, row {first + index}"


def _chosen(table: _Table, key: str, given: str | None, candidates: Callable[[_Table], list[str]]) -> str:
    """The column asked for, else the only one it can be."""
    found = [given] if given is not None else candidates(table)
    if len(found) == 1 and found[0] in table.schema.names:
        return str(found[0])
    columns = ", ".join(table.schema.names)
    what = f"there is no column {given!r}" if given is not None else f"which column is the {key} cannot be told"
    setting = "partition.column" if key == "owner" else f"dataset.parquet.{key}"
    raise DataError(f"{table.path}: {what}; its columns are {columns}: write {setting}=COLUMN")


def _image_columns(table: _Table) -> list[str]:
    return [field.name for field in table.schema if _is_image(field.type)]


def _label_columns(table: _Table, owner: str | None) -> list[str]:
    """The columns with named classes, else one called label, else all of integers or words."""
    able = [field.name for field in table.schema if _is_label(field.type) and field.name != owner]
    for narrowed in ([n for n in able if _class_names(table, n)], [n for n in able if n in ("label", "labels")]):
        if narrowed:
            return narrowed
    return able


def _check_columns(table: _Table, image: str, label: str, owner: str | None) -> None:
    for key, column in (("image", image), ("label", label), ("owner", owner)):
        if column is not None:
            _chosen(table, key, column, _image_columns)
    for what, column in (("labels", label), ("owners", owner)):
        if column is not None and not _is_label(kind := table.schema.field(column).type):
            raise DataError(f"{table.path}: {what} must be integers or words, column {column!r} holds {kind}")
    if not _is_image(kind := table.schema.field(image).type):
        raise DataError(
            f"{table.path}: images must be encoded bytes or a struct with a field 'bytes', "
            f"column {image!r} holds {kind}"
        )


def _is_label(kind: pa.DataType) -> bool:
    is_ = pa.types
    if is_.is_dictionary(kind):
        kind = kind.value_type
    return bool(is_.is_integer(kind) or is_.is_string(kind) or is_.is_large_string(kind) or is_.is_boolean(kind))


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_image(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(table: _Table, column: str) -> tuple[str, ...]:
    """Names that the metadata of `datasets` give the column's numbers; none where there are no such metadata."""
    try:
        features: Any = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[column]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else ()
    except (KeyError, TypeError, ValueError):
        return ()


def _column(tables: Sequence[_Table], name: str, class_names: tuple[str, ...]) -> Column:
    """Labels or owners of all rows."""
    parts = [part for table in tables for part in _values(table, name)]
    if len({part.type for part in parts}) > 1:
        raise DataError(
            f"{tables[0].path}: column {name!r} holds numbers, that of another file words; write them alike"
        )
    values = pa.chunked_array(parts).combine_chunks()
    if pa.types.is_integer(values.type):
        codes = torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())
        return Column(codes, "classes", class_names) if class_names else Column(codes)
    coded = values.dictionary_encode()
    return of_words(coded.dictionary.to_pylist(), coded.indices.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _values(table: _Table, name: str) -> Iterator[pa.Array]:
    """Pieces of a column as int64 or as words."""
    for first, values in table.checked(name):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_integer(values.type):
            with _named_errors(table.path):
                yield values.cast(pa.int64())
            continue
        words = values.cast(pa.large_string())
        if (row := pc.index(words, pa.scalar("", pa.large_string())).as_py()) >= 0:
            raise DataError(
                f"{table.path}, row {first + row}: the cell of column {name!r} is empty; fill it or drop the row"
            )
        yield words
