"""The state of a run or a sweep's job, read from the files in its folder, and the earlier attempts at a job.

A run's folder holds `run.json` {"fingerprint", "status": "running" | "done" | "failed", "engine"}, at the end
`summary.json`, in between `checkpoints/` and the lock `run.lock` of the running process: a run whose status is running
but whose lock nobody holds was stopped. The folder of a job that was not run, because an earlier attempt was finished
or resumed, holds `skipped.json` {"folder"} instead.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

from filelock import FileLock, Timeout

from pffdst.core.errors import UserError
from pffdst.runs.files import (
    CHECKPOINTS,
    HYDRA,
    HYDRA_SETTINGS,
    LAST,
    LOCK,
    LOG,
    OVERRIDES,
    PREVIOUS,
    RUN,
    SKIPPED,
    SUMMARY,
    SWEEP,
    FileProblem,
    read_json,
    read_yaml,
    remove_half_written,
    write_whole,
)

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Attempt",
    "Job",
    "State",
    "Status",
    "discard_unbegun",
    "has_checkpoint",
    "holds_work",
    "in_use",
    "is_done",
    "job_folders",
    "job_of",
    "jobs_of",
    "locked",
    "mark",
    "mark_failed",
    "mark_found",
    "mark_skipped",
    "previous_attempt",
    "read_run",
    "result_folder",
]

Status = Literal["running", "done", "failed"]
State = Literal["done", "running", "failed", "stopped", "missing"]

_NO_RUNS = (CHECKPOINTS, "wandb")


@final
@dataclass(frozen=True)
class Attempt:
    """An earlier run of the same configuration: `done`, or to be resumed from its last checkpoint."""

    folder: Path
    done: bool


@final
@dataclass(frozen=True)
class Job:
    """One job of a sweep as its folder shows it: `done` here or in an earlier attempt, `status` in words for the table.

    `state` checks the lock to see whether a process is working on it: a run that was killed is stopped. `last5` is the
    mean of the last 5 accuracies and `ema` the server average's accuracy, shares in [0, 1]; `bytes` counts both
    directions; None if unknown. `own` is the job's own folder, `folder` the one with the result.
    """

    number: str
    overrides: tuple[str, ...]
    done: bool
    state: State
    status: str
    last5: float | None
    ema: float | None
    bytes: float | None
    own: Path
    folder: Path


def previous_attempt(
    sweep_root: Path,
    fingerprint: str,
    own: Path,
    engine: str = "",
    content: Callable[[], str] = lambda: "",
) -> Attempt | None:
    """The attempt that a job with this fingerprint need not repeat: a finished one, else one to resume, else None.

    An attempt on another `engine` is a different job, and so is one whose data or model had different `content`, which
    is only computed if there is one to compare with. (A run that does not record its content matches any.)

    Searches `sweep_root/*/*/`, at any depth of the sweeps there, and next to the job's `own` folder. An unfinished
    attempt counts if it has a last checkpoint and no process holds its lock; of several, the one with the newest
    checkpoint is taken.
    """
    same = [folder for folder in _run_folders(sweep_root, own) if _is_same(read_run(folder), fingerprint, engine)]
    if any(read_run(folder).get("content") for folder in same) and (now := content()):
        same = [folder for folder in same if (read_run(folder).get("content") or now) == now]
    done = [folder for folder in same if is_done(folder)]
    if done:
        return Attempt(max(done, key=lambda folder: (folder / RUN).stat().st_mtime_ns), done=True)
    free = [folder for folder in same if has_checkpoint(folder) and (folder == own.resolve() or _is_free(folder))]
    return Attempt(max(free, key=_newest_checkpoint), done=False) if free else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run's or a search's folder, creating it. UserError if another process is running there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / LOCK).acquire(timeout=2)  # workers of a killed run may take a moment to exit
    except Timeout as error:
        raise UserError(
            f"{folder}: another process is running in this folder; wait for it or choose another"
        ) from error
    with held:
        for place in (folder, folder / CHECKPOINTS):
            remove_half_written(place)
        yield


def result_folder(folder: Path) -> Path:
    """The folder with a job's result: its own, or that of the earlier attempt it was skipped for."""
    skipped = _read(folder / SKIPPED)
    return _elsewhere(skipped, folder) if not read_run(folder) else folder


