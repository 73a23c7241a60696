"""torchrun: any number of processes ends with the bytes of one, and the death of one stops all, to be gone on with."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
Train = Callable[..., subprocess.CompletedProcess[str]]
RUN = ["rounds=20", "clients=8", "cohort=6", "local_epochs=1", "readjust.interval=1", "eval_every=5"]
RUN += ["checkpoint_every=2", "logger=csv"]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    return kept | {"HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "PFFDST_RANK_TIMEOUT": "5"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def torchrun(ranks: int, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--nnodes=1"]
    command += [f"--master-port={free_port()}", str(ROOT / "train.py"), *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "round/seconds"} for row in csv.DictReader(file)]


def models(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "model_ema.safetensors")]


def stop_one(process: subprocess.Popen[str], folder: Path, rank: int, how: signal.Signals) -> float:
    """Signals a rank once there is a checkpoint; gives the time."""
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    found = psutil.Process(process.pid).children()
    victim = next(child for child in found if child.environ()["RANK"] == str(rank))
    victim.send_signal(how)
    return time.monotonic()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = train(*RUN, "engine.workers=2", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_three_ranks_end_with_the_bytes_of_one_process(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = torchrun(3, *RUN, f"hydra.run.dir={folder}")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out.count("files in") == 2  # at the start and under the table: one process speaks
    assert models(folder) == models(alone)
    assert rows(folder) == rows(alone)


@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [
        (1, signal.SIGKILL, r"rank 1 ("),
        (0, signal.SIGKILL, "rank 0, which owns the run, died: all ranks stop."),
        (1, signal.SIGSTOP, "has not been heard of for 5 s"),
    ],
    ids=["killed", "first-killed", "hangs"],
)
def test_a_lost_rank_stops_the_others_and_the_run_goes_on_later(
    alone: Path, tmp_path: Path, train: Train, rank: int, how: signal.Signals, message: str
) -> None:
    folder = tmp_path / "run"
    process = torchrun(2, *RUN, "rounds=20", f"hydra.run.dir={folder}")
    tree: list[Any] = []
    try:
        stop_one(process, folder, rank, how)
        tree = psutil.Process(process.pid).children(recursive=True)
        if how == signal.SIGSTOP:  # torchrun waits half a minute for a process that cannot hear it
            leader = next(child for child in tree if child.environ().get("RANK") == "0")
            assert leader.wait(timeout=20) == 1
            os.kill(next(c.pid for c in tree if c.environ().get("RANK") == "1"), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        for left in tree:
            if left.is_running():
                left.kill()
    assert process.returncode != 0
    assert err.count(message) == 1, err
    assert "resume=" in err
    assert 'train.py", line' not in err  # of ours, no traceback
    if how == signal.SIGKILL and rank == 1:
        done = train(f"resume={folder}")
        assert done.returncode == 0, done.stderr
        assert models(folder) == models(alone)
        assert rows(folder) == rows(alone)


def test_a_mistake_and_a_sweep_are_answered_once() -> None:
    process = torchrun(2, "-m", "seed=0,1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("-m does not go with torchrun") == 1
