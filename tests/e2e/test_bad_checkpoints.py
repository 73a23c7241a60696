"""A checkpoint with a right checksum and a wrong content is told as that, before a round is played from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from pffdst.core.errors import UserError
from pffdst.experiment import Experiment
from pffdst.launch import recorded_run, starting_state
from pffdst.observers import Observer
from pffdst.run import play_round
from pffdst.runs import checkpoint
from pffdst.server.round import Round

Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def saved(make_experiment: Make) -> tuple[Experiment, DictConfig, dict[str, Any]]:
    """An experiment, its configuration, and what it saved after a round."""
    experiment = make_experiment("rounds=10")
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        play_round(experiment, 0)
        experiment.save()
    (experiment.folder / "run.json").write_text("{}")
    return experiment, OmegaConf.create(dict(experiment.config)), checkpoint.load(experiment.checkpoints / "last.ckpt")


TOP = {
    "no server": lambda s: s.pop("server"),
    "t in words": lambda s: s.update(t="2"),
    "a t beyond the end": lambda s: s.update(t=10**9),
    "no such list": lambda s: s.update(observers={}),
}
PARTS = {
    "a t before the beginning": lambda s: s.update(t=-5),
    "a vector of 7": lambda s: s["server"].update(held=torch.zeros(7)),
    "whole numbers for weights": lambda s: s["server"].update(rest=torch.zeros(len(s["server"]["rest"]), dtype=int)),
    "a mask that is none": lambda s: s["server"].update(alive=torch.zeros(3, dtype=torch.uint8)),
    "another number of clients": lambda s: s["server"]["holdings"].update(
        mask=(10**9, torch.tensor([0]), torch.ones(1))
    ),
    "a place beyond the clients": lambda s: s["engine"].update(index=(5, torch.tensor([99]), torch.ones(1))),
    "no average": lambda s: s["server"].update(average=None),
    "a history of words": lambda s: s.update(history={"a": 3}),
}


def copied(state: dict[str, Any]) -> dict[str, Any]:
    return {k: copied(v) if isinstance(v, dict) else v for k, v in state.items()}


@pytest.mark.parametrize("name", TOP)
def test_the_one_before_serves(saved: tuple[Experiment, DictConfig, dict[str, Any]], name: str) -> None:
    experiment, cfg, state = saved
    bad = copied(state)
    TOP[name](bad)
    checkpoint.save(experiment.checkpoints, state)
    checkpoint.save(experiment.checkpoints, bad)
    found = starting_state(cfg, experiment.folder, True, experiment.fingerprint)
    assert found is not None
    assert found["t"] == 1
    with pytest.raises(UserError, match=r"last\.ckpt: it was not written by a run"):
        starting_state(cfg, experiment.folder, str(experiment.checkpoints / "last.ckpt"), experiment.fingerprint)


@pytest.mark.parametrize("name", PARTS)
def test_no_part_is_taken_for_what_it_is_not(saved: tuple[Experiment, DictConfig, dict[str, Any]], name: str) -> None:
    experiment, _, state = saved
    bad = copied(state)
    PARTS[name](bad)
    with (
        pytest.raises(UserError, match="was not written by a run of this configuration"),
        experiment.engine.open(experiment.setup),
    ):
        experiment.restore(bad)


def test_a_good_one_is_taken(saved: tuple[Experiment, DictConfig, dict[str, Any]]) -> None:
    experiment, _, state = saved
    with experiment.engine.open(experiment.setup):
        experiment.restore(state)
    assert experiment.progress.t == 1


def test_a_run_whose_folder_goes_while_it_runs_says_so(make_experiment: Make, tmp_path: Path) -> None:
    @final
    class Remover(Observer):
        def on_round(self, experiment: Experiment, done: Round) -> None:
            experiment.folder.rename(tmp_path / "away")

    experiment = make_experiment("rounds=4", "checkpoint_every=1")
    watched = replace(experiment, observers=(*experiment.observers, Remover()))
    with pytest.raises(UserError, match="the run's folder was removed while it ran"):
        recorded_run(watched, None, "")
    assert not experiment.folder.exists()


def test_a_folder_that_is_gone_or_replaced_is_not_made_again(make_experiment: Make) -> None:
    experiment = make_experiment("rounds=10")
    experiment.look_for_folder()
    away = experiment.folder.rename(experiment.folder.with_name("away"))
    with pytest.raises(UserError, match=r"was removed while it ran.*round 0"):
        experiment.look_for_folder()
    assert not experiment.folder.exists()
    experiment.folder.mkdir()
    with pytest.raises(UserError, match="was replaced"):
        experiment.look_for_folder()
    assert list(experiment.folder.iterdir()) == []
    away.rename(experiment.folder.with_name("elsewhere"))
