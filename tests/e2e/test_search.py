"""A search is killed at any instant and goes on: nothing that is done is done again, nothing is proposed anew."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pffdst.search.trials import Trial, Trials
from tests.warm import Started

Train = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Started]
SEARCH = ["search=accuracy_and_bytes", "experiment=debug", "codec=int8", "rounds=10", "search.trials=3", "eval_every=5"]


def rows(folder: Path) -> int:
    path = folder / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def trials(folder: Path) -> list[Trial]:
    study = Trials.load(folder)
    assert study is not None
    return study.all()


def test_killed_in_a_trial_it_goes_on_as_if_never_stopped(train: Train, start: Start, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed" / "search"
    done = train(*SEARCH, f"search.folder={whole}")
    assert done.returncode == 0, done.stderr
    process = start(*SEARCH, f"search.folder={killed}")
    deadline = time.monotonic() + 120
    while rows(killed / "1") < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, "the search ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [trial.status for trial in trials(killed)] == ["done", "running"]
    before = (killed / "0" / "metrics.csv").stat().st_mtime_ns

    again = train(*SEARCH, f"search.folder={killed}")
    assert again.returncode == 0, again.stderr
    assert "trial 1 was stopped and will be resumed" in again.stdout
    assert "resuming after round" in again.stdout
    assert "Pareto front" in again.stdout
    assert (killed / "0" / "metrics.csv").stat().st_mtime_ns == before
    assert trials(killed) == trials(whole)
    assert len({str(trial.values) for trial in trials(whole)}) == 3, "every trial draws anew"
    for i in range(3):
        mine, theirs = (folder / str(i) / "model.safetensors" for folder in (killed, whole))
        assert mine.read_bytes() == theirs.read_bytes()

    third = train(*SEARCH, f"search.folder={killed}")
    assert "3 of 3 trials done, 0 failed" in third.stdout
    assert "trial 0:" not in third.stdout


def test_failures_in_a_row_end_it_with_the_reason(train: Train, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("train", "test"):
        (images / f"{name}.parquet").write_text("this is no parquet file")
    own = ["dataset=parquet", f"dataset.path={images}", f"search.folder={tmp_path / 'search'}"]
    failed = train("search=digits_lr", "experiment=debug", *own)
    assert failed.returncode == 1, failed.stderr
    assert "The search stopped after 3 failures in a row" in failed.stdout
    assert "parquet" in trials(tmp_path / "search")[0].error
