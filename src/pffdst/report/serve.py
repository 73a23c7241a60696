"""Serves the page on this machine only: re-reads what changed, and sends no more than that."""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from pffdst.core.errors import UserError
from pffdst.report.html import page

__all__ = ["Handler", "Server", "open_server"]

HOST = "127.0.0.1"
_NAMES = frozenset({HOST, "localhost"})
_CONNECTIONS = 32
_SLOW = 0.5  # seconds to ask, and to read the answer, after which a connection is closed if others wait

_NOTHING = 2**62  # the version after which nothing changed

Ask = Callable[[int], dict[str, Any]]
Body = tuple[bytes, bytes]  # as it is, and compressed


def open_server(ask: Ask, port: int) -> Server:
    """A server on the loopback interface that is ready to `serve_forever`; port 0 takes a free one.

    `ask` returns the payload of the runs that changed after a version. UserError if the port is taken.
    """
    try:
        return Server(ask, port)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--serve {port}: the port cannot be used ({error}); write another, or 0 for a free one"
        ) from error


@final
class Answers:
    """The bodies of answers, rebuilt when a run changed; requests during a rebuild share the next one."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._lock = ask, threading.Lock()
        self.session = secrets.token_hex(8)
        self._looked, self._version = -1.0, -1
        self._made: dict[int | None, Body] = {}

    def data(self, since: int) -> Body:
        """What changed after version `since`, as JSON."""
        return self._body(since, lambda: json.dumps(self._news(since)))

    def page(self) -> Body:
        """The page with all runs."""
        return self._body(None, lambda: page(self._news(0), live=True))

    def _news(self, since: int) -> dict[str, Any]:
        return self._ask(since) | {"session": self.session}

    def _body(self, key: int | None, make: Callable[[], str]) -> Body:
        arrived = time.monotonic()
        with self._lock:
            if self._looked < arrived:
                self._looked, version = time.monotonic(), self._ask(_NOTHING)["version"]
                if version != self._version:
                    self._version, self._made = version, {}
            if key not in self._made:
                self._made = {k: v for k, v in self._made.items() if k is None or key is None}
                self._made[key] = _compressed(make().encode())
            return self._made[key]


def _compressed(content: bytes) -> Body:
    return content, gzip.compress(content, 1)


@final
class Server(ThreadingHTTPServer):
    """A thread for each of at most _CONNECTIONS; if more are waiting, idle ones are closed."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, ask: Ask, port: int) -> None:
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        self._since: dict[socket.socket, float] = {}
        self.making: set[socket.socket] = set()  # whose answer is being made: the delay is ours
        super().__init__((HOST, port), partial(Handler, Answers(ask)))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Waits for a free slot, and frees one if nobody leaves."""
        while not self._free.acquire(timeout=_SLOW / 2):
            self._close_the_slow()
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handles the whole connection; its slot is free afterwards."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._since.pop(request, None)
            self.making.discard(request)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores readers that disconnected; other errors are reported as usual."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def taking(self, request: socket.socket) -> None:
        """From now on any delay is the reader's."""
        self._since[request] = time.monotonic()
        self.making.discard(request)

    def _close_the_slow(self) -> None:
        now = time.monotonic()
        for request, since in list(self._since.items()):
            if request not in self.making and now - since > _SLOW:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it has just closed


@final
class Handler(BaseHTTPRequestHandler):
    """`/` is the page; `/data.json?since=VERSION&session=NAME` is what changed since, everything for a new session."""

    timeout = 10  # seconds within which a reader must send or receive something
    server: Server

    def __init__(self, answers: Answers, *args: Any) -> None:
        self._answers = answers
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answers only pages that this server sent, whatever host name a foreign page uses."""
        self.server.making.add(self.connection)
        if not _is_own(self.headers.get("Host", "")):
            self._say(HTTPStatus.FORBIDDEN, "This server only answers requests to 127.0.0.1 or localhost.")
            return
        try:
            where = urlsplit(self.path)
            if where.path == "/":
                self._send(HTTPStatus.OK, "text/html", self._answers.page())
            elif where.path == "/data.json":
                self._send(HTTPStatus.OK, "application/json", self._answers.data(self._since(where.query)))
            else:
                self._say(HTTPStatus.NOT_FOUND, "The page is at /.")
        except UserError as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except ValueError:
            self._say(HTTPStatus.BAD_REQUEST, "Invalid address. The page is at /.")

    def _since(self, query: str) -> int:
        asked = parse_qs(query, max_num_fields=10)
        known, since = asked.get("session", [""])[0], asked.get("since", ["0"])[0]
        return int(since) if known == self._answers.session and since.isdecimal() and len(since) < 19 else 0

    def _say(self, status: HTTPStatus, words: str) -> None:
        content = f"{words}\n".encode(errors="backslashreplace")
        self._send(status, "text/plain", _compressed(content))

    def _send(self, status: HTTPStatus, kind: str, body: Body) -> None:
        compressed = "gzip" in self.headers.get("Accept-Encoding", "")
        self.send_response(status)
        if compressed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body[compressed])))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.server.taking(self.connection)
        self.wfile.write(body[compressed])

    def log_message(self, *args: Any) -> None:
        """Logs nothing: a line for every request would hide what matters."""


def _is_own(host: str) -> bool:
    """Whether a Host header names this machine; for ports 80 and 443 browsers omit the port."""
    name, mark, port = host.partition(":")
    return name.lower() in _NAMES and (port.isdecimal() if mark else True)
