"""A run's console output: two lines at the start, a progress bar (or a few lines in a pipe), a table at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from pffdst.core.words import counted
from pffdst.loggers.base import RunInfo, RunLogger, State, Status
from pffdst.loggers.tables import print_summary
from pffdst.metrics.names import (
    ACC_CLIENT_MEAN,
    ACC_GLOBAL,
    COST_BYTES_DOWN,
    COST_BYTES_UP,
    EMA_ACC_GLOBAL,
    ROUND,
    ROUND_REJECTED,
    STAGE,
    Row,
    as_test,
)
from pffdst.metrics.units import format_bytes, format_percent, format_seconds

__all__ = ["ConsoleLogger", "header"]

_STATE: Final = "round"
_REJECTED: Final = "rejected"
_REDRAW: Final = 0.2
_LINES: Final = 20
_WIDE: Final = 120


@final
class ConsoleLogger(RunLogger):
    """A progress bar in a terminal; elsewhere a line per evaluated round, about 20 of them in `rounds`.

    `every` is the number of rounds between evaluations.
    """

    def __init__(self, rounds: int, every: int, console: Console | None = None) -> None:
        self._rounds = rounds
        self._interval = every * math.ceil(rounds / (_LINES * every))
        self._console = Console() if console is None else console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._pace = _Pace(rounds)
        self._next_line = 0
        self._rejected = 0
        self._is_open = False
        self._scores = ""
        self._row: Row = {}
        self._drawn = 0.0

    def open(self, run: RunInfo, state: State | None) -> None:
        """Prints the header and starts the clock."""
        self._is_open = True
        for line in header(run, resumed=state is not None):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        before = state or {}
        self._pace.start(int(before.get(_STATE, 0)))
        self._rejected = int(before.get(_REJECTED, 0))
        if _is_live(self._console):
            self._progress = _bar(self._console)
            self._task = self._progress.add_task("round", total=self._rounds, at=0, status="")
            self._progress.start()

    def step(self, what: str, done: int, total: int) -> None:
        """Updates the bar within a round, a few times a second; prints nothing outside a terminal."""
        progress, now = self._progress, time.monotonic()
        if progress is None or now - self._drawn < _REDRAW:
            return
        self._drawn = now
        if what == "clients":
            self._pace.within(done / total)
        status = self._status(self._row, "" if self._narrow() else f"{what} {done}/{total}")
        progress.update(self._task, completed=self._pace.position, at=self._pace.last, status=status, refresh=True)

    def state_dict(self) -> dict[str, str]:
        """The last round shown, and the updates rejected by then."""
        return {_STATE: str(self._pace.last), _REJECTED: str(self._rejected)}

    def log(self, row: Row) -> None:
        """Updates the bar, or prints a line if one is due."""
        t = int(row[ROUND])
        self._pace.note(t)
        self._row = row
        self._rejected += int(row.get(ROUND_REJECTED, 0))
        self._scores = _scores(row, self._narrow()) or self._scores
        if self._progress is not None:
            self._progress.update(self._task, completed=t, at=t, status=self._status(row), refresh=True)
        elif t >= self._rounds or (ACC_GLOBAL in as_test(row) and t >= self._next_line):
            self._next_line = (t // self._interval + 1) * self._interval
            self._console.print(self._line(row), markup=False, highlight=False, soft_wrap=True)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Prints the final table below the bar."""
        self._stop()
        print_summary(values, self._console)

    def close(self, status: Status) -> None:
        """Releases the terminal; says so if the run did not finish."""
        self._stop()
        was_open, self._is_open = self._is_open, False
        if was_open and status != "finished":
            self._console.print(f"Run {status} after round {self._pace.last}/{self._rounds}.", highlight=False)

    def _stop(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _narrow(self) -> bool:
        """Whether the bar has little room; a line in a file is never narrow."""
        return self._progress is not None and self._console.width < _WIDE

    def _line(self, row: Row) -> str:
        width = len(str(self._rounds))
        return _joined(f"round {row[ROUND]:>{width}}/{self._rounds}", self._status(row))

    def _status(self, row: Row, phase: str = "") -> str:
        rejected = f"{self._rejected} rejected" if self._rejected > 0 and not self._narrow() else ""
        return _joined(_stage(row), self._scores, _traffic(row), rejected, phase, self._pace.left())


class _Pace:
    """Time left, from the mean over the rounds done in this process: a resumed run ignores earlier ones."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._part = 0.0
        self.start(0)

    def start(self, done: int) -> None:
        """Starts the clock after `done` rounds."""
        self._clock = time.monotonic()
        self._first = self.last = done

    def note(self, t: int) -> None:
        """Notes that round t (counted from 1) is done."""
        self.last, self._part = t, 0.0

    def within(self, part: float) -> None:
        """Notes that a share of the next round's clients is done."""
        self._part = part

    @property
    def position(self) -> float:
        """Rounds done, including the share of the current one."""
        return self.last + self._part

    def left(self) -> str:
        """`ETA m:ss`, or the time taken once every round is done."""
        elapsed, done = time.monotonic() - self._clock, self.position - self._first
        if self.last >= self._rounds or done <= 0:
            return f"took {format_seconds(elapsed)}"
        return f"ETA {format_seconds(elapsed / done * (self._rounds - self.position))}"


def header(run: RunInfo, resumed: bool = False) -> tuple[str, str]:
    """Two lines: what is run, and where its files are. Keys missing from the configuration are shown as `?`."""
    config = run.config
    group = {key: config.get(key) or {} for key in ("dataset", "model", "engine")}
    what = (
        f"{config.get('label') or config.get('method_name', '?')} on {group['dataset'].get('name', '?')}",
        _target(group["model"], -1),
        _zeros(run),
        counted(config.get("rounds", "?"), "round"),
        f"{config.get('cohort', '?')} of {config.get('clients', '?')} clients a round",
        f"engine {_target(group['engine'], -2)}",
        f"seed {config.get('seed', '?')}",
    )
    return ", ".join(what), f"{'resumed in' if resumed else 'files in'} {run.folder}"


def _zeros(run: RunInfo) -> str:
    """`sparsity 0.8 of 13,584 weights (0.793 of all 13,706 parameters)`; `dense` where no weight will be dead."""
    asked = f"sparsity {run.config.get('sparsity', '?')}"
    if run.parameters == 0:
        return asked
    if run.alive == run.maskable:
        return f"dense: {run.parameters:,} parameters"
    overall = (run.maskable - run.alive) / run.parameters
    return f"{asked} of {run.maskable:,} weights ({overall:.3g} of all {run.parameters:,} parameters)"


def _target(node: Mapping[str, Any], part: int) -> str:
    """The class (-1) or module (-2) of a node's `_target_`."""
    parts = str(node.get("_target_", "")).split(".")
    return parts[part] if len(parts) >= -part and parts[part] else "?"


def _is_live(console: Console) -> bool:
    # is_terminal is not enough: with FORCE_COLOR rich calls a pipe a terminal.
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


def _bar(console: Console) -> Progress:
    """Only redrawn by `log`: no thread runs beside the training."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=5, max_width=40)),
        TextColumn("{task.fields[at]}/{task.total:.0f}  {task.fields[status]}", table_column=Column(no_wrap=True)),
    )
    return Progress(*columns, console=console, auto_refresh=False, expand=True)


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _stage(row: Row) -> str:
    return f"stage {row[STAGE]}" if STAGE in row else ""


def _scores(row: Row, brief: bool) -> str:
    """`acc 91.23 % (clients 89.10 %, average 91.50 %)`; `val acc` on a validation set; empty if not evaluated."""
    scored = as_test(row)
    if ACC_GLOBAL not in scored:
        return ""
    named = () if brief else (("clients", ACC_CLIENT_MEAN), ("average", EMA_ACC_GLOBAL))
    rest = ", ".join(f"{word} {format_percent(float(scored[name]))}" for word, name in named if name in scored)
    what = "acc" if ACC_GLOBAL in row else "val acc"
    return f"{what} {format_percent(float(scored[ACC_GLOBAL]))}" + (f" ({rest})" if rest else "")


def _traffic(row: Row) -> str:
    named = (("up", COST_BYTES_UP), ("down", COST_BYTES_DOWN))
    return ", ".join(f"{word} {format_bytes(float(row[name]))}" for word, name in named if name in row)
