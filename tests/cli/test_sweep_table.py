"""The table of a sweep's jobs, in a terminal of 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from pffdst.cli.sweep_table import SweepTable, counts, table_of
from pffdst.runs.jobs import jobs_of, mark_skipped, result_folder


def job(folder: Path, status: str | None = "done", *, seed: int = 0, **summary: float) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    lines = ["lr=0.1", f"seed={seed}", "name=a b", "++momentum=0.123456789"]
    OmegaConf.save(OmegaConf.create(lines), folder / ".hydra" / "overrides.yaml")
    if status is not None:
        (folder / "run.json").write_text(json.dumps({"fingerprint": "f", "status": status}))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def shown(sweep: Path, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table_of(jobs_of(sweep), sweep))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    root = tmp_path / "sweeps"
    earlier = job(root / "before" / "7", ema_acc_global=0.6, last5_acc_global=0.5, bytes_up=1e6, bytes_down=2.5e6)
    job(root / "now" / "0", ema_acc_global=0.9, last5_acc_global=0.81234, bytes_up=500, bytes_down=499)
    mark_skipped(job(root / "now" / "1", None, seed=1), earlier)
    job(root / "now" / "2", "failed", seed=2)
    job(root / "now" / "10", "running", seed=3)
    (root / "now" / "notes").mkdir()
    return root / "now"


def test_every_job_has_its_number_both_accuracies_and_its_bytes(sweep: Path) -> None:
    rows = [line.replace("│", " ").split() for line in shown(sweep, width=120).splitlines() if "seed=" in line]
    assert rows == [
        ["0", "seed=0", "done", "90.00", "%", "81.23", "%", "999", "B"],
        ["1", "seed=1", "skipped:", "done", "before,", "in", "before/7", "60.00", "%", "50.00", "%", "3.50", "MB"],
        ["2", "seed=2", "failed", "-", "-", "-"],
        ["10", "seed=3", "stopped", "-", "-", "-"],
    ]
    jobs = jobs_of(sweep)
    assert counts(jobs) == "2 done, 1 failed, 1 stopped"
    assert jobs[1].folder == result_folder(sweep / "1") == sweep.parent / "before" / "7"


def test_eighty_columns_break_no_number(tmp_path: Path) -> None:
    sweep = tmp_path / "2026-11-27_03-15-07-734331"
    for seed in range(12):
        job(sweep / str(seed), seed=seed, ema_acc_global=0.9123, last5_acc_global=0.8, bytes_up=123e6, bytes_down=1e6)
    rows = [line.replace("│", " ").split() for line in shown(sweep).splitlines() if "seed=" in line]
    assert rows == [[str(i), f"seed={i}", "done", "91.23", "%", "80.00", "%", "124", "MB"] for i in range(12)]


def test_the_end_names_the_next_step(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}})
    with pytest.raises(SystemExit) as end:
        SweepTable().on_multirun_end(config)
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert "To run the rest (finished jobs are skipped):" in lines
    assert f"  python -m pffdst report {sweep} -o report.html" in lines


def test_jobs_that_never_began_are_missing_and_the_sweep_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = job(tmp_path / "x=" / "a", "failed")
    (folder / ".hydra" / "overrides.yaml").write_text("- ++model.dropout=0.1\n- seed=0\n")
    task = ["++model.dropout=0.1", "seed=0,1"]
    saved = {"hydra": {"sweeper": {"params": None}, "overrides": {"task": task}}}
    OmegaConf.save(OmegaConf.create(saved), tmp_path / "multirun.yaml")
    with pytest.raises(SystemExit):
        SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "1 failed, 1 missing" in capsys.readouterr().out
