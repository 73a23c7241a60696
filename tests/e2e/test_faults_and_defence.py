"""Faults and a defence at once: the same bytes with any number of workers and ranks, and killed and resumed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.test_resume import kill_after
from tests.warm import Started

Train = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Started]
RUN = ["rounds=24", "clients=8", "cohort=5", "local_epochs=1", "readjust.schedule.interval=1", "eval_every=6"]
RUN += ["faults=stale", "faults.what=update", "faults.share=0.25", "codec=int8"]
RUN += ["aggregation=trimmed_mean", "aggregation.trim=0.2", "aggregation.times_median=1", "aggregation.max_share=0.3"]
RUN += ["checkpoint_every=2", "logger=csv"]
SAME = ("model_sha256", "faults_sent", "faults_accepted", "defence_clipped", "defence_capped", "bytes_up", "acc_global")


def told(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "summary.json").read_text())
    return {name: found[name] for name in SAME}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, train: Train) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = train(*RUN, "engine.workers=0", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    found = told(folder)
    assert all(found[name] for name in SAME), "some fault was sent, and something was clipped"
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_with_any_number_of_workers(alone: dict[str, object], train: Train, tmp_path: Path, workers: int) -> None:
    done = train(*RUN, f"engine.workers={workers}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "run") == alone


def test_with_two_ranks(alone: dict[str, object], ranks: Train, tmp_path: Path) -> None:
    done = ranks(2, *RUN, "engine.workers=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "run") == alone


def test_killed_and_resumed(alone: dict[str, object], train: Train, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_after(start(*RUN, "engine.workers=0", f"hydra.run.dir={folder}"), folder, 9)
    done = train(f"resume={folder}", "engine.workers=2")
    assert done.returncode == 0, done.stderr
    assert told(folder) == alone
