"""Starts programs from a process that has the heavy imports behind it: a fork in place of six seconds of CPU each.

What a start itself is held to (ranks, packages out of reach, time) is tested with processes of its own.

    python -m tests.warm     reads a request a line as JSON and answers each with a process's number
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

__all__ = ["Started", "WarmPython"]

ROOT = Path(__file__).resolve().parents[1]
_IMPORTS = ("pffdst.cli.train", "pffdst.launch", "pffdst.build", "hydra._internal.hydra", "pffdst.loggers.csv")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@final
class Started:
    """A program that runs: the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, -N if signal N ended it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended; `subprocess.TimeoutExpired` after so many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@final
class WarmPython:
    """`warm(script, *arguments)` or `warm("-m", module, *arguments)`: python's output and exit code, input closed.

    The imports see the environment `env`, which holds for every program but for what a call gives.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        own = dict(os.environ if env is None else env)
        path = [own.get("PYTHONPATH", ""), str(ROOT / "src"), str(ROOT)]
        own |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        self._env = env
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            cwd=ROOT,
            env=own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *argv: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 240.0
    ) -> subprocess.CompletedProcess[str]:
        """Waits for the program's end; `subprocess.TimeoutExpired` after so many seconds."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            started = self.start(*argv, cwd=cwd, env=env, out=out, err=err)
            try:
                code = started.wait(timeout)
            except BaseException:
                started.kill()
                started.wait()
                raise
            return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())

    def ranks(
        self, size: int, *argv: str, env: Mapping[str, str] | None = None, timeout: float = 240.0
    ) -> subprocess.CompletedProcess[str]:
        """The program as `size` processes, as torchrun starts them; waits for all, gives what they printed together.

        Its exit code is the first one that is not 0.
        """
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        given = {**self._environment(env), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        given |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        with ThreadPoolExecutor(size) as pool:
            own = [given | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
            done = list(pool.map(lambda e: self(*argv, env=e, timeout=timeout), own))
        code = next((each.returncode for each in done if each.returncode), 0)
        said, told = ("".join(texts) for texts in zip(*((each.stdout, each.stderr) for each in done), strict=True))
        return subprocess.CompletedProcess(argv, code, said, told)

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return dict(next(e for e in (env, self._env, os.environ) if e is not None))

    def start(
        self,
        *argv: str,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        out: Path = Path(os.devnull),
        err: Path = Path(os.devnull),
    ) -> Started:
        """Returns when the program was begun; what it prints is added to the files `out` and `err`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"argv": argv, "cwd": str(cwd), "env": self._environment(env), "said": [str(out), str(err)]}
        with self._lock:
            _adopt(True)  # the program becomes a child of this process when its parent ends
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                return Started(int(self._process.stdout.readline()))
            finally:
                _adopt(False)

    def close(self) -> None:
        self._process.communicate()


def _adopt(yes: bool) -> None:
    ctypes.CDLL(None).prctl(_SUBREAPER, int(yes), 0, 0, 0)


def _serve() -> None:
    for name in _IMPORTS:
        importlib.import_module(name)
    from pffdst.build import build
    from pffdst.config.compose import compose

    with tempfile.TemporaryDirectory() as folder:  # what is imported and remembered when a run is made
        build(compose(["logger=csv"], ROOT / "configs"), Path(folder), "warm")
    assert threading.active_count() == 1, "a fork would leave the locks of other threads shut"
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            if (program := os.fork()) == 0:
                os.close(reader)
                os.close(writer)
                os._exit(_ended(json.loads(line)))
            os.write(writer, f"{program}\n".encode())
            os._exit(0)
        os.waitpid(between, 0)
        sys.stdout.write(os.read(reader, 32).decode())
        sys.stdout.flush()
        os.close(reader)
        os.close(writer)


def _ended(request: Mapping[str, Any]) -> int:
    """Runs the program and does what Python does at its end, and gives its exit code.

    The end itself is left out: Python would touch every object that came with the fork once more, and so copy all of
    them, which takes longer than many of the programs.
    """
    code: Any = 0
    try:
        _become(request)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code or 0


def _become(request: Mapping[str, Any]) -> None:
    """Turns this process into a start of the program, and runs it."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, name in enumerate([os.devnull, *request["said"]]):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives until the process ends
    sys.argv = list(request["argv"])
    module = sys.argv[0] == "-m"
    own = {"", str(ROOT), str(ROOT / "src")}
    first = request["cwd"] if module else str(Path(sys.argv[0]).resolve().parent)
    wanted = [path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [first, *wanted, *(path for path in sys.path if path not in own), str(ROOT / "src")]
    if module:
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
    os._exit(0)  # nanobind takes what is frozen at the end for leaks, and says so
