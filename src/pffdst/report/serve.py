"""The page from a small server of this machine alone: it reads again what changed, and sends no more than that."""

from __future__ import annotations

import gzip
import json
import secrets
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from pffdst.core.errors import UserError
from pffdst.report.html import page

__all__ = ["Handler", "open_server"]

HOST = "127.0.0.1"
_NAMES = frozenset({HOST, "localhost"})

Ask = Callable[[int], dict[str, Any]]


def open_server(ask: Ask, port: int) -> ThreadingHTTPServer:
    """A server on the loopback interface that is ready to `serve_forever`; port 0 takes a free one.

    `ask` gives the payload of the runs that changed after a version. UserError where the port is taken.
    """
    session = secrets.token_hex(8)
    try:
        server = ThreadingHTTPServer((HOST, port), partial(Handler, ask, session))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--serve {port}: the port cannot be used ({error}); write another, or 0 for a free one"
        ) from error
    server.daemon_threads = True
    return server


@final
class Handler(BaseHTTPRequestHandler):
    """`/` is the page, `/data.json?since=VERSION&session=NAME` what changed since, all of it for another session."""

    def __init__(self, ask: Ask, session: str, *args: Any) -> None:
        self._ask, self._session = ask, session
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answers; only to pages that this server gave, whatever name a foreign page calls it by."""
        if self.headers.get("Host", "").rpartition(":")[0] not in _NAMES:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "This server answers to 127.0.0.1 and localhost alone.\n")
            return
        where = urlsplit(self.path)
        try:
            if where.path == "/":
                self._send(HTTPStatus.OK, "text/html", page(self._data(0), live=True))
            elif where.path == "/data.json":
                self._send(HTTPStatus.OK, "application/json", json.dumps(self._data(self._since(where.query))))
            else:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", "The page is at /.\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # the reader has left
        except UserError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n")

    def _since(self, query: str) -> int:
        asked = parse_qs(query)
        known, since = asked.get("session", [""])[0], asked.get("since", ["0"])[0]
        return int(since) if known == self._session and since.isdecimal() else 0

    def _data(self, since: int) -> dict[str, Any]:
        return self._ask(since) | {"session": self._session}

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Says nothing: a line for every request would hide what matters."""
