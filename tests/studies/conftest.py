"""A study of two methods on digits, and records of runs that were never played."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from pffdst.metrics import names
from reproduce import play
from reproduce.record import Entry
from reproduce.study import Study, load
from tests.warm import Started, WarmPython

TEXT = """
title: Two masks on digits
about: A tiny study.
setting: [experiment=debug, rounds=8, eval_every=2, logger=csv]
rehearsal: [rounds=4]
data: []
rows:
  fixed: {label: a fixed mask, overrides: [method=random_mask]}
  moving: {label: PFFDST, overrides: [method=pffdst]}
sections:
  - {title: Both, about: Side by side., reference: fixed, rows: [fixed, moving], seeds: [0, 1]}
"""


@pytest.fixture(scope="module")
def warm_runs(warm: WarmPython) -> Iterator[None]:
    """The runs of a study without the cost of their starts."""

    def begun(command: Sequence[str], cwd: Path, stdout: IO[bytes], stderr: int, env: Mapping[str, str]) -> Started:
        log = Path(str(stdout.name))
        return warm.start(*command[1:], cwd=cwd, env=env, out=log, err=log)

    own = SimpleNamespace(Popen=begun, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(play, "subprocess", own)
        yield


@pytest.fixture(scope="session")
def study_text() -> str:
    return TEXT


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "masks.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def study(study_file: Path) -> Study:
    return load(str(study_file))


def entry(row: str, seed: int, shares: Sequence[float], step: int, **summary: Any) -> Entry:
    """A run whose server average was `shares`, each after `step` more bytes; paper_bytes are half as many more."""
    evaluations = tuple(
        {
            names.ROUND: t,
            names.EMA_ACC_GLOBAL: y,
            names.ACC_GLOBAL: y,
            names.COST_BYTES: t * step,
            names.COST_PAPER_BYTES: t * step * 3 // 2,
            names.COST_FROZEN_BYTES: 0,
            names.COST_FLOPS: t * 1000,
        }
        for t, y in enumerate(shares, start=1)
    )
    ends = {"ema_acc_global": shares[-1], "last5_acc_global": sum(shares[-5:]) / len(shares[-5:])}
    total = len(shares) * step
    costs = {"bytes_up": total // 2, "bytes_down": total - total // 2, "paper_bytes": total * 3 // 2}
    rest = {"frozen_bytes": 0, "flops": len(shares) * 1000, "wall_s": 61.0, "model_sha256": f"{seed:064x}"}
    made = [{"git": "0" * 40, "machine": {"cores": 2}, "versions": {"torch": "2.9"}}]
    config = {"method_name": row, "engine": "FabricEngine", "sparse_init": "auto", "server_ema_warm_up": True}
    overrides = ("experiment=debug", "rounds=8", "eval_every=2", "logger=csv", f"method={row}", f"seed={seed}")
    return Entry(row, seed, overrides, config, ends | costs | rest | summary, made, evaluations)


MakeEntry = Callable[..., Entry]


@pytest.fixture(scope="session")
def make_entry() -> MakeEntry:
    return entry
