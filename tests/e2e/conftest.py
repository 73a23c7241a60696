"""Runs train.py as a user does: another process, a command line, files afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ["rounds=12", "clients=8", "cohort=4", "readjust.schedule.interval=1", "eval_every=3", "checkpoint_every=1"]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    # no login may be found, and a thread more than the two cores have only makes tests slow
    return kept | {"HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def train() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`train(*overrides)` runs train.py to its end; standard input is closed, so that a prompt would fail."""

    def run(*overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *overrides]
        return subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
        )

    return run


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """`start(*overrides)` starts train.py and returns at once."""

    def run(*overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "train.py"), *overrides]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )

    return run


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def offline_run() -> ModuleType:
    """The reader of W&B's offline files, shared with the loggers' tests."""
    path = ROOT / "tests" / "loggers" / "offline_run.py"
    spec = importlib.util.spec_from_file_location("offline_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
