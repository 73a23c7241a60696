"""What is kept of runs comes back as it was; what is damaged is refused, never lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pffdst.core.errors import UserError
from reproduce.record import Entry, Record
from reproduce.study import Study, jobs_of

MakeEntry = Callable[..., Entry]


def test_a_record_is_read_as_it_was_written(study: Study, make_entry: MakeEntry, tmp_path: Path) -> None:
    runs = [make_entry("fixed", seed, [0.1, 1 / 3, 0.4], 10**12 + seed) for seed in (0, 1)]
    written = Record(tmp_path / "kept", {(run.row, run.seed): run for run in runs})
    written.write()
    assert Record.read(tmp_path / "kept").entries == written.entries
    first = [path.read_bytes() for path in sorted(written.folder.iterdir())]
    Record.read(tmp_path / "kept").write()
    assert [path.read_bytes() for path in sorted(written.folder.iterdir())] == first


def test_a_run_of_other_overrides_is_another_run(study: Study, make_entry: MakeEntry, tmp_path: Path) -> None:
    job = next(job for job in jobs_of(study) if job.row == "fixed")
    run = replace(make_entry("fixed", job.seed, [0.1], 1), overrides=job.overrides)
    record = Record(tmp_path, {(job.row, job.seed): run})
    assert record.holds(job)
    assert not record.holds(replace(job, overrides=(*job.overrides, "lr=0.5")))


def test_a_page_shows_what_fits_the_study_and_the_record_keeps_the_rest(
    study: Study, make_entry: MakeEntry, tmp_path: Path
) -> None:
    job = next(job for job in jobs_of(study) if job.row == "fixed")
    run = replace(make_entry("fixed", job.seed, [0.1], 1), overrides=job.overrides)
    gone = make_entry("a row of then", 0, [0.1], 1)
    record = Record(tmp_path, {(own.row, own.seed): own for own in (run, gone)})
    record.write()
    assert list(record.fitting([job]).entries.values()) == [run]
    assert record.strays([job]) == [gone]
    changed, waiting = replace(job, overrides=("lr=0.5",)), replace(job, overrides=("lr=0.5",), waits=True)
    assert record.strays([changed]) == [run, gone]
    assert record.strays([waiting]) == [gone], "its tries may yet choose what it was played with"
    assert len(Record.read(tmp_path).entries) == 2
    later = replace(job, seed=job.seed + 1)
    record.entries[later.row, later.seed] = replace(run, seed=later.seed)
    assert list(record.fitting([later, job]).entries) == [(job.row, job.seed), (later.row, later.seed)]
    record.forget(record.strays([job]))
    assert list(Record.read(tmp_path).entries) == [("fixed", job.seed)]


@pytest.mark.parametrize("damage", ["evaluations.csv", "runs.json"])
def test_a_damaged_record_is_refused(make_entry: MakeEntry, tmp_path: Path, damage: str) -> None:
    record = Record(tmp_path / "kept", {("fixed", 0): make_entry("fixed", 0, [0.1], 1)})
    record.write()
    path = tmp_path / "kept" / damage
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(UserError, match="restore"):
        Record.read(tmp_path / "kept")
