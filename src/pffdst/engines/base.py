"""Engines run clients: tasks in, updates out, in the cohort's order. They never average."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, final

import torch

from pffdst.client.turn import ClientSetup, ClientWork, Fit
from pffdst.core.errors import UserError
from pffdst.core.messages import ClientTask, Kept, Update
from pffdst.engines.memories import ClientMemories
from pffdst.wire.downlink import Memory
from pffdst.wire.frame import WireError

__all__ = [
    "Engine",
    "EngineError",
    "Job",
    "Precision",
    "checked_device",
    "device_problems",
    "named",
    "numerics",
    "one_thread",
    "run_in_process",
    "turn_of",
]

Precision = Literal["fp32", "tf32", "bf16"]


@final
@dataclass(frozen=True)
class Job:
    """A client's task and what the client kept from earlier rounds."""

    task: ClientTask
    memory: Memory
    kept: Kept = field(default_factory=Kept)


class EngineError(RuntimeError):
    """A failure of the engine itself (e.g. a worker process died); the run can be resumed."""


class Engine(ABC):
    """Runs the clients of a round. Used as `with engine.open(setup): ...`.

    `device` and `channels_last` are the networks' device and memory format, for training and for evaluation, and
    `precision` and `deterministic` how CUDA computes.
    `simulates`: the clients run here on local samples, so faults and absences can be simulated too.
    `beside`: processes of the run on this machine, which share its cores; `cohort`: K, if known. `brief` is what remote
    clients learn about the run before the first round: its configuration and the kind of samples.
    """

    simulates: ClassVar[bool] = True
    device: str = "cpu"
    channels_last: bool = False
    precision: Precision = "fp32"
    deterministic: bool = True
    memories: ClientMemories
    beside: int = 1
    brief: Mapping[str, Any] = MappingProxyType({})
    cohort: int | None = None

    @contextlib.contextmanager
    def open(self, setup: ClientSetup) -> Iterator[Engine]:
        """Prepares to run clients of `setup` and releases everything afterwards, whatever happens."""
        self.memories = ClientMemories(setup.clients, setup.layout, setup.codecs, setup.known)
        with self.computing():
            try:
                self.start(setup)
                yield self
            finally:
                self.close()

    def computing(self) -> contextlib.AbstractContextManager[object]:
        """Inside, CUDA computes as `precision` and `deterministic` say."""
        if self.device == "cpu":
            return contextlib.nullcontext()
        return numerics(self.precision, deterministic=self.deterministic)

    @abstractmethod
    def start(self, setup: ClientSetup) -> None:
        """Builds what lasts for the run."""

    def close(self) -> None:
        """Releases processes and files. May be called twice, or after `start` failed halfway."""

    @abstractmethod
    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Runs the jobs and yields their updates in the jobs' order, each as early as possible."""

    def away(self, cohort: Sequence[int], t: int) -> Mapping[int, str]:
        """The clients of a round that cannot be reached, and why; nothing is sent to them. Empty in simulation."""
        return {}

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[Update]:
        """The updates of a round in the cohort's order; clients remember what they were sent."""
        own = self.memories
        jobs = [Job(task, own.of(task.client), own.kept(task.client)) for task in tasks]
        for task, update in zip(tasks, self.train(jobs), strict=True):
            with contextlib.suppress(WireError):  # the client reports it itself in update.problem
                own.receive(task.client, task.payload)
                if update.payload is not None:
                    own.keep(task.client, update.kept)
            yield update

    def state_dict(self) -> dict[str, Any]:
        """The state of the simulated clients, for the checkpoint."""
        return self.memories.state_dict()

    def saved(self) -> None:
        """Called when a checkpoint with what `state_dict` gave last is on disk; resuming begins there or later."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the clients from a checkpoint. UserError if they were not simulated."""
        if "index" not in state:
            raise UserError("the clients of this run keep their state themselves: resume it with engine=flower")
        self.memories.load_state_dict(state)


def checked_device(device: str) -> str:
    """`engine.device` of the engines that train one client at a time. ValueError if it is neither cpu nor cuda."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"Expected `engine.device` to be cpu or cuda, but got {device!r}")
    return device


def device_problems(device: str) -> list[str]:
    """Whether this machine lacks the device."""
    if device == "cuda" and not torch.cuda.is_available():
        return ["engine.device=cuda, but torch sees no CUDA device here: write engine.device=cpu"]
    return []


@contextlib.contextmanager
def numerics(precision: Precision, *, deterministic: bool) -> Iterator[None]:
    """Sets torch's options for products, convolutions and algorithms on CUDA and restores them afterwards.

    `deterministic` warns of an operation that has no deterministic algorithm.
    """
    backends, filled = torch.backends, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    before = backends.cudnn.deterministic, backends.cudnn.benchmark
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic:  # read by cuBLAS when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True, warn_only=warns or not strict)
    # benchmarking would try algorithms per length and slot
    backends.cudnn.deterministic, backends.cudnn.benchmark = deterministic, False
    try:
        with _tf32(precision != "fp32"):
            yield
    finally:
        backends.cudnn.deterministic, backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether products, convolutions and recurrent layers may use TF32.

    Set by the flags that speak for all of them: with one kind set apart, torch refuses to read these flags, as
    `torch.backends.cudnn.flags` does in a model.
    """
    backends = torch.backends
    kinds = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn  # type: ignore[attr-defined]
    own = [kind.fp32_precision for kind in kinds]
    try:
        flags = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    except RuntimeError:  # the program has set one kind apart
        flags = None
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        if flags is not None:
            backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = flags
        else:
            for kind, precision in zip(kinds, own, strict=True):
                kind.fp32_precision = precision


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, clients train on one thread: results must not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_in_process(work: ClientWork, fit: Fit, jobs: Sequence[Job]) -> Iterator[Update]:
    """Runs one client after another in this process."""
    for job in jobs:
        with one_thread():
            update = turn_of(job, work, fit)
        yield update


def turn_of(job: Job, work: ClientWork, fit: Fit) -> Update:
    """Runs one client; errors name the client and the round."""
    with named(job):
        return work.turn(job.task, job.memory, fit, job.kept)


@contextlib.contextmanager
def named(job: Job) -> Iterator[None]:
    """Adds a note with the client and the round to exceptions inside."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in client {job.task.client}, round {job.task.t + 1}")
        raise
