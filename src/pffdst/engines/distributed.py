"""Distributes clients over torchrun's ranks: each rank runs an engine on a share of the cohort.

Rank 0 divides the jobs, sends them as bytes, trains its own share and collects the updates in the cohort's order. What
clients keep between rounds stays with rank 0 and is sent with their jobs, so the other ranks have no state: a run can
be resumed with any number of ranks, and the number does not change the result in a single bit.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, final

from pffdst.client.turn import ClientSetup
from pffdst.core.blobs import bytes_of, tensor_of
from pffdst.core.errors import UserError
from pffdst.core.messages import ClientTask, Update
from pffdst.core.model import Layout
from pffdst.engines.base import Engine, EngineError, Job, one_thread
from pffdst.engines.packets import (
    dumps,
    loads,
    pack_kept,
    pack_memory,
    pack_update,
    unpack_kept,
    unpack_memory,
    unpack_update,
)
from pffdst.engines.ranks import Ranks

__all__ = ["Distributed", "divide", "follow"]

_AHEAD = 16  # own updates that may wait to be yielded

_log = logging.getLogger(__name__)


def divide(work: Sequence[int], ranks: int) -> list[int]:
    """The rank of each job: largest first, each to the rank with the least work so far; ties go to rank 0 last."""
    loads = [(0, rank) for rank in (*range(1, ranks), ranks)]  # `ranks` stands for rank 0, which also averages
    owners = [0] * len(work)
    for position in sorted(range(len(work)), key=lambda i: -work[i]):
        load, rank = heapq.heappop(loads)
        owners[position] = rank % ranks
        heapq.heappush(loads, (load + work[position], rank))
    return owners


def data_digest(setup: ClientSetup) -> str:
    """Digest of the training samples, since ranks on other machines read their own files."""
    return setup.data.open().digest


@final
class Distributed(Engine):
    """Rank 0's side: `own` runs this process's share of the clients, `ranks` connects to the others.

    `configuration` is the text from which they build their clients.
    """

    def __init__(self, own: Engine, ranks: Ranks, configuration: str = "") -> None:
        self._own, self._ranks, self._configuration = own, ranks, configuration
        self.device, self.channels_last = own.device, own.channels_last
        self.precision, self.deterministic = own.precision, own.deterministic
        own.beside = ranks.beside

    def start(self, setup: ClientSetup) -> None:
        """Starts this process's engine and checks that the others have started theirs on the same data.

        They get the configuration only now, after loading the data: ranks on this machine then find it in the cache.
        """
        for peer in self._ranks.links:
            self._ranks.send(peer, self._configuration.encode())
        self._samples, self._layout = setup.samples, setup.layout
        self._own.start(setup)
        digest = data_digest(setup)
        for peer, link in self._ranks.links.items():
            problem, theirs = loads(self._ranks.receive(peer))
            if problem is not None:
                raise UserError(f"{link.name} cannot start: {problem}")
            if theirs != digest:
                raise UserError(f"{link.name} has other training data than rank 0: put the same files on every machine")
        _log.info("%d ranks divide the clients", self._ranks.size)

    def close(self) -> None:
        """Ends this process's engine; the other ranks end with rank 0."""
        self._own.close()

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Sends every rank its share and yields in the jobs' order; trains own clients while waiting for others."""
        owners = divide([self._samples(job.task.client) for job in jobs], self._ranks.size)
        self._hand_out(jobs, owners)
        mine = [job for job, owner in zip(jobs, owners, strict=True) if owner == 0]
        own, kept, left = self._own.train(mine), deque[Update](), len(mine)
        with one_thread():
            for owner in owners:
                while left > 0 and (
                    (owner == 0 and not kept) or (owner != 0 and len(kept) < _AHEAD and not self._ranks.waiting(owner))
                ):
                    kept.append(next(own))
                    left -= 1
                yield kept.popleft() if owner == 0 else self._take(owner)
            next(own, None)  # to its end

    def _take(self, peer: int) -> Update:
        """The next update of a rank; EngineError if it failed."""
        failure, fields = loads(self._ranks.receive(peer))
        if failure is not None:
            raise EngineError(f"{self._ranks.links[peer].name} failed while training a client:\n{failure}")
        return unpack_update(fields, self._layout)

    def _hand_out(self, jobs: Sequence[Job], owners: Sequence[int]) -> None:
        """Sends the jobs. A payload or memory that several ranks need is broadcast once; others go with their jobs."""
        blobs: dict[int, Any] = {}
        needed: dict[int, set[int]] = {}
        tasks: dict[int, list[Any]] = {peer: [] for peer in self._ranks.links}
        for job, owner in zip(jobs, owners, strict=True):
            if owner == 0:
                continue
            keys = id(job.task.payload), id(job.memory)  # of objects that live as long as the jobs
            for key, blob in zip(keys, (job.task.payload, job.memory), strict=True):
                blobs[key] = blob
                needed.setdefault(key, set()).add(owner)
            tasks[owner].append((job.task.client, job.task.t, *keys, pack_kept(job.kept)))
        packed = {key: _pack_blob(blob) for key, blob in blobs.items()}
        common = dumps({key: packed[key] for key, peers in needed.items() if len(peers) > 1})
        for peer, own in tasks.items():
            only = {key: packed[key] for key, peers in needed.items() if peers == {peer}}
            self._ranks.send(peer, dumps((len(common), only, own)))
        self._ranks.broadcast(common, len(common))


def _pack_blob(blob: Any) -> Any:
    return tensor_of(blob) if isinstance(blob, bytes) else pack_memory(blob)


def _unpack_blob(packed: Any, layout: Layout) -> Any:
    return unpack_memory(packed, layout) if isinstance(packed, tuple) else bytes_of(packed)


def follow(ranks: Ranks, make: Callable[[str], tuple[Engine, ClientSetup]]) -> NoReturn:
    """The loop of every other rank: runs clients round after round until rank 0 ends it, in the link's thread.

    `make` builds the engine and the setup from the configuration that rank 0 sends.
    """
    ready: tuple[str | None, str]
    as_rank_0 = contextlib.ExitStack()  # for as long as this process lives
    try:
        engine, setup = make(ranks.receive(0).decode())
        engine.beside = ranks.beside
        as_rank_0.enter_context(engine.computing())
        engine.start(setup)
        ready = None, data_digest(setup)
    except Exception as error:
        ready = str(error) if isinstance(error, UserError) else traceback.format_exc(), ""
    ranks.send(0, dumps(ready))
    while True:
        packet = ranks.receive(0)  # none comes if this rank cannot start: rank 0 ends it
        try:
            for update in engine.train(_jobs(packet, ranks, setup.layout)):
                ranks.send(0, dumps((None, pack_update(update))))
        except Exception:
            ranks.send(0, dumps((traceback.format_exc(), None)))


def _jobs(packet: bytes, ranks: Ranks, layout: Layout) -> list[Job]:
    """This rank's jobs of a round, from rank 0's message and what it broadcasts."""
    size, only, own = loads(packet)
    packed = only | loads(ranks.broadcast(None, size))
    blobs = {key: _unpack_blob(blob, layout) for key, blob in packed.items()}
    return [
        Job(ClientTask(client, t, blobs[payload]), blobs[memory], unpack_kept(kept, layout))
        for client, t, payload, memory, kept in own
    ]
