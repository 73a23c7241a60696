"""metrics.csv: a row per round, complete at any instant, and exact to the last bit when read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, final

from pffdst.loggers.base import RunInfo, RunLogger, State, Status
from pffdst.metrics.names import ROUND, Row
from pffdst.runs.files import METRICS, read_rows, write_whole

__all__ = ["CsvLogger", "read_metrics"]

_STATE = "round"


@final
class CsvLogger(RunLogger):
    """Writes `metrics.csv` into the run's folder.

    `columns` are the names known in advance (`metrics.names.columns`); a row with another name adds a column. A missing
    value is an empty field. Every row is on disk when `log` returns, in one write. Resuming first drops the rows after
    the checkpoint's round, and a last line cut short by a kill.
    """

    FILE = METRICS

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self._columns = tuple(dict.fromkeys((ROUND, *columns)))
        self._stream: TextIO | None = None
        self._round = 0

    def open(self, run: RunInfo, state: State | None) -> None:
        """Starts a new file, or continues after the rows of `state`."""
        path = run.folder / self.FILE
        self._round = int((state or {}).get(_STATE, 0))
        kept = [row for row in _read(path) if int(row[ROUND]) <= self._round] if self._round > 0 else []
        self._restart(path, kept)

    def log(self, row: Row) -> None:
        """Appends the row. ValueError before `open`, or if the row's round is not after the last one's."""
        stream = self._stream
        if stream is None:
            raise ValueError("Expected CsvLogger to be open before a row is logged: call open(run, None)")
        if int(row[ROUND]) <= self._round:
            raise ValueError(f"Expected a row of a round after {self._round}, but got round {row[ROUND]}")
        text = {name: _text(value) for name, value in row.items()}
        if not text.keys() <= set(self._columns):
            path = Path(stream.name)
            stream = self._restart(path, _read(path), names=text)
        try:
            stream.write(_line([text.get(name, "") for name in self._columns]))
            stream.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, stream.name) from error
        self._round = int(row[ROUND])

    def close(self, status: Status) -> None:
        """Closes the file; everything has already been written."""
        self._release()

    def state_dict(self) -> dict[str, str]:
        """The last round in the file."""
        return {_STATE: str(self._round)}

    def _release(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _restart(self, path: Path, rows: Sequence[Mapping[str, str]], names: Iterable[str] = ()) -> TextIO:
        """Replaces the file by a new one with these rows and columns for `names` too, and opens it."""
        self._release()
        old = rows[0] if rows else ()
        self._columns = tuple(dict.fromkeys((*self._columns, *old, *names)))
        lines = [_line(self._columns), *(_line([row.get(name, "") for name in self._columns]) for row in rows)]
        write_whole(path, "".join(lines).encode())
        self._stream = path.open("a", encoding="utf-8", newline="")
        return self._stream


def read_metrics(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`: integers, floats and words as they were logged, without missing values.

    A line that was cut short is left out. FileNotFoundError if there is no such file, FileProblem if it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected the metrics of a run in {path}, but there is no such file")
    return [{name: _value(text) for name, text in row.items() if text != ""} for row in _read(path)]


def _read(path: Path) -> list[dict[str, str]]:
    """The complete rows of a file, as text; none if there is no file."""
    if not path.is_file():
        return []
    return [row for row in read_rows(path) if row.get(ROUND, "").isdecimal()]


def _line(fields: Iterable[str]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue()


def _text(value: float | int | str) -> str:
    """The shortest text that reads back as the same value; a line break would split the row."""
    if isinstance(value, float):
        return repr(float(value))
    return " ".join(value.splitlines()) if isinstance(value, str) else str(int(value))


def _value(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
