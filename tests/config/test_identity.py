from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pffdst.config.compose import compose as compose_anew
from pffdst.config.identity import differences, engine_identity, fingerprint


@functools.cache
def _compose(configs: Path, *overrides: str) -> DictConfig:
    return compose_anew(overrides, configs)


def compose(overrides: list[str], configs: Path) -> DictConfig:
    return _compose(configs, *overrides)


def plain(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)


def test_sixteen_digits_and_stable(configs: Path) -> None:
    found = fingerprint(compose([], configs))
    assert len(found) == 16
    assert int(found, 16) >= 0
    assert found == fingerprint(compose([], configs))
    assert found == fingerprint(OmegaConf.create(plain(compose([], configs))))


@pytest.mark.parametrize(
    "override", ["name=x", "tags=[a]", "resume=true", "checkpoint_every=1", "profile=true", "paths.logs=/x"]
)
def test_neutral_keys_do_not_count(configs: Path, override: str) -> None:
    before, after = compose([], configs), compose([override], configs)
    assert fingerprint(before) == fingerprint(after)
    assert differences(plain(before), plain(after)) == []


@pytest.mark.parametrize(
    "override", ["seed=1", "lr=0.1", "readjust.ratio=0.25", "method=two", "eval_every=1", "eval_every_bytes=9"]
)
def test_the_others_do(configs: Path, override: str) -> None:
    before, after = compose([], configs), compose([override], configs)
    assert fingerprint(before) != fingerprint(after)
    assert differences(plain(before), plain(after)) != []


def test_real_engines_loggers_and_data_folders_are_neutral(real_configs: Path) -> None:
    others = ["engine=trainer", "logger=csv", "paths.data=/x", "dataset.download=false", "dataset.cache=/y"]
    one, two = (compose(["dataset=cifar10", *overrides], real_configs) for overrides in ([], others))
    assert fingerprint(one) == fingerprint(two)


def test_the_users_own_files_are_told_apart_by_their_path(real_configs: Path) -> None:
    one, two = (fingerprint(compose(["dataset=parquet", f"dataset.path=/{n}"], real_configs)) for n in (1, 2))
    assert one != two


def test_how_a_number_is_written_does_not_count(configs: Path) -> None:
    assert fingerprint(compose(["readjust.ratio=1"], configs)) == fingerprint(compose(["readjust.ratio=1.0"], configs))
    assert fingerprint(compose(["lr=5e-2"], configs)) == fingerprint(compose([], configs))


def test_infinity_is_a_value(configs: Path) -> None:
    cfg = compose([], configs)
    found = set()
    for value in (math.inf, -math.inf, math.nan, 1.0):
        cfg.partition.alpha = value
        found.add(fingerprint(cfg))
    assert len(found) == 4


def test_a_missing_value_has_no_fingerprint(configs: Path) -> None:
    with pytest.raises(Exception, match=r"dataset\.path"):
        fingerprint(compose(["dataset=own"], configs))


def test_differences_read_well(configs: Path) -> None:
    saved, now = plain(compose(["readjust=rule"], configs)), plain(compose(["readjust=still", "lr=0.1"], configs))
    lines = differences(saved, now)
    assert "lr: saved 0.05, now 0.1" in lines
    assert "readjust.interval: saved 10, now absent" in lines


def test_jobs_that_differ_in_the_engine_are_two_jobs(real_configs: Path) -> None:
    base = ["engine=fabric", "engine.workers=1"]
    found = {
        line: engine_identity(compose([*base, *line.split()], real_configs))
        for line in ("", "engine.workers=2", "engine.exact=true", "engine.channels_last=false")
    }
    found["trainer"] = engine_identity(compose(["engine=trainer"], real_configs))
    assert found[""] == found["engine.workers=2"], "workers change no bit"
    assert len(set(found.values())) == 4
    assert fingerprint(compose(base, real_configs)) == fingerprint(compose(["engine=trainer"], real_configs))
