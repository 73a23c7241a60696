"""How far runs, sweeps and searches are: `python -m pffdst status [FOLDER ...]`.

Without a folder, everything below logs/ in a line each. With one, its jobs: done, running, failed, stopped (begun, and
nobody works on it) or missing (never begun), and the command that goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pffdst.cli.sweep_table import counts, table_of
from pffdst.config.sweeps import grid_of
from pffdst.core.program import command_line
from pffdst.runs.jobs import Job, job_folders, job_of, jobs_of

if TYPE_CHECKING:
    from pffdst.search.trials import Trials

__all__ = ["main"]

_SWEEP, _SEARCH = "multirun.yaml", "search.db"


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Prints the state of what the folders hold; 2 where one holds nothing of the kind."""
    parser = argparse.ArgumentParser(prog=command_line("status"), description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("folder", nargs="*", type=Path, help="of a run, a sweep or a search, or one that holds several")
    folders = parser.parse_args(argv).folder or [Path("logs")]
    console = Console(soft_wrap=not sys.stdout.isatty()) if console is None else console
    unknown = [folder for folder in folders if not _show(folder, console)]
    for folder in unknown:
        print(f"{folder}: no run, sweep or search is in this folder; name one, e.g. logs/sweeps/DATE", file=sys.stderr)
    return 2 if unknown else 0


def _show(folder: Path, console: Console) -> bool:
    """Prints one folder; whether there was anything to tell."""
    if _is_several(folder):
        _show_jobs(folder, console)
        return True
    job = job_of(folder)
    if job is not None:
        console.print(table_of([job], folder, "Run"), _how_on(folder, [job]), sep="\n", highlight=False)
        return True
    return _show_below(folder, console)


def _is_several(folder: Path) -> bool:
    return (folder / _SWEEP).is_file() or (folder / _SEARCH).is_file()


def _show_jobs(folder: Path, console: Console) -> None:
    jobs, trials = _jobs(folder)
    console.print(table_of(jobs, folder, "Sweep" if trials is None else "Search"))
    if trials is not None and any(job.done for job in jobs):
        from pffdst.search.trials import front_table

        console.print(front_table(trials))
    console.print(counts(jobs) + (f"; {trials.left} to go" if trials is not None else ""), highlight=False)
    console.print(_how_on(folder, jobs, trials), highlight=False, markup=False)


def _jobs(folder: Path) -> tuple[list[Job], Trials | None]:
    jobs = jobs_of(folder, grid_of(folder))
    if not (folder / _SEARCH).is_file():
        return jobs, None
    from pffdst.search.trials import Trials  # Optuna is needed by searches alone

    return jobs, Trials.load(folder)


def _show_below(root: Path, console: Console) -> bool:
    """A line for everything below a folder, the newest first."""
    found = _found(root)
    if not found:
        return False
    table = Table(title=f"In {root}", title_justify="left")
    for name in ("what", "folder", "state"):
        table.add_column(name, overflow="fold")
    for folder in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        job = None if _is_several(folder) else job_of(folder)
        kind = "run" if job is not None else "search" if (folder / _SEARCH).is_file() else "sweep"
        state = job.status if job is not None else counts(_jobs(folder)[0])
        table.add_row(kind, str(folder.relative_to(root)), state)
    console.print(table)
    return True


def _found(root: Path) -> list[Path]:
    """Runs, sweeps and searches at any depth; a sweep's own jobs are left to it."""
    several = {path.parent for name in (_SWEEP, _SEARCH) for path in root.rglob(name)}
    return [*several, *(path for path in job_folders(root) if not several & {path, *path.parents})]


def _how_on(folder: Path, jobs: Sequence[Job], trials: Trials | None = None) -> str:
    """The command that does what is left, or a word where there is none to write."""
    if any(job.state == "running" for job in jobs):
        return "Somebody is at work here."
    if trials is not None and trials.left > 0:
        return f"To go on: {command_line('train', [*trials.given])}"
    if trials is not None or all(job.done for job in jobs):
        return "Nothing is left to do."
    if not (folder / _SWEEP).is_file():
        return f"To go on: {command_line('train', [f'resume={folder}'])}"
    task = [str(line) for line in OmegaConf.load(folder / _SWEEP).hydra.overrides.task]
    return f"To do the rest: {command_line('train', ['-m', *task, f'hydra.sweep.dir={folder}'])}"
