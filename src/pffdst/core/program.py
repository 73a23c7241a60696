"""How this program was started, for messages that say what to write next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["command_line"]


def command_line(command: str = "train", arguments: Iterable[str] = ()) -> str:
    """The line that starts one of the commands as this process was started.

    `pffdst train ...` where the installed command is at work, `python -m pffdst train ...` where the module is, else
    `python train.py ...`, with the path that was typed, and `python -m pffdst COMMAND` for the other commands.
    """
    started = Path(sys.argv[0])
    if started.name in ("pffdst", "pffdst.exe"):
        words = ["pffdst", command]
    elif command == "train" and started.parts[-2:] != ("pffdst", "__main__.py"):
        words = ["python", sys.argv[0] if started.name == "train.py" else "train.py"]
    else:
        words = ["python", "-m", "pffdst", command]
    return shlex.join([*words, *arguments])
