"""Plays a study and writes its page: `python -m reproduce lenet_cifar10`."""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from pffdst.core.errors import UserError
from pffdst.metrics.units import format_seconds
from reproduce import page
from reproduce.play import Outcome, Player, play
from reproduce.record import Record
from reproduce.study import Job, Study, checked, jobs_of, load, names

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m reproduce",
        description=f"Plays a study and writes docs/results/STUDY.md. Studies: {', '.join(names())}.",
        epilog="Stopped at any moment and started again, it goes on where it was.",
    )
    made.add_argument("study", metavar="STUDY", help="its name, or a YAML file of your own")
    made.add_argument("--data", type=Path, metavar="FOLDER", help="where the dataset lies (default: as configured)")
    made.add_argument("--runs", type=Path, default=_ROOT / "logs" / "reproduce", metavar="FOLDER", help="of the runs")
    made.add_argument("--results", type=Path, default=_ROOT / "docs" / "results", metavar="FOLDER", help="of the pages")
    made.add_argument("--only", default="", metavar="ROW,ROW", help="only these rows")
    made.add_argument("--seeds", default="", metavar="N,N", help="only these seeds")
    made.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs side by side, the cores divided among them"
    )
    made.add_argument("--minutes", type=float, metavar="M", help="stop after so long; what runs goes on next time")
    made.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="how runs are computed, such as engine=batched"
    )
    made.add_argument("--again", action="store_true", help="play what is on the page already, and compare the models")
    made.add_argument("--rehearse", action="store_true", help="every run tiny, the page beside the runs")
    made.add_argument("--list", action="store_true", help="say what is done and what is left, play nothing")
    made.add_argument("--write-only", action="store_true", help="write the page from what is kept, play nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; the exit code: 0, 1 where a run failed, 2 for an error, 130 after Ctrl-C."""
    given = parser().parse_args(arguments)
    try:
        return _main(given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _main(given: argparse.Namespace) -> int:
    study = load(given.study)
    name = Path(given.study).stem
    if given.data is not None and not given.data.is_dir():
        raise UserError(f"--data {given.data}: there is no such folder")
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    jobs = jobs_of(study, _words(given.only), [_number(word) for word in _words(given.seeds)])
    runs = (given.runs / ("rehearsal" if given.rehearse else "") / name).resolve()
    results = runs.parent if given.rehearse else given.results
    record, path = Record.read(results / name), results / f"{name}.md"
    sitting = _Sitting(study, given, runs, record)
    if given.again:
        return sitting.again([job for job in jobs if record.holds(job)])
    sitting.take_in(jobs)
    left = [job for job in jobs if not record.holds(job)]
    print(f"{name}: {len(jobs) - len(left)} of {len(jobs)} runs done")
    if given.list:
        print("\n".join(f"  {job.name}" for job in left) or "  nothing is left")
        return 0

    def write() -> None:
        record.only(jobs_of(study))
        page.write(study, name, record, path)

    failed = 0 if given.write_only else sitting.play(left, write)
    write()
    print(f"written: {path}")
    return 1 if failed else 0


@final
class _Sitting:
    """What the command line chose, for playing: folders, data, and the record that finished runs go into."""

    def __init__(self, study: Study, given: argparse.Namespace, runs: Path, record: Record) -> None:
        self._record, self._at_once = record, given.jobs
        self._data = given.data or _ROOT / "data"
        self._patterns = tuple(study.data)
        own = [f"dataset.path={given.data.resolve()}"] if given.data is not None and not given.rehearse else []
        engine = [] if any(word.startswith("engine=") for word in given.set) else study.engine
        extra = (*engine, *given.set, *(study.rehearsal if given.rehearse else ()), *own)
        deadline = None if given.minutes is None else time.monotonic() + 60 * given.minutes
        self._player = Player(runs, extra, deadline)

    def take_in(self, jobs: Sequence[Job]) -> None:
        """Keeps finished runs that are not in the record, of a sitting that was ended before it could."""
        for job in jobs:
            if not self._record.holds(job) and self._player.is_done(job):
                self._keep(job, self._record, self._player)

    def play(self, jobs: Sequence[Job], write: Callable[[], None]) -> int:
        """Checks all jobs, then plays and keeps them, and writes the page after each; gives how many failed."""

        def kept(job: Job) -> None:
            self._keep(job, self._record, self._player)
            write()

        return self._play(jobs, self._player, kept)

    def again(self, jobs: Sequence[Job]) -> int:
        """Plays runs of the record once more, apart from it; 1 if one failed or gave another model."""
        player = replace(self._player, runs=self._player.runs.with_name(f"{self._player.runs.name}_again"))
        anew = Record(player.runs)
        failed, other = self._play(jobs, player, lambda job: self._keep(job, anew, player)), 0
        for job in jobs:
            if (row := (job.row, job.seed)) in anew.entries:
                before, now = (str(each.entries[row].summary["model_sha256"]) for each in (self._record, anew))
                other += before != now
                verdict = "the same model" if before == now else f"another model ({now[:12]})"
                print(f"{job.name}: {verdict}, {before[:12]} on the page")
        return 1 if failed or other else 0

    def _play(self, jobs: Sequence[Job], player: Player, keep: Callable[[Job], None]) -> int:
        def said(job: Job, outcome: Outcome, seconds: float) -> None:
            if outcome == "done":
                keep(job)
            where = f" (see {player.folder(job) / 'output.log'})" if outcome == "failed" else ""
            if seconds > 0:  # it was begun
                told = f"{job.name}: {outcome} after {format_seconds(seconds)}{where}"
                print(f"{time.strftime('%X')}  {told}", flush=True)

        checked(jobs, extra=player.extra)
        return list(play(jobs, player, self._at_once, said).values()).count("failed")

    def _keep(self, job: Job, record: Record, player: Player) -> None:
        record.keep(job, player.folder(job), _digests(self._data, self._patterns))


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _number(word: str) -> int:
    if not word.isdigit():
        raise UserError(f"--seeds {word}: expected whole numbers; write e.g. --seeds 0,1,2")
    return int(word)


@functools.cache
def _digests(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """sha256 of the data's files by name."""
    found = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


if __name__ == "__main__":
    sys.exit(main())
