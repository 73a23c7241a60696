"""What several folders share: small runs on digits and what happened in them, a hand-made layout and models on it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import pytest
import torch
from hypothesis import settings

from pffdst.build import build
from pffdst.client.turn import ClientSetup
from pffdst.config.compose import compose
from pffdst.core.messages import ClientTask, RoundPlan, Update
from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.engines.base import Engine, Job
from pffdst.experiment import Experiment
from pffdst.observers import Observer
from pffdst.run import play_round
from pffdst.server.round import Round, RoundRecord
from tests.warm import WarmPython

gc.set_threshold(20_000, 20, 50)  # half a million objects of libraries are looked through less often
settings.register_profile("pffdst", deadline=None)  # a busy machine is no fault of the program
settings.load_profile("pffdst")

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


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmPython]:
    """Runs programs without the cost of a start; begun when a test first asks for it."""
    python = WarmPython()
    yield python
    python.close()


@final
@dataclass(frozen=True)
class Seen:
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
def play() -> Callable[[Experiment], list[Seen]]:
    """Plays all rounds with the program's own loop and gives what was seen in each."""

    def played(experiment: Experiment) -> list[Seen]:
        network = Network(experiment.engine)
        watcher = Watcher(network)
        watched = replace(experiment, engine=network, observers=(*experiment.observers, watcher))
        with network.open(watched.setup), watched.loggers as loggers:
            loggers.open(watched.info, None)
            for t in range(watched.first, watched.rounds):
                play_round(watched, t)
        return watcher.seen

    return played


@final
class Watcher(Observer):
    """Notes every finished round."""

    def __init__(self, network: Network) -> None:
        self.network, self.seen = network, list[Seen]()

    def on_round(self, experiment: Experiment, done: Round) -> None:
        tasks, updates = self.network.messages
        bill = Counter(experiment.ledger.round)
        self.seen.append(
            Seen(done.plan, done.planned, done.sent, tasks, updates, done.record, experiment.server.model, bill)
        )


@final
class Network(Engine):
    """An engine whose messages are seen, of the last round."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.device, self.channels_last = engine.device, engine.channels_last
        self.messages: tuple[list[ClientTask], list[Update]] = ([], [])

    def start(self, setup: ClientSetup) -> None:
        self.engine.memories = self.memories
        self.engine.start(setup)

    def close(self) -> None:
        self.engine.close()

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        return self.engine.train(jobs)

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[Update]:
        self.messages = (list(tasks), [])
        for update in self.engine.run(tasks):
            self.messages[1].append(update)
            yield update


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
