"""The cohort on one accelerator: clients train in parallel on several streams by replaying recorded steps.

A local step on a few dozen images is hundreds of kernels of microseconds each. Started one by one from Python, they
leave an accelerator idle most of the time, and each one uses only part of it. Replaying a recorded step starts them all
at once, and several streams use what one leaves free. Data, masks and models stay on the device; the host only waits
for finished updates and encodes them in threads while others train.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import final, get_args

import torch
from torch import Tensor

from pffdst.client.callbacks import BrokenMaskError
from pffdst.client.inbox import Inbox
from pffdst.client.loaded import Loaded
from pffdst.client.step import Hooks
from pffdst.client.turn import ClientSetup, Trained, Turn, answer, unreadable
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.messages import Timings, Update
from pffdst.core.model import GlobalModel
from pffdst.core.probe import moves_in_python
from pffdst.core.seeding import generator_for, seeded_global_state
from pffdst.core.state import changes
from pffdst.data.batches import batch_indices
from pffdst.data.samples import Samples
from pffdst.engines.base import Engine, Job, Precision, named, one_thread
from pffdst.engines.fabric import FabricEngine, available_cores
from pffdst.engines.slots import Figures, Slot, SlotSettings
from pffdst.wire.downlink import Received
from pffdst.wire.frame import WireError

__all__ = ["BatchedEngine"]

_log = logging.getLogger(__name__)

_WINDOW = 16  # clients per stream that are dispatched before the first of them must have been consumed


@final
@dataclass(frozen=True, eq=False)
class Waiting:
    """A client about to train from `start`; reading its message took `decoded` seconds."""

    job: Job
    received: Received
    decoded: float

    @property
    def start(self) -> GlobalModel:
        """The model that it trains from."""
        return self.received.model

    @property
    def client(self) -> int:
        """The client's number."""
        return self.job.task.client


