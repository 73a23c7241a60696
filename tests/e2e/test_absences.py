"""With clients that are lost, late and asked for nothing: any number of workers or ranks, killed or not, one model."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.warm import Started

ROOT = Path(__file__).resolve().parents[2]
Train = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Started]
RUN = ["rounds=12", "clients=10", "cohort=4", "local_epochs=1", "readjust.schedule.interval=1", "eval_every=4"]
RUN += ["checkpoint_every=2", "logger=csv", "participation=proportional", "participation.extra=3"]
RUN += ["participation.dropout_before=0.1", "participation.dropout_after=0.2", "participation.deadline=2"]
RUN += ["time=links", "time.up=0.05", "time.flops=0.05", "time.link_spread=1.0", "time.device_spread=1.0"]


def told(folder: Path) -> tuple[object, ...]:
    """The model, the whole bill and the rows."""
    summary = json.loads((folder / "summary.json").read_text())
    bill = [summary[key] for key in ("bytes_up", "bytes_down", "flops", "lost", "late", "deployment_seconds")]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "round/seconds"} for row in csv.DictReader(file)]
    return summary["model_sha256"], bill, rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, train: Train) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = train(*RUN, "engine.workers=0", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    _, bill, rows = told(folder)
    assert all(figure > 0 for figure in bill), "some are lost and some are late"
    assert {row["round/deployment_seconds"] for row in rows} > {"2"}, "some rounds close before the deadline"
    return told(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, train: Train, alone: tuple[object, ...], workers: int
) -> None:
    done = train(*RUN, f"engine.workers={workers}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "run") == alone


def killed(folder: Path, start: Start) -> None:
    """A run that is killed once it has a checkpoint."""
    process = start(*RUN, "engine.workers=0", f"hydra.run.dir={folder}")
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_and_resumed_it_ends_the_same(
    tmp_path: Path, train: Train, start: Start, alone: tuple[object, ...]
) -> None:
    killed(tmp_path / "run", start)
    done = train(f"resume={tmp_path / 'run'}", "engine.workers=1")
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "run") == alone


def test_ranks_end_the_same_and_go_on_with_what_was_killed(
    tmp_path: Path, ranks: Train, start: Start, alone: tuple[object, ...]
) -> None:
    killed(tmp_path / "run", start)
    for overrides in ([*RUN, f"hydra.run.dir={tmp_path / 'ranks'}"], [f"resume={tmp_path / 'run'}"]):
        done = ranks(2, "engine.workers=0", *overrides)
        assert done.returncode == 0, done.stderr
    assert told(tmp_path / "ranks") == told(tmp_path / "run") == alone
