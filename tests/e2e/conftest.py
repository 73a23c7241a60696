"""Runs train.py as a user does: another process, a command line, files afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.warm import Started, WarmPython

ROOT = Path(__file__).resolve().parents[2]
TINY = ["rounds=12", "clients=8", "cohort=4", "readjust.schedule.interval=1", "eval_every=3", "checkpoint_every=1"]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    # no login may be found, and a thread more than the two cores have only makes tests slow
    return kept | {"HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def train(warm: WarmPython) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`train(*overrides)` runs train.py to its end; standard input is closed, so that a prompt would fail."""

    def run(*overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return warm(str(ROOT / "train.py"), *overrides, cwd=cwd, env=environment())

    return run


@pytest.fixture(scope="session")
def start(warm: WarmPython) -> Callable[..., Started]:
    """`start(*overrides)` starts train.py and returns at once."""

    def run(*overrides: str) -> Started:
        return warm.start(str(ROOT / "train.py"), *overrides, env=environment())

    return run


@pytest.fixture(scope="session")
def ranks(warm: WarmPython) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`ranks(size, *overrides)` runs train.py to its end in so many processes, as torchrun starts them."""

    def run(size: int, *overrides: str) -> subprocess.CompletedProcess[str]:
        return warm.ranks(size, str(ROOT / "train.py"), *overrides, env=environment())

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
