"""What a stranger adds: one Python file and one yaml each, nothing of the package touched, in every engine."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pffdst import testing
from pffdst.build import build
from pffdst.config.compose import session
from pffdst.core.errors import UserError
from pffdst.experiment import Experiment
from pffdst.observers import Observer
from pffdst.run import play_round
from tests.warm import WarmPython

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SMALL = (
    "logger=csv",
    "clients=5",
    "cohort=3",
    "rounds=6",
    "local_epochs=1",
    "batch_size=32",
    "eval_every=100",
    "checkpoint_every=1000",
    "sparsity=0.5",
    "partition=iid",
    "method=random_mask",
)
EXTENSIONS = sorted(f"{path.parent.name}={path.stem}" for path in (HERE / "conf").glob("*/*.yaml"))
ENGINES = ("engine.exact=true", "engine=trainer", "engine=batched engine.device=cpu engine.channels_last=false")
LAWS: dict[str, Callable[[Any], None]] = {
    "allocation": testing.check_allocation,
    "augmentation": testing.check_augmentation,
    "codec": testing.check_codec,
    "faults": testing.check_fault,
    "freeze": testing.check_freeze,
    "lr_schedule": testing.check_lr_schedule,
    "objective": testing.check_objective,
    "optimizer": testing.check_optimizer,
    "participation": testing.check_participation,
    "time": testing.check_time,
}
MADE_ANEW: dict[str, Callable[[Any], None]] = {
    "readjust": testing.check_rule,
    "server_optimizer": testing.check_server_optimizer,
}


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(HERE))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def small(*overrides: str) -> list[str]:
    """Fewer images to train on, where they are the digits."""
    mine = any(o.startswith("dataset=") for o in overrides)
    return [*SMALL, *(() if mine else ("dataset.test_share=0.8",)), *overrides]


def made(folder: Path, *overrides: str) -> Experiment:
    with session(ROOT / "configs", searchpath=[f"file://{HERE / 'conf'}"]) as opened:
        return build(opened.compose(small(*overrides)).cfg, folder, "test")


def played(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            play_round(experiment, t)
            if experiment.progress.stop is not None:
                break
    return experiment


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_it_is_one_file_and_one_yaml_and_works_in_every_engine_alike(extension: str, tmp_path: Path) -> None:
    models = []
    for i, engine in enumerate(ENGINES):
        folder = tmp_path / str(i)
        folder.mkdir()
        models.append(played(made(folder, extension, *engine.split())).server.model)
    assert models[0].same_as(models[1]), "engine=fabric engine.exact=true is not engine=trainer"
    assert models[0].alive_at == models[2].alive_at
    assert torch.allclose(models[0].values, models[2].values, atol=2e-4), "engine=batched is not engine=trainer"


@pytest.mark.parametrize("extension", [e for e in EXTENSIONS if e.partition("=")[0] in {*LAWS, *MADE_ANEW}])
def test_the_laws_of_its_group_can_be_imported_and_hold(extension: str) -> None:
    group, _, name = extension.partition("=")
    node = OmegaConf.load(HERE / "conf" / group / f"{name}.yaml")
    if group in MADE_ANEW:
        MADE_ANEW[group](lambda: instantiate(node))
    else:
        LAWS[group](instantiate(node))


@pytest.mark.parametrize(
    "extension", [e for e in EXTENSIONS if not e.startswith(("model=", "callbacks=", "dataset=", "logger=", "obs"))]
)
def test_it_makes_a_difference(extension: str, tmp_path: Path) -> None:
    """An option that an engine ignores would give the model of the default."""
    folders = [tmp_path / name for name in ("with", "without")]
    for folder in folders:
        folder.mkdir()
    ours = played(made(folders[0], extension, "engine=batched", "engine.device=cpu")).server.model
    default = played(made(folders[1], "engine=batched", "engine.device=cpu")).server.model
    assert not ours.same_as(default)


def test_an_observer_gets_the_finished_round_and_can_end_the_run(tmp_path: Path) -> None:
    experiment = played(made(tmp_path, "observers=watch", "engine.exact=true"))
    assert experiment.progress.t == 3
    assert experiment.progress.stop == "it has seen enough"
    assert all(seen > 0 for seen in experiment.observers[0].seen)  # type: ignore[attr-defined]


class Watcher:
    """It has the method of an observer, and of nothing else."""

    def on_round(self, experiment: Experiment, done: Any) -> None:
        """Looks on."""


class Hoarder(Observer):
    """Its state is not made of tensors and plain values."""

    def on_round(self, experiment: Experiment, done: Any) -> None:
        """Looks on."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": Watcher()}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("observers.own", "pffdst.observers.Observer"),
        ("logger.own", "pffdst.loggers.base.RunLogger"),
        ("metrics.own", "torchmetrics.metric.Metric"),
        *(
            (group, ".")
            for group in ("readjust", "codec", "participation", "aggregation", "freeze", "dataset", "engine")
        ),
    ],
)
def test_a_part_of_another_kind_is_refused_by_name(tmp_path: Path, key: str, kind: str) -> None:
    with session(ROOT / "configs") as opened:
        cfg = opened.compose(small()).cfg
    group, _, name = key.partition(".")
    own = {"_target_": f"{__name__}.Watcher"}
    OmegaConf.update(cfg, group, {name: own} if name else own, merge=False, force_add=True)
    with pytest.raises(UserError, match=rf"{key}: .*Watcher is not a \w+; derive the class from .*{kind}"):
        build(cfg, tmp_path, "test")


def test_a_state_that_no_checkpoint_can_hold_is_refused_at_the_first_one(tmp_path: Path) -> None:
    experiment = replace(made(tmp_path, "engine.exact=true"), observers=(Hoarder(),))
    experiment.progress.t = 1
    with experiment.engine.open(experiment.setup):
        with pytest.raises(UserError, match="the state of observers cannot be read back"):
            experiment.save()
        with pytest.raises(UserError, match="the state of observers cannot be read back"):
            experiment.save_if_due(seconds=60.0)  # kept in memory after a slow round
        assert not experiment.checkpoints.exists()
        replace(experiment, observers=()).save()


def test_all_of_them_at_once_from_the_command_line(warm: WarmPython, tmp_path: Path) -> None:
    chosen = [e for e in EXTENSIONS if not e.startswith(("optimizer=", "codec="))]
    command = [str(ROOT / "train.py"), "--config-dir", str(HERE / "conf"), *small(*chosen)]
    run = warm(
        *command,
        "engine.workers=0",
        f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert len((tmp_path / "run" / "lines.txt").read_text().splitlines()) == 4, "a title and the 3 rounds it saw"


def test_each_of_them_is_short() -> None:
    lines = {path.stem: len(path.read_text().splitlines()) for path in (HERE / "mine").glob("*.py")}
    assert max(lines.values()) <= 40, lines
    assert len(lines) == len(EXTENSIONS), "one file and one yaml each"
