from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from pffdst.core.errors import UserError
from pffdst.runs import jobs
from pffdst.runs.files import CHECKPOINTS, PREVIOUS
from pffdst.runs.jobs import (
    LOCK,
    Attempt,
    discard_unbegun,
    is_done,
    job_of,
    jobs_of,
    locked,
    mark,
    mark_failed,
    mark_found,
    mark_skipped,
    previous_attempt,
    read_run,
)


def job(
    folder: Path,
    fingerprint: str = "f",
    status: str | None = "done",
    checkpoint: str = "",
    age: int = 0,
    **summary: float,
) -> Path:
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    if status is not None:
        (folder / "run.json").write_text(json.dumps({"fingerprint": fingerprint, "status": status}))
    if summary or status == "done":
        (folder / "summary.json").write_text(json.dumps(summary or {"rounds": 4}))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        path = folder / "checkpoints" / checkpoint
        path.touch()
        os.utime(path, ns=(10**18 - age, 10**18 - age))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sweeps"


@pytest.fixture
def own(root: Path) -> Path:
    folder = root / "now" / "0"
    folder.mkdir(parents=True)
    return folder


def test_nothing_before(root: Path, own: Path) -> None:
    assert previous_attempt(root, "f", own) is None


def test_a_finished_attempt_is_found(root: Path, own: Path) -> None:
    job(root / "a" / "0", "other")
    job(root / "a" / "2", "f", "running", "last.ckpt")
    done = job(root / "a" / "1")
    assert previous_attempt(root, "f", own) == Attempt(done, True)


def test_an_attempt_that_has_lost_its_results_goes_on(root: Path, own: Path) -> None:
    lost = job(root / "a" / "0", checkpoint="last.ckpt")
    (lost / "summary.json").write_text('{"cut')
    assert not is_done(lost)
    assert previous_attempt(root, "f", own) == Attempt(lost, False)
    shown = job_of(lost)
    assert shown is not None
    assert (shown.done, shown.state) == (False, "stopped")


def test_an_unfinished_attempt_needs_a_checkpoint(root: Path, own: Path) -> None:
    job(root / "a" / "0", status="failed")
    assert previous_attempt(root, "f", own) is None
    begun = job(root / "a" / "1", status="running", checkpoint="last.ckpt", age=5)
    assert previous_attempt(root, "f", own) == Attempt(begun, False)
    newer = job(root / "b" / "0", status="failed", checkpoint="previous.ckpt", age=1)
    assert previous_attempt(root, "f", own) == Attempt(newer, False)


def test_an_attempt_at_work_is_left_alone(root: Path, own: Path) -> None:
    begun = job(root / "a" / "1", status="running", checkpoint="last.ckpt")
    with FileLock(begun / LOCK):
        assert previous_attempt(root, "f", own) is None
    assert previous_attempt(root, "f", own) == Attempt(begun, False)


def test_another_engine_is_another_job(root: Path, own: Path) -> None:
    mark(job(root / "a" / "0"), "f", "done", engine="fabric")
    assert previous_attempt(root, "f", own, "trainer") is None
    assert previous_attempt(root, "f", own, "fabric") == Attempt(root / "a" / "0", True)
    mark(root / "a" / "0", "f", "running", engine="fabric")
    mark_failed(root / "a" / "0", "f", "out of memory")
    assert read_run(root / "a" / "0")["engine"] == "fabric"


def test_whether_a_run_is_at_work_is_told_by_its_lock(root: Path) -> None:
    folder = job(root / "a" / "0", status="running", checkpoint="last.ckpt")
    states = []
    with locked(folder):
        states += [found.state for found in jobs_of(root / "a")]
        with pytest.raises(UserError, match="another process"), locked(folder):
            pass
    states += [found.state for found in jobs_of(root / "a")]
    assert states == ["running", "stopped"]
    assert job_of(root) is None


def test_a_failed_job_that_runs_again_is_running(root: Path) -> None:
    folder = job(root / "a" / "0", status="failed")
    with locked(folder):
        assert [found.state for found in jobs_of(root / "a")] == ["running"]


def test_jobs_of_the_grid_without_a_folder_are_missing(root: Path) -> None:
    folder = job(root / "a" / "1")
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=1\n- lr=0.1\n")
    jobs = jobs_of(root / "a", [("lr=0.1", f"seed={seed}") for seed in range(3)])
    assert [(found.number, found.state) for found in jobs] == [("0", "missing"), ("1", "done"), ("2", "missing")]
    assert [found.overrides for found in jobs] == [("seed=0",), ("seed=1",), ("seed=2",)]


def test_the_own_folder_and_its_sweep_count(tmp_path: Path, root: Path) -> None:
    own = job(tmp_path / "elsewhere" / "0", status="running", checkpoint="last.ckpt")
    with FileLock(own / LOCK):
        assert previous_attempt(root, "f", own) == Attempt(own, False)
    done = job(tmp_path / "elsewhere" / "1")
    assert previous_attempt(root, "f", own) == Attempt(done, True)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"fingerprint": "f"', "\0"])
