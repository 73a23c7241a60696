"""The command `pffdst`: one word for each thing that can be done, each with a help of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]

_COMMANDS = {
    "report": ("pffdst.report.__main__", "compare runs on one page"),
    "evaluate": ("pffdst.cli.evaluate", "accuracy of a run's model, per class, on its own or on other data"),
    "export": ("pffdst.cli.export", "a run's model as plain or sparse weights, as pt2 or ONNX"),
    "status": ("pffdst.cli.status", "what is done, running, failed, stopped or missing"),
    "dashboard": ("pffdst.cli.dashboard", "make a workspace in Weights & Biases"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 2, with the list of them, where there is no such one."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in _COMMANDS:
        return int(importlib.import_module(_COMMANDS[given[0]][0]).main(given[1:]))
    asked = bool(given) and given[0] in ("-h", "--help")
    lines = ["usage: python -m pffdst COMMAND [ARGUMENTS]", ""]
    lines += [f"  {name:<10} {what}" for name, (_, what) in _COMMANDS.items()]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
