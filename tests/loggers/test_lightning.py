"""Any of Lightning's loggers through one adapter; what it wrote is read back."""

from __future__ import annotations

import csv
import functools
import logging
from pathlib import Path

import pytest
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from pffdst.config.check import problems_of
from pffdst.config.choices import Choices
from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.loggers.base import Loggers, RunInfo
from pffdst.loggers.lightning import LightningLogger
from pffdst.metrics import names

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"method_name": "pffdst", "sparsity": 0.8, "model": {"_target_": "SmallCNN"}, "resume": False, "paths": {}}


def row_of(t: int) -> names.Row:
    row: names.Row = {names.ROUND: t, names.STAGE: 1, names.COST_BYTES: 10 * t}
    return row | {names.ACC_GLOBAL: t / 10, names.LOSS_GLOBAL: float("nan")} if t % 2 == 0 else row


def info(folder: Path) -> RunInfo:
    return RunInfo(CONFIG, folder, "pffdst s=0.8 seed=0", "sweep", ("a", "b"))


def logged(logger: LightningLogger, folder: Path, rounds: range, state: dict | None = None) -> dict[str, str]:
    with Loggers({"it": logger}) as loggers:
        loggers.open(info(folder), state)
        for t in rounds:
            loggers.log(row_of(t))
        loggers.summary({"acc_global": 0.4, "wall_s": 7.5, "method": "pffdst"})
        return loggers.state_dict()


def shipped(option: str) -> LightningLogger:
    made = instantiate(compose([f"logger={option}"], ROOT / "configs").logger)
    assert isinstance(made[option], LightningLogger)
    return made[option]


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    pytest.importorskip("tensorboard", reason="pip install 'pffdst[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboards_files_hold_every_row(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'pffdst[tensorboard]'")
    logged(shipped("tensorboard"), tmp_path, range(1, 5))
    found = in_tensorboard(tmp_path / "tensorboard")
    assert found[names.COST_BYTES] == [(t, 10.0 * t) for t in (1, 2, 3, 4)]
    assert found[names.ACC_GLOBAL] == [(t, pytest.approx(t / 10)) for t in (2, 4)]
    assert found["summary/wall_s"] == [(4, 7.5)]
    assert "summary/acc_global" not in found, "the row has it"
    assert names.LOSS_GLOBAL not in found, "it is no number"
    assert (tmp_path / "tensorboard" / "hparams.yaml").read_text().count("sparsity: 0.8") == 1


def test_a_resumed_run_is_in_tensorboard_once(tmp_path: Path) -> None:
    """Killed in round 6, checkpoint at 4."""
    pytest.importorskip("tensorboard", reason="pip install 'pffdst[tensorboard]'")
    state = logged(shipped("tensorboard"), tmp_path, range(1, 5))
    logged(shipped("tensorboard"), tmp_path, range(5, 7), state)
    logged(shipped("tensorboard"), tmp_path, range(5, 9), state)
    assert [step for step, _ in in_tensorboard(tmp_path / "tensorboard")[names.COST_BYTES]] == list(range(1, 9))


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'pffdst[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    state = logged(shipped("mlflow"), tmp_path, range(1, 5))
    after = logged(shipped("mlflow"), tmp_path, range(5, 9), state)
    assert after["it"]["version"] == state["it"]["version"]
    client = mlflow.MlflowClient(f"file:{tmp_path / 'mlruns'}")
    run = client.get_run(state["it"]["version"])
    assert run.info.run_name == "pffdst s=0.8 seed=0"
    assert run.data.params["sparsity"] == "0.8"
    history = client.get_metric_history(run.info.run_id, names.COST_BYTES)
    assert [(m.step, m.value) for m in history] == [(t, 10.0 * t) for t in range(1, 9)]


def test_lightnings_own_csv(tmp_path: Path) -> None:
    make = functools.partial(CSVLogger, name=None, version="lightning")
    logged(LightningLogger(make), tmp_path, range(1, 5))
    with (tmp_path / "lightning" / "metrics.csv").open(newline="") as file:
        costs = {int(row["step"]): row[names.COST_BYTES] for row in csv.DictReader(file) if row[names.COST_BYTES]}
    assert costs == {1: "10", 2: "20", 3: "30", 4: "40"}


