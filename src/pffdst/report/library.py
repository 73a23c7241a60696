"""All runs below some folders, kept in memory: only what changed on disk is read again."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from pffdst.report.folders import Stamp, common_base, run_folders, stamp
from pffdst.report.reading import Run, encodable, read_run
from pffdst.runs.files import PROVENANCE, FileProblem, read_json
from pffdst.runs.jobs import in_use

__all__ = ["Library", "Shelf"]


@final
@dataclass(frozen=True)
class Shelf:
    """The runs at one moment, in order of name. `changed` maps a name to the version in which it last changed."""

    version: int
    base: Path
    runs: tuple[Run, ...]
    changed: dict[str, int]


@final
class Library:
    """The runs below `roots`; thread-safe. UserError if a root is not a folder."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[Stamp, Run]] = {}
        self._shelf = Shelf(0, common_base(roots) if all(r.is_dir() for r in roots) else Path(), (), {})

    def look(self) -> Shelf:
        """The runs as they are on disk."""
        with self._lock:
            folders = run_folders(self._roots)
            self._read = {folder: self._fresh(folder) for folder in folders}
            runs = tuple(with_twins([run for _, run in self._read.values()]))
            self._shelf = _next(self._shelf, runs)
            return self._shelf

    def _fresh(self, folder: Path) -> tuple[Stamp, Run]:
        now, known = stamp(folder), self._read.get(folder)
        # A running run may have been killed, which no file shows.
        if known is not None and known[0] == now and (known[1].status != "running" or in_use(folder)):
            return known
        return now, read_run(folder, self._name(folder))

    def _name(self, folder: Path) -> str:
        return encodable(folder.relative_to(self._shelf.base).as_posix())


def with_twins(runs: Iterable[Run]) -> list[Run]:
    """Of several runs with one fingerprint, only the most advanced, then the newest, counts; the others refer to it."""
    same: dict[str, list[Run]] = defaultdict(list)
    runs = list(runs)
    for run in runs:
        if run.fingerprint and run.has_figures:
            same[run.fingerprint].append(run)
    counted = {mark: max(group, key=_worth) for mark, group in same.items() if len(group) > 1}
    return [_twin(run, counted.get(run.fingerprint)) for run in runs]


def _worth(run: Run) -> tuple[bool, bool, bool, int, int, str, str]:
    whole = not run.remarks
    return run.status == "done", run.status == "running", whole, run.rounds, len(run.rows), _begun(run), run.id


def _begun(run: Run) -> str:
    """The date and time when the run last began, in UTC; empty if that is not known."""
    try:
        return str(read_json(run.folder / PROVENANCE)[-1]["date"])
    except (FileProblem, LookupError, TypeError):
        return ""


def _twin(run: Run, counted: Run | None) -> Run:
    if counted is None or counted is run or not run.has_figures:
        return run
    return replace(run, twin=counted.id)


def _next(old: Shelf, runs: tuple[Run, ...]) -> Shelf:
    before = {run.id: run for run in old.runs}
    moved = [run.id for run in runs if before.get(run.id) != run]
    if not moved and len(before) == len(runs):
        return old
    version = old.version + 1
    changed = {run.id: old.changed.get(run.id, version) for run in runs} | dict.fromkeys(moved, version)
    return Shelf(version, old.base, runs, changed)
