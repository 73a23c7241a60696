"""Failures of the machine in one line: no disk space, permission or memory. They are reported like user errors."""

from __future__ import annotations

import errno
from pathlib import Path

from pffdst.core.errors import UserError
from pffdst.core.words import one_line
from pffdst.measure.memory import is_out_of_memory

__all__ = ["user_error"]

_ROOM = "free some space, or choose another folder{logs}"
_RIGHTS = "choose a writable folder{logs}"
_HANDLES = "allow more open files (ulimit -n 1024), or use fewer engine.workers"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.EISDIR: "a folder is there; name a file",
    errno.EEXIST: "a file exists where a folder must be created; choose another folder",
    errno.ENOTDIR: "a file exists where a folder is expected; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk; the last checkpoint is intact",
}


def user_error(error: BaseException, *, training: bool = True) -> UserError | None:
    """The user error in a chain of causes (Hydra wraps constructor errors), or one for what the machine lacked.

    `training`: a run can be resumed, and its folder is a setting.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        lacked = _lacked(seen, training)
        if lacked is not None:
            return UserError(lacked)
        seen = seen.__cause__
    return None


def _lacked(error: BaseException, training: bool) -> str | None:
    words = one_line(error)
    if is_out_of_memory(error):
        told = words[:200] or type(error).__name__
        if not training:
            return f"There is not enough memory ({told})"
        fewer = "engine.streams" if "cuda" in words.lower() else "engine.workers"
        return f"There is not enough memory ({told}): use fewer {fewer} or a smaller batch_size"
    if isinstance(error, OSError) and error.errno in _ADVICE:
        what = f"{Path(str(error.filename))}: " if error.filename is not None else ""
        logs, resuming = (" (paths.logs=FOLDER)", "; to resume a run: resume=FOLDER") if training else ("", "")
        return f"{what}{error.strerror}: {_ADVICE[error.errno].format(logs=logs)}{resuming}"
    return None
