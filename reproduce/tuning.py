"""Which try each row of a study takes: by its record, on validation samples, never on the test set."""

from __future__ import annotations

from collections.abc import Sequence

from pffdst.core.errors import UserError
from reproduce.figures import JUDGED, percent
from reproduce.record import Entry, Record
from reproduce.study import Job, Study, jobs_of

__all__ = ["choices", "jobs", "picks"]


def picks(study: Study, record: Record) -> dict[str, str]:
    """The best try by row, of the rows all of whose tries are done, their own or others'; of equal ones the first."""
    found = {}
    for row, tried in _tried(study, record).items():
        if study.tuning is not None and len(tried) == len(study.tuning.tries):
            found[row] = max(tried, key=lambda name: validated(tried[name]))
    return found | {name: found[row.tuned_as] for name, row in study.rows.items() if row.tuned_as in found}


def validated(entry: Entry) -> float:
    """What a try is judged by: the final server average on validation samples. UserError where it saw the test set."""
    if entry.summary.get("evaluated_on") != "validation":
        raise UserError(f"{entry.row}: this try was scored on the test set, which must not choose anything: remove it")
    return float(entry.summary[JUDGED])


def jobs(study: Study, record: Record, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Job]:
    """The study's runs, those whose tries are done with the best of them."""
    return jobs_of(study, rows, seeds, picks(study, record))


def choices(study: Study, record: Record) -> list[list[str]]:
    """A line per row with a try done: the validation accuracy of each, and the one chosen."""
    if study.tuning is None:
        return []
    chosen = picks(study, record)
    lines = [
        [study.rows[row].label, *(_shown(tried.get(name)) for name in study.tuning.tries), chosen.get(row, "")]
        for row, tried in _tried(study, record).items()
        if tried
    ]
    return [["run", *study.tuning.tries, "chosen"], *lines] if lines else []


def _shown(entry: Entry | None) -> str:
    return "" if entry is None else percent(validated(entry))


def _tried(study: Study, record: Record) -> dict[str, dict[str, Entry]]:
    """The tries that are done, by row and name, in the order of the file."""
    found: dict[str, dict[str, Entry]] = {row: {} for row in study.rows}
    for job in jobs_of(study):
        row, _, name = job.row.partition(".")
        if name and record.holds(job):
            found[row][name] = record.entries[job.row, job.seed]
    return found
