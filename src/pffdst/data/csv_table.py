"""Reads a CSV made by people: columns by name, as words or numbers, with the line of any error."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pffdst.core.errors import UserError
from pffdst.core.words import one_line

__all__ = ["columns_of", "content_of", "file_of", "number_columns"]


def columns_of(path: Path) -> dict[str, NDArray[np.str_]]:
    """The columns of a CSV, also as spreadsheets write it: with a byte order mark, semicolons or tabs.

    Empty if there are no rows. ValueError if rows differ in length; OSError.
    """
    text = path.read_text(encoding="utf-8-sig")
    head = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=next((c for c in ";\t" if c in head), ","))
    names = [name.strip() for name in next(rows, [])]
    cells = list(zip(*(row for row in rows if row), strict=True))
    return {name: np.array([cell.strip() for cell in cells[i]]) for i, name in enumerate(names)} if cells else {}


def number_columns(key: str, path: Path, needed: Sequence[str]) -> Mapping[str, NDArray[np.float64]]:
    """The `needed` columns as finite numbers. UserError that names the `key` of the configuration, and the line."""
    try:
        found = columns_of(path)
    except (OSError, ValueError, IndexError, csv.Error) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{key}: {path} cannot be read ({why}); expected a CSV with columns {_all(needed)}") from error
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"{key}: {path} has no {_all(missing)}; expected a CSV with a header and the columns {_all(needed)}"
        )
    return {name: _numbers(key, path, name, found[name]) for name in needed}


def file_of(name: str) -> Path:
    """The absolute path of a file named in the configuration."""
    return Path(name).expanduser().absolute()


def content_of(path: Path) -> str:
    """32 hexadecimal digits of a file's bytes."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _numbers(key: str, path: Path, name: str, cells: NDArray[np.str_]) -> NDArray[np.float64]:
    values = np.array([_number(cell) for cell in cells.tolist()])
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong) > 0:
        line = int(wrong[0]) + 2
        raise UserError(f"{key}: {path}, line {line}: {name} is {str(cells[wrong[0]])!r}; write a number")
    return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _all(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
