"""A run that is killed at any instant and resumed ends with the bytes of one that was never stopped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pffdst.models.saved import SavedModel
from tests.warm import Started

Train = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Started]
RUN = [
    "rounds=40",
    "clients=8",
    "cohort=4",
    "readjust.schedule.interval=2",
    "eval_every=4",
    "logger=csv",
    "engine.workers=2",
]
CLOCKS = {"round/seconds"}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def rounds_done(folder: Path) -> int:
    path = folder / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def kill_after(process: Started, folder: Path, rounds: int) -> list[psutil.Process]:
    """kill -9 once so many rounds are in the file; gives the worker processes that were there."""
    deadline = time.monotonic() + 120
    while rounds_done(folder) < rounds and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return workers


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = train(*RUN, "checkpoint_every=3", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_killed_in_both_stages_and_resumed_it_is_the_same_run(
    uninterrupted: Path, tmp_path: Path, train: Train, start: Start
) -> None:
    folder = tmp_path / "killed"
    here = f"hydra.run.dir={folder}"
    for number, (stop_at, extra) in enumerate([(7, []), (27, ["resume=true"])]):
        workers = kill_after(start(*RUN, "checkpoint_every=3", here, *extra), folder, stop_at)
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == [], "worker processes outlived a killed run"
        assert json.loads((folder / "run.json").read_text())["status"] == "running", number
    done = train(f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    assert (folder / "model_ema.safetensors").read_bytes() == (uninterrupted / "model_ema.safetensors").read_bytes()
    assert rows(folder) == rows(uninterrupted)
    mine, theirs = (json.loads((f / "summary.json").read_text()) for f in (folder, uninterrupted))
    clocks = {"wall_s", "peak_rss_mb", "folder"}
    assert {k: v for k, v in mine.items() if k not in clocks} == {k: v for k, v in theirs.items() if k not in clocks}


def test_a_finished_run_gets_more_rounds(uninterrupted: Path, tmp_path: Path, train: Train) -> None:
    """It is then the run that was begun with so many, and says what else to write where that takes more."""
    folder, longer = tmp_path / "lengthened", ["rounds=50", "freeze.at=0.4", "readjust.schedule.rounds=5"]
    shutil.copytree(uninterrupted, folder)
    refused = train(f"resume={folder}", *longer[:1])
    assert refused.returncode == 2
    assert "stages would have started in round 1, 26, not 1, 21: write freeze.at=0.4" in refused.stderr
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    went_on = train(f"resume={folder}", *longer)
    assert went_on.returncode == 0, went_on.stderr
    whole = tmp_path / "whole"
    assert train(*RUN, *longer, "checkpoint_every=3", f"hydra.run.dir={whole}").returncode == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert rows(folder) == rows(whole)
    assert [json.loads((f / "run.json").read_text())["fingerprint"] for f in (folder, whole)] == 2 * [
        json.loads((whole / "summary.json").read_text())["fingerprint"]
    ]


def test_a_finished_run_is_not_run_again(uninterrupted: Path, train: Train) -> None:
    before = (uninterrupted / "metrics.csv").stat().st_mtime_ns
    again = train(f"resume={uninterrupted}")
    assert again.returncode == 0, again.stderr
    assert "server average" in again.stdout
    assert (uninterrupted / "metrics.csv").stat().st_mtime_ns == before


def test_results_that_are_gone_are_made_anew_from_the_last_checkpoint(
    uninterrupted: Path, tmp_path: Path, train: Train
) -> None:
    folder = tmp_path / "moved, too"
    shutil.copytree(uninterrupted, folder)
    (folder / "summary.json").unlink()
    again = train(f"resume={folder}")
    assert again.returncode == 0, again.stderr
    mine, theirs = (json.loads((f / "summary.json").read_text()) for f in (folder, uninterrupted))
    assert mine | {"folder": ""} == theirs | {"folder": "", "peak_rss_mb": mine["peak_rss_mb"]}
    shutil.move(folder, tmp_path / "moved again")
    assert f"files in {tmp_path / 'moved again'}" in train(f"resume={tmp_path / 'moved again'}").stdout
    for name in ("summary.json", "checkpoints/last.ckpt", "checkpoints/previous.ckpt"):
        (tmp_path / "moved again" / name).unlink()
    lost = train(f"resume={tmp_path / 'moved again'}")
    assert lost.returncode == 2
    assert "its summary.json and checkpoints are gone: run it again" in lost.stderr


def test_a_folder_that_holds_a_run_is_not_overwritten(uninterrupted: Path, train: Train) -> None:
    again = train(*RUN, f"hydra.run.dir={uninterrupted}")
    assert again.returncode == 2
    assert "contains a run" in again.stderr


def test_another_configuration_does_not_resume(uninterrupted: Path, train: Train) -> None:
    again = train(f"resume={uninterrupted}", "lr=0.5")
    assert again.returncode == 2
    assert "lr: saved 0.1, now 0.5" in again.stderr


def test_a_truncated_checkpoint_is_one_clear_message(uninterrupted: Path, tmp_path: Path, train: Train) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted, folder)
    known = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(known | {"status": "running"}))
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    refused = train(f"resume={last}")
    assert refused.returncode == 2
    assert "truncated" in refused.stderr
    assert "previous.ckpt" in refused.stderr
    assert "Traceback" not in refused.stderr
    went_on = train(f"resume={folder}")
    assert went_on.returncode == 0, went_on.stderr
    assert (folder / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


def test_the_final_model_has_its_masks_and_the_digest_of_the_summary(uninterrupted: Path) -> None:
    saved = SavedModel.read(uninterrupted / "model.safetensors")
    alive = 0
    for name, mask in saved.alive.items():
        assert (saved.tensors[name][~mask] == 0).all()
        assert not (saved.frozen[name] & ~mask).any()
        alive += int(mask.sum())
    assert saved.digest() == json.loads((uninterrupted / "summary.json").read_text())["model_sha256"]
    assert alive == json.loads((uninterrupted / "summary.json").read_text())["alive"]
