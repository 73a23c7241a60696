"""What needs no W&B, Optuna or plotly runs where they are not installed; what needs them says so."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.warm import WarmPython

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("wandb", "wandb_workspaces", "optuna", "sqlalchemy", "plotly")
# Found by every Python process that is started, workers and the runs of a study too.
HOOK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
STUDY = """
title: A mask on digits
about: A tiny study.
setting: [experiment=debug, rounds=4, logger=csv]
rehearsal: [rounds=4]
data: []
rows:
  moving: {label: PFFDST, overrides: [method=pffdst]}
sections:
  - {title: One, about: Alone., reference: moving, rows: [moving], seeds: [0]}
"""
SMALL = ["rounds=4", "readjust.schedule.interval=1", "clients=5", "cohort=3"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """A process that never saw the packages."""
    home = tmp_path_factory.mktemp("home")
    (home / "hook").mkdir()
    (home / "hook" / "sitecustomize.py").write_text(textwrap.dedent(HOOK))
    path = os.pathsep.join([str(home / "hook"), str(ROOT / "src"), str(ROOT)])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA"))}
    made = WarmPython(kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(home)})
    yield made
    made.close()


@pytest.fixture
def run(python: WarmPython, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def started(*command: str) -> subprocess.CompletedProcess[str]:
        return python(*command, cwd=tmp_path)

    return started


def test_the_packages_are_out_of_reach(run, tmp_path: Path) -> None:
    for name in BLOCKED:
        (tmp_path / "asks.py").write_text(f"import {name}")
        assert f"No module named '{name}'" in run("asks.py").stderr


def test_a_run_its_status_its_figures_and_its_model(run, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "one"
    done = run(str(ROOT / "train.py"), "logger=csv", "experiment=debug", "rounds=4", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert run("-m", "pffdst", "status", str(folder)).returncode == 0
    assert "on the test set of digits" in run("-m", "pffdst", "evaluate", str(folder)).stdout
    assert run("-m", "pffdst", "export", str(folder), "--to", "plain").returncode == 0


def test_a_sweep_and_its_status(run, tmp_path: Path) -> None:
    sweep = tmp_path / "logs" / "sweeps" / "now"
    line = ["-m", "logger=csv", "experiment=debug", "rounds=4", "seed=0,1", f"hydra.sweep.dir={sweep}"]
    done = run(str(ROOT / "train.py"), *line)
    assert done.returncode == 0, done.stderr
    assert "2 done" in run("-m", "pffdst", "status", str(sweep)).stdout


def test_a_study(run, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    done = run("-m", "reproduce", str(tmp_path / "tiny.yaml"), *places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done after" in done.stdout


def test_the_default_logger_is_passed_over_with_one_warning(run, tmp_path: Path) -> None:
    done = run(str(ROOT / "train.py"), *SMALL, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("the run continues without it") == 1


@pytest.mark.parametrize(
    ("command", "package"),
    [
        (("train.py", "search=digits_lr"), "optuna"),
        (("-m", "pffdst", "report", "logs", "-o", "page.html"), "plotly"),
        (("-m", "pffdst", "dashboard", "me/mine"), "wandb"),
    ],
)
def test_what_needs_one_says_what_to_install(run, tmp_path: Path, command: tuple[str, ...], package: str) -> None:
    (tmp_path / "logs" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "logs" / "runs" / "a" / "run.json").write_text('{"status": "running"}')
    done = run(*(str(ROOT / word) if word == "train.py" else word for word in command))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install {package}" in done.stderr
    assert "Traceback" not in done.stderr
