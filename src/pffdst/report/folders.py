"""Finds the runs below a folder, and whether anything in one of them has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pffdst.core.errors import UserError
from pffdst.runs.files import CLIENTS, CONFIG, HYDRA, METRICS, RUN, SKIPPED, SUMMARY

__all__ = ["Stamp", "common_base", "run_folders", "stamp"]

_MARKS = frozenset({RUN, SUMMARY, SKIPPED, METRICS, CONFIG})
_READ = (RUN, SUMMARY, SKIPPED, METRICS, CONFIG, CLIENTS)

Stamp = tuple[tuple[int, int], ...]


def run_folders(roots: Sequence[Path]) -> list[Path]:
    """Every folder below `roots` that belongs to a run, or is empty where a run's should be, in order of path.

    Folders inside a run's folder are not searched. UserError where a root is not a folder.
    """
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is not a folder: name the one that contains the runs, such as logs")
    return sorted({folder.resolve() for root in roots for folder in _below(root)})


def common_base(roots: Sequence[Path]) -> Path:
    """The folder that run names are relative to; its parent, for a root that is itself a run's folder."""
    base = Path(os.path.commonpath([root.resolve() for root in roots]))
    try:
        return base.parent if _is_run([path.name for path in base.iterdir()]) else base
    except OSError:
        return base


def stamp(folder: Path) -> Stamp:
    """Differs from an earlier stamp if a file that the report reads has been written since."""
    return tuple(_stamp(folder / name) for name in _READ)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, -1)
    return found.st_mtime_ns, found.st_size


def _below(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        names = [*folders, *files]
        if _is_run(names) or (not names and Path(place) != root):
            folders.clear()
            yield Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]


def _is_run(names: Sequence[str]) -> bool:
    return HYDRA in names or not _MARKS.isdisjoint(names)
