"""Payloads of a real round on digits: what a server sent and what a client answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def real_round(make_experiment: Callable[..., Any], play: Callable[..., Any]) -> Any:
    """A round of stage 2, in which masks and frozen weights are sent."""
    return play(make_experiment("rounds=4", "sparsity=0.98", "clients_keep=false"))[2]


@pytest.fixture(scope="session")
def damages() -> Callable[[bytes], Iterator[bytes]]:
    """A payload with one byte changed, at every place; cut at many places; and with bytes added."""

    def damaged(payload: bytes) -> Iterator[bytes]:
        for at in range(len(payload)):
            changed = bytearray(payload)
            changed[at] ^= 1 << (at % 8) if at >= 256 else 0xFF
            yield bytes(changed)
        for length in [*range(min(256, len(payload))), *range(256, len(payload), 97), len(payload) - 1]:
            yield payload[:length]
        yield payload + b"\0"

    return damaged
