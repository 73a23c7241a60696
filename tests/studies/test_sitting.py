"""A sitting that is over ends its run well, in a process of its own: signals are inherited as a shell gives them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pffdst.runs import checkpoint
from pffdst.runs.jobs import in_use
from reproduce import play
from reproduce.__main__ import main
from reproduce.record import Entry, Record
from reproduce.sitting import Sitting
from reproduce.study import Job, load
from tests.studies.test_tuning import TUNING
from tests.warm import WarmPython

MakeEntry = Callable[..., Entry]


@pytest.fixture
def command(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return [str(study_file), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [(0, "", None), (1, "", None), (2, "", ["0", "1", "0"]), (2, "4, 5", ["4", "5", "4"]), (2, "GPU-a,GPU-b", None)],
)
def test_runs_side_by_side_take_turns_on_the_gpus_that_may_be_used(
    gpus: int, visible: str, expected: list[str] | None
) -> None:
    named = [play._gpu(place, gpus, visible) for place in range(3)]
    if gpus < 2:
        assert named == [{}, {}, {}]
    else:
        assert [own["CUDA_VISIBLE_DEVICES"] for own in named] == (expected or ["GPU-a", "GPU-b", "GPU-a"])


def test_a_sitting_in_the_background_ends_its_run_well(
    command: list[str], study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_file.write_text(study_file.read_text().replace("rounds=8, eval_every=2", "rounds=400, eval_every=100"))
    folder = tmp_path / "runs" / "masks" / "moving" / "0"

    def over(_: play.Player) -> bool:
        rows = folder / "metrics.csv"
        return rows.exists() and len(rows.read_text().splitlines()) > 3

    monkeypatch.setattr(play.Player, "_is_over", over)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what follows `&`
    try:
        assert main([*command, "--only", "moving", "--seeds", "0", "--set", "checkpoint_every=1000"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert checkpoint.load(folder / "checkpoints" / "last.ckpt")["t"] >= 3  # saved as it ended, not by the thousand


def test_a_sitting_that_is_told_to_end_ends_its_run_well(
    command: list[str], study_file: Path, tmp_path: Path, warm: WarmPython
) -> None:
    study_file.write_text(study_file.read_text().replace("rounds=8, eval_every=2", "rounds=4000, eval_every=1000"))
    folder = tmp_path / "runs" / "masks" / "moving" / "0"
    sitting = warm.start("-m", "reproduce", *command, "--only", "moving", "--seeds", "0", cwd=play._ROOT)
    metrics, until = folder / "metrics.csv", time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3) and time.monotonic() < until:
        time.sleep(0.05)
    sitting.terminate()
    assert sitting.wait(30) == 130
    assert not in_use(folder)
    assert checkpoint.load(folder / "checkpoints" / "last.ckpt")["t"] >= 3


def test_no_place_stands_idle_while_a_run_could_begin(
    study_file: Path, tmp_path: Path, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_file.write_text(study_file.read_text() + TUNING)
    three, began = threading.Barrier(3, timeout=20), list[str]()

    def run(_: play.Player, job: Job, __: dict[str, str]) -> tuple[play.Outcome, float]:
        began.append(job.name)
        if len(began) <= 3:
            three.wait()  # comes to its end only where three run side by side
        return "done", 0.0

    def keep(record: Record, job: Job, *_: object) -> None:
        one = make_entry(job.row, job.seed, [0.5], 10, evaluated_on="validation" if "." in job.row else "test")
        record.entries[job.row, job.seed] = replace(one, overrides=job.overrides)

    monkeypatch.setattr(play.Player, "run", run)
    monkeypatch.setattr(Record, "keep", keep)
    sitting = Sitting(load(str(study_file)), Record(tmp_path / "record"), play.Player(tmp_path), tmp_path, at_once=3)
    assert sitting.play(lambda: None) == 0
    assert sorted(began[:3]) == ["fixed.fast/7", "fixed.slow/7", "moving.slow/7"]
    assert sorted(began[3:]) == ["fixed/0", "fixed/1", "moving.fast/7", "moving/0", "moving/1"]
    assert not sitting.left


def test_the_next_run_begins_before_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    jobs = iter([Job("a", 0, ()), Job("b", 0, ())])
    monkeypatch.setattr(play.Player, "run", lambda self, job, environment: ("done", 1.0))

    def following() -> Job | None:
        job = next(jobs, None)
        told.append(f"begin {job.row}" if job else "nothing left")
        return job

    def keep(job: Job, *_: object) -> None:
        told.append(f"keep {job.row}")

    play.play(following, play.Player(tmp_path), 1, keep, lambda: told.append("write"))
    assert told == ["begin a", "write", "keep a", "begin b", "write", "keep b", "nothing left", "write"]
