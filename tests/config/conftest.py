"""Small classes and a small configuration folder, so that the laws of config/ do not hang on the real ones."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Literal

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from pffdst.config.schema import groups
from pffdst.core.facts import Facts

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Source:
    name: str
    size: int | None = 8
    mean: list[float] | None = None
    archive: str | None = None
    path: str | None = None
    present: bool = True

    def problems(self, facts: Facts) -> list[str]:
        return [] if self.present else ["the files of this dataset are not there"]


class SmallNet:
    min_size: ClassVar[int] = 4

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        raise AssertionError("the check makes no model")


class LargeNet(SmallNet):
    min_size: ClassVar[int] = 13


class Anything(LargeNet):
    def __init__(self, **keywords: float) -> None:
        super().__init__(1)


@dataclass
class Pace:
    """A component inside another."""

    every: int = 1
    until: float = 1.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"expected every >= 1, got {self.every}")

    def problems(self, facts: Facts) -> list[str]:
        return [f"a pace of {self.every} needs more rounds"] if (facts.rounds or self.every) < self.every else []


class Writer:
    """A logger, which opens nothing before a run does."""

    def __init__(self, project: str, mode: str = "auto") -> None:
        if mode not in ("auto", "offline"):
            raise ValueError(f"expected mode auto or offline, got {mode}")


@dataclass
class Rule:
    interval: int = 10
    ratio: float = 0.5
    mode: Literal["a", "b"] = "a"
    pace: Pace | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"expected 0 <= ratio <= 1, got {self.ratio}")

    def problems(self, facts: Facts) -> list[str]:
        lengths = list(facts.stage_lengths or ())
        return [f"stages {lengths} are too short"] if min(lengths, default=self.interval) < self.interval else []


@dataclass
class Halves:
    def stage_lengths(self, rounds: int) -> list[int]:
        return [rounds // 2, rounds - rounds // 2]

    def problems(self, facts: Facts) -> list[str]:
        return [] if facts.rounds is None or facts.rounds >= 2 else ["two stages need two rounds"]


@dataclass
class Plain:
    """Stands for the groups without anything to say."""


@dataclass
class Share:
    alpha: float = 0.3


@dataclass
class NeedsMore:
    """A constructor that also takes what is known only later."""

    layers: int
    beta: float = 0.9


FAKES = "pffdst_fakes"
CONFIGS = {
    "train": """
        defaults:
          - schema
          - _self_
          - dataset: small
          - partition: share
          - model: net
          - allocation: plain
          - readjust: rule
          - freeze: halves
          - aggregation: more
          - codec: plain
          - engine: plain
          - participation: plain
          - logger: none
          - paths: default
          - method: one
          - experiment: null
          - sweep: null
          - search: null
        name: test
        sparsity: 0.8
        rounds: 100
        seed: 0
        clients: 20
        cohort: 10
        batch_size: 32
        lr: 0.05
        momentum: 0.9
        weight_decay: 0.001
        prox_mu: 0.0
        sparse_init: false
        server_ema: 0.9
        validation_share: 0.0
        eval_every: 2
        eval_every_bytes: 0
        checkpoint_every: 10
        hydra:
          output_subdir: .hydra
          run: {dir: "${paths.logs}/runs/${name}"}
          sweep: {dir: "${paths.logs}/sweeps/only", subdir: "${hydra.job.num}"}
          callbacks: {sweep_table: {_target_: pffdst.cli.sweep_table.SweepTable}}
        """,
    "dataset/small": "{_target_: FAKES.Source, name: small, size: 8, mean: [0.5]}",
    "dataset/own": "{_target_: FAKES.Source, name: own, size: null, path: '???'}",
    "dataset/gone": "{_target_: FAKES.Source, name: gone, present: false}",
    "partition/share": "{_target_: FAKES.Share, alpha: 0.3}",
    "partition/equal": "{_target_: FAKES.Plain}",
    "model/net": "{_target_: FAKES.SmallNet}",
    "model/large": "{_target_: FAKES.LargeNet}",
    "model/any": "{_target_: FAKES.Anything}",
    "model/absent": "{_target_: FAKES.nowhere.Net}",
    "readjust/rule": "{_target_: FAKES.Rule, interval: 10, ratio: 0.5, mode: a}",
    "readjust/paced": "{_target_: FAKES.Rule, interval: 10, pace: {_target_: FAKES.Pace, every: 3}}",
    "readjust/still": "{_target_: FAKES.Plain}",
    "readjust/typo": "{_target_: FAKES.Rule, intervall: 10}",
    "freeze/halves": "{_target_: FAKES.Halves}",
    "freeze/none": "{_target_: FAKES.Plain}",
    "aggregation/more": "{_target_: FAKES.NeedsMore, beta: 0.9}",
    **{f"{group}/plain": "{_target_: FAKES.Plain}" for group in ("allocation", "codec", "engine", "participation")},
    "logger/none": "# nothing",
    "logger/one": "one: {_target_: FAKES.Writer, project: p}",
    "logger/two": "two: {_target_: FAKES.Writer, project: p}",
    "paths/default": "{logs: logs, data: data}",
    "method/one": "# @package _global_\nmethod_name: one\nlocal_epochs: 2",
    "method/two": "# @package _global_\ndefaults:\n  - override /readjust: still\nmethod_name: two\nlocal_epochs: 3",
    "experiment/exp": "# @package _global_\nname: exp\nrounds: 60\npartition: {alpha: 0.1}\nreadjust: {interval: 5}",
    "experiment/typo": "# @package _global_\nreadjust: {intervl: 5}",
    "sweep/seeds": "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1', rounds: '40,x'}}}",
    "sweep/good": "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}",
}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(FAKES)
    for thing in (Source, SmallNet, LargeNet, Anything, Writer, Pace, Rule, Halves, Plain, Share, NeedsMore):
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, FAKES, module)


@pytest.fixture(autouse=True)
def clean_globals() -> Iterator[None]:
    yield
    initialized = GlobalHydra.instance().is_initialized(), HydraConfig.initialized()
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    assert initialized == (False, False), "Hydra's global state was left behind"


@pytest.fixture(scope="session")
def small_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "configs"
    others = [name for name, kind in groups().items() if not kind.optional and f"- {name}:" not in CONFIGS["train"]]
    lines = "".join(f"\n          - {name}: plain" for name in others)
    train = {"train": CONFIGS["train"].replace("- _self_", f"- _self_{lines}")}
    plain = {f"{name}/plain": "{_target_: FAKES.Plain}" for name in others}
    for name, text in {**CONFIGS, **train, **plain}.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("FAKES", FAKES))
    return folder


@pytest.fixture
def configs(small_configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small configurations, not to be changed; the test runs in a folder of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return small_configs


@pytest.fixture
def real_configs() -> Path:
    return ROOT / "configs"
