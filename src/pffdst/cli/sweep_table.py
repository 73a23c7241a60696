"""The table of a sweep's jobs, and what is printed when the sweep ends."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pffdst.config.sweeps import grid_of
from pffdst.core.program import command_line
from pffdst.metrics.units import format_bytes, format_percent
from pffdst.runs.foreign import foreign
from pffdst.runs.jobs import Job, State, jobs_of

__all__ = ["SweepTable", "counts", "table_of"]

_STATES: tuple[State, ...] = ("done", "running", "failed", "stopped", "missing")
_DECIMAL = re.compile(r"\b\d+\.\d{6,}(?:e[+-]?\d+)?\b")


@final
class SweepTable(Callback):
    """Prints a sweep's jobs once the last one has ended, and what to do next.

    Exits with code 1 if a job is not done, as a failed run does.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the folders of the sweep's jobs, since nothing is kept in memory between jobs."""
        sweep = Path(str(config.hydra.sweep.dir))
        jobs = jobs_of(sweep, grid_of(sweep))
        console = Console(soft_wrap=not sys.stdout.isatty())
        console.print(table_of(jobs, sweep))
        console.print(counts(jobs), highlight=False)
        undone = not jobs or not all(job.done for job in jobs)
        if undone:
            _say(console, "To run the rest (finished jobs are skipped):", command_line("train", sys.argv[1:]))
        if any(job.done for job in jobs):
            _say(console, "To compare them:", command_line("report", [str(sweep), "-o", "report.html"]))
        if undone:
            raise SystemExit(1)


def counts(jobs: Sequence[Job]) -> str:
    """How many jobs are in each state: `7 done, 1 failed`."""
    count = Counter(job.state for job in jobs)
    return ", ".join(f"{count[state]} {state}" for state in _STATES if count[state] > 0) or "nothing started"


def table_of(jobs: Sequence[Job], sweep: Path, what: str = "Sweep") -> Table:
    """A sweep's jobs: number, overrides that differ, status, accuracies and bytes; fits 80 columns.

    The status includes the folder if a job's result is not in the folder of its number. `what` is the title's first
    word. Long decimals are shortened.
    """
    table = Table(title=foreign(f"{what} {sweep}"), title_justify="left")
    table.add_column("job", justify="right", no_wrap=True)
    for name in ("overrides", "status"):
        table.add_column(name, overflow="fold")
    for name in ("server average", "last 5", "bytes"):
        table.add_column(name, justify="right", no_wrap=name != "server average")
    for job in jobs:
        accuracies = [_or_dash(share, format_percent) for share in (job.ema, job.last5)]
        overrides = _DECIMAL.sub(lambda found: f"{float(found[0]):.4g}", " ".join(job.overrides))
        where, size = _where(job, sweep), _or_dash(job.bytes, format_bytes)
        table.add_row(*map(foreign, (job.number, overrides, f"{job.status}{where}", *accuracies, size)))
    return table


def _where(job: Job, sweep: Path) -> str:
    if job.folder.name == job.number and job.folder.parent.resolve() == sweep.resolve():
        return ""
    absolute, root = job.folder.resolve(), sweep.parent.resolve()
    return f", in {absolute.relative_to(root) if absolute.is_relative_to(root) else absolute}"


def _or_dash(value: float | None, shown: Any) -> str:
    return "-" if value is None else str(shown(value))


def _say(console: Console, line: str, command: str) -> None:
    console.print(line, foreign(f"  {command}"), sep="\n", highlight=False, soft_wrap=True)
