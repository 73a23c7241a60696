"""What `python -m pffdst status` tells of folders as they lie."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from rich.console import Console

from pffdst.cli.status import main
from pffdst.runs.files import HYDRA_SETTINGS, LOCK, RUN, SUMMARY
from pffdst.search.trials import OBJECTIVES, Trials


def run(folder: Path, status: str, *overrides: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    (folder / RUN).write_text(json.dumps({"fingerprint": "f", "status": status}))
    if status == "done":
        (folder / SUMMARY).write_text('{"rounds": 4}')
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweeps" / "x"
    for number, status in enumerate(("done", "running", "running", "failed")):
        run(folder / str(number), status, "rounds=4", f"seed={number}")
    task = ["rounds=4", "seed=0,1,2,3,4"]
    OmegaConf.save(OmegaConf.create({"hydra": {"sweeper": {}, "overrides": {"task": task}}}), folder / "multirun.yaml")
    return folder


def told(*folders: Path, width: int = 150) -> tuple[int, str]:
    console = Console(width=width)
    with console.capture() as capture:
        code = main([str(folder) for folder in folders], console)
    return code, capture.get()


def test_a_sweep_with_every_kind_of_job(sweep: Path) -> None:
    with FileLock(sweep / "1" / LOCK):
        code, text = told(sweep)
        assert code == 0
        assert "1 done, 1 running, 1 failed, 1 stopped, 1 missing" in text
        assert "in progress here" in text
        assert "to go" not in text
    code, text = told(sweep)
    assert "1 done, 1 failed, 2 stopped, 1 missing" in text
    assert f"train.py -m rounds=4 seed=0,1,2,3,4 hydra.sweep.dir={sweep}" in " ".join(text.split())


def test_the_rest_of_a_sweep_is_done_where_and_as_its_jobs_were(sweep: Path) -> None:
    saved = OmegaConf.load(sweep / "multirun.yaml")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    given = ["hydra.sweep.subdir=a/${hydra.job.num}", *launcher, "hydra.searchpath=[/x]", "hydra.mode=MULTIRUN"]
    saved.hydra.overrides.hydra = given
    OmegaConf.save(saved, sweep / "multirun.yaml")
    text = " ".join(told(sweep)[1].split())
    assert f"'hydra.sweep.subdir=a/${{hydra.job.num}}' {' '.join(launcher)} hydra.sweep.dir={sweep}" in text
    assert "searchpath" not in text, "a folder may come from anybody"
    saved.hydra.overrides.hydra = ["hydra/launcher=mine", "hydra.launcher.n_jobs={_target_: os.abort}"]
    OmegaConf.save(saved, sweep / "multirun.yaml")
    assert "launcher" not in told(sweep)[1]


@pytest.mark.parametrize("name", ["a,b", "a b", "é, x=1"])
def test_the_rest_of_a_sweep_can_be_typed_whatever_its_folder_is_called(tmp_path: Path, sweep: Path, name: str) -> None:
    folder = sweep.rename(tmp_path / name)
    words = shlex.split(told(folder, width=1000)[1].partition("To run the rest: ")[2])
    override = OverridesParser.create().parse_override(next(w for w in words if w.startswith("hydra.sweep.dir=")))
    assert str(override.value()) == str(folder)


def test_own_configurations_are_told_beside_the_command(sweep: Path) -> None:
    sources = [
        {"provider": "main", "path": "x", "schema": "pkg"},
        {"provider": "command-line", "path": "/own", "schema": "file"},
    ]
    told_of = OmegaConf.create({"hydra": {"runtime": {"config_sources": sources}}})
    for job in range(4):
        OmegaConf.save(told_of, sweep / str(job) / HYDRA_SETTINGS)
    for folder in (sweep, sweep / "1"):
        text = " ".join(told(folder)[1].split())
        assert text.endswith("# its command line had more than settings; add what you trust of: --config-dir /own")


def test_a_run_that_was_killed_is_not_running(tmp_path: Path) -> None:
    folder = run(tmp_path / "runs" / "day" / "time", "running", "seed=1")
    with FileLock(folder / LOCK):
        assert "running" in told(folder)[1]
    code, text = told(folder)
    assert (code, "running" in text, "stopped" in text) == (0, False, True)
    assert f"resume={folder}" in text.replace("\n", "")


def test_a_search(tmp_path: Path) -> None:
    folder = tmp_path / "searches" / "x"
    folder.mkdir(parents=True)
    study = Trials.open(folder, {OBJECTIVES: {"cost/bytes": "minimize"}})
    study.note_request(["search=x", "lr=0.1"], wanted=3)
    proposal = study.propose({"momentum": FloatDistribution(0, 0.9)}, lambda number: RandomSampler(seed=number))
    run(folder / "0", "done", f"momentum={proposal.values['momentum']}")
    study.succeeded(0, {"cost/bytes": 2e6})
    text = told(folder)[1]
    for words in ("1 done; 2 to go", "2.00 MB", "train.py search=x lr=0.1", "Best trial"):
        assert words in text, words
    own = {"provider": "command-line", "path": "/own", "schema": "file"}
    OmegaConf.save(OmegaConf.create({"hydra": {"runtime": {"config_sources": [own]}}}), folder / "0" / HYDRA_SETTINGS)
    assert "add what you trust of: --config-dir /own" in " ".join(told(folder)[1].split())


def test_everything_in_a_folder_in_a_line_each(sweep: Path, tmp_path: Path) -> None:
    run(tmp_path / "runs" / "day" / "time", "done")
    text = told(tmp_path)[1]
    assert "sweeps/x" in text
    assert "runs/day/time" in text
    assert "sweeps/x/0" not in text, "a sweep's jobs are left to it"


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(tmp_path) == (2, "")
    assert "no run, sweep or search" in capsys.readouterr().err


HOSTILE = [
    "+hydra.callbacks={x: {_target_: joblib.load, filename: /tmp/x}}",
    "hydra/launcher=joblib",
    "seed=${oc.env:HOME}",
    "model._target_=joblib.load",
    "+model.more={a: {'_target_': joblib.load}}",
    "--config-dir=/tmp/x",
    "-m",
    "@x=1",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_no_command_that_is_told_holds_more_than_settings(sweep: Path, line: str) -> None:
    task = ["rounds=4", line, "seed=0,1,2,3,4"]
    OmegaConf.save({"hydra": {"sweeper": {}, "overrides": {"task": task}}}, sweep / "multirun.yaml")
    text = " ".join(told(sweep)[1].split())
    command, apart, more = text.partition("To run the rest: ")[2].partition(" # ")
    assert command == f"python train.py -m rounds=4 seed=0,1,2,3,4 hydra.sweep.dir={sweep}"
    assert apart
    assert more.endswith(line)


def test_values_that_cannot_be_counted_are_no_grid(sweep: Path) -> None:
    task = ["rounds=4", "seed=range(0,3,0)"]
    OmegaConf.save(OmegaConf.create({"hydra": {"sweeper": {}, "overrides": {"task": task}}}), sweep / "multirun.yaml")
    assert told(sweep)[0] == 0


def test_a_search_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "search.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    assert told(tmp_path)[0] == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{tmp_path}/search.db: it contains no readable search: ")
    assert error.count("\n") == 1


def test_a_search_that_is_a_link_is_not_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.db").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/search.db").symlink_to(tmp_path / "own.db")
    assert told(tmp_path / "x")[0] == 2
    assert "it is a link" in capsys.readouterr().err
    assert (tmp_path / "own.db").read_bytes() == b""
