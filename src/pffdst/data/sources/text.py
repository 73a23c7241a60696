"""Texts with labels in tables: parquet, arrow, .csv or .tsv, tokenized once and cached by content."""

# Annotations are left unquoted: the check of a configuration reads them off the constructor.

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pyarrow as pa

from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.inputs import Inputs, TokenInputs
from pffdst.data.cache import SampleCache, key_of
from pffdst.data.dataset import DataError, Dataset, DataSource
from pffdst.data.sources.base import Split, assembled, class_problems, folder_of, kept_split
from pffdst.data.sources.shards import TableFiles, digests_of
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
from pffdst.data.sources.tokens import Tokens, folder_digest, numbered, of_folder, of_text, trained
from pffdst.data.texts import TextSet

__all__ = ["TextSource"]

_FORMAT = 3  # of the tokenized texts: a change makes every cached file stale
_LEAST = 100  # tokens that a vocabulary needs at least: letters alone take dozens


@final
@dataclass(frozen=True)
class TextSource(DataSource):
    """Texts from the files in the folder `path`, one per row.

    `length`: the maximum number of tokens; longer texts are cut. `tokenizer` is a Hugging Face folder; null trains one
    on the training texts, with at most `vocabulary` tokens, `lowercase` or not.
    """

    gives: ClassVar[tuple[str, ...]] = ("vocabulary", "length", "padding")

    name: str
    path: str
    cache: str
    classes: int | None
    length: int
    tokenizer: str | None
    vocabulary: int
    lowercase: bool
    files: Mapping[str, Any]

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range, and missing files."""
        found = class_problems(self.classes)
        if self.length < 4:
            found.append(f"dataset.length, the maximum tokens per text, must be 4 or more, got {self.length}; write 64")
        if self.vocabulary < _LEAST:
            found.append(f"dataset.vocabulary must be {_LEAST} tokens or more, got {self.vocabulary}; write 8000")
        if self.tokenizer is not None and not folder_of(self.tokenizer).is_dir():
            found.append(
                f"dataset.tokenizer must name a folder with a tokenizer, but {folder_of(self.tokenizer)} is not one; "
                "write dataset.tokenizer=null to train one on the training texts"
            )
        if not folder_of(self.path).is_dir():
            return [*found, f"dataset.path must name the folder of the files, but {folder_of(self.path)} is not one"]
        return [*found, *self._tables.problems(folder_of(self.path))]

    def test_problems(self) -> list[str]:
        """Missing test files."""
        return self._tables.test_problems(folder_of(self.path))

    def load(self, seed: int) -> Dataset:
        """The files' own split, independent of the seed."""
        return self._loaded(None)

    def load_for(self, seed: int, inputs: Inputs) -> Dataset:
        """The same in the tokens of a finished model: any other tokenizer numbers them differently."""
        if not isinstance(inputs, TokenInputs):
            return self.load(seed)
        return self._loaded(of_text(inputs.tokenizer, inputs.vocabulary, inputs.padding))

    def _loaded(self, tokens: Tokens | None) -> Dataset:
        """With these tokens; None: those of the tokenizer that is configured."""
        if problems := self.problems():
            raise DataError("\n".join(problems))
        found = self._tables.find(folder_of(self.path))
        digests = digests_of([*found.train, *found.test])
        maker = _Maker(self, SampleCache(Path(self.cache)), "".join(digests[path] for path in found.train), tokens)
        train = maker.split(found.train, digests)
        if train is None:
            raise DataError(f"{found.train[0]}: it has no rows; write the texts into it, or name another file")
        first, second, names = assembled(self.name, self.classes, train, maker.split(found.test, digests, test=True))
        used = maker.tokens
        assert used is not None  # the training split has them
        typical = math.ceil(len(first.tokens) / len(first))
        inputs = TokenInputs(used.vocabulary, self.length, used.padding, max(typical, 1), used.json)
        return Dataset(self.name, first, second, names, inputs)

    @property
    def _tables(self) -> TableFiles:
        return TableFiles.from_mapping(self.files, "files", "text")


