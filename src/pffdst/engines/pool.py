"""Worker processes that train clients, one thread each.

On Linux without a GPU they are forked, like a DataLoader's: they share the imported libraries (most of a small run's
memory) and the training samples with this process. Elsewhere they are spawned and map the samples from files. They fork
before any logger starts threads, and use one thread, so they need no thread pool of this process. A worker ends when
this process does, for whatever reason. Pipes connect processes of one program on one machine, so they may carry
pickles; messages between clients and server are the wire's bytes inside them.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, final

import torch

from pffdst.client.turn import ClientSetup, ClientWork
from pffdst.core.errors import LostError
from pffdst.core.messages import Update
from pffdst.engines.base import EngineError, Job, one_thread, turn_of
from pffdst.engines.fabric_loop import FabricFit
from pffdst.engines.ranks import silence
from pffdst.engines.slab import Slab
from pffdst.measure.memory import is_out_of_memory, release_free_memory

__all__ = ["WorkerPool"]

TIMEOUT = "PFFDST_WORKER_TIMEOUT"
_AHEAD = 32
_ROOM = 1 << 16  # bytes of a message besides its values, which get twice the model's size
_LOOK = 1.0  # seconds between two checks for silent workers


@final
@dataclass
class Worker:
    """A process, its pipe, and the round's payloads and memories that it already has.

    `jobs` are its current and next job, with their positions; `silent` counts the checks since its last message. It
    leaves its updates in the `slab`.
    """

    process: BaseProcess
    pipe: Connection
    slab: Slab | None = None
    has: set[tuple[str, int]] = field(default_factory=set)
    jobs: deque[tuple[int, Job]] = field(default_factory=deque)
    silent: int = 0


@final
class WorkerPool:
    """`workers` processes that share the training samples."""

    def __init__(self, setup: ClientSetup, workers: int, *, channels_last: bool) -> None:
        method = default_start_method()
        self._samples = setup.samples
        self._largest = _ROOM + 2 * setup.layout.total * next(setup.network.parameters()).itemsize
        self._silence = silence(os.environ, TIMEOUT)
        self._workers: list[Worker] = []
        # Garbage collectors skip frozen objects, so their pages stay shared with the workers.
        gc.collect()
        release_free_memory()
        gc.freeze()
        try:
            with tempfile.TemporaryDirectory(prefix="pffdst-", ignore_cleanup_errors=True) as folder:
                given = setup if method == "fork" else _packed(setup, Path(folder))
                for _ in range(workers):
                    self._workers.append(self._start(method, given, channels_last))
                for worker in self._workers:
                    self._receive(worker)
            # every worker has mapped the pages: the file can be unlinked, so that a kill leaves nothing behind
        except BaseException:
            self.close()
            raise

    def _start(self, method: str, setup: ClientSetup | bytes, channels_last: bool) -> Worker:
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        slab = _slab(self._largest) if method == "fork" else None
        # a forked worker also inherits the pipes made before it, and would keep them open
        inherited = [ours, *(w.pipe for w in self._workers)] if method == "fork" else []
        process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, inherited, slab, setup, channels_last), daemon=True
        )
        with warnings.catch_warnings(), _without_accelerators():
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            process.start()
        theirs.close()
        return Worker(process, ours, slab)

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Sends the largest client to the next free worker; yields in the jobs' order.

        Only clients whose turn is near are considered, since early results wait in memory. Until the last update, this
        process also uses one thread: two threads waiting for each other on cores occupied by the workers would make
        processing an update many times slower.
        """
        for worker in self._workers:
            worker.has.clear()
            self._send(worker, ("round",))
        sizes = [self._samples(job.task.client) for job in jobs]
        queue = sorted(range(len(jobs)), key=lambda i: -sizes[i])
        done: dict[int, Update] = {}
        with one_thread():
            self._give_out(jobs, queue, 0)
            for turn in range(len(jobs)):
                while turn not in done:
                    for worker in self._answering():
                        kind, update = self._said(worker)
                        if kind != "beat":
                            done[worker.jobs.popleft()[0]] = update
                    self._give_out(jobs, queue, turn)
                self._give_out(jobs, queue, turn + 1)  # before the caller spends time on an update
                yield done.pop(turn)
        for worker in self._workers:
            self._send(worker, ("rest",))

    def _give_out(self, jobs: Sequence[Job], queue: list[int], turn: int) -> None:
        """Sends a job to every free worker, while there are jobs whose turn is near, then one more to the others.

        So a worker continues while this process is busy with an update. Near the end, none gets a second job: the first
        free worker takes what is left.
        """
        limit = turn + max(_AHEAD, 4 * len(self._workers))
        for held in (0, 1):
            for worker in self._workers:
                if len(worker.jobs) != held or (held and len(queue) < len(self._workers)):
                    continue
                position = next((i for i in queue if i < limit), None)
                if position is not None and (held == 0 or _is_small(worker, jobs[position])):
                    queue.remove(position)
                    self._give(worker, jobs, position)

    def _answering(self) -> list[Worker]:
        """The busy workers that have sent something or died. LostError if one has been silent for too long.

        Silence is counted in checks, not by a clock, since this process may itself have been stopped.
        """
        busy = [w for w in self._workers if w.jobs]
        ready = wait([w.pipe for w in busy], timeout=_LOOK)
        heard = [w for w in busy if w.pipe in ready]
        for worker in busy:
            worker.silent = 0 if worker in heard else worker.silent + (not ready)
            if worker.silent * _LOOK >= self._silence:
                raise LostError(f"{_named(worker)} has been silent for {self._silence:g} s.")
        return heard

    def _give(self, worker: Worker, jobs: Sequence[Job], position: int) -> None:
        """Sends a job; a payload or memory that the worker already has in this round is sent as its key."""
        job = jobs[position]
        task = job.task
        keys = _keys(job)
        for key, blob in zip(keys, (task.payload, job.memory), strict=True):
            if key not in worker.has:
                self._send(worker, ("blob", key, blob))
                worker.has.add(key)
        worker.jobs.append((position, job))
        worker.silent = 0
        self._send(worker, ("task", replace(task, payload=b""), *keys, job.kept))

    def _send(self, worker: Worker, message: tuple[Any, ...]) -> None:
        try:
            worker.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died(worker) from error

    def _receive(self, worker: Worker) -> Any:
        """A worker's next message."""
        while True:
            kind, content = self._said(worker)
            if kind != "beat":
                return content

    def _said(self, worker: Worker) -> tuple[str, Any]:
        """The next message and its kind; LostError if the worker died, EngineError if it failed."""
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died(worker) from error
        if kind == "memory":
            raise LostError(f"{_named(worker)} ran out of memory ({content}). {_LESS}")
        if kind == "error":
            raise EngineError(f"a worker process failed while training a client:\n{content}")
        if kind == "put":
            assert worker.slab is not None
            update, length = content
            return "update", replace(update, payload=worker.slab.take(length))
        return kind, content

    def _died(self, worker: Worker) -> LostError:
        worker.process.join(timeout=5)
        code = worker.process.exitcode
        killed = f" (killed, often by lack of memory). {_LESS}" if code == -9 else "."
        return LostError(f"{_named(worker)} died with exit code {code}{killed}")

    def close(self) -> None:
        """Ends the processes: asks first, then kills."""
        gc.unfreeze()
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(timeout=0.0 if worker.jobs else 5.0)
            if worker.process.is_alive():
                worker.process.kill()  # a stopped process would not react to anything less
                worker.process.join(timeout=5.0)
            if worker.slab is not None:
                worker.slab.close()
        self._workers.clear()


