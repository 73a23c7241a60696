"""metrics.csv by columns: every figure of every row, in eight bytes each, whatever the number of rounds."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, final, overload

from pffdst.metrics import names
from pffdst.metrics.clients import evenly_spaced
from pffdst.metrics.names import Row
from pffdst.runs.files import line_count, read_rows

__all__ = ["DENSITY", "SHOWN_ROUNDS", "Rows", "plausible", "read_columns"]

DENSITY = names.density_of("")
# Rounds of the pictures of the model: more than these are not told apart on a screen.
SHOWN_ROUNDS = 240
_LAYERS = 1000
_LEFT = ("round/", "time/", "cost/up/", "cost/down/")  # what no figure of the report is made of
_ABSENT = math.nan


@final
class Rows(Sequence[Row]):
    """The rows, rounds ascending, kept by columns. Densities are kept at SHOWN_ROUNDS evenly spaced rows alone."""

    def __init__(self) -> None:
        self.columns: dict[str, array[float]] = {names.ROUND: array("d")}
        self.densities: dict[int, dict[str, float]] = {}
        self._broken: set[str] = set()  # columns with a value that is no whole number
        self._spaced: list[int] = []

    def add(self, row: dict[str, str], place: int, spaced: set[int]) -> bool:
        """Takes in a row, the `place`-th of its file; False for one whose round is not after the last one's."""
        t = number_of(names.ROUND, row.get(names.ROUND, ""))
        known = self.columns[names.ROUND]
        if t is None or (known and t <= known[-1]):
            return False
        for name, text in row.items():
            if not name.startswith(DENSITY):
                self._put(name.replace("val/", "test/", 1) if name.startswith("val/") else name, text)
        if place in spaced:
            dense = {n: v for n, text in row.items() if n.startswith(DENSITY) and (v := number_of(n, text)) is not None}
            self.densities[len(known) - 1] = dense
        return True

    def _put(self, name: str, text: str) -> None:
        value = number_of(name, text)
        if value is None:
            return
        column = self.columns.setdefault(name, array("d"))
        column.extend(_ABSENT for _ in range(len(self) - len(column) - (name != names.ROUND)))
        column.append(value)
        if not text.isdecimal():
            self._broken.add(name)

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
        """A column's numbers, None where a row has none."""
        found = self.columns.get(name, ())
        known: list[float | None] = [None if math.isnan(v) else self._typed(name, v) for v in found]
        return known + [None] * (len(self) - len(known))

    def last(self, name: str) -> float | None:
        """The last number of a column; None where there is none."""
        known = (v for v in reversed(self.columns.get(name, ())) if not math.isnan(v))
        return next((self._typed(name, v) for v in known), None)

    def _typed(self, name: str, value: float) -> float:
        return value if name in self._broken else int(value)


def read_columns(path: Path) -> tuple[Rows, int]:
    """The rows that are whole, and how many lines are not. FileProblem."""
    lines = max(line_count(path) - 1, 1)
    spaced, found, lost = set(evenly_spaced(lines, SHOWN_ROUNDS)), Rows(), 0
    for place, row in enumerate(read_rows(path, _wanted())):
        lost += not found.add(row, place, spaced)
    return found, lost


def _wanted() -> Any:
    layers: list[str] = []

    def wanted(name: str) -> bool:
        if name.startswith(DENSITY):
            layers.append(name)
        return not name.startswith(_LEFT) and len(name) < 300 and len(layers) <= _LAYERS

    return wanted


def number_of(name: str, text: str) -> float | None:
    """A field as a number; None where it is none that its column could have."""
    try:
        return plausible(name, float(text))
    except ValueError:
        return None


def plausible(name: str, value: Any) -> float | None:
    """The value, if it is a finite number that such a figure can have: a share in [0, 1], a cost of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        return None
    if ("acc" in name and not 0 <= value <= 1) or (_is_cost(name) and value < 0):
        return None
    return None if name in (names.ROUND, "rounds") and not 0 <= value < 1e9 else value


def _is_cost(name: str) -> bool:
    return any(word in name for word in ("bytes", "flops", "alive", "frozen", "wall_s"))
