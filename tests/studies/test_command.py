"""A study played from the command line: stopped, taken up again, played once more, refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.__main__ import main
from reproduce.record import Entry, Record

pytestmark = pytest.mark.usefixtures("warm_runs")


@pytest.fixture
def command(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return [str(study_file), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]


def test_a_study_is_played_kept_and_written(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks.md").write_text("Of {n moving} and {n fixed} runs: {average moving} against {average fixed}.")

    # no time at all: nothing begins, the page says so
    assert main([*command, "--minutes", "0"]) == 0
    assert "**0 of 4 runs are done.**" in (tmp_path / "results" / "masks.md").read_text()
    assert list((tmp_path / "runs").glob("*/*/*/run.json")) == []

    # two side by side, seed 0 alone
    assert main([*command, "--seeds", "0", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "masks: 0 of 2 runs done" in said
    assert "fixed/0: done after" in said
    assert "moving/0: done after" in said
    page = (tmp_path / "results" / "masks.md").read_text()
    assert "**2 of 4 runs are done.** Still to come: fixed (seed 1); moving (seed 1)." in page
    record = Record.read(tmp_path / "results" / "masks")
    summaries = {row: e.summary for (row, _), e in record.entries.items()}
    assert f"Of 1 and 1 runs: {100 * summaries['moving']['ema_acc_global']:.2f} against" in page
    assert all(e.provenance[0]["git"] for e in record.entries.values())
    assert str(tmp_path) not in (tmp_path / "results" / "masks" / "runs.json").read_text()  # no folders of this machine
    assert len(list((tmp_path / "results" / "masks").glob("*.png"))) == 4

    # what is done is not played again, not even where the runs are gone
    shutil.rmtree(tmp_path / "runs")
    assert main([*command, "--seeds", "0"]) == 0
    assert not (tmp_path / "runs").exists()
    assert main([*command, "--list"]) == 0
    assert "2 of 4 runs done\n  fixed/1\n  moving/1\n" in capsys.readouterr().out

    # once more, apart: the same model; a page that says another one is found out
    assert main([*command, "--again", "--only", "moving", "--seeds", "0"]) == 0
    assert "moving/0: the same model" in capsys.readouterr().out
    file = tmp_path / "results" / "masks" / "runs.json"
    told = json.loads(file.read_text())
    for one in told:
        one["summary"]["model_sha256"] = "0" * 64
    file.write_text(json.dumps(told))
    assert main([*command, "--again", "--only", "moving", "--seeds", "0"]) == 1
    assert "another model" in capsys.readouterr().out


def test_runs_of_other_settings_are_not_taken(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hydra = tmp_path / "runs" / "masks" / "fixed" / "0" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text("- experiment=debug\n- lr=0.7\n- dataset.path=/elsewhere\n")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "holds a run of other settings" in said
    assert "lr=0.7" in said
    assert "elsewhere" not in said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--data", "/nowhere"], "no such folder"),
        (["--jobs", "0"], "at least 1"),
        (["--seeds", "a"], "--seeds 0,1,2"),
        (["--seeds", "²"], "--seeds 0,1,2"),
        (["--seeds", "0,99"], "seed 99: not in the study; there are 0, 1"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--minutes", "-5"], "--minutes -5"),
        (["--set", "engine.workers=0", "lr=0.5"], "--set lr=0.5: only what changes no result"),
        (["--set", "method=fedavg", "seed=3"], "--set method=fedavg seed=3"),
        (["--set", "engine"], "--set engine"),
        (["--only", "nothing"], "there are fixed, moving"),
    ],
)
def test_wrong_options_are_refused(
    command: list[str], wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *wrong]) == 2
    assert said in capsys.readouterr().err


def test_what_is_done_instead_of_playing_is_one_thing(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--again", "--list"])
    assert "not allowed with argument" in capsys.readouterr().err
    assert main([*command, "--again", "--only", "fixed"]) == 0
    assert "nothing of that is on the page yet" in capsys.readouterr().out


def test_nothing_is_not_packed(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", *command, "-o", str(tmp_path / "x.zip")]) == 2
    assert "masks: nothing is done or begun yet" in capsys.readouterr().err
    assert not (tmp_path / "x.zip").exists()


def test_a_failed_run_is_named_and_the_others_go_on(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a checkpoint that cannot be read is not thrown away: the run says so and ends
    damaged = tmp_path / "runs" / "masks" / "fixed" / "0" / "checkpoints" / "last.ckpt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no checkpoint")
    assert main([*command, "--seeds", "0"]) == 1
    said = capsys.readouterr().out
    assert "fixed/0: failed after" in said
    assert re.search(r"output\.log\): .*last\.ckpt", said)
    assert "moving/0: done after" in said
    assert "1 run is left (1 failed)" in said
    assert damaged.read_bytes() == b"no checkpoint"
    assert main([*command, "--list"]) == 0
    assert re.search(r"  fixed/0: failed \(see .*\): .*last\.ckpt", capsys.readouterr().out)


def test_finished_runs_of_an_older_study_stay_in_the_record_until_they_are_to_be_forgotten(
    command: list[str], tmp_path: Path, make_entry: Callable[..., Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = make_entry("a row of then", 0, [0.1, 0.2], 100)
    Record(tmp_path / "results" / "masks", {(gone.row, gone.seed): gone}).write()
    assert main([*command, "--write-only"]) == 0
    said = capsys.readouterr().out
    assert "1 finished run of" in said
    assert "fit no run of the study as it is now: a row of then/0. They stay there" in said
    assert Record.read(tmp_path / "results" / "masks").entries
    assert main([*command, "--write-only", "--forget"]) == 0
    assert "fit no run" not in capsys.readouterr().out
    assert not Record.read(tmp_path / "results" / "masks").entries
