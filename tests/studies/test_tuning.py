"""A row chooses among its tries by validation alone; runs that wait for a choice are played after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pffdst.core.errors import UserError
from reproduce.__main__ import main
from reproduce.page import text
from reproduce.record import Entry, Record
from reproduce.study import Study, checked, jobs_of, load
from reproduce.tuning import jobs, picks

MakeEntry = Callable[..., Entry]
pytestmark = pytest.mark.usefixtures("warm_runs")
TUNING = """
tuning:
  tries: {slow: [lr=0.01], fast: [lr=0.2]}
  setting: [validation_share=0.2]
  seed: 7
"""


@pytest.fixture
def tuned_file(study_file: Path) -> Path:
    study_file.write_text(study_file.read_text() + TUNING)
    return study_file


@pytest.fixture
def tuned(tuned_file: Path) -> Study:
    return load(str(tuned_file))


Tried = Callable[..., Record]


@pytest.fixture
def tried(tuned: Study, make_entry: MakeEntry, tmp_path: Path) -> Tried:
    """A record of these tries, by name, with these validation accuracies."""

    def made(**on: str) -> Record:
        shares = {"fixed.slow": 0.3, "fixed.fast": 0.2, "moving.slow": 0.1, "moving.fast": 0.6}
        record = Record(tmp_path / "record")
        for job in jobs(tuned, record):
            if job.row in shares:
                one = make_entry(job.row, job.seed, [shares[job.row]], 10, evaluated_on=on.get("on", "validation"))
                record.entries[job.row, job.seed] = replace(one, overrides=job.overrides)
        return record

    return made


def test_every_row_has_the_same_tries_and_waits_for_them(tuned: Study, tmp_path: Path) -> None:
    found = jobs(tuned, Record(tmp_path))
    first = ["fixed.slow/7", "fixed.fast/7", "fixed/0", "moving.slow/7", "moving.fast/7", "moving/0"]
    assert [job.name for job in found] == [*first, "fixed/1", "moving/1"]
    assert [job.waits for job in found] == ["." not in job.row for job in found]
    assert all("validation_share=0.2" in job.overrides for job in found if "." in job.row)
    assert not any("validation_share" in word for job in found if "." not in job.row for word in job.overrides)
    checked(found)


def test_the_best_on_validation_is_taken_and_given_to_every_seed(tuned: Study, tried: Tried) -> None:
    record = tried()
    assert picks(tuned, record) == {"fixed": "slow", "moving": "fast"}
    given = {job.name: job.overrides for job in jobs(tuned, record) if "." not in job.row}
    assert all("lr=0.01" in given[f"fixed/{seed}"] and "lr=0.2" in given[f"moving/{seed}"] for seed in (0, 1))


def test_a_row_waits_until_all_its_tries_are_done(tuned: Study, tried: Tried) -> None:
    record = tried()
    del record.entries["moving.slow", 7]
    assert picks(tuned, record) == {"fixed": "slow"}
    assert [job.name for job in jobs(tuned, record) if job.waits] == ["moving/0", "moving/1"]


def test_a_row_without_tries_takes_the_choice_of_another(
    tuned_file: Path, make_entry: MakeEntry, tmp_path: Path
) -> None:
    whole = tuned_file.read_text()
    tuned_file.write_text(whole.replace("[method=pffdst]}", "[method=pffdst], tuned_as: fixed}"))
    study, record = load(str(tuned_file)), Record(tmp_path / "record")
    tries = ["fixed.slow/7", "fixed.fast/7"]
    assert [job.name for job in jobs(study, record)] == [*tries, "fixed/0", "moving/0", "fixed/1", "moving/1"]
    assert [job.name for job in jobs(study, record, rows=["moving"], seeds=[0])] == [*tries, "moving/0"]
    assert all(job.waits for job in jobs(study, record) if "." not in job.row)
    for job, share in zip(jobs(study, record)[:2], (0.3, 0.4), strict=True):
        one = make_entry(job.row, job.seed, [share], 10, evaluated_on="validation")
        record.entries[job.row, job.seed] = replace(one, overrides=job.overrides)
    given = {job.name: job for job in jobs(study, record)}
    assert "lr=0.2" in given["moving/0"].overrides
    assert "method=pffdst" in given["moving/0"].overrides
    assert not any(job.waits for job in given.values())
    assert "1 row has none of its own and takes the choice of another row" in text(study, "masks", record)
    for other in ("gone", "moving"):
        tuned_file.write_text(whole.replace("[method=pffdst]}", f"[method=pffdst], tuned_as: {other}}}"))
        with pytest.raises(UserError, match=f"moving: tuned_as: {other}: expected a row that has tries of its own"):
            load(str(tuned_file))


def test_the_tries_of_a_row_may_have_a_setting_of_their_own(tuned_file: Path, tried: Tried) -> None:
    whole = tuned_file.read_text()
    tuned_file.write_text(whole.replace("[method=pffdst]}", "[method=pffdst], tuning: [rounds=12]}"))
    study = load(str(tuned_file))
    given = {job.name: job.overrides for job in jobs_of(study)}
    assert [name for name, words in given.items() if "rounds=12" in words] == ["moving.slow/7", "moving.fast/7"]
    assert given["moving.slow/7"].index("rounds=12") > given["moving.slow/7"].index("rounds=8"), "the last one counts"
    checked(jobs_of(study))
    assert picks(study, tried()) == {"fixed": "slow"}, "tries with another setting are other tries"
    assert "The tries of PFFDST have `rounds=12`." in text(study, "masks", tried())
    tuned_file.write_text(whole.replace("[method=pffdst]}", "[method=pffdst], tuned_as: fixed, tuning: [rounds=12]}"))
    with pytest.raises(UserError, match="moving: tuning: expected a row that has tries of its own"):
        load(str(tuned_file))


def test_the_test_set_never_chooses(tuned: Study, tried: Tried, make_entry: MakeEntry) -> None:
    with pytest.raises(UserError, match="test set, which must not choose"):
        picks(tuned, tried(on="test"))
    # however the finished runs do on the test set, the choice stays
    record = tried()
    before = picks(tuned, record)
    for job in jobs(tuned, record):
        if not job.waits and "." not in job.row:
            share = 0.99 if job.row == "fixed" else 0.01
            record.entries[job.row, job.seed] = replace(
                make_entry(job.row, job.seed, [share], 10), overrides=job.overrides
            )
    assert picks(tuned, record) == before


def test_validation_accuracies_stand_in_a_table_of_their_own(tuned: Study, tried: Tried) -> None:
    page = text(tuned, "masks", tried())
    assert "## What each row chose" in page
    assert "| a fixed mask | 30.00 | 20.00 | slow |" in page
    assert "| PFFDST | 10.00 | 60.00 | fast |" in page
    assert page.count("60.00") == 1  # and nowhere among the results


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("setting: [validation_share=0.2]", "setting: []", "validation_share=0.1"),
        ("setting: [validation_share=0.2]", "setting: [validation_share=0]", "validation_share=0.1"),
        ("{slow: [lr=0.01], fast: [lr=0.2]}", "{slow: [lr=0.01]}", "two or more"),
        ("slow: [lr", "slow.er: [lr", "letters, digits and _ alone"),
    ],
)
def test_a_choice_that_could_look_at_the_test_set_is_refused(tuned_file: Path, old: str, new: str, said: str) -> None:
    tuned_file.write_text(tuned_file.read_text().replace(old, new))
    with pytest.raises(UserError, match=said):
        load(str(tuned_file))


def test_tries_are_played_before_the_rows_that_wait_for_them(
    tuned_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [str(tuned_file), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    one = ["--only", "moving", "--seeds", "0"]
    assert main([*command, *one, "--list"]) == 0
    assert "moving/0: waits for its tries" in capsys.readouterr().out
    assert main([*command, *one]) == 0
    said = [line.split()[1] for line in capsys.readouterr().out.splitlines() if ": done" in line]
    assert said == ["moving.slow/7:", "moving.fast/7:", "moving/0:"]
    record = Record.read(tmp_path / "results" / "masks")
    tries = {name: record.entries[f"moving.{name}", 7] for name in ("slow", "fast")}
    assert {entry.summary["evaluated_on"] for entry in tries.values()} == {"validation"}
    best = max(tries, key=lambda name: float(tries[name].summary["ema_acc_global"]))
    final = record.entries["moving", 0]
    assert final.summary["evaluated_on"] == "test"
    assert {"slow": "lr=0.01", "fast": "lr=0.2"}[best] in final.overrides
