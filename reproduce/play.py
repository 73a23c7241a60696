"""Plays a study's runs one after the other, or several at once; a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

from pffdst.core.errors import UserError
from pffdst.report.groups import is_neutral
from pffdst.report.reading import read_run
from pffdst.runs.files import OVERRIDES, read_yaml
from pffdst.runs.jobs import has_checkpoint, in_use
from reproduce.study import Job

__all__ = ["LOG", "Outcome", "Player", "matters", "play"]

LOG = "output.log"
Outcome = Literal["done", "failed", "stopped"]

_ROOT = Path(__file__).resolve().parents[1]
_TOLD_TO_END = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_LOOK, _GRACE = 0.2, 15.0  # seconds between two looks at a run; that an interrupted one may take to end


@final
@dataclass(frozen=True)
class Player:
    """How a job becomes a run: `extra` overrides (data, engine), the folder of the `runs`, the moment to stop at.

    `deadline` is of `time.monotonic`, None for no limit; `stop` ends what runs and lets nothing begin.
    """

    runs: Path
    extra: tuple[str, ...] = ()
    deadline: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def folder(self, job: Job) -> Path:
        """Where the job's run lies."""
        return self.runs / job.name

    def is_done(self, job: Job) -> bool:
        """Whether its run is finished. UserError where its folder holds a run of other overrides."""
        folder = self.folder(job)
        recorded = folder / OVERRIDES
        if recorded.exists():
            found, wanted = set(read_yaml(recorded) or ()), {*job.overrides, *self.extra}
            other = sorted(word for word in found ^ wanted if matters(word))
            if other:
                raise UserError(
                    f"{folder} holds a run of other settings ({', '.join(other)}): remove it, or give another --runs"
                )
        return read_run(folder, job.name).status == "done"

    def command(self, job: Job) -> list[str]:
        """What is run: train.py with the job's overrides, to go on where there is something to go on from."""
        folder = self.folder(job)
        own = [f"hydra.run.dir={folder}", *(["resume=true"] if has_checkpoint(folder) else [])]
        return [sys.executable, str(_ROOT / "train.py"), *job.overrides, *self.extra, *own]

    def run(self, job: Job, environment: dict[str, str]) -> tuple[Outcome, float]:
        """Plays one job; gives how it ended and its seconds. Its output goes to output.log in its folder."""
        began, folder = time.monotonic(), self.folder(job)
        if self._is_over():
            return "stopped", 0.0
        if in_use(folder):
            raise UserError(f"{folder}: another process is at work there; wait for it, or give another --runs")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                self.command(job), cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
            return self._outcome(process), time.monotonic() - began

    def _outcome(self, process: subprocess.Popen[bytes]) -> Outcome:
        while True:
            try:
                code = process.wait(_LOOK)
            except subprocess.TimeoutExpired:
                if not self._is_over():
                    continue
                _end(process)
                return "stopped"
            if code == 0:
                return "done"
            return "stopped" if code in _TOLD_TO_END else "failed"

    def _is_over(self) -> bool:
        return self.stop.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline)


def matters(override: str) -> bool:
    """Whether an override changes what a run's results are."""
    key = override.split("=")[0].lstrip("+~")
    return key == "seed" or not (is_neutral(key) or key == "dataset.path")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the run to stop and waits; what it did since its last checkpoint is done again when it goes on."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()  # SIGTERM: what a shell starts in the background is deaf to SIGINT
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def play(
    following: Callable[[], Job | None],
    player: Player,
    at_once: int,
    said: Callable[[Job, Outcome, float], None],
    begun: Callable[[], None] = lambda: None,
) -> int:
    """Plays what `following` gives, `at_once` side by side, each with its share of the cores and of the GPUs.

    `following` is asked where a place is free, again after each end: None where nothing can begin now. `said` hears of
    each that ended, with its seconds. One that failed does not stop the others; an error of this program or Ctrl-C ends
    all. Gives how many failed.
    """
    place, own = itertools.count(), threading.local()

    def settle() -> None:
        own.environment = _settle(next(place), at_once)

    failed, running = 0, dict[Future[tuple[Outcome, float]], Job]()
    with ThreadPoolExecutor(at_once, initializer=settle) as pool:
        try:
            while True:
                while len(running) < at_once and (job := following()) is not None:
                    running[pool.submit(lambda job: player.run(job, own.environment), job)] = job
                begun()
                if not running:
                    return failed
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome, seconds = future.result()
                    failed += outcome == "failed"
                    said(running.pop(future), outcome, seconds)
        except BaseException:
            player.stop.set()
            raise


def _settle(place: int, of: int) -> dict[str, str]:
    """Gives this thread, and so the runs it starts, its share of the cores; the environment that names its GPU."""
    if of == 1:
        return {}
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(os.getpid()))
        share = cores[place * len(cores) // of : (place + 1) * len(cores) // of] or [cores[place % len(cores)]]
        os.sched_setaffinity(threading.get_native_id(), share)
    import torch  # is not needed to play one run at a time

    return _gpu(place, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def _gpu(place: int, gpus: int, visible: str) -> dict[str, str]:
    """What names a place's GPU among the `gpus` that torch sees: of those that are `visible`, where that is set."""
    if gpus < 2:
        return {}
    names = [name.strip() for name in visible.split(",") if name.strip()] or [str(gpu) for gpu in range(gpus)]
    return {"CUDA_VISIBLE_DEVICES": names[place % gpus]}
