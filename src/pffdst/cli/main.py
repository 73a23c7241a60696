"""The command `pffdst`: one subcommand for each task, each with its own --help."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from pffdst.cli.failures import user_error
from pffdst.cli.unread import outlived
from pffdst.core.program import command_line

__all__ = ["main"]

_COMMANDS = {
    "train": ("pffdst.cli.train", "train one model, a sweep, or a search"),
    "report": ("pffdst.report.__main__", "compare runs on one page"),
    "evaluate": ("pffdst.cli.evaluate", "accuracy of a run's model, per class, on its own or other data"),
    "export": ("pffdst.cli.export", "a run's model as plain or sparse weights, as pt2 or ONNX"),
    "status": ("pffdst.cli.status", "show what is done, running, failed, stopped or missing"),
    "deploy": ("pffdst.deploy.__main__", "keys, rehearsals and runs on real machines, over Flower"),
    "dashboard": ("pffdst.cli.dashboard", "create a Weights & Biases workspace"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; lists all of them and returns 2 if there is no such command."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in ("-sc", "--shell-completion"):
        return _completion(given)
    if given and given[0] in _COMMANDS:
        return _run(given[0], given[1:])
    close = difflib.get_close_matches(given[0], _COMMANDS, n=1) if given else []
    asked = bool(given) and given[0] in ("-h", "--help")
    usage = command_line("COMMAND").removesuffix(" COMMAND")
    lines = [f"usage: {usage} COMMAND [ARGUMENTS]", ""]
    lines += [f"  {name:<10} {what}" for name, (_, what) in _COMMANDS.items()]
    if close:
        lines += ["", f"{given[0]}: no such command; did you mean {close[0]}?"]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _run(command: str, given: Sequence[str]) -> int:
    """Runs the command; prints one line and returns 2 if a package is missing or broken, or memory runs out."""
    try:
        module = importlib.import_module(_COMMANDS[command][0])
    except (ImportError, MemoryError, OSError) as error:
        if (getattr(error, "name", None) or "").partition(".")[0] == "pffdst":
            raise  # an error in our own code
        broken = f"{command}: a required package cannot be loaded ({type(error).__name__}: {error}). Reinstall pffdst "
        print(user_error(error) or f"{broken}in a fresh virtual environment", file=sys.stderr)
        return 2
    if command == "train":
        return int(module.main(given))  # which itself reports when a run's output is no longer read
    with outlived(quiet=True):
        try:
            return int(module.main(given))
        except KeyboardInterrupt:
            print(f"{command}: stopped", file=sys.stderr)
            return 130
        except Exception as error:
            if (told := user_error(error, training=False)) is None:
                raise
            print(f"{command}: {told}", file=sys.stderr)
            return 2


def _completion(given: Sequence[str]) -> int:
    """Shell completion: the commands or, after `train`, the groups, options and keys that Hydra knows."""
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    command, further, words = rest.lstrip().partition(" ")
    if program and not further:
        print(" ".join(_COMMANDS))
        return 0
    if program and command != "train":
        return 0
    os.environ["COMP_LINE"] = f"{program} {words}"
    return main(["train", *given])
