"""The default engine: a lean Fabric loop that runs the same module and callbacks in worker processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import final

from pffdst.client.turn import ClientSetup, ClientWork
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.messages import Update
from pffdst.engines.base import Engine, Job, checked_device, device_problems, run_in_process
from pffdst.engines.fabric_loop import FabricFit
from pffdst.engines.pool import WorkerPool

__all__ = ["FabricEngine", "available_cores"]

_log = logging.getLogger(__name__)


def available_cores() -> int:
    """Cores this process may use, often fewer than the machine has in a container or a cluster job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@final
class FabricEngine(Engine):
    """N worker processes with one thread each; the result is the same for every N.

    `workers`: "auto" is one per available core, 0 is none (this process trains, also on one thread). `exact` means
    no workers and NCHW: bit-equal to the trainer engine. On a GPU, the clients train in this process.
    """

    def __init__(
        self, *, workers: int | str = "auto", channels_last: bool = True, exact: bool = False, device: str = "cpu"
    ) -> None:
        if not (workers == "auto" or (isinstance(workers, int) and workers >= 0)):
            raise ValueError(f"Expected `engine.workers` to be auto or a number of at least 0, but got {workers!r}")
        self.channels_last = channels_last and not exact
        self.device = checked_device(device)
        self.workers = 0 if exact or device != "cpu" else workers
        self._pool: WorkerPool | None = None

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """What this machine lacks."""
        return device_problems(self.device)

    def start(self, setup: ClientSetup) -> None:
        """Starts the workers, or prepares this process."""
        cores = max(1, available_cores() // self.beside)
        workers = (0 if cores == 1 else cores) if self.workers == "auto" else int(self.workers)
        if self.cohort is not None and workers > self.cohort:
            _log.info("%d worker processes instead of %d: a round has no more clients", self.cohort, workers)
            workers = self.cohort
        if workers == 0:
            self._work = ClientWork(setup, channels_last=self.channels_last, device=self.device)
            self._fit = FabricFit(self.device, setup.callbacks)
            return
        self._pool = WorkerPool(setup, workers, channels_last=self.channels_last)

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Trains on the workers, or one after another in this process."""
        if self._pool is not None:
            return self._pool.train(jobs)
        return run_in_process(self._work, self._fit, jobs)
