"""An engine gives back what it took, also where it could not start."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pffdst.core.messages import Update
from pffdst.engines.base import Engine, Job
from pffdst.engines.pool import WorkerPool
from pffdst.experiment import Experiment


class Half(Engine):
    """Fails half-way, or in a round."""

    def __init__(self, fails: str) -> None:
        self.fails, self.closed = fails, 0

    def start(self, setup: Any) -> None:
        if self.fails == "start":
            raise RuntimeError("no start")

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        raise RuntimeError("no round")

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", ["start", "round"])
def test_an_engine_is_closed_wherever_it_fails(make_experiment: Callable[..., Experiment], fails: str) -> None:
    engine = Half(fails)
    with pytest.raises(RuntimeError, match=f"no {fails}"), engine.open(make_experiment().setup):
        next(engine.train([]))
    assert engine.closed == 1


def test_workers_end_where_one_of_them_cannot_start(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise RuntimeError("a worker is lost")

    monkeypatch.setattr(WorkerPool, "_receive", lost)
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="a worker is lost"):
        WorkerPool(make_experiment().setup, 2, channels_last=False)
    assert set(multiprocessing.active_children()) <= before
