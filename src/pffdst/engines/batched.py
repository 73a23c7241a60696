"""The cohort on one accelerator: clients train side by side on several streams, by replaying recorded steps.

A local step of a few dozen images is hundreds of kernels of microseconds each: started one by one from Python they
leave an accelerator idle most of the time, and each alone fills but a part of it. Replaying a recorded step starts them
at once, and several streams fill what one leaves free. Data, masks and models stay on the device; the host only waits
for updates that are done, and encodes them in threads while others train.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from pffdst.client.callbacks import BrokenMaskError
from pffdst.client.turn import ClientSetup, Inbox, Trained, answer, unreadable
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.messages import Timings, Update
from pffdst.core.model import GlobalModel
from pffdst.data.batches import SharedImages, batch_indices, steps
from pffdst.data.dataset import ImageSet
from pffdst.engines.base import Engine, Job, one_thread
from pffdst.engines.fabric import FabricEngine, available_cores
from pffdst.engines.slots import Figures, Loaded, Slot, SlotSettings
from pffdst.wire.frame import WireError

__all__ = ["BatchedEngine", "numerics"]

_log = logging.getLogger(__name__)

Precision = Literal["fp32", "tf32", "bf16"]
_WINDOW = 16  # clients per stream that are given out before the first of them must have been taken


@final
@dataclass(frozen=True, eq=False)
class Turn:
    """A client that is to train from `start`; `decoded` seconds went into reading its message."""

    job: Job
    start: GlobalModel
    decoded: float

    @property
    def client(self) -> int:
        """The client's number."""
        return self.job.task.client


@final
class BatchedEngine(Engine):
    """Trains the clients of a round side by side on a CUDA device.

    `device`: "auto" is cuda where there is one, else worker processes as in engine=fabric; "cpu" is this engine's own
    code without streams and recordings. `streams`: clients at work at once. `precision`: fp32 (strict), tf32
    (products of matrices and convolutions in TF32) or bf16 (autocast). `record` replays recorded steps.
    `deterministic` repeats a run to the bit on the same device and versions; without it the libraries may choose
    faster algorithms.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        streams: int = 4,
        precision: Precision = "fp32",
        channels_last: bool = True,
        record: bool = True,
        deterministic: bool = True,
    ) -> None:
        _check(device, streams, precision)
        self._wanted, self._precision, self._deterministic = device, precision, deterministic
        self._fallback: FabricEngine | None = None
        if device == "auto" and not torch.cuda.is_available():
            self._fallback = FabricEngine(channels_last=channels_last)
        self.device = "cuda" if device != "cpu" and self._fallback is None else "cpu"
        self.channels_last = channels_last
        self._streams = streams if self.device == "cuda" else 1
        self._settings = SlotSettings(
            torch.device(self.device), channels_last, precision == "bf16", record and self.device == "cuda"
        )
        self._executor: ThreadPoolExecutor | None = None
        self._undo = contextlib.ExitStack()

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """What this machine lacks."""
        if torch.cuda.is_available():
            return []
        if self._wanted == "cuda":
            return ["engine.device=cuda, but torch sees no CUDA device here: write engine.device=auto or engine=fabric"]
        if self._wanted == "auto" and self._precision == "bf16":
            return ["engine.precision=bf16 needs a CUDA device or engine.device=cpu: write engine.precision=fp32"]
        return []

    def start(self, setup: ClientSetup) -> None:
        """Brings the data to the device and makes the slots."""
        if self._fallback is not None:
            _log.warning("engine=batched: torch sees no CUDA device here: clients train as with engine=fabric")
            self._fallback.start(setup)
            return
        self._setup, self._inbox = setup, Inbox(setup)
        self._undo.enter_context(numerics(self._precision, deterministic=self._deterministic))
        images = setup.images.open() if isinstance(setup.images, SharedImages) else setup.images
        if self.device == "cuda":
            images = ImageSet(images.images.to(self.device), images.labels.to(self.device))
            self._executor = ThreadPoolExecutor(min(8, available_cores()), "encode")
        self._slots = [Slot(setup, images, self._settings) for _ in range(self._streams)]
        self._loaded = Loaded(self._slots[0].flat)
        self._figures: queue.SimpleQueue[Figures] = queue.SimpleQueue()
        for _ in range(2 * self._streams):
            self._figures.put(Figures(self._slots[0].flat, self._settings.device))

    def close(self) -> None:
        """Ends threads and workers, and gives the device's memory back."""
        if self._fallback is not None:
            self._fallback.close()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            torch.cuda.synchronize()
        self._executor, self._slots = None, []
        self._undo.close()

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """A window of clients at a time, the longest of it first; updates in the jobs' order."""
        if self._fallback is not None:
            yield from self._fallback.train(jobs)
            return
        with one_thread():
            for window in self._windows(jobs):
                if isinstance(window, Update):
                    yield window
                    continue
                self._load(window[0].start)
                answers = self._give_out(window)
                for turn in window:
                    yield answers.pop(turn.client).result()

    def _windows(self, jobs: Sequence[Job]) -> Iterator[list[Turn] | Update]:
        """Clients that start from the same model, together; the answer of one that could not read its message."""
        limit = _WINDOW * self._streams if self.device == "cuda" else 1
        window: list[Turn] = []
        for job in jobs:
            began = time.perf_counter()
            try:
                start = self._inbox.receive(job.task, job.memory)
            except WireError as error:
                yield from [window] if window else []
                window = []
                yield unreadable(job.task, error)
                continue
            if window and (len(window) == limit or not _same(window[0].start, start)):
                yield window
                window = []
            window.append(Turn(job, start, time.perf_counter() - began))
        if window:
            yield window

    def _load(self, model: GlobalModel) -> None:
        """The window's model to the device; all clients of the one before have been answered."""
        if not self._loaded.holds(model):
            self._loaded.load_(model)
        model.places  # noqa: B018 - computed once, before threads ask for it
        for slot in self._slots:
            slot.load = 0
            if slot.stream is not None:
                slot.stream.wait_stream(torch.cuda.current_stream())

    def _give_out(self, window: Sequence[Turn]) -> dict[int, Future[Update]]:
        """Every client to the slot with least to do, the longest first."""
        setup = self._setup
        work = {t.client: steps(setup.samples(t.client), setup.training.batch_size) for t in window}
        answers = {}
        for turn in sorted(window, key=lambda t: -work[t.client]):
            slot = min(self._slots, key=lambda s: s.load)
            slot.load += work[turn.client]
            answers[turn.client] = self._play(turn, slot)
        return answers

    def _play(self, turn: Turn, slot: Slot) -> Future[Update]:
        """Gives a client's steps to the slot's stream, and what they make to a thread that encodes it."""
        setup, task = self._setup, turn.job.task
        own, training = setup.indices(task.client), setup.training
        epochs = batch_indices(len(own), training.batch_size, training.epochs, setup.shuffling(task, "client"))
        batches = [own[batch] for epoch in epochs for batch in epoch]
        probe = None
        if setup.wants_gradient(task.t):
            first = next(batch_indices(len(own), training.batch_size, 1, setup.shuffling(task, "probe")))[0]
            probe = own[first]
        figures = self._figures.get()  # waits until the answers of earlier clients have left some free
        clock = _Clock(slot.stream)
        with torch.cuda.stream(slot.stream):
            clock.begin()
            slot.train(self._loaded, batches)
            slot.read(self._loaded, figures, probe)
            clock.end()
        return self._submit(turn, figures, clock, gradient=probe is not None)

    def _submit(self, turn: Turn, figures: Figures, clock: _Clock, *, gradient: bool) -> Future[Update]:
        if self._executor is not None:
            return self._executor.submit(self._answer, turn, figures, clock, gradient=gradient)
        done: Future[Update] = Future()
        done.set_result(self._answer(turn, figures, clock, gradient=gradient))
        return done

    def _answer(self, turn: Turn, figures: Figures, clock: _Clock, *, gradient: bool) -> Update:
        """A client's update, once its figures have arrived."""
        setup, job = self._setup, turn.job
        try:
            seconds = clock.wait()
            began = time.perf_counter()
            loss, correct, moved = figures.totals.tolist()
            if moved != 0.0:
                raise BrokenMaskError(
                    "Expected dead and frozen weights to stay as they are while training, but some moved"
                )
            seen = setup.samples(turn.client) * setup.training.epochs
            own: Tensor | None = figures.gradient if gradient else None
            trained = Trained(turn.start.with_values(figures.values), loss / seen, correct / seen, own)
            payload, residual = answer(setup, job.task, turn.start, trained, job.residual)
            timings = Timings(turn.decoded, seconds, time.perf_counter() - began)
            return Update(turn.client, payload, None, timings, residual)
        finally:
            self._figures.put(figures)


