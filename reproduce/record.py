"""What is kept of a study's runs: small enough for git, enough to write every figure and to skip what is done."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from pffdst.core.errors import UserError
from pffdst.core.words import typed
from pffdst.metrics import names
from pffdst.metrics.names import Row as Metrics
from pffdst.report.reading import EVALUATED_ON, Run, read_run
from pffdst.runs.files import PROVENANCE, FileProblem, read_json, write_whole
from reproduce.study import Job

__all__ = ["COLUMNS", "FILES", "Entry", "Record"]

# Of metrics.csv, what the page is made of; rounds that were not evaluated are left out.
COLUMNS = (
    names.ROUND,
    *names.ACCURACIES,
    *(names.last5_of(name) for name in names.ACCURACIES),
    names.COST_BYTES,
    names.COST_PAPER_BYTES,
    names.COST_FROZEN_BYTES,
    names.COST_FLOPS,
    names.COST_SECONDS,
)
FILES = _RUNS, _EVALUATIONS = "runs.json", "evaluations.csv"
# Settings whose default has changed since there are records, and what it was; a record without the key is of then.
_DEFAULTS_THEN = {"sparse_init": False, "server_ema_warm_up": False}
# What is no setting: it tells of folders, or is in the summary; of the summary, the provenance and the configuration.
_PLACES = {"folder", "fingerprint", "command", "paths", "logger", "dataset.path", "dataset.cache", EVALUATED_ON}


@final
@dataclass(frozen=True)
class Entry:
    """A finished run: its job, resolved configuration, summary, what it was made with, and its evaluations."""

    row: str
    seed: int
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    provenance: Sequence[Mapping[str, Any]]
    evaluations: tuple[Metrics, ...] = ()

    @property
    def older(self) -> tuple[str, ...]:
        """What the run had without naming it, where the default is another one now: overrides that give it today."""
        named = {word.split("=")[0] for word in self.overrides}
        return tuple(
            f"{key}={typed(then)}"
            for key, then in _DEFAULTS_THEN.items()
            if key not in named and self.config.get(key, then) == then
        )

    @property
    def run(self) -> Run:
        """As the report's figures take it."""
        name = f"{self.row}/{self.seed}"
        on = self.summary.get("evaluated_on", "test")
        config = dict(self.config) | {"seed": self.seed, EVALUATED_ON: on}
        return Run(name, Path(name), "done", config=config, summary=self.summary, rows=self.evaluations)


@final
@dataclass
class Record:
    """The finished runs by row and seed, kept in `folder` as runs.json and evaluations.csv."""

    folder: Path
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """What is kept in `folder`; an empty one where nothing is. UserError for files that cannot be read."""
        if not (folder / _RUNS).exists():
            return cls(folder)
        try:
            rows = _evaluations((folder / _EVALUATIONS).read_text(encoding="utf-8"))
            told = read_json(folder / _RUNS)
            entries = [_entry(one, rows) for one in told]
        except (OSError, ValueError, KeyError, TypeError, FileProblem) as error:
            raise UserError(
                f"{folder} holds a record that cannot be read ({error}): restore its {_RUNS} and {_EVALUATIONS} from "
                "git, or remove both to play the runs again"
            ) from error
        return cls(folder, {(entry.row, entry.seed): entry for entry in entries})

    def holds(self, job: Job) -> bool:
        """Whether the job's run is in the record, with these very overrides."""
        entry = self.entries.get((job.row, job.seed))
        return entry is not None and entry.overrides == job.overrides and not job.waits

    def of(self, row: str) -> list[Entry]:
        """The finished runs of a row, in order of the seeds."""
        return [entry for (own, _), entry in sorted(self.entries.items()) if own == row]

    def keep(self, job: Job, folder: Path, data: Mapping[str, str]) -> None:
        """Takes in the finished run in `folder` and writes the record. `data`: sha256 of the data's files by name."""
        run = read_run(folder, job.name)
        summary = {key: value for key, value in run.summary.items() if key not in _PLACES}
        rows = tuple({c: row[c] for c in COLUMNS if c in row} for row in run.rows if names.ACC_GLOBAL in row)
        sittings = read_json(folder / PROVENANCE)
        made = [{k: v for k, v in one.items() if k not in _PLACES} | {"data": dict(data)} for one in sittings]
        config = {key: v for key, v in run.config.items() if not {key, key.split(".")[0]} & _PLACES}
        self.entries[job.row, job.seed] = Entry(job.row, job.seed, job.overrides, config, summary, made, rows)
        self.write()

    def fitting(self, jobs: Iterable[Job]) -> Record:
        """What is of these jobs, with their overrides: what a page shows. The record itself keeps all it has."""
        held = {(job.row, job.seed) for job in jobs if self.holds(job)}
        return Record(self.folder, {key: self.entries[key] for key in sorted(held)})  # as it is read

    def strays(self, jobs: Iterable[Job]) -> list[Entry]:
        """What is of none of these jobs any more, or has other overrides; not what waits for its tries."""
        wanted = {(job.row, job.seed): job for job in jobs}
        kept = {key for key, job in wanted.items() if job.waits or self.holds(job)}
        return [entry for key, entry in self.entries.items() if key not in kept]

    def forget(self, entries: Iterable[Entry]) -> None:
        """Drops these, on disk too."""
        gone = {(entry.row, entry.seed) for entry in entries}
        self.entries = {key: entry for key, entry in self.entries.items() if key not in gone}
        self.write()

    def write(self) -> None:
        """Writes both files, runs in order of row and seed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = [self.entries[key] for key in sorted(self.entries)]
        write_whole(self.folder / _EVALUATIONS, _table(entries).encode())
        told = [
            {
                "row": e.row,
                "seed": e.seed,
                "overrides": list(e.overrides),
                "config": dict(e.config),
                "summary": dict(e.summary),
                "provenance": list(e.provenance),
            }
            for e in entries
        ]
        write_whole(self.folder / _RUNS, (json.dumps(told, indent=1) + "\n").encode())


def _entry(told: Mapping[str, Any], rows: Mapping[tuple[str, int], list[Metrics]]) -> Entry:
    row, seed = str(told["row"]), int(told["seed"])
    made = _in_todays_words(told["config"]), told["summary"], told["provenance"]
    return Entry(row, seed, tuple(told["overrides"]), *made, tuple(rows[row, seed]))


_RENAMED = {"participation.stateless": "clients_keep", "readjust.interval": "readjust.schedule.interval"}


def _in_todays_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by the names they have now: server momentum became an option of `server_optimizer`."""
    found = {_RENAMED.get(key, key): value for key, value in config.items() if key not in _PLACES}
    if "participation.stateless" in config:
        found["clients_keep"] = not config["participation.stateless"]
    if found.get("aggregation") == "ServerMomentum":
        found |= {"aggregation": "MaskedMean", "server_optimizer": "Momentum"}
        found["server_optimizer.beta"] = found.pop("aggregation.beta")
    return found


def _table(entries: Sequence[Entry]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "seed", *COLUMNS])
    for entry in entries:
        for metrics in entry.evaluations:
            writer.writerow([entry.row, entry.seed, *(metrics.get(name, "") for name in COLUMNS)])
    return stream.getvalue()


def _evaluations(text: str) -> dict[tuple[str, int], list[Metrics]]:
    found: dict[tuple[str, int], list[Metrics]] = {}
    for line in csv.DictReader(io.StringIO(text)):
        row: Metrics = {c: _number(line[c]) for c in COLUMNS if line.get(c, "") != ""}
        found.setdefault((line["row"], int(line["seed"])), []).append(row)
    return found


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