class Spy(DummyLogger):
    """What a logger's constructor was given and what it was told."""

    last: Spy

    def __init__(self, **given: object) -> None:
        super().__init__()
        self.given, self.rows, self.ended = given, [], ""
        type(self).last = self

    @property
    def version(self) -> str:
        return "v1"

    def log_metrics(self, metrics: dict, step: int) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, params: dict) -> None:
        self.settings = params

    def finalize(self, status: str) -> None:
        self.ended = status


def test_the_class_is_given_what_from_run_names(tmp_path: Path) -> None:
    words = ("folder", "name", "group", "tags", "version", "resumed_at")
    state = logged(LightningLogger(Spy, {w: w for w in words}), tmp_path, range(1, 4))
    told = {"folder": str(tmp_path), "name": "pffdst s=0.8 seed=0", "group": "sweep", "tags": ["a", "b"]}
    assert Spy.last.given == told | {"version": None, "resumed_at": None}
    assert state == {"it": {"round": "3", "version": "v1"}}
    logged(LightningLogger(Spy, {w: w for w in words}), tmp_path, range(4, 5), state)
    assert Spy.last.given == told | {"version": "v1", "resumed_at": 4}


def test_settings_rows_and_the_end_are_told(tmp_path: Path) -> None:
    logged(LightningLogger(Spy, {}), tmp_path, range(1, 3))
    spy = Spy.last
    assert spy.settings.keys() == {"method_name", "sparsity", "model"}
    assert [step for step, _ in spy.rows] == [1, 2, 2]
    assert spy.rows[-1][1] == {"summary/wall_s": 7.5}
    assert spy.ended == "success"


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(UserError, match="a run has no 'dir'; choose from folder"):
        LightningLogger(Spy, {"save_dir": "dir"})


def test_a_package_that_is_not_there_is_told_with_the_other_problems() -> None:
    cfg = compose(["lr=-1"], ROOT / "configs")
    spy = {"_target_": "lightning.pytorch.loggers.CSVLogger", "_partial_": True}
    mine = {
        "_target_": "pffdst.loggers.lightning.LightningLogger",
        "logger": spy,
        "needs": {"nowhere": "pip install it"},
    }
    cfg.logger = {"mine": mine}
    told = problems_of(cfg, Choices())
    assert "logger.mine: CSVLogger needs the package nowhere: pip install it; or leave out the logger" in told
    assert any(line.startswith("lr") for line in told)


def test_a_missing_package_is_one_message(tmp_path: Path) -> None:
    def make(**given: object) -> DummyLogger:
        raise ModuleNotFoundError("Requirement 'comet-ml' not met")

    with pytest.raises(UserError, match=r"make needs a package: .*comet-ml.*; or leave out the logger"):
        LightningLogger(make).open(info(tmp_path), None)


@pytest.mark.parametrize("broken", ["make", "log_metrics"])
def test_training_goes_on_without_it_after_one_warning(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    if broken == "log_metrics":
        monkeypatch.setattr(Spy, "log_metrics", fail)
    with caplog.at_level(logging.WARNING):
        logged(LightningLogger(fail if broken == "make" else Spy, {}), tmp_path, range(1, 4))
    assert len(caplog.records) == 1
    assert "the run continues without it" in caplog.text


@pytest.mark.parametrize("option", sorted(path.stem for path in (ROOT / "configs" / "logger").glob("*.yaml")))
def test_every_shipped_option_has_keys_that_its_class_takes(option: str) -> None:
    cfg = compose([f"logger={option}"], ROOT / "configs")
    assert [line for line in problems_of(cfg, Choices()) if "needs the package" not in line] == []


def test_several_at_once() -> None:
    cfg = compose(["logger=[wandb,tensorboard]"], ROOT / "configs")
    assert list(cfg.logger) == ["wandb", "tensorboard"]