@final
class BatchedEngine(Engine):
    """Trains the clients of a round in parallel on a CUDA device.

    `device`: "auto" is cuda if available, else worker processes as in engine=fabric; "cpu" is this engine's own
    code without streams and recordings. `streams`: clients training at the same time. `precision`: fp32 (strict), tf32
    (matrix products and convolutions in TF32) or bf16 (autocast). `record` replays recorded steps. `deterministic`
    repeats a run bit for bit on the same device and versions; without it, the libraries may choose faster algorithms.
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
        self._wanted, self.precision, self.deterministic = device, precision, deterministic
        self._fallback: FabricEngine | None = None
        if device == "auto" and not torch.cuda.is_available():
            self._fallback = FabricEngine(channels_last=channels_last)
        self.device = "cuda" if device != "cpu" and self._fallback is None else "cpu"
        self.channels_last = channels_last
        self._streams = streams if self.device == "cuda" else 1
        self._settings = SlotSettings(
            torch.device(self.device),
            channels_last,
            bf16=precision == "bf16",
            record=record and self.device == "cuda",
            several=self._streams > 1,
        )
        self._executor = ThreadPoolExecutor(min(8, available_cores()), "encode")

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """What this machine lacks."""
        if torch.cuda.is_available():
            return []
        if self._wanted == "cuda":
            return ["engine.device=cuda, but torch sees no CUDA device here: write engine.device=auto or engine=fabric"]
        if self._wanted == "auto" and self.precision == "bf16":
            return ["engine.precision=bf16 needs a CUDA device or engine.device=cpu: write engine.precision=fp32"]
        return []

    def start(self, setup: ClientSetup) -> None:
        """Moves the data to the device and creates the slots."""
        if self._fallback is not None:
            _log.warning("engine=batched: torch sees no CUDA device here: clients train as with engine=fabric")
            self._fallback.beside, self._fallback.cohort = self.beside, self.cohort
            self._fallback.start(setup)
            return
        self._setup, self._inbox = setup, Inbox(setup)
        samples = setup.data.open()
        self._host_labels = samples.labels
        if self.device == "cuda":
            samples = samples.to(self.device)
        self._executor = ThreadPoolExecutor(min(8, available_cores()), "encode")
        self._settings = self._recording(setup)
        self._samples = samples
        self._slots = [Slot(setup, samples, self._settings) for _ in range(self._streams)]
        self._loaded = Loaded(self._slots[0].flat, in_place=self._settings.record)
        self._figures: queue.SimpleQueue[Figures] = queue.SimpleQueue()
        for _ in range(2 * self._streams):
            self._figures.put(Figures(self._slots[0].flat, self._settings.device))

    def close(self) -> None:
        """Ends threads and workers, and frees the device's memory."""
        if self._fallback is not None:
            self._fallback.close()
        self._executor.shutdown(cancel_futures=True)
        try:
            if self.device == "cuda":
                torch.cuda.synchronize()
        finally:
            self._slots = []

    def _recording(self, setup: ClientSetup) -> SlotSettings:
        """Does not record steps in which a rule, a callback or clipping takes part, and logs that once."""
        hands = setup.method.touches_steps or Hooks(setup.callbacks).in_steps
        if self._settings.record and hands:
            _log.info("engine=batched: a rule or a callback takes part in every step: steps are not recorded")
            return replace(self._settings, record=False)
        if self._settings.record and moves_in_python(setup.network, setup.inputs):
            _log.info("engine=batched: the model changes attributes or buffers in Python: steps are not recorded")
            return replace(self._settings, record=False)
        return self._settings

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Trains one window of clients at a time, longest first; yields updates in the jobs' order."""
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
                for waiting in window:
                    yield answers.pop(waiting.client).result()

    def _windows(self, jobs: Sequence[Job]) -> Iterator[list[Waiting] | Update]:
        """Groups of clients that start from the same model, or the answer of one that could not read its message."""
        limit = _WINDOW * self._streams if self.device == "cuda" else 1
        window: list[Waiting] = []
        for job in jobs:
            began = time.perf_counter()
            try:
                received = self._inbox.receive(job.task, job.memory)
            except WireError as error:
                yield from [window] if window else []
                window = []
                yield unreadable(job.task, error)
                continue
            if window and (len(window) == limit or not window[0].start.same_as(received.model)):
                yield window
                window = []
            window.append(Waiting(job, received, time.perf_counter() - began))
        if window:
            yield window

    def _load(self, model: GlobalModel) -> None:
        """Loads the window's model onto the device; all clients of the previous window have been answered."""
        if not self._loaded.holds(model):
            self._loaded.load_(model)
        model.trainable_at.index  # noqa: B018 - computed once, before threads ask for it
        for slot in self._slots:
            slot.load = 0
            if slot.stream is not None:
                slot.stream.wait_stream(torch.cuda.current_stream())

    def _give_out(self, window: Sequence[Waiting]) -> dict[int, Future[Update]]:
        """Assigns every client to the slot with the least work, longest first."""
        setup = self._setup
        work = {w.client: setup.steps(w.client, w.job.task.t) for w in window}
        answers = {}
        for waiting in sorted(window, key=lambda w: -work[w.client]):
            slot = min(self._slots, key=lambda s: s.load)
            slot.load += work[waiting.client]
            answers[waiting.client] = self._play(waiting, slot)
        return answers

    def _play(self, waiting: Waiting, slot: Slot) -> Future[Update]:
        """Queues a client's steps on the slot's stream, and their result to a thread that encodes it."""
        setup, task = self._setup, waiting.job.task
        own, training = setup.indices(task.client), setup.training

        def order(stream: str, epochs: int) -> list[list[Tensor]]:
            draw = generator_for(setup.seed, stream, task.t, task.client)
            batches = batch_indices(len(own), training.batch_size, epochs, draw)
            return [[own[batch] for batch in epoch] for epoch in batches]

        def batches(stream: str) -> Iterator[tuple[Tensor, Tensor]]:
            return map(slot.batch, order(stream, 1)[0])

        figures = self._figures.get()  # waits until the answers of earlier clients have freed some
        clock = _Clock(slot.stream)
        turn = Turn(setup, task, waiting.received, waiting.job.kept.memory, batches)
        epochs = order("client", setup.epochs(task.t))
        with torch.cuda.stream(slot.stream), seeded_global_state(setup.seed, "forward", task.t, task.client):
            clock.begin()
            slot.serve(self._as_labelled(task.client, own))  # on the stream whose steps read the labels
            slot.train(self._loaded, turn, training.lr_at(task.t), epochs)
            slot.read(turn, figures)
            clock.end()
        return self._executor.submit(self._answer, waiting, figures, clock)

    def _as_labelled(self, client: int, own: Tensor) -> Samples:
        """All samples, with the labels that a client trains on at its `own` indices int64 [n]."""
        samples, faulty = self._samples, self._setup.faulty
        if not faulty.relabels(client):
            return samples
        given, device = faulty.labels(client, self._host_labels[own]), samples.labels.device
        labels = samples.labels.index_copy(0, own.to(device), given.to(device))
        return samples.numbered(labels, samples.owners)

    def _answer(self, waiting: Waiting, figures: Figures, clock: _Clock) -> Update:
        """A client's update, once its figures have arrived. Runs in a separate thread, also on a CPU."""
        setup, job = self._setup, waiting.job
        try:
            with named(job):
                seconds = clock.wait()
                began = time.perf_counter()
                payload, kept = answer(setup, job.task, waiting.start, self._trained(waiting, figures), job.kept)
            timings = Timings(waiting.decoded, seconds, time.perf_counter() - began)
            return Update(waiting.client, payload, None, timings, kept)
        finally:
            self._figures.put(figures)

    def _trained(self, waiting: Waiting, figures: Figures) -> Trained:
        """The trained client, from its figures."""
        setup, model = self._setup, waiting.start
        loss, correct, moved = figures.totals.tolist()
        if moved != 0.0:
            raise BrokenMaskError("Expected dead and frozen weights to stay unchanged in training, but some moved")
        trainable = figures.trainable
        assert trainable is not None  # the slot has read it
        if trainable is not model.trainable_at:
            model = model.moved(model.frozen_at.plus(trainable))
        weights, rest = figures.values[: setup.layout.maskable], figures.values[setup.layout.maskable :]
        model = model.with_trained(trainable.gather(weights).clone(), rest.clone())
        seen = max(1, setup.samples(waiting.client) * setup.epochs(waiting.job.task.t))
        buffers = changes(waiting.received.buffers, [buffer.clone() for buffer in figures.buffers])
        return Trained(model, loss / seen, correct / seen, figures.measured, buffers)


@final
class _Clock:
    """Measures a client's time: on its stream with CUDA, otherwise in this process."""

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
        """Waits for the end and returns the seconds from start to end."""
        if self._events is None:
            return self._times[1] - self._times[0]
        first, last = self._events
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3


def _check(device: str, streams: int, precision: str) -> None:
    """ValueError if a setting is out of range."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"Expected `engine.device` to be auto, cpu or cuda, but got {device!r}")
    if isinstance(streams, bool) or not isinstance(streams, int) or streams < 1:
        raise ValueError(f"Expected `engine.streams` to be a number of at least 1, but got {streams!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"Expected `engine.precision` to be fp32, tf32 or bf16, but got {precision!r}")
