"""Tables of encoded images as samples: parquet shards, and the arrow files of a data set saved with `datasets`.

The image column is a struct with a field `bytes` (the layout of the Hugging Face hub) or plain binary; the label
column contains integers or words, with named classes if the file's metadata has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pffdst.data.cache import SampleCache, key_of
from pffdst.data.dataset import DataError
from pffdst.data.samples import ImageSet
from pffdst.data.sources.base import Split, kept_split
from pffdst.data.sources.decode import Cells, Form, decode_all
from pffdst.data.sources.shards import TableFiles
from pffdst.data.sources.tables import (
    Table,
    but_for_absent_owner,
    chosen_column,
    column_of,
    is_label,
    label_columns,
    of_tables,
    shared_names,
)

__all__ = ["read_shards", "remarks_on"]

_FORMAT = 3  # of the decoded arrays: a change makes every cached file stale


def read_shards(
    shards: Mapping[Path, str], files: TableFiles, form: Form, cache: SampleCache, what: str, test: bool = False
) -> Split[ImageSet] | None:
    """All rows of the shards, in order, from the cache if the same bytes were decoded before; None without rows.

    `shards` has the digest of each file's bytes. Columns that `files` leaves open are inferred from the shards; `what`
    names the set on the progress bar; those of a `test` split may lack the owners. Raises DataError naming the file and
    the row.
    """
    key = key_of(_FORMAT, files.content, files.label, files.owner, form, *shards.values())
    read = functools.partial(_read, files=files, form=form, what=what, test=test)
    return kept_split(cache, key, ImageSet, lambda: of_tables(shards, read))


def remarks_on(total: int, transparent: int, repeated: int) -> tuple[str, ...]:
    """What a user should know about the decoded images."""
    lines = []
    if transparent:
        lines.append(f"{transparent:,} of {total:,} images are partly transparent: they are put on white")
    if repeated:
        lines.append(f"{repeated:,} of {total:,} images have the same bytes as an earlier one")
    return tuple(lines)


def _read(tables: Sequence[Table], files: TableFiles, form: Form, what: str, test: bool) -> Split[ImageSet]:
    files, remarks = but_for_absent_owner(files, tables) if test else (files, ())
    image = chosen_column(tables[0], files, "image", files.content, _image_columns)
    label = chosen_column(tables[0], files, "label", files.label, lambda table: label_columns(table, files.owner))
    for table in tables:
        _check_columns(table, files, image, label)
    total = sum(table.rows for table in tables)
    labels = column_of(tables, label, shared_names(tables, label))
    owners = None if files.owner is None else column_of(tables, files.owner, ())
    decoded = decode_all(_cells(tables, image), total, form, what)
    samples = ImageSet(decoded.images, labels.codes, None if owners is None else owners.codes)
    return Split(samples, labels, owners, (*remarks, *remarks_on(total, decoded.transparent, decoded.repeated)))


def _cells(tables: Sequence[Table], column: str) -> Iterator[Cells]:
    for table in tables:
        for first, values in table.checked(column):
            if len(values):
                yield Cells(values.to_pylist(), _namer(table.path, first))


def _namer(path: Path, first: int) -> Callable[[int], str]:
    return lambda index: f"{path}, row {first + index}"


def _image_columns(table: Table) -> list[str]:
    return [field.name for field in table.schema if _is_image(field.type)]


def _check_columns(table: Table, files: TableFiles, image: str, label: str) -> None:
    for key, column in (("image", image), ("label", label), ("owner", files.owner)):
        if column is not None:
            chosen_column(table, files, key, column, _image_columns)
    for what, column in (("labels", label), ("owners", files.owner)):
        if column is not None and not is_label(kind := table.schema.field(column).type):
            raise DataError(f"{table.path}: {what} must be integers or words, column {column!r} has {kind}")
    if not _is_image(kind := table.schema.field(image).type):
        raise DataError(
            f"{table.path}: images must be encoded bytes or a struct with a field 'bytes', column {image!r} has {kind}"
        )


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_image(field.type) for field in kind)
    is_ = pa.types
    return bool(is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind))