def test_a_file_cut_short_is_no_attempt(root: Path, own: Path, text: str) -> None:
    broken = job(root / "a" / "0", status=None, checkpoint="last.ckpt")
    (broken / "run.json").write_text(text)
    assert previous_attempt(root, "f", own) is None


def test_marks(root: Path, own: Path) -> None:
    mark(own, "f", "running")
    mark_failed(own, "f", "out of memory")
    assert read_run(own) == {
        "fingerprint": "f",
        "status": "failed",
        "engine": "",
        "content": "",
        "error": "out of memory",
    }
    mark(own, "f", "done")
    mark_failed(own, "f", "too late")
    done = {"fingerprint": "f", "status": "done", "engine": "", "content": ""}
    assert read_run(own) == done | {"refused": "too late"}
    assert [path.name for path in own.iterdir()] == ["run.json"]


def test_jobs_lie_at_any_depth(root: Path) -> None:
    """Where the folder's name has a slash, as `lr=0.1,dataset.path=/x` has."""
    deep = job(root / "now" / "path=" / "x" / "a", last5_acc_global=0.5, ema_acc_global=0.6)
    (deep / ".hydra" / "hydra.yaml").write_text("hydra:\n  job:\n    name: train\n    num: 3\n")
    job(deep / "b", status="failed")
    job(root / "now" / "0" / "wandb" / "no-job")
    found = jobs_of(root / "now")
    assert [(one.number, one.state) for one in found] == [("3", "done"), ("b", "failed")]
    assert (found[0].last5, found[0].ema, found[0].own) == (0.5, 0.6, deep)


def test_a_job_at_any_depth_of_a_sweep_is_an_attempt(root: Path, own: Path) -> None:
    deep = job(root / "before" / "path=" / "x" / "a")
    assert previous_attempt(root, "f", own) is None, "this is no sweep's folder: it may be a home"
    (root / "before" / "multirun.yaml").touch()
    assert previous_attempt(root, "f", own) == Attempt(deep.resolve(), done=True)
    (root / "before" / "multirun.yaml").rename(root / "now" / "multirun.yaml")
    job(root / "now" / "b" / "c", status="running", checkpoint="last.ckpt")
    assert previous_attempt(root, "f", own) == Attempt((root / "now" / "b" / "c").resolve(), done=False)


def test_a_skipped_job_that_went_on_counts_when_it_is_done(root: Path) -> None:
    earlier = job(root / "before" / "0", status="running", checkpoint="last.ckpt")
    mark_skipped(job(root / "now" / "0", status=None), earlier)
    assert not jobs_of(root / "now")[0].done
    mark(earlier, "f", "done")
    (earlier / "summary.json").write_text('{"rounds": 4}')
    assert jobs_of(root / "now")[0].done


def test_one_job_keeps_its_overrides(root: Path) -> None:
    folder = job(root / "now" / "0")
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    assert jobs_of(root / "now")[0].overrides == ("seed=1",)
    assert jobs_of(root / "nowhere") == []


def test_an_attempt_on_other_data_is_no_attempt(root: Path, own: Path) -> None:
    earlier = root / "before" / "0"
    earlier.mkdir(parents=True)
    (earlier / "summary.json").write_text('{"rounds": 4}')
    mark(earlier, "f", "done", content="700 images")
    assert previous_attempt(root, "f", own, content=lambda: "1,400 images") is None
    for now in ("700 images", ""):  # the same, and data that cannot be read any more
        found = previous_attempt(root, "f", own, content=lambda now=now: now)
        assert found is not None
        assert found.folder == earlier.resolve()
    mark(earlier, "f", "done")
    assert previous_attempt(root, "f", own, content=lambda: "1,400 images") is not None


def test_the_lock_is_given_back_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FileLock] = []
    monkeypatch.setattr(jobs, "FileLock", lambda path: made.append(FileLock(path)) or made[-1])
    with jobs.locked(tmp_path):
        assert made[0].is_locked
    assert not made[0].is_locked


def test_a_checkpoint_that_is_renamed_while_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / CHECKPOINTS
    place.mkdir()
    (place / PREVIOUS).touch()
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # as the last one was a moment ago
    assert jobs.has_checkpoint(tmp_path)


def test_a_run_that_was_refused_leaves_no_folder(tmp_path: Path) -> None:
    for name in ("refused", "begun", "in use"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "train.log").touch()
    (tmp_path / "begun" / "run.json").write_text("{}")
    with FileLock(tmp_path / "in use" / LOCK):
        for name in ("refused", "begun", "in use", "never made"):
            discard_unbegun(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "in use"]


def test_a_job_that_was_refused_has_failed_and_the_run_in_its_folder_stays(tmp_path: Path) -> None:
    own = job(tmp_path / "0", last5_acc_global=0.5)
    mark_failed(own, "f", "other data")
    refused = job_of(own)
    assert refused is not None
    assert (refused.state, refused.done, refused.last5) == ("failed", False, None)
    assert read_run(own)["status"] == "done"
    mark_found(own)
    found = job_of(own)
    assert found is not None
    assert (found.state, found.last5) == ("done", 0.5)