def _elsewhere(skipped: dict[str, Any], folder: Path) -> Path:
    """The folder that skipped.json names; the job's own if it names no valid one."""
    named = skipped.get("folder")
    with suppress(OSError, ValueError):
        return Path(named) if isinstance(named, str) and Path(named).is_dir() else folder
    return folder


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint to resume from; a kill while saving leaves only the previous one."""
    return _newest_checkpoint(folder) > 0


def holds_work(folder: Path) -> bool:
    """Whether a run's folder holds files that a new run would overwrite: checkpoints, or final results."""
    return (folder / CHECKPOINTS).exists() or (folder / SUMMARY).exists()


def in_use(folder: Path) -> bool:
    """Whether a process is running in a run's folder, i.e. holds its lock. Writes and creates nothing there."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except (OSError, ValueError):
        return False
    try:
        return _is_locked(handle)
    finally:
        os.close(handle)


def _is_locked(handle: int) -> bool:
    """Whether another process holds a FileLock on this file; checking takes no lock that could block it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return True
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    else:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def read_run(folder: Path) -> dict[str, Any]:
    """What run.json says about a run: `fingerprint`, `status`; empty if there is none or it cannot be read."""
    return _read(folder / RUN)


def is_done(folder: Path) -> bool:
    """Whether a run has finished and its results are readable; one that lost them resumes from its last checkpoint."""
    return read_run(folder).get("status") == "done" and bool(_read(folder / SUMMARY))


def mark(folder: Path, fingerprint: str, status: Status, engine: str = "", content: str = "") -> None:
    """Records the status of the run in this folder, its engine, and the content of its data and model."""
    _write(folder / RUN, {"fingerprint": fingerprint, "status": status, "engine": engine, "content": content})


def mark_failed(folder: Path, fingerprint: str, error: str) -> None:
    """Records why a job failed; a finished run in its folder, which was not this job's, stays finished.

    Where nothing can be written, nothing is recorded: the folder may be gone, or the disk full, which is the error.
    """
    known = read_run(folder)
    if known.get("status") == "done":
        noted = known | {"refused": error}
    else:
        kept = {key: str(known.get(key, "")) for key in ("engine", "content")}
        noted = {"fingerprint": fingerprint, "status": "failed", **kept, "error": error}
    with suppress(OSError):
        _write(folder / RUN, noted)


def mark_found(folder: Path) -> None:
    """Clears a job's refusal: the finished run in its folder is the requested one."""
    if "refused" in (known := read_run(folder)):
        _write(folder / RUN, {key: value for key, value in known.items() if key != "refused"})


def discard_unbegun(folder: Path) -> None:
    """Removes the folder of a run that was refused before it started: it only holds Hydra's files and a free lock."""
    left = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if left <= {HYDRA, LOG, LOCK} and not in_use(folder):
        shutil.rmtree(folder)


def mark_skipped(folder: Path, earlier: Path) -> None:
    """Records in a job's `folder` that its result is, or will be, in the folder of an `earlier` attempt."""
    _write(folder / SKIPPED, {"folder": str(earlier.resolve()), "done": is_done(earlier)})


def job_of(folder: Path) -> Job | None:
    """The run or job in a folder; None if there is none."""
    return _job(folder) if _is_job(folder) else None


def jobs_of(sweep: Path, grid: Sequence[tuple[str, ...]] = ()) -> list[Job]:
    """The jobs below a sweep's folder, in numerical order; those of its `grid` without a folder are missing."""
    jobs = [_job(folder) for folder in job_folders(sweep)]
    begun = {frozenset(job.overrides) for job in jobs}
    wanted = [tuple(line.lstrip("+") for line in lines) for lines in grid]
    never = [(i, sweep / str(i), lines) for i, lines in enumerate(wanted) if frozenset(lines) not in begun]
    jobs += [Job(str(i), lines, False, "missing", "missing", None, None, None, own, own) for i, own, lines in never]
    jobs.sort(key=_order)
    shared = _shared([job.overrides for job in jobs])
    return [_without(job, shared) for job in jobs]


