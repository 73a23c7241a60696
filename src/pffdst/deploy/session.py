"""The connection to the nodes, which Flower passes to a ServerApp and the engine uses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

from flwr.serverapp import Grid

__all__ = ["connected", "current", "offered"]

_CLIENT: Final = re.compile(r"client-(\d+)")
_current: Grid | None = None


@contextlib.contextmanager
def offered(grid: Grid) -> Iterator[None]:
    """Inside, `current` returns this grid."""
    global _current
    _current = grid
    try:
        yield
    finally:
        _current = None


def current() -> Grid | None:
    """The connection to the nodes; None outside a ServerApp."""
    return _current


def connected(grid: Any, clients: int) -> dict[int, int]:
    """The nodes connected now, by client.

    A node is client K if the server's operator registered its key under the name client-K; what a node says about
    itself does not matter. Other nodes are not clients of this run.
    """
    found = {}
    for node in grid.get_nodes():
        match = _CLIENT.fullmatch(node.name)
        if match and int(match[1]) < clients:
            found[int(match[1])] = int(node.node_id)
    return found
