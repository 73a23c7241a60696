"""What several folders share: small runs on digits and what happened in them, a hand-made layout and models on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.core.messages import ClientTask, RoundPlan, Update
from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.experiment import Experiment
from pffdst.run import play_round
from pffdst.server.server import RoundRecord

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "logger=csv",
    "clients=5",
    "cohort=3",
    "local_epochs=1",
    "batch_size=32",
    "eval_every=100",
    "dataset.test_share=0.8",
)

MakeExperiment = Callable[..., Experiment]


@dataclass(frozen=True)
class Round:
    """One round of a run: the model as planned, as clients decode it and after the mean; every message, the bill."""

    plan: RoundPlan
    planned: GlobalModel
    sent: GlobalModel
    tasks: list[ClientTask]
    updates: list[Update]
    record: RoundRecord
    concluded: GlobalModel
    bill: Counter[str]

    @property
    def t(self) -> int:
        return self.plan.t


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small gain nothing from a second thread, and lose much where tests share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def config_dir() -> Path:
    return ROOT / "configs"


@pytest.fixture(scope="session")
def make_experiment(tmp_path_factory: pytest.TempPathFactory, config_dir: Path) -> MakeExperiment:
    """A run on digits in this process, built from the shipped configurations and these overrides."""

    def make(*overrides: str) -> Experiment:
        engine = () if any(o.startswith("engine") for o in overrides) else ("engine.exact=true",)
        cfg = compose([*SMALL, *engine, "checkpoint_every=1000", *overrides], config_dir)
        return build(cfg, tmp_path_factory.mktemp("run"), "test")

    return make


@pytest.fixture(scope="session")
def play() -> Callable[[Experiment], list[Round]]:
    """Plays all rounds with the program's own loop and gives what was seen in each."""

    def played(experiment: Experiment) -> list[Round]:
        with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
            loggers.open(experiment.config, experiment.folder, None)
            return [_watched(experiment, t) for t in range(experiment.rounds)]

    return played


def _watched(experiment: Experiment, t: int) -> Round:
    server, seen, updates = experiment.server, {}, []
    real: dict[str, Any] = {name: getattr(server, name) for name in ("dispatch", "absorb", "conclude")}

    def dispatch(plan: RoundPlan) -> list[ClientTask]:
        seen.update(plan=plan, planned=server.model, tasks=real["dispatch"](plan), sent=server.sent)
        return list(seen["tasks"])

    def absorb(plan: RoundPlan, update: Update) -> None:
        updates.append(update)
        real["absorb"](plan, update)

    def conclude(plan: RoundPlan) -> RoundRecord:
        seen["record"] = real["conclude"](plan)
        return seen["record"]

    with pytest.MonkeyPatch.context() as patch:
        for spy in (dispatch, absorb, conclude):
            patch.setattr(server, spy.__name__, spy)
        play_round(experiment, t)
    return Round(updates=updates, concluded=server.model, bill=Counter(experiment.ledger.round), **seen)


@pytest.fixture(scope="session")
def layout() -> Layout:
    """Two layers of 20 and 12 weights (W = 32), 7 other parameters (3 of normalisation), 3 statistics: N = 42."""
    return Layout(
        (
            Entry("a.weight", (4, 5), 0, "maskable"),
            Entry("b.weight", (3, 4), 20, "maskable"),
            Entry("a.bias", (4,), 32, "parameter"),
            Entry("norm.weight", (3,), 36, "parameter", normalisation=True),
            Entry("norm.running_mean", (3,), 39, "statistic", normalisation=True),
        )
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., GlobalModel]:
    """A model of random values of which a share is alive and, of these, a share frozen."""

    def make(
        layout: Layout, seed: int = 0, alive: float = 0.5, frozen: float = 0.0, dtype: torch.dtype = torch.float32
    ) -> GlobalModel:
        generator = generator_for(seed, "test")
        m = torch.rand(layout.maskable, generator=generator) < alive
        z = m & (torch.rand(layout.maskable, generator=generator) < frozen)
        values = torch.randn(layout.total, generator=generator, dtype=torch.float64).to(dtype)
        return GlobalModel(layout, values, torch.ones_like(m), torch.zeros_like(m)).with_masks(m, z)

    return make
