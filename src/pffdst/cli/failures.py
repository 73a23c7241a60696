"""What the machine lacks, in one line: no room, no right, no memory. Such failures are told as a user's errors are."""

from __future__ import annotations

import errno
from pathlib import Path

from pffdst.core.errors import UserError
from pffdst.core.words import one_line
from pffdst.measure.memory import is_out_of_memory

__all__ = ["user_error"]

_ROOM = "make room there, or choose another place (paths.logs=FOLDER)"
_RIGHTS = "choose a place that can be written to (paths.logs=FOLDER)"
_HANDLES = "allow more open files (ulimit -n 1024), or take fewer engine.workers"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.EEXIST: "a file lies where a folder is to be made; choose another place",
    errno.ENOTDIR: "a file lies where a folder is to be; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "look after the disk; the last checkpoint is whole",
}


def user_error(error: BaseException) -> UserError | None:
    """The user error in a chain of causes (Hydra wraps what a constructor raises), or what the machine lacked."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        lacked = _lacked(seen)
        if lacked is not None:
            return UserError(lacked)
        seen = seen.__cause__
    return None


def _lacked(error: BaseException) -> str | None:
    words = one_line(error)
    if is_out_of_memory(error):
        told = words[:200] or type(error).__name__
        return f"There is not enough memory ({told}): take fewer engine.workers or a smaller batch_size"
    if isinstance(error, OSError) and error.errno in _ADVICE:
        what = f"{Path(str(error.filename))}: " if error.filename is not None else ""
        return f"{what}{error.strerror}: {_ADVICE[error.errno]}; a run that has begun is resumed by resume=FOLDER"
    return None
