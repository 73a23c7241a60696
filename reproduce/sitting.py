"""A sitting at a study: what is done is taken in, what is left is played, as far as the time goes."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from pffdst.core.words import counted, one_line
from pffdst.metrics.units import format_seconds
from pffdst.report.reading import read_run
from reproduce import tuning
from reproduce.play import LOG, Outcome, Player, play
from reproduce.record import Record
from reproduce.study import Job, Study, checked

__all__ = ["Sitting"]


@final
class Sitting:
    """A study, its record and how its runs are played, `at_once` of them side by side.

    `data` is the folder of the data's files, whose digests go into the record. Of the study's runs those of the `only`
    rows and `seeds`, where some are named.
    """

    def __init__(
        self,
        study: Study,
        record: Record,
        player: Player,
        data: Path,
        at_once: int = 1,
        only: tuple[Sequence[str], Sequence[int]] = ((), ()),
    ) -> None:
        self.study, self.record, self._player = study, record, player
        self._data, self._patterns = data, tuple(study.data)
        self._at_once, self._only = at_once, only

    @property
    def jobs(self) -> list[Job]:
        """The study's runs that were asked for, as far as their tries say how they are played."""
        return tuning.jobs(self.study, self.record, *self._only)

    @property
    def left(self) -> list[Job]:
        """Those that are not in the record."""
        return [job for job in self.jobs if not self.record.holds(job)]

    def take_in(self) -> None:
        """Keeps finished runs that are not in the record, of a sitting that was ended before it could."""
        before = -1
        while before != (before := len(self.record.entries)):  # tries that are taken in tell how their rows are played
            for job in self.left:
                if not job.waits and self._player.is_done(job):
                    self._keep(job, self.record, self._player)

    def play(self, write: Callable[[], None]) -> int:
        """Checks all that is left, then plays and keeps it, and writes the page after each; gives how many failed.

        The page, which takes a while, is written when the next run has begun.
        """
        new: list[Job] = []

        def kept(job: Job) -> None:
            self._keep(job, self.record, self._player)
            new.append(job)

        def written() -> None:
            if new:
                new.clear()
                write()

        checked(self.left, extra=self._player.extra)
        begun: set[str] = set()

        def following() -> Job | None:
            """The first that can begin: its tries may have ended since the last look."""
            job = next((job for job in self.left if not job.waits and job.name not in begun), None)
            if job is not None:
                begun.add(job.name)
            return job

        return self._play(following, self._player, kept, written)

    def again(self) -> int:
        """Plays runs of the record once more, apart from it; 1 if one failed or gave another model."""
        player = replace(self._player, runs=self._player.runs.with_name(f"{self._player.runs.name}_again"))
        anew, jobs = Record(player.runs), [job for job in self.jobs if self.record.holds(job)]
        if not jobs:
            print("nothing of that is on the page yet")
        known = {job.name: self.record.entries[job.row, job.seed] for job in jobs}
        then = [replace(job, overrides=(*job.overrides, *known[job.name].older)) for job in jobs]
        checked(then, extra=player.extra)
        following = functools.partial(next, iter(then), None)
        failed, other = self._play(following, player, lambda job: self._keep(job, anew, player)), 0
        for job in then:
            if (row := (job.row, job.seed)) in anew.entries:
                before, now = (str(one.summary["model_sha256"]) for one in (known[job.name], anew.entries[row]))
                other += before != now
                verdict = "the same model" if before == now else f"another model ({now[:12]})"
                print(f"{job.name}: {verdict}, {before[:12]} on the page")
        return 1 if failed or other else 0

    def told(self) -> list[str]:
        """A line per run that is left: its name, how far it is, and what it waits for."""
        return [self._told(job) for job in self.left]

    def _told(self, job: Job) -> str:
        if job.waits:
            return f"{job.name}: waits for its tries"
        folder = self._player.folder(job)
        run, log = read_run(folder, job.name), folder / LOG
        if run.rounds:
            return f"{job.name}: {run.status}, {counted(run.rounds, 'round')} done"
        broke = log.exists() and run.status not in ("running", "stopped")
        return f"{job.name}: failed (see {log}){_last_words(log)}" if broke else job.name

    def _play(
        self,
        following: Callable[[], Job | None],
        player: Player,
        keep: Callable[[Job], None],
        begun: Callable[[], None] = lambda: None,
    ) -> int:
        def said(job: Job, outcome: Outcome, seconds: float) -> None:
            if outcome == "done":
                keep(job)
            log = player.folder(job) / LOG
            where = f" (see {log}){_last_words(log)}" if outcome == "failed" else ""
            if seconds > 0:  # it was begun
                told = f"{job.name}: {outcome} after {format_seconds(seconds)}{where}"
                print(f"{time.strftime('%X')}  {told}", flush=True)

        return play(following, player, self._at_once, said, begun)

    def _keep(self, job: Job, record: Record, player: Player) -> None:
        record.keep(job, player.folder(job), _digests(self._data, self._patterns))


def _last_words(log: Path) -> str:
    """What a failed run said last, which is its error, after a colon; nothing if it said nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    said = [words for line in lines if (words := one_line(line, 200))]
    return f": {said[-1]}" if said else ""


@functools.cache
def _digests(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """sha256 of the data's files by name."""
    found = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
