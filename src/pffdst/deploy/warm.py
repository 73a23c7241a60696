"""A node's persistent worker, which imports packages once instead of for every message.

Flower starts a process for every message, which would spend seconds on imports before training. So the first one starts
this worker, and all of them pass their task to it over a socket in the node's own state folder, as bytes and JSON. The
worker ends with the SuperNode's executor, or after `warm` seconds without a task.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Final

from pffdst import __version__
from pffdst.deploy.records import Answer, Task

__all__ = ["hand_over", "main"]

_START: Final = 120.0  # seconds for the worker's imports on a busy machine
_MOST: Final = 2**31 - 1
_LONGEST: Final = 100  # characters of a socket's path

Request = Mapping[str, Any]


def hand_over(request: Request, setup: bytes, payload: bytes, warm: float) -> tuple[Answer, bytes | None] | None:
    """The answer of this node's worker, which is started if needed; None if no worker is possible."""
    place = Path(request["state"]) / f"worker-{__version__}.sock"  # not that of a version before an upgrade
    if warm <= 0 or len(str(place)) > _LONGEST:
        return None
    try:
        with _connected(place, warm) as link:
            link.send_bytes(json.dumps(request).encode())
            link.send_bytes(setup)
            link.send_bytes(payload)
            answer = Answer(**json.loads(link.recv_bytes(_MOST)))
            return answer, (None if answer.problem else link.recv_bytes(_MOST))
    except (OSError, EOFError, AuthenticationError):
        return None


def _connected(place: Path, warm: float) -> Connection:
    """A connection to the worker."""
    until, started = time.monotonic() + _START, None
    while True:
        try:
            return Client(str(place), "AF_UNIX", authkey=_key(place).read_bytes())
        except (OSError, EOFError, AuthenticationError):
            if started is not None and (started.poll() is not None or time.monotonic() > until):
                raise
        if started is None:
            started = _start(place, warm)
        time.sleep(0.05)


def _start(place: Path, warm: float) -> subprocess.Popen[bytes]:
    place.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        command = [sys.executable, "-m", "pffdst.deploy.warm", str(place), str(os.getppid()), str(warm)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=True)
    finally:
        os.close(log)


def _key(place: Path) -> Path:
    return place.with_suffix(".key")


# ---- the worker ------------------------------------------------------------------------------------------------------


def main(place: Path, parent: int, warm: float) -> None:
    """Answers one request after another until the process `parent` is gone or `warm` seconds pass without a task."""
    from pffdst.deploy.node import Turns

    turns, key = Turns(), secrets.token_bytes(32)
    place.unlink(missing_ok=True)
    with Listener(str(place), "AF_UNIX", authkey=key) as listener:
        place.chmod(0o600)
        aside = place.with_suffix(f".key-{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
        aside.replace(_key(place))
        state = {"last": time.monotonic(), "busy": 0.0}
        threading.Thread(target=_watch, args=(parent, warm, state), daemon=True).start()
        while True:
            try:
                with listener.accept() as link:
                    state["busy"] = 1.0
                    _answer(turns, link)
            except (OSError, EOFError, AuthenticationError):
                continue
            finally:
                state["busy"], state["last"] = 0.0, time.monotonic()


def _answer(turns: Any, link: Connection) -> None:
    request = json.loads(link.recv_bytes(_MOST))
    setup, payload = link.recv_bytes(_MOST), link.recv_bytes(_MOST)
    answer, update = turns.play(Task(**request.pop("task")), setup, payload, **request)
    link.send_bytes(json.dumps(vars(answer)).encode())
    if update is not None:
        link.send_bytes(update)


def _watch(parent: int, warm: float, state: Mapping[str, float]) -> None:
    """Ends this process when its parent is gone or it has been idle for too long."""
    while state["busy"] or time.monotonic() - state["last"] < warm:
        time.sleep(0.5)
        try:
            os.kill(parent, 0)
        except OSError:
            break
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
