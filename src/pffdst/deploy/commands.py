"""Flower's command line: where its programs are, and a run on a SuperLink from its start to its end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pffdst.core.errors import UserError

__all__ = ["SEARCHED", "flwr", "program", "run_to_the_end"]

SEARCHED: Final = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
"""Where Flower's programs are looked for: beside this Python, activated or not, then where the shell looks."""

_COMPLETED: Final = "finished:completed"
_CLOSING: Final = 30.0  # seconds that Flower may take to note how a run ended


def program(name: str) -> str:
    """The path of one of Flower's programs. UserError if it is not installed."""
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise UserError(f"{name} is not installed: pip install 'pffdst[deploy]'")
    return found


def flwr(*words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Runs Flower's command line and returns its output. UserError if it fails."""
    done = subprocess.run(
        [program("flwr"), *words], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    if done.returncode != 0:
        raise UserError(f"flwr {' '.join(words)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def run_to_the_end(superlink: str, app: Path, config: Path) -> int:
    """Starts a run on a SuperLink and shows its output; returns 0 if it completed, else 1, as 130 after Ctrl-C.

    Raises:
        UserError: the SuperLink cannot be reached or refuses the run.
    """
    run = str(_answer("run", str(app), superlink, "--run-config", str(config))["run-id"])
    try:
        code = subprocess.call([program("flwr"), "log", run, superlink, "--stream"])
        if code != 0:
            return _ended(f"the SuperLink's output ended (flwr log: {code})", code)
        status, why = _ending(run, superlink)
        if status == _COMPLETED:
            return 0
        return _ended(f"Flower says {status.partition(':')[2] or status}{f', {why}' if why else ''}", 1)
    except KeyboardInterrupt:
        print(f"The run continues on the SuperLink; to stop it: flwr stop {run} {superlink}", file=sys.stderr)
        return 130


def _ended(how: str, code: int) -> int:
    """Tells that a run is not completed, and what to do; returns the exit code."""
    print(f"The run did not complete: {how}. If it has a checkpoint, resume=true continues it", file=sys.stderr)
    return code


def _ending(run: str, superlink: str) -> tuple[str, str]:
    """How Flower says that a run ended, and why if it says so."""
    until = time.monotonic() + _CLOSING
    while True:
        (found,) = _answer("list", superlink, "--run-id", run)["runs"]
        if str(found["status"]).startswith("finished") or time.monotonic() > until:
            return str(found["status"]), str(found.get("status-details") or "")
        time.sleep(0.5)


def _answer(*words: str) -> Any:
    """What a command of Flower's answers as JSON. UserError, in Flower's words, where it did not succeed."""
    text = flwr(*words, "--format", "json")
    try:
        answer = json.loads(text[text.index("{") :])
    except ValueError as error:
        raise UserError(f"flwr {words[0]}: unexpected answer: {text.strip()[:200]}") from error
    if not answer.get("success"):
        raise UserError(f"flwr {words[0]}: {str(answer.get('error-message') or text).strip()}")
    return answer
