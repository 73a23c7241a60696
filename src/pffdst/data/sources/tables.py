"""Tables of samples, one per row: parquet and arrow files, and delimited files (.csv, .tsv) with a header."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyarrow import csv

from pffdst.data.columns import Column, listed, of_words
from pffdst.data.dataset import DataError
from pffdst.data.samples import Samples
from pffdst.data.sources.base import Split
from pffdst.data.sources.decode import CHUNK
from pffdst.data.sources.shards import TableFiles

__all__ = [
    "Table",
    "but_for_absent_owner",
    "chosen_column",
    "column_of",
    "is_label",
    "label_columns",
    "named_errors",
    "of_tables",
    "shared_names",
]

S = TypeVar("S", bound=Samples)
_SEPARATED: Final = {".csv": ",", ".tsv": "\t"}
_WANTED: Final = {"image": "encoded bytes", "label": "integers or words", "text": "words", "owner": "integers or words"}


@contextlib.contextmanager
def thrifty_arrow() -> Iterator[None]:
    """Inside, Arrow uses the C library's memory: its own allocator keeps freed memory for the rest of the run."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def of_tables(paths: Iterable[Path], read: Callable[[list[Table]], Split[S]]) -> Split[S] | None:
    """The result of `read` for the files that have rows; None if there are none."""
    with thrifty_arrow():
        tables = [table for path in paths if (table := Table.of(path)).rows]
        return read(tables) if tables else None


@final
@dataclass(frozen=True)
class Table:
    """One file with its columns' types and number of rows."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def of(cls, path: Path) -> Table:
        """Reads a file's schema and number of rows. DataError if it cannot be read."""
        with named_errors(path):
            if path.suffix == ".arrow":
                with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                    return cls(path, stream.schema, sum(batch.num_rows for batch in stream))
            if path.suffix in _SEPARATED:
                read = _separated(path)
                return cls(path, read.schema, read.num_rows)
            with pq.ParquetFile(path) as table:
                return cls(path, table.schema_arrow, int(table.metadata.num_rows))

    def batches(self, column: str) -> Iterator[pa.Array]:
        """A column in pieces."""
        with named_errors(self.path):
            if self.path.suffix == ".arrow":
                with pa.memory_map(str(self.path)) as file, pa.ipc.open_stream(file) as stream:
                    for batch in stream:
                        for start in range(0, batch.num_rows, CHUNK):
                            yield batch.column(column).slice(start, CHUNK)
                return
            if self.path.suffix in _SEPARATED:
                yield from _separated(self.path, column, self.schema.field(column).type).column(column).chunks
                return
            with pq.ParquetFile(self.path) as table:
                for batch in table.iter_batches(CHUNK, columns=[column]):
                    yield batch.column(column)

    def checked(self, column: str) -> Iterator[tuple[int, pa.Array]]:
        """The pieces of a column with the number of their first row; DataError for a null."""
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
        return f"column {column!r} names the file {named} but has no bytes; write the file's bytes into the column"
    return f"the cell of column {column!r} is null; fill it or drop the row"


def _separated(path: Path, column: str | None = None, kind: pa.DataType | None = None) -> pa.Table:
    """A delimited file: all of it, or one column with a type. Empty cells are empty strings, not null.

    DataError for an encoding other than UTF-8.
    """
    found = csv.read_csv(
        path,
        parse_options=csv.ParseOptions(
            delimiter=_SEPARATED[path.suffix], newlines_in_values=True, quote_char=not _has_lone_marks(path) and '"'
        ),
        convert_options=csv.ConvertOptions(
            include_columns=None if column is None else [column],
            column_types=None if column is None else {column: kind},
            strings_can_be_null=False,
        ),
    )
    if strange := [field.name for field in found.schema if pa.types.is_binary(field.type)]:
        raise DataError(f"{path}: column {strange[0]!r} is not in UTF-8; save the file in that encoding")
    return found


