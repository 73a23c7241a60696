from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pffdst.cli.train import Interrupted, _how_to_resume, cli, job
from pffdst.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


class DataMissing(UserError):
    pass


@pytest.fixture
def run(
    configs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process with `launch` in place of the real one: exit code, stdout, stderr."""

    def call(launch: Callable[[DictConfig], float], *argv: str) -> tuple[int, str, str]:
        def task(cfg: DictConfig) -> float:
            return job(cfg, launch)

        monkeypatch.setattr(sys, "argv", ["train.py", *argv, *QUIET])
        code = cli(task, configs, pytest.fail)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_run(run: Any) -> None:
    seen: list[DictConfig] = []

    def launch(cfg: DictConfig) -> float:
        seen.append(cfg)
        return 0.5

    code, out, err = run(launch, "experiment=exp", "partition=equal", "sparsity=0.95")
    assert (code, err) == (0, "")
    assert out == "to view the report: python -m pffdst report logs/runs/exp -o report.html\n"
    [cfg] = seen
    assert (cfg.sparsity, cfg.rounds) == (0.95, 60)
    assert "alpha" not in cfg.partition
    assert Path("logs/runs/exp/.hydra/overrides.yaml").is_file()


def test_a_reader_that_went_ends_no_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        code, _, err = run(lambda cfg: print("round 1") or 0.5, "experiment=exp", "partition=equal")
    assert (code, err) == (0, "the output is no longer read: it is dropped and the run continues\n")


def test_a_bad_command_line_runs_nothing(run: Any) -> None:
    code, out, err = run(pytest.fail, "sparsity=2", "cohort=99")
    assert (code, out) == (2, "")
    assert err.startswith("2 problems in the configuration:\n  - sparsity=2.0: ")
    assert not Path("logs").exists()


def test_user_errors_have_no_traceback(run: Any) -> None:
    def launch(cfg: DictConfig) -> float:
        try:
            raise DataMissing("no file data/x: download it, or set paths.data")
        except DataMissing as error:
            raise RuntimeError("wrapped") from error

    assert run(launch) == (2, "", "no file data/x: download it, or set paths.data\n")


def test_bugs_have_one(run: Any) -> None:
    def launch(cfg: DictConfig) -> float:
        return 1 / 0

    code, _, err = run(launch)
    assert code == 1
    assert "Traceback" in err
    assert "ZeroDivisionError" in err


def test_broken_configuration_files(run: Any, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "bad.yaml").write_text("# @package _global_\nmethod_name: [")
    code, _, err = run(pytest.fail, "experiment=bad", "--config-dir", str(tmp_path))
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize("saved", [False, True])
def test_ctrl_c_says_how_to_go_on(run: Any, saved: bool) -> None:
    def launch(cfg: DictConfig) -> float:
        if saved:
            folder = Path(HydraConfig.get().runtime.output_dir) / "checkpoints"
            folder.mkdir()
            (folder / "last.ckpt").touch()
        raise KeyboardInterrupt

    code, _, err = run(launch, "hydra.run.dir='a b'")
    assert code == 130
    assert len(err.splitlines()) == 1
    assert (f"'resume={Path.cwd() / 'a b'}'" in err) == saved


def test_ctrl_c_survives_a_process_boundary() -> None:
    stop = pickle.loads(pickle.dumps(Interrupted(Path("x"), True)))
    assert (stop.folder, stop.sweep) == (Path("x"), True)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["-m", "seed=0,1", "hydra/launcher=joblib"],
            "Stopped. Finished jobs are kept and skipped when you run the same command",
        ),
        (["search=x", "-m"], "Stopped. Finished jobs are kept and skipped when you run the same command"),
        (["seed=1"], "Stopped before a run started."),
    ],
)
def test_what_a_signal_says_where_no_single_run_heard_it(
    argv: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between two jobs of a sweep, or its jobs are other processes."""
    monkeypatch.setattr("sys.argv", ["train.py", *argv])
    assert _how_to_resume(KeyboardInterrupt()).startswith(expected)


def test_one_failed_job_does_not_stop_a_sweep(run: Any) -> None:
    seeds = []

    def launch(cfg: DictConfig) -> float:
        seeds.append(cfg.seed)
        if cfg.seed == 1:
            raise RuntimeError("out of memory")
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / "run.json").write_text(json.dumps({"fingerprint": "f", "status": "done"}))
        (folder / "summary.json").write_text('{"rounds": 4}')
        assert HydraConfig.get().mode == RunMode.MULTIRUN
        return 0.5

    code, out, _ = run(launch, "-m", "seed=0,1,2")
    assert code == 1
    assert seeds == [0, 1, 2]
    assert "2 done, 1 failed" in out
    assert "train.py seed=0,1,2" in out
    failed = json.loads(Path("logs/sweeps/only/1/run.json").read_text())
    assert failed["status"] == "failed"
    assert "not enough memory (out of memory): use fewer engine.workers" in failed["error"]
    assert run(pytest.fail, "-m", "seed=0,1,-1")[0] == 2, "a job that cannot run is told before the first begins"


def test_a_sweep_without_failures(run: Any) -> None:
    def launch(cfg: DictConfig) -> float:
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / "run.json").write_text('{"fingerprint": "f", "status": "done"}')
        (folder / "summary.json").write_text('{"rounds": 4}')
        return math.nan

    code, out, _ = run(launch, "-m", "sweep=good")
    assert code == 0
    assert "2 done" in out
    assert "report logs/sweeps/only -o report.html" in out.replace(str(Path.cwd()) + "/", "")


def test_the_jobs_of_a_sweep_do_not_share_an_id_of_wandbs(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def launch(cfg: DictConfig) -> float:
        seen.append(os.environ.get("WANDB_RUN_ID"))
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / "run.json").write_text('{"fingerprint": "f", "status": "done"}')
        (folder / "summary.json").write_text('{"rounds": 4}')
        return 0.5

    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")
    code, _, err = run(launch, "-m", "seed=0,1")
    assert (code, seen) == (0, [None, None])
    assert err.count("WANDB_RUN_ID=abc12345 names a single run") == 1
    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")
    assert run(launch, "seed=0")[0] == 0
    assert seen[-1] == "abc12345", "a single run keeps it: an agent of W&B gives it"


def test_failed_jobs_in_folders_below_folders_are_counted(run: Any) -> None:
    def launch(cfg: DictConfig) -> float:
        raise DataMissing(f"{cfg.dataset.path}: no images")

    subdir = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    code, out, _ = run(launch, "-m", "dataset=own", "dataset.path=/x/a,/x/b", subdir)
    assert code == 1
    assert "2 failed" in out


def python(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_importing_train_is_cheap_and_silent(tmp_path: Path) -> None:
    heavy = "{'torch', 'hydra', 'lightning'}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import train; print(sorted({heavy} & set(sys.modules)))"
    done = python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_help_teaches_from_any_folder(tmp_path: Path) -> None:
    done = python(str(ROOT / "train.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("method: ", "fedavg", "sparsity", "python train.py -m", "resume=", "readjust: client_gradient"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bad_command_line_of_the_real_thing(tmp_path: Path) -> None:
    done = python(str(ROOT / "train.py"), "sparsity=1.2", "model=lenet", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "2 problems in the configuration:",
        "  - sparsity=1.2: expected 0 <= sparsity < 1; write e.g. sparsity=0.95",
        "  - model=lenet needs images of at least 13x13, but dataset=digits has 8x8: use model=cnn or model=resnet18",
    ]
    assert list(tmp_path.iterdir()) == []
