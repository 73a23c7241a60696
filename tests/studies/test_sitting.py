"""A sitting that is over ends its run well, in a process of its own: signals are inherited as a shell gives them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pffdst.runs import checkpoint
from reproduce import play
from reproduce.__main__ import main


@pytest.fixture
def command(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return [str(study_file), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]


def test_a_sitting_in_the_background_ends_its_run_well(
    command: list[str], study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_file.write_text(study_file.read_text().replace("rounds=8, eval_every=2", "rounds=400, eval_every=100"))
    folder = tmp_path / "runs" / "masks" / "moving" / "0"

    def over(_: play.Player) -> bool:
        rows = folder / "metrics.csv"
        return rows.exists() and len(rows.read_text().splitlines()) > 3

    monkeypatch.setattr(play.Player, "_is_over", over)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what follows `&`
    try:
        assert main([*command, "--only", "moving", "--seeds", "0", "--set", "checkpoint_every=1000"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert checkpoint.load(folder / "checkpoints" / "last.ckpt")["t"] >= 3  # saved as it ended, not by the thousand
