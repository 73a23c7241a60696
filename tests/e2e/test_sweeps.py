"""A sweep: every job in its own folder, one failure stops nothing, what is done is not done again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

Train = Callable[..., subprocess.CompletedProcess[str]]
JOB = ["experiment=debug", "rounds=4"]
SWEEP = ["-m", *JOB, "sparsity=0.5,0.8", "method=pffdst,feddst", "seed=0,1"]


def statuses(sweep: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["status"] for path in sorted(sweep.glob("*/run.json"))}


def test_one_failed_job_of_eight_is_the_only_one_that_runs_again(train: Train, tmp_path: Path) -> None:
    first, second = tmp_path / "sweeps" / "first", tmp_path / "sweeps" / "second"
    (first / "5").mkdir(parents=True)
    with FileLock(first / "5" / "run.lock"):  # another process has the folder
        failed = train(*SWEEP, f"hydra.sweep.dir={first}")
    assert failed.returncode == 1
    assert "7 done, 1 running" in failed.stdout, "somebody else is at work on it"
    assert statuses(first) == {str(i): "failed" if i == 5 else "done" for i in range(8)}

    again = train(*SWEEP, f"hydra.sweep.dir={second}")
    assert again.returncode == 0, again.stderr
    assert statuses(second) == {"5": "done"}
    skipped = {path.parent.name: json.loads(path.read_text())["folder"] for path in second.glob("*/skipped.json")}
    assert skipped == {str(i): str(first / str(i)) for i in range(8) if i != 5}


def test_a_sweep_in_the_folder_of_another_changes_nothing_there(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "one"
    assert train("-m", *JOB, "seed=0,1", f"hydra.sweep.dir={folder}").returncode == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused = train("-m", *JOB, "seed=1,2", f"hydra.sweep.dir={folder}")
    assert refused.returncode != 0
    told = " ".join((refused.stdout + refused.stderr).split())
    assert "0 contains another run than job 0 (experiment=debug rounds=4 seed=1) and 1 more: choose" in told
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    more = train("-m", *JOB, "seed=0,1,2", f"hydra.sweep.dir={folder}")
    assert more.returncode == 0, more.stderr
    assert statuses(folder) == {"0": "done", "1": "done", "2": "done"}
    for number in (0, 1):
        assert (folder / str(number) / "summary.json").read_bytes() == before[folder / str(number) / "summary.json"]


def test_the_joblib_launcher_runs_jobs_side_by_side(train: Train, tmp_path: Path) -> None:
    sweep = tmp_path / "sweeps" / "parallel"
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "engine.workers=1"]
    done = train("-m", *JOB, *parallel, "seed=0,1", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    assert statuses(sweep) == {"0": "done", "1": "done"}
    models = {json.loads((sweep / i / "summary.json").read_text())["model_sha256"] for i in "01"}
    assert len(models) == 2


def test_wandb_groups_a_sweep_with_one_run_a_job(train: Train, tmp_path: Path, offline_run: object) -> None:
    sweep = tmp_path / "sweeps" / "grouped"
    done = train("-m", *JOB, "logger=wandb", "seed=0,1", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    runs = [
        record.run
        for folder in ("0", "1")
        for record in offline_run.read_records(sweep / folder)  # type: ignore[attr-defined]
        if record.WhichOneof("record_type") == "run"
    ]
    assert {run.run_group for run in runs} == {"grouped"}
    assert len({run.run_id for run in runs}) == 2
