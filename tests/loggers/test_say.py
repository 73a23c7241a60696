"""What a run logs in words."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from pffdst.loggers import say


@pytest.mark.parametrize(
    ("t", "is_new", "words"),
    [
        (3, False, "the model is unchanged"),
        (3, True, "only the private mean's noise was added"),
        (-1, True, "the model is unchanged"),
    ],
)
def test_what_a_round_without_updates_did_to_the_model(
    t: int, is_new: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    planned = object()
    done: Any = SimpleNamespace(
        plan=SimpleNamespace(t=t),
        planned=planned,
        server=SimpleNamespace(model=object() if is_new else planned),
        record=SimpleNamespace(rejected={0: "cut short"}, reports=[], problem=None),
    )
    with caplog.at_level(logging.WARNING):
        say.rejected(done)
    assert caplog.messages[-1] == f"round {t + 1}: no update was usable, {words}"
