"""torchrun: the death of a process stops all, and any number of them ends with the bytes of one."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
Train = Callable[..., subprocess.CompletedProcess[str]]
RUN = ["rounds=12", "clients=8", "cohort=6", "local_epochs=1", "readjust.schedule.interval=1", "eval_every=3"]
RUN += ["checkpoint_every=2", "logger=csv"]


def torchrun(ranks: int, *overrides: str) -> subprocess.Popen[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    command += [str(ROOT / "train.py"), *overrides]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    environment = kept | {"HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "round/seconds"} for row in csv.DictReader(file)]


def models(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "model_ema.safetensors")]


def kill_one(process: subprocess.Popen[str], folder: Path, rank: int) -> None:
    """kill -9 of a rank once there is a checkpoint."""
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    next(c for c in psutil.Process(process.pid).children() if c.environ()["RANK"] == str(rank)).kill()


def test_a_killed_rank_stops_all_and_another_number_of_ranks_ends_with_the_bytes_of_one(
    tmp_path: Path, train: Train
) -> None:
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    process = torchrun(3, *RUN, f"hydra.run.dir={shared}")
    kill_one(process, shared, 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("all ranks stop.") == 1, err
    assert f"To resume from the last checkpoint, with any number of ranks: torchrun --nproc-per-node=N {ROOT}" in err
    assert f"resume={shared}" in err
    assert 'train.py", line' not in err

    process = torchrun(2, f"resume={shared}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count(f"in {shared}") == 2  # at the start and under the table: one process speaks
    assert train(*RUN, "engine.workers=2", f"hydra.run.dir={alone}").returncode == 0
    assert models(shared) == models(alone)
    assert rows(shared) == rows(alone)
