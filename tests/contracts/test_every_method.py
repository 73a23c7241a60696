"""What every option of configs/method promises of a run: nothing refused, its density, its bill, an exact resume."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from pffdst.build import build
from pffdst.config.compose import Session, session
from pffdst.config.lengthen import lengthening
from pffdst.cost.ledger import Ledger
from pffdst.experiment import Experiment
from pffdst.run import play_round, run
from pffdst.runs import checkpoint
from tests.conftest import SMALL

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
RUN = ("engine.exact=true", "rounds=8", "checkpoint_every=1000", "sparsity=0.6")
FURTHER = 5  # into the second stage, where there are two
STOP = 3  # in the middle of the first of two stages, before a round that moves masks
# So that much happens in few rounds, where a method has such a key.
LIVELY = {"schedule.interval": 1, "schedule.first": 1, "init_epochs": 3, "iterations": 5}


@dataclass(frozen=True)
class Whole:
    """A run that was never stopped: what it was made of, each round's bill, its summary, its states on the way."""

    cfg: DictConfig
    experiment: Experiment
    bills: list[Counter[str]]
    summary: Mapping[str, Any]
    states: dict[int, dict[str, Any]]

    @property
    def stops(self) -> list[int]:
        """Where it is taken up again: in the middle, and after the rounds before round 0."""
        return [0, STOP] if self.experiment.first < 0 else [STOP]


@pytest.fixture(scope="module")
def configs() -> Iterator[Session]:
    with session(CONFIGS) as opened:
        yield opened


@pytest.fixture(scope="module", params=METHODS)
def whole(request: pytest.FixtureRequest, configs: Session, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    cfg = configs.compose([*SMALL, *RUN, f"method={request.param}"]).cfg
    for key, value in LIVELY.items():
        if OmegaConf.select(cfg, f"readjust.{key}") is not None:
            OmegaConf.update(cfg, f"readjust.{key}", value)
    experiment, bills, states = build(cfg, tmp_path_factory.mktemp("whole"), "test"), list[Counter[str]](), {}
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.first, experiment.rounds):
            play_round(experiment, t)
            bills.append(Counter(experiment.ledger.round))
            if t + 1 in (0, STOP, FURTHER):
                experiment.save()
                states[t + 1] = checkpoint.load(experiment.checkpoints / "last.ckpt")
        summary = experiment.finish()
    return Whole(cfg, experiment, bills, summary, states)


def test_no_update_is_refused_and_everybody_answers(whole: Whole) -> None:
    assert whole.summary["rejected"] == 0
    assert all(bill["bytes_up"] > 0 for bill in whole.bills)


def test_it_ends_with_as_many_weights_as_it_was_asked_for(whole: Whole) -> None:
    server, setup = whole.experiment.server, whole.experiment.setup
    asked = sum(sum(stage.counts) for stage in setup.stages)
    assert asked in (round(0.4 * setup.layout.maskable), setup.layout.maskable)
    if all(rule.keeps_density for rule in setup.method):
        assert len(server.model.alive_at) == whole.summary["alive"] == asked


def test_the_parts_of_the_bill_are_the_bill(whole: Whole) -> None:
    for bill in [*whole.bills, whole.experiment.ledger.total]:
        for way in ("up", "down"):
            assert sum(bill[f"{way}/{part}"] for part in Ledger.PARTS) == bill[f"bytes_{way}"]
        assert sum(bill[name] for name in Ledger.FLOPS) == bill["flops"]
    assert sum(whole.bills, Counter()) == +whole.experiment.ledger.total


def test_a_resumed_run_is_the_run_that_was_never_stopped(
    whole: Whole, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for stop in whole.stops:
        again = build(whole.cfg, tmp_path_factory.mktemp("again"), "test")
        summary = run(again, whole.states[stop])
        assert summary["model_sha256"] == whole.summary["model_sha256"], f"taken up before round {stop}"
        assert again.server.averaged_model.same_as(whole.experiment.server.averaged_model)
        assert +again.ledger.total == +whole.experiment.ledger.total


def lengthened(cfg: DictConfig, rounds: int) -> DictConfig | None:
    """The configuration with more rounds and what the messages say to write; None where they say to start anew."""
    saved: Any = OmegaConf.to_container(cfg, resolve=True)
    longer = cfg.copy()
    longer.rounds = rounds
    problems = lengthening(saved, longer)
    assert problems is not None
    for problem in problems:
        advice = re.search(r"write ([\w.]+)=([\d.]+)$", problem)
        if advice is None:
            assert problem.endswith(("start a new one", "start a new run"))
            assert len(problems) == 1, "nothing is to be written where it is of no use"
            return None
        OmegaConf.update(longer, advice[1], float(advice[2]) if "." in advice[2] else int(advice[2]), force_add=True)
    assert lengthening(saved, longer) == [], "what is to be written is told at once"
    return longer


def test_a_run_that_may_be_lengthened_played_what_the_longer_one_plays(
    whole: Whole, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cfg = lengthened(whole.cfg, 16)
    assert (cfg is None) == ("FedDip" in whole.cfg.readjust._target_)
    if cfg is None:
        return
    longer = build(cfg, tmp_path_factory.mktemp("longer"), "test")
    with longer.engine.open(longer.setup), longer.loggers as loggers:
        loggers.open(longer.info, None)
        for t in range(longer.first, FURTHER):
            play_round(longer, t)
    played, state = whole.states[FURTHER]["server"], longer.server.state_dict()
    for name in ("alive", "frozen", "held", "rest"):
        assert torch.equal(torch.as_tensor(played[name]), torch.as_tensor(state[name])), name


def test_values_of_eight_bits_are_not_refused(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> None:
    cfg = whole.cfg.copy()
    cfg.codec = OmegaConf.load(CONFIGS / "codec" / "int8.yaml")
    lossy = build(cfg, tmp_path_factory.mktemp("lossy"), "test")
    summary = run(lossy)
    assert summary["rejected"] == 0
    if whole.experiment.setup.codecs.values.exact:
        assert lossy.ledger.total["up/values"] < whole.experiment.ledger.total["up/values"]
    if all(rule.keeps_density for rule in lossy.setup.method):
        assert summary["alive"] == whole.summary["alive"]