@final
class _Clock:
    """The time a client takes: of its stream on CUDA, else of this process."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._events = None
        if stream is not None:
            self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._times = [0.0, 0.0]

    def begin(self) -> None:
        self._note(0)

    def end(self) -> None:
        self._note(1)

    def _note(self, which: int) -> None:
        if self._events is not None:
            self._events[which].record()
        self._times[which] = time.perf_counter()

    def wait(self) -> float:
        """Waits for the end; the seconds from the beginning to it."""
        if self._events is None:
            return self._times[1] - self._times[0]
        first, last = self._events
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3


def _same(a: GlobalModel, b: GlobalModel) -> bool:
    return a is b or (
        torch.equal(a.values, b.values) and torch.equal(a.alive, b.alive) and torch.equal(a.frozen, b.frozen)
    )


def _check(device: str, streams: int, precision: str) -> None:
    """ValueError where a setting is out of its range."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"Expected `engine.device` to be auto, cpu or cuda, but got {device!r}")
    if isinstance(streams, bool) or not isinstance(streams, int) or streams < 1:
        raise ValueError(f"Expected `engine.streams` to be a number of at least 1, but got {streams!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"Expected `engine.precision` to be fp32, tf32 or bf16, but got {precision!r}")


@contextlib.contextmanager
def numerics(precision: Precision, *, deterministic: bool) -> Iterator[None]:
    """torch's settings for products and convolutions on CUDA, put back afterwards."""
    backends = torch.backends
    before = (
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
    )
    if deterministic:  # read by cuBLAS when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fast = "ieee" if precision == "fp32" else "tf32"
    _set_numerics(fast, fast, deterministic, not deterministic)
    try:
        yield
    finally:
        _set_numerics(*before)


def _set_numerics(matmul: str, conv: str, deterministic: bool, benchmark: bool) -> None:
    backends = torch.backends
    backends.cuda.matmul.fp32_precision = matmul
    backends.cudnn.conv.fp32_precision = conv  # type: ignore[attr-defined]
    backends.cudnn.deterministic, backends.cudnn.benchmark = deterministic, benchmark