_LESS = "Use fewer engine.workers."


def _named(worker: Worker) -> str:
    task = worker.jobs[0][1].task if worker.jobs else None
    at = "" if task is None else f", at client {task.client} in round {task.t + 1},"
    return f"A worker process (pid {worker.process.pid}){at}"


def _keys(job: Job) -> tuple[tuple[str, int], tuple[str, int]]:
    """The keys by which a worker knows a job's payload and memory."""
    return ("payload", id(job.task.payload)), ("memory", id(job.memory))


def _is_small(worker: Worker, job: Job) -> bool:
    """Whether a job can be sent to a busy worker: one that does not fit into the pipe would block until it is free.

    If both ends then wait for the other to read, they deadlock.
    """
    return worker.slab is not None and worker.has.issuperset(_keys(job)) and not job.kept.anything


def default_start_method() -> str:
    """fork if it is safe with the system's libraries, else spawn.

    Where torch sees an accelerator, autograd starts threads for it with the first backward pass, whatever that is on,
    and a process forked later can make none.
    """
    return "fork" if sys.platform == "linux" and not torch.accelerator.is_available() else "spawn"


@contextlib.contextmanager
def _without_accelerators() -> Iterator[None]:
    """Processes that start inside see no GPU: they train on the CPU, and would hold memory on it for nothing."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _slab(size: int) -> Slab | None:
    """Shared memory of `size` bytes; None if the system provides none, so that updates use the pipe."""
    try:
        return Slab(size)
    except OSError:
        return None


def _packed(setup: ClientSetup, folder: Path) -> bytes:
    """A setup for a spawned process, with its samples in files that can be mapped.

    Plain pickle copies tensors; multiprocessing's own would put them, the network's weights among them, into memory
    that all workers write to.
    """
    return pickle.dumps(replace(setup, data=setup.data.share(folder)))


def _end_with_parent() -> None:
    """Ends this process when its parent ends, even in the middle of a step."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@final