def job_folders(root: Path) -> list[Path]:
    """The folders of runs below `root`, at any depth."""
    found = []
    for place, inside, files in os.walk(root):
        if Path(place) != root and (HYDRA in inside or {RUN, SKIPPED} & set(files)):
            found.append(Path(place))
        inside[:] = [name for name in inside if name not in _NO_RUNS and not name.startswith(".")]
    return sorted(found)


def _is_same(run: dict[str, Any], fingerprint: str, engine: str) -> bool:
    return run.get("fingerprint") == fingerprint and (run.get("engine") or engine) == engine


def _run_folders(sweep_root: Path, own: Path) -> Iterable[Path]:
    """Folders next to the job and below every sweep; others are not searched: one may be a home directory."""
    found = [path.parent for path in (*sweep_root.glob(f"*/*/{RUN}"), *own.parent.glob(f"*/{RUN}"))]
    found += [folder for path in sweep_root.glob(f"*/{SWEEP}") for folder in job_folders(path.parent)]
    return {folder.resolve() for folder in found}


def _newest_checkpoint(folder: Path) -> int:
    """When the newest checkpoint was written, in nanoseconds; 0 if there is none."""
    found = [0]
    for path in (folder / CHECKPOINTS / name for name in (LAST, PREVIOUS)):
        with suppress(OSError):  # another process may be renaming it
            found += [path.stat().st_mtime_ns] if path.is_file() else []
    return max(found)


def _is_free(folder: Path) -> bool:
    """Whether no process is running in the folder."""
    return not in_use(folder)


def _is_job(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RUN, SKIPPED, HYDRA))


def _order(job: Job) -> tuple[int, str]:
    return (int(job.number) if job.number.isdecimal() else 2**31, job.number)


def _job(folder: Path) -> Job:
    skipped = _read(folder / SKIPPED)
    elsewhere = bool(skipped) and not read_run(folder)
    source = _elsewhere(skipped, folder) if elsewhere else folder
    state = _state(source)
    summary = _read(source / SUMMARY)
    last5, ema = (_figure(summary, f"{name}_acc_global") for name in ("last5", "ema"))
    size = _figure(summary, "bytes_up", "bytes_down")
    words: str = state
    if elsewhere:
        words = "skipped: done before" if skipped.get("done") else f"{state}: an earlier attempt was resumed"
    if state == "done" and "refused" in read_run(folder):
        state, words, last5, ema, size = "failed", "failed: an earlier run is kept here", None, None, None
    overrides = _overrides(folder)
    return Job(_number(folder), overrides, state == "done", state, words, last5, ema, size, folder, source)


def _state(folder: Path) -> State:
    """Failed if run.json says so, done if its results are there; otherwise the lock decides."""
    if is_done(folder):
        return "done"
    if read_run(folder).get("status") == "failed" and _is_free(folder):
        return "failed"
    return "stopped" if _is_free(folder) else "running"


def _number(folder: Path) -> str:
    """The job's number as saved by Hydra; else its folder's name."""
    with suppress(FileProblem, KeyError, TypeError):
        number = read_yaml(folder / HYDRA_SETTINGS)["hydra"]["job"]["num"]
        return str(number) if isinstance(number, int) else folder.name
    return folder.name


def _overrides(folder: Path) -> tuple[str, ...]:
    """The job's command line as saved by Hydra: a YAML list with one override per line."""
    with suppress(FileProblem):
        lines = read_yaml(folder / OVERRIDES)
        return tuple(str(line).lstrip("+") for line in lines) if isinstance(lines, list) else ()
    return ()


def _shared(overrides: Sequence[Sequence[str]]) -> set[str]:
    return set.intersection(*(set(lines) for lines in overrides)) if len(overrides) > 1 else set()


def _without(job: Job, shared: set[str]) -> Job:
    return replace(job, overrides=tuple(line for line in job.overrides if line not in shared))


def _figure(summary: dict[str, Any], *names: str) -> float | None:
    """The sum of a summary's figures; None where one is missing or not finite."""
    found = [summary.get(name) for name in names]
    numbers = [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]
    return sum(numbers) if len(numbers) == len(names) else None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none or it cannot be read (e.g. cut short by a kill)."""
    with suppress(FileProblem):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Readers see the old file or the new one, never a partial one."""
    write_whole(path, json.dumps(content, indent=2).encode() + b"\n")
