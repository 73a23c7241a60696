"""The progress of runs, sweeps and searches: `python -m pffdst status [FOLDER ...]`.

Without a folder, one line for everything under logs/. With a folder, its jobs: done, running, failed, stopped (started
but no longer running) or missing (never started), and the command that continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pffdst.cli.sweep_table import counts, table_of
from pffdst.config.resume import as_value
from pffdst.config.sweeps import grid_of, saved_launcher, saved_overrides, saved_subdir
from pffdst.config.trust import plain_settings, recorded_places
from pffdst.core.errors import UserError, needs
from pffdst.core.program import command_line
from pffdst.core.words import one_line
from pffdst.runs.files import SEARCH, SWEEP
from pffdst.runs.foreign import foreign
from pffdst.runs.jobs import Job, job_folders, job_of, jobs_of

if TYPE_CHECKING:
    from pffdst.search.trials import Trials

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Prints the state of what is in the folders; returns 2 if one contains no run, sweep or search."""
    parser = argparse.ArgumentParser(prog=command_line("status"), description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("folder", nargs="*", type=Path, help="a run, sweep or search, or a folder that has several")
    folders = parser.parse_args(argv).folder or [Path("logs")]
    console = Console(soft_wrap=not sys.stdout.isatty()) if console is None else console
    try:
        unknown = [folder for folder in folders if not _show(folder, console)]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for folder in unknown:
        print(
            foreign(f"{folder}: this folder contains no run, sweep or search; name one, e.g. logs/sweeps/DATE").plain,
            file=sys.stderr,
        )
    return 2 if unknown else 0


def _show(folder: Path, console: Console) -> bool:
    """Prints one folder; returns whether there was anything to show."""
    if _is_several(folder):
        _show_jobs(folder, console)
        return True
    job = job_of(folder)
    if job is not None:
        console.print(table_of([job], folder, "Run"), foreign(_how_on(folder, [job])), sep="\n", highlight=False)
        return True
    return _show_below(folder, console)


def _is_several(folder: Path) -> bool:
    return (folder / SWEEP).is_file() or (folder / SEARCH).is_file()


def _show_jobs(folder: Path, console: Console) -> None:
    jobs, trials = jobs_of(folder, grid_of(folder)), _trials(folder)
    console.print(table_of(jobs, folder, "Sweep" if trials is None else "Search"))
    if trials is not None and any(job.done for job in jobs):
        from pffdst.search.trials import front_table

        console.print(front_table(trials))
    console.print(counts(jobs) + (f"; {trials.left} to go" if trials is not None else ""), highlight=False)
    console.print(foreign(_how_on(folder, jobs, trials)), highlight=False)


def _trials(folder: Path) -> Trials | None:
    """The search in a folder, if there is one; Optuna, which reads it, is imported only then."""
    if not (folder / SEARCH).is_file():
        return None
    try:
        from pffdst.search.trials import Trials
    except ModuleNotFoundError as error:
        raise needs(f"{folder} holds a search, which", error) from error
    try:
        found = Trials.load(folder)
        _ = None if found is None else found.left  # a damaged database may fail only here
        return found
    except UserError:
        raise
    except Exception as error:  # whatever Optuna raises for someone else's database
        why = one_line(error, 200)
        raise UserError(f"{folder / SEARCH}: it contains no readable search: {why}") from error


def _show_below(root: Path, console: Console) -> bool:
    """One line for everything under a folder, newest first."""
    found = _found(root)
    if not found:
        return False
    table = Table(title=foreign(f"In {root}"), title_justify="left")
    for name in ("what", "folder", "state"):
        table.add_column(name, overflow="fold")
    for folder in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        job = None if _is_several(folder) else job_of(folder)
        kind = "run" if job is not None else "search" if (folder / SEARCH).is_file() else "sweep"
        state = job.status if job is not None else counts(jobs_of(folder, grid_of(folder)))
        table.add_row(kind, foreign(folder.relative_to(root)), foreign(state))
    console.print(table)
    return True


def _found(root: Path) -> list[Path]:
    """Runs, sweeps and searches at any depth, without a sweep's own jobs."""
    several = {path.parent for name in (SWEEP, SEARCH) for path in root.rglob(name)}
    return [*several, *(path for path in job_folders(root) if not several & {path, *path.parents})]


def _how_on(folder: Path, jobs: Sequence[Job], trials: Trials | None = None) -> str:
    """The command that runs what is left, or a sentence if there is no such command."""
    if any(job.state == "running" for job in jobs):
        return "A run is in progress here."
    places = next((found for job in jobs if (found := recorded_places(job.own))), [])
    if trials is not None and trials.left > 0:
        return _told("To resume", trials.given, places=places)
    if trials is not None or all(job.done for job in jobs):
        return "Everything is done."
    if not (folder / SWEEP).is_file():
        return _trusting(f"To resume: {command_line('train', [f'resume={folder}'])}", [], places)
    task = [*saved_overrides(folder), *saved_subdir(folder)]
    own = [*saved_launcher(folder), f"hydra.sweep.dir={as_value(str(folder))}"]
    return _told("To run the rest", task, "-m", *own, places=places)


def _told(what: str, saved: Sequence[str], *own: str, places: Sequence[str] = ()) -> str:
    """The command built from a folder's saved arguments."""
    plain, more = plain_settings(saved)
    return _trusting(f"{what}: {command_line('train', [*own[:1], *plain, *own[1:]])}", more, places)


def _trusting(command: str, more: Sequence[str], places: Sequence[str]) -> str:
    """A command, with a folder's arguments beyond settings kept apart, so that nobody copies them unread.

    `places` are the arguments that name the user's own configuration folders.
    """
    own = " ".join([*more, *(word for word in places if word not in more)])
    if not own:
        return command
    return f"{command}  # its command line had more than settings; add what you trust of: {own}"