class _Voice:
    """A worker's messages, with regular heartbeats: silence means that it hangs or was stopped."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock, self._pause = pipe, threading.Lock(), silence(os.environ, TIMEOUT) / 5
        threading.Thread(target=self._beat, daemon=True).start()

    def __call__(self, message: tuple[str, Any]) -> None:
        with self._lock:
            self._pipe.send(message)

    def _beat(self) -> None:
        while True:
            time.sleep(self._pause)
            try:
                self(("beat", None))
            except OSError:
                return  # the other end is gone, so this process ends too


def _answered(update: Update, slab: Slab | None) -> tuple[str, Any]:
    """A worker's message about its update: the bytes stay in the slab, if there is one and they fit."""
    if slab is not None and update.payload is not None and slab.put(update.payload):
        return "put", (replace(update, payload=None), len(update.payload))
    return "update", update


def _serve(
    pipe: Connection,
    inherited: list[Connection],
    slab: Slab | None,
    setup: ClientSetup | bytes,
    channels_last: bool,
) -> None:
    """A worker's main loop: until its pipe closes, keeps blobs for a round and answers tasks."""
    for other in inherited:
        other.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent's handler must not run here
    signal.signal(signal.SIGHUP, signal.SIG_IGN) if hasattr(signal, "SIGHUP") else None
    say = _Voice(pipe)
    torch.set_num_threads(1)
    try:
        known = pickle.loads(setup) if isinstance(setup, bytes) else setup
        work = ClientWork(known, channels_last=channels_last)
        fit = FabricFit("cpu", work.setup.callbacks)
        say(("ready", None))
        blobs: dict[tuple[str, int], Any] = {}
        while True:
            kind, *rest = pipe.recv()
            if kind == "round":
                blobs.clear()
            elif kind == "rest":
                release_free_memory()  # the evaluation can use what training freed
                slab.release() if slab is not None else None
            elif kind == "blob":
                blobs[rest[0]] = rest[1]
            else:
                task, payload_key, memory_key, kept = rest
                task = replace(task, payload=blobs[payload_key])
                say(_answered(turn_of(Job(task, blobs[memory_key], kept), work, fit), slab))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    except Exception as error:
        say(("memory", str(error)[:200]) if is_out_of_memory(error) else ("error", traceback.format_exc()))
