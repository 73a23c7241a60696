"""metrics.csv by column: every figure of every row, in eight bytes each, for any number of rounds."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, SupportsIndex, final, overload

from pffdst.metrics import names
from pffdst.metrics.clients import evenly_spaced
from pffdst.metrics.names import Row
from pffdst.runs.files import read_rows

__all__ = ["DENSITY", "SHOWN_ROUNDS", "Rows", "plausible", "read_columns"]

DENSITY = names.density_of("")
# Rounds in the plots of the model: more cannot be distinguished on a screen.
SHOWN_ROUNDS = 240
_LAYERS, _NAME = 1000, 300
_MOST = 1e30
_LEFT = ("round/", "time/", "cost/up/", "cost/down/")  # not used by any figure of the report
_ABSENT = math.nan


@final
class Rows(Sequence[Row]):
    """The rows, rounds ascending, kept by column. Densities are only kept at SHOWN_ROUNDS evenly spaced rows."""

    def __init__(self) -> None:
        self.columns: dict[str, array[float]] = {names.ROUND: array("d")}
        self.densities: dict[int, dict[str, float]] = {}
        self._broken: set[str] = set()  # columns with a value that is not a whole number
        self._columns: dict[str, tuple[array[float], float, float]] = {}  # by heading, with the limits of its figures

    def add(self, row: dict[str, str]) -> bool:
        """Adds a row; False if its round is not after the last one's."""
        t = number_of(names.ROUND, row.get(names.ROUND, ""))
        known = self.columns[names.ROUND]
        if t is None or (known and t <= known[-1]):
            return False
        before = len(known)
        for name, text in row.items():
            self._put(name, text, before)
        return True

    def _put(self, name: str, text: str, before: int) -> None:
        if name not in self._columns:
            self._columns[name] = (self.columns.setdefault(_plain(name), array("d")), *limits_of(name))
        column, low, high = self._columns[name]
        try:
            value = float(text)
        except ValueError:
            return
        if low <= value <= high:  # never true for NaN
            if len(column) < before:
                column.extend([_ABSENT] * (before - len(column)))
            column.append(value)
            if name not in self._broken and not text.isdecimal():
                self._broken.add(_plain(name))

    def __len__(self) -> int:
        return len(self.columns[names.ROUND])

    @overload
    def __getitem__(self, at: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: Any) -> Row | list[Row]:
        """A row as a dict, integers as they were logged."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = range(len(self))[at]
        found = {name: column[i] for name, column in self.columns.items() if i < len(column)}
        told: Row = {n: v if n in self._broken else int(v) for n, v in found.items() if not math.isnan(v)}
        return told | self.densities.get(i, {})

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> list[float | None]:
        """A column's numbers, None for a row without one."""
        found = self.columns.get(name, ())
        known: list[float | None] = [None if math.isnan(v) else self._typed(name, v) for v in found]
        return known + [None] * (len(self) - len(known))

    def last(self, name: str) -> float | None:
        """The last number of a column; None if there is none."""
        known = (v for v in reversed(self.columns.get(name, ())) if not math.isnan(v))
        return next((self._typed(name, v) for v in known), None)

    def _typed(self, name: str, value: float) -> float:
        return value if name in self._broken else int(value)


def read_columns(path: Path) -> tuple[Rows, int]:
    """The complete rows, and how many lines are incomplete. FileProblem."""
    found = Rows()
    kept = bytearray(map(found.add, read_rows(path, _is_figure)))
    spaced, rows = set(evenly_spaced(len(found), SHOWN_ROUNDS)), count()
    numbered = ((place, next(rows)) for place, whole in enumerate(kept) if whole)
    _read_densities(path, found, {place: i for place, i in numbered if i in spaced})
    return found, len(kept) - len(found)


def _read_densities(path: Path, found: Rows, places: Mapping[int, int]) -> None:
    """Reads the densities of the lines at `places`, by row number."""
    layers: list[str] = []

    def wanted(name: str) -> bool:
        layers.extend([name] if name.startswith(DENSITY) else [])
        return name.startswith(DENSITY) and len(name) < _NAME and len(layers) <= _LAYERS

    for place, row in enumerate(read_rows(path, wanted, places)):
        if place in places:
            known = {name: number_of(name, text) for name, text in row.items()}
            found.densities[places[place]] = {name: value for name, value in known.items() if value is not None}


def _is_figure(name: str) -> bool:
    return not name.startswith((DENSITY, *_LEFT)) and len(name) < _NAME


def _plain(name: str) -> str:
    """Accuracies have one name here, whatever samples they were measured on; the run says which."""
    return f"test/{name[4:]}" if name.startswith("val/") else name


def number_of(name: str, text: str) -> float | None:
    """A field as a number; None if it is not one that its column could have."""
    try:
        return plausible(name, float(text))
    except ValueError:
        return None


def plausible(name: str, value: Any) -> float | None:
    """The value, if it is a finite number that such a figure can have; see `limits_of`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = limits_of(name)
    return value if low <= value <= high else None


def limits_of(name: str) -> tuple[float, float]:
    """What a figure of this name can be: a share in [0, 1], a cost of at least 0, a round below a thousand million."""
    if "acc" in name:
        return 0.0, 1.0
    if name in (names.ROUND, "rounds"):
        return 0.0, 1e9
    is_cost = any(word in name for word in ("bytes", "flops", "alive", "frozen", "wall_s", "lost", "late", "seconds"))
    return 0.0 if is_cost else -_MOST, _MOST
