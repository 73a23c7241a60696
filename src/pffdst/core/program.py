"""How this program was started, for messages that say what to write next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["DEPLOYED", "command_line", "deployed", "is_package"]

_COMMANDS: Final = ("pffdst", "pffdst.exe")
_MODULE: Final = ("pffdst", "__main__.py")

DEPLOYED: Final = "pffdst deploy run"
"""What stands for the program's name (`sys.argv[0]`) where Flower's ServerApp runs it."""


def deployed() -> bool:
    """Whether this is a deployed run, started by Flower on the SuperLink's machine."""
    return sys.argv[0] == DEPLOYED


def is_package() -> bool:
    """Whether the package itself was started, as a command, as a module or by Flower; otherwise a script was."""
    started = Path(sys.argv[0])
    return deployed() or started.name in _COMMANDS or started.parts[-2:] == _MODULE


def command_line(command: str = "train", arguments: Iterable[str] = ()) -> str:
    """The line that starts one of the commands in the same form as this process was started.

    `pffdst train ...` for the installed command, `python -m pffdst train ...` for the module, otherwise
    `python train.py ...`, with the path as typed, and `python -m pffdst COMMAND` for the other commands. A deployed run
    is started by `pffdst deploy run SUPERLINK`.
    """
    started = Path(sys.argv[0])
    if deployed() and command == "train":
        words = [*DEPLOYED.split(), "SUPERLINK"]
    elif deployed() or started.name in _COMMANDS:
        words = ["pffdst", command]
    elif command == "train" and not is_package():
        words = ["python", sys.argv[0] if started.name == "train.py" else "train.py"]
    else:
        words = ["python", "-m", "pffdst", command]
    return shlex.join([*words, *arguments])
