"""Simulated clients that are missing in chosen rounds: the reference for a deployment with faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import final

from pffdst.client.turn import ClientSetup
from pffdst.core.messages import Update
from pffdst.engines.base import Engine, Job
from pffdst.engines.fabric import FabricEngine

__all__ = ["ScriptedEngine"]

Absences = Mapping[int, Sequence[int]]


@final
class ScriptedEngine(Engine):
    """`engine=fabric` in one process; by round, some clients are `away` and others are `lost`.

    Clients that are away are sent nothing; lost ones were sent a message and never answer.
    """

    def __init__(self, away: Absences, lost: Absences) -> None:
        self._own, self._away, self._lost = FabricEngine(workers=0), away, lost
        self.channels_last = self._own.channels_last

    def start(self, setup: ClientSetup) -> None:
        """Starts the clients."""
        self._own.start(setup)

    def away(self, cohort: Sequence[int], t: int) -> Mapping[int, str]:
        """The clients of the cohort that the script says are away."""
        return {client: "away" for client in cohort if client in self._away.get(t, ())}

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """The updates, without those of lost clients."""
        for job, update in zip(jobs, self._own.train(jobs), strict=True):
            gone = job.task.client in self._lost.get(job.task.t, ())
            yield Update(job.task.client, None, "lost") if gone else update