class _Maker:
    """Reads splits, the training split first: the tokenizer is given, or trained on it, or loaded from a folder."""

    def __init__(self, source: TextSource, cache: SampleCache, training: str, tokens: Tokens | None) -> None:
        self._source, self._cache, self._files = source, cache, source._tables
        self._way: tuple[object, ...] = (training, source.vocabulary, source.lowercase)
        if tokens is not None:
            self._way = ("given", tokens)
        elif source.tokenizer is not None:
            self._way = (folder_digest(folder_of(source.tokenizer)),)
        self.tokens = tokens

    def split(self, paths: Sequence[Path], digests: Mapping[Path, str], *, test: bool = False) -> Split[TextSet] | None:
        """A split, from the cache if the same bytes were tokenized the same way before; None without rows."""
        files, source = self._files, self._source
        columns = (files.content, files.label, files.owner)
        key = key_of(_FORMAT, "text", columns, source.length, self._way, [digests[path] for path in paths])
        read = functools.partial(self._read, test=test)
        split = kept_split(self._cache, key, TextSet, lambda: of_tables(paths, read))
        if split is not None:
            self.tokens = Tokens(*split.further["tokens"])
        return split

    def _read(self, tables: Sequence[Table], test: bool) -> Split[TextSet]:
        files, remarks = but_for_absent_owner(self._files, tables) if test else (self._files, ())
        label = chosen_column(tables[0], files, "label", files.label, lambda table: _labels_of(table, files))
        text = chosen_column(tables[0], files, "text", files.content, lambda table: _texts_of(table, files, label))
        _check(tables, files, text, label)
        texts = [cell for table in tables for _, cells in table.checked(text) for cell in cells.to_pylist()]
        tokens = self._tokens(texts)
        labels = column_of(tables, label, shared_names(tables, label))
        samples, cut = numbered(texts, tokens, self._source.length, labels.codes)
        owners = None if files.owner is None else column_of(tables, files.owner, ())
        if owners is not None:
            samples = samples.numbered(labels.codes, owners.codes)
        further = {"tokens": [tokens.json, tokens.vocabulary, tokens.padding]}
        return Split(samples, labels, owners, (*remarks, *_remarks(texts, cut, self._source.length)), further)

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        source = self._source
        if self.tokens is None and source.tokenizer is not None:
            self.tokens = of_folder(folder_of(source.tokenizer))
        if self.tokens is None:
            self.tokens = trained(texts, source.vocabulary, source.lowercase)
        return self.tokens


def _remarks(texts: Sequence[str], cut: int, length: int) -> tuple[str, ...]:
    lines, empty = [], sum(not text.strip() for text in texts)
    if empty:
        lines.append(f"{empty:,} of {len(texts):,} texts are empty: they are kept as texts without words")
    if cut:
        lines.append(
            f"{cut:,} of {len(texts):,} texts are longer than dataset.length={length} tokens: they are cut there"
        )
    return tuple(lines)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _labels_of(table: Table, files: TableFiles) -> list[str]:
    """The columns that can be the label, except the text's: the one called label, else the numbers."""
    if named := [name for name in table.schema.names if name in ("label", "labels")]:
        return named
    able = [name for name in label_columns(table, files.owner) if name != files.content]
    numbers = [name for name in able if not _is_text(table.schema.field(name).type)]
    return able if len(able) == 1 else numbers or able


def _texts_of(table: Table, files: TableFiles, label: str) -> list[str]:
    """The columns of words that are neither label nor owner; of several, the one called text or sentence."""
    able = [f.name for f in table.schema if _is_text(f.type) and f.name not in (label, files.owner)]
    named = [name for name in able if name in ("text", "sentence")]
    return named if len(named) == 1 else able


def _check(tables: Sequence[Table], files: TableFiles, text: str, label: str) -> None:
    """DataError if a file lacks a column, or a column has the wrong type."""
    for table in tables:
        for key, column in (("text", text), ("label", label), ("owner", files.owner)):
            if column is None:
                continue
            chosen_column(table, files, key, column, lambda _: [])
            kind = table.schema.field(column).type
            if not (_is_text(kind) if key == "text" else is_label(kind)):
                wanted = "texts must be words" if key == "text" else f"{key}s must be integers or words"
                raise DataError(f"{table.path}: {wanted}, column {column!r} has {kind}; write dataset.files.{key}=")
