"""What a client keeps between rounds on its own disk: a file for each round that the server may return to.

    STATE/RUN/client-K/T.state    checkpoint.py's format: checksum, read with weights_only

A round's state is written before its answer is sent. With every task the server names the round whose state the client
should have: later states belong to answers that never arrived, or to rounds that a resumed server repeats.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Final, final

from pffdst.core.errors import UserError
from pffdst.deploy.records import NEVER, Task

__all__ = ["LostState", "States"]

_FORMAT: Final = 1
_RUNS: Final = 8  # whose states are kept, those used last
_FILE: Final = re.compile(r"(-?\d+)\.state")


class LostState(UserError):
    """This client does not have the state that the server expects."""


@final
class States:
    """The states of one client in one run. Nothing here imports torch before it is needed."""

    def __init__(self, folder: Path, task: Task) -> None:
        if not re.fullmatch(r"[0-9a-f]{1,64}", task.run):
            raise UserError(f"task.run: expected hexadecimal digits, but got {task.run!r}")
        self._task, self._root = task, folder
        self._folder = folder / task.run / f"client-{task.client}"

    def find(self) -> Path | None:
        """The file of the state that the task continues from; None for the client's first. Raises LostState."""
        last = self._task.last
        if last == NEVER:
            return None
        if not self._path(last).exists():
            raise LostState(f"it has no state of round {last + 1}: it is new, or its disk was cleared")
        return self._path(last)

    def read(self) -> dict[str, Any] | None:
        """The state that the task continues from; None for the client's first. Raises LostState."""
        from pffdst.runs.checkpoint import CheckpointError, load

        path, last = self.find(), self._task.last
        if path is None:
            return None
        try:
            state = load(path)
        except CheckpointError as error:
            raise LostState(f"its state cannot be read: {error}") from error
        found = tuple(state.get(key) for key in ("format", "run", "client", "t"))
        if found != (_FORMAT, self._task.run, self._task.client, last):
            raise LostState(f"its state of round {last + 1} belongs to another client or run, or to another version")
        return state

    def write(self, memory: object, kept: object) -> None:
        """Keeps the client's state after this task and deletes states that are no longer needed."""
        from pffdst.runs.checkpoint import write

        task = self._task
        self._folder.mkdir(parents=True, exist_ok=True)
        named = {"format": _FORMAT, "run": task.run, "client": task.client, "t": task.t}
        write(self._path(task.t), {**named, "memory": memory, "kept": kept})
        os.utime(self._folder.parent)  # this run is in use, however long ago it began
        for path in self._folder.iterdir():
            match = _FILE.fullmatch(path.name)
            t = int(match[1]) if match else None
            if t is not None and t != task.t and not min(task.safe, task.last) <= t <= task.last:
                path.unlink(missing_ok=True)
        self._forget_old_runs()

    def _path(self, t: int) -> Path:
        return self._folder / f"{t}.state"

    def _forget_old_runs(self) -> None:
        """Deletes the states of all but the runs used last."""
        runs = [path for path in self._root.iterdir() if re.fullmatch(r"[0-9a-f]{16}", path.name)]
        for old in sorted(runs, key=lambda path: path.stat().st_mtime)[:-_RUNS]:
            shutil.rmtree(old, ignore_errors=True)