def _has_lone_marks(path: Path) -> bool:
    """Whether a .tsv has a row to every line although quotation marks, read as quotes, would join some of them.

    Published ones often have texts that begin with a mark that nothing closes.
    """
    if path.suffix != ".tsv":
        return False
    lines = [line for line in path.read_bytes().splitlines() if line]
    cells = [line.split(b"\t") for line in lines if b'"' in line]
    lone = any(cell.startswith(b'"') and cell.count(b'"') % 2 for row in cells for cell in row)
    return lone and len({line.count(b"\t") for line in lines}) == 1


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns the reader's errors about the file into a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = path.suffix.lstrip(".") if path.suffix in (".arrow", *_SEPARATED) else "parquet"
        raise DataError(f"{path}: the {kind} file cannot be read ({error}); it is damaged or not {kind}") from error


def chosen_column(
    table: Table, files: TableFiles, key: str, given: str | None, candidates: Callable[[Table], list[str]]
) -> str:
    """The configured column, else the only candidate. DataError, with the existing columns, if there is none."""
    found = [given] if given is not None else candidates(table)
    if len(found) == 1 and found[0] in table.schema.names:
        return str(found[0])
    columns, what = ", ".join(table.schema.names), f"there is no column {given!r}"
    if given is None:
        columns = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        what = f"cannot tell which column is the {key}, which must be {_WANTED[key]}"
    setting = "partition.column" if key == "owner" else f"dataset.{files.node}.{key}"
    raise DataError(f"{table.path}: {what}; its columns are {columns}: write {setting}=COLUMN")


def label_columns(table: Table, owner: str | None) -> list[str]:
    """The columns with named classes, else one called label, else all of integers or words."""
    able = [field.name for field in table.schema if is_label(field.type) and field.name != owner]
    for narrowed in ([n for n in able if class_names(table, n)], [n for n in able if n in ("label", "labels")]):
        if narrowed:
            return narrowed
    return able


def is_label(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold labels or owners."""
    is_ = pa.types
    if is_.is_dictionary(kind):
        kind = kind.value_type
    return bool(is_.is_integer(kind) or is_.is_string(kind) or is_.is_large_string(kind) or is_.is_boolean(kind))


def shared_names(tables: Sequence[Table], column: str) -> tuple[str, ...]:
    """Names for the column's numbers in all files. DataError if two files number the classes differently."""
    found: tuple[str, ...] = ()
    for table in tables:
        names = class_names(table, column)
        if found and names and names != found:
            raise DataError(
                f"{table.path} numbers the classes {listed(names)}, {tables[0].path} {listed(found)}; they are not "
                "shards of the same data set"
            )
        found = found or names
    return found


def but_for_absent_owner(files: TableFiles, tables: Sequence[Table]) -> tuple[TableFiles, tuple[str, ...]]:
    """`files` without the owners' column if no table has it, and a remark on that."""
    if files.owner is None or any(files.owner in table.schema.names for table in tables):
        return files, ()
    remark = f"its files have no column {files.owner!r}: its samples are divided by the clients' classes"
    return replace(files, owner=None), (remark,)


def class_names(table: Table, column: str) -> tuple[str, ...]:
    """Names for the column's numbers from the metadata of `datasets`; none without such metadata."""
    try:
        features: Any = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[column]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else ()
    except (KeyError, TypeError, ValueError):
        return ()


def column_of(tables: Sequence[Table], name: str, names: tuple[str, ...]) -> Column:
    """Labels or owners of all rows."""
    parts = [part for table in tables for part in _values(table, name)]
    if len({part.type for part in parts}) > 1:
        raise DataError(
            f"{tables[0].path}: column {name!r} has numbers, but words in another file; use the same type in all"
        )
    values = pa.chunked_array(parts).combine_chunks()
    if pa.types.is_integer(values.type):
        codes = torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())
        return Column(codes, "classes", names) if names else Column(codes)
    coded = values.dictionary_encode()
    return of_words(coded.dictionary.to_pylist(), coded.indices.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _values(table: Table, name: str) -> Iterator[pa.Array]:
    """Pieces of a column as int64 or as words."""
    for first, values in table.checked(name):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_integer(values.type):
            if values.type == pa.uint64() and len(values) and (most := pc.max(values).as_py()) >= 2**63:
                raise DataError(f"{table.path}: column {name!r} has the number {most}, 2^63 or more; write it as words")
            yield values.cast(pa.int64())
            continue
        words = values.cast(pa.large_string())
        if (row := pc.index(words, pa.scalar("", pa.large_string())).as_py()) >= 0:
            raise DataError(
                f"{table.path}, row {first + row}: the cell of column {name!r} is empty; fill it or drop the row"
            )
        yield words
