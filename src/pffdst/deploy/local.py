"""A complete federation on this machine for rehearsals: a SuperLink and SuperNodes on loopback, with TLS and keys."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from pffdst.core.errors import UserError
from pffdst.deploy.commands import SEARCHED, flwr, program
from pffdst.deploy.keys import make_certificates, make_node_key

__all__ = ["Federation", "free_port"]

_START: Final = 60.0  # seconds within which a process must start
_HOST: Final = "127.0.0.1"
_GUARD: Final = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    groups ^= {int(line)}
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def free_port() -> int:
    """An unused loopback port."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


@final
class Federation:
    """A SuperLink and SuperNodes, each in its own process group, with all their files in `folder`.

    Use it in a `with`: everything it starts is stopped at the end, also after an exception. If this process is killed,
    a guard that reads the process groups from a pipe kills them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder.absolute(), free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            "PATH": SEARCHED,
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> Federation:
        """Creates certificates and starts the SuperLink."""
        self.certificates = make_certificates(self.folder / "keys", [_HOST, "localhost"])
        self._guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        home = self.folder / "flwr"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{self.address}"\n'
            f'root-certificates = "{self.certificates.ca}"\n'
        )
        try:
            self.start_link()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._guard.communicate()

    @property
    def address(self) -> str:
        """The SuperLink's address."""
        return f"{_HOST}:{self.port}"

    # ---- processes ---------------------------------------------------------------------------------------------------

    def start_link(self) -> None:
        """Starts the SuperLink and waits until it listens; its state is in a database."""
        files = self.certificates
        certificates = ["--ssl-certfile", files.certificate, "--ssl-keyfile", files.key, "--ssl-ca-certfile", files.ca]
        place = ["--host", _HOST, "--port", self.port, "--database", self.folder / "superlink.db"]
        options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        self.start("superlink", ["flower-superlink", *certificates, *place, *options])
        until = time.monotonic() + _START
        while not _listens(self.port):
            self.check("superlink")
            if time.monotonic() > until:
                raise UserError(f"the SuperLink is not listening after {_START:g} s; see {self.log('superlink')}")
            time.sleep(0.1)

    def register(self, name: str) -> Path:
        """Creates a node key, registers it with the SuperLink as `name`, and returns the private key's file."""
        key = self.folder / "keys" / name
        self.flwr("supernode", "register", str(make_node_key(key)), "here", "--name", name)
        return key

    def start_node(self, name: str, key: Path | None, settings: Mapping[str, str], options: Sequence[str] = ()) -> None:
        """Starts a SuperNode. `options` replace those that say whom it trusts."""
        trust = list(options) or ["--root-certificates", str(self.certificates.ca)]
        own = [] if key is None else ["--auth-supernode-private-key", str(key)]
        config = " ".join(f'{key}="{value}"' for key, value in settings.items())
        place = ["--superlink", self.address, "--host", _HOST, "--port", free_port(), "--node-config", config]
        self.start(name, ["flower-supernode", *trust, *own, *place])

    def start(self, name: str, command: Sequence[Any]) -> None:
        """Starts a process that writes to a log of its name."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [program(command[0]), *map(str, command[1:])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,
            )

        self._tell_guard(self.processes[name].pid)

    def _tell_guard(self, pid: int) -> None:
        """Sends a process id to the guard: the first time so that the guard kills it, then because it has ended."""
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{pid}\n")
        self._guard.stdin.flush()

    def check(self, name: str) -> None:
        """UserError if a process has ended."""
        code = self.processes[name].poll()
        if code is not None:
            raise UserError(f"{name} ended with exit code {code}; see {self.log(name)}")

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.folder / f"{name}.log"

    def kill(self, name: str) -> None:
        """Kills a process and everything it started at once, like a power cut."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._tell_guard(process.pid)

    def stop(self) -> None:
        """Ends everything that was started, nodes first: terminates, then kills."""
        for names in ([n for n in self.processes if n != "superlink"], ["superlink"]):
            there = [n for n in names if n in self.processes]
            for name in there:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.processes[name].pid, signal.SIGTERM)
            until = time.monotonic() + 5
            for name in there:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.processes[name].wait(max(0.0, until - time.monotonic()))
                self.kill(name)

    # ---- runs --------------------------------------------------------------------------------------------------------

    def flwr(self, *words: str) -> str:
        """Runs Flower's command line and returns its output. UserError if it fails."""
        return flwr(*words, environment=self._environment, folder=self.folder)

    @contextlib.contextmanager
    def run(self, overrides: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Starts a run by `pffdst deploy run`; the process prints the run's output and ends as it does."""
        with subprocess.Popen(
            [sys.executable, "-m", "pffdst", "deploy", "run", "here", *overrides],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment | {"COLUMNS": "200"},
            cwd=self.folder,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) == 0
