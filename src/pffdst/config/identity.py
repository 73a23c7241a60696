"""What a configuration's result depends on: its fingerprint, and how two configurations differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pffdst.config.schema import NEUTRAL, NEUTRAL_DATASET, NEUTRAL_PARTITION, OPTIONAL
from pffdst.core.words import dotted, typed

__all__ = [
    "ABSENT",
    "changed",
    "content_differences",
    "content_digest",
    "differences",
    "engine_identity",
    "essence",
    "fingerprint",
]


def fingerprint(cfg: DictConfig) -> str:
    """16 hexadecimal digits that two configurations share when they must give the same result.

    Left out: how it runs (engine), what is scored beside accuracy (metrics), where it writes (logger, paths, name,
    tags, resume, profile, checkpoint_every, partition.save) and where the data lie (dataset.path, cache, download).
    The path stays in for a dataset that is nothing but its path, one that names no `archive`. Raises OmegaConf's errors
    where a value is missing or cannot be resolved.
    """
    return _digest(essence(cfg))


def engine_identity(cfg: DictConfig) -> str:
    """16 hexadecimal digits of how a run is computed: the engine with its keys, `workers` aside, which changes no bit.

    A resumed run may change engines; two jobs of a sweep that differ in them are two jobs. Further metrics, which a run
    cannot be asked for once it is done, are part of it.
    """
    engine = OmegaConf.to_container(cfg.engine, resolve=True, throw_on_missing=True)
    metrics = OmegaConf.to_container(cfg.metrics, resolve=True) if cfg.get("metrics") else {}
    assert isinstance(engine, dict)
    return _digest({k: v for k, v in engine.items() if k != "workers"} | ({"metrics": metrics} if metrics else {}))


def essence(cfg: DictConfig) -> dict[str, Any]:
    """The resolved values that a result depends on, as the fingerprint sees them."""
    found = _canonical(_essence(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)))
    assert isinstance(found, dict)
    return found


def _digest(plain: Any) -> str:
    text = json.dumps(_canonical(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two resolved configurations, result-neutral keys aside: `lr: saved 0.01, now 0.05`."""
    return [f"{key}: saved {_word(old)}, now {_word(new)}" for key, (old, new) in changed(saved, now).items()]


def changed(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys that differ, result-neutral ones aside, with both values, each of which may be ABSENT."""
    before, after = dotted(_canonical(_essence(saved))), dotted(_canonical(_essence(now)))
    found = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in {**before, **after}}
    return {key: (old, new) for key, (old, new) in found.items() if old != new}


def content_digest(content: Mapping[str, str]) -> str:
    """16 hexadecimal digits of what a run's data hold and its tensors are."""
    return _digest(dict(content))


def content_differences(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What a run's data or tensors are otherwise than they were: `training set: was 700 images ..., now 1,400 ...`."""
    lines = {name: (saved.get(name, "absent"), now.get(name, "absent")) for name in {**saved, **now}}
    return [f"{name}: was {old}, now {new}" for name, (old, new) in lines.items() if old != new]


ABSENT = object()


def _essence(plain: Any) -> dict[str, Any]:
    kept = {key: value for key, value in plain.items() if key not in NEUTRAL and (value or key not in OPTIONAL)}
    dataset = kept.get("dataset")
    if isinstance(dataset, Mapping):
        # A known archive is the same wherever it lies; the user's own files are told apart by their path alone.
        neutral = NEUTRAL_DATASET | ({"path"} if "archive" in dataset else set())
        kept["dataset"] = {key: value for key, value in dataset.items() if key not in neutral}
    partition = kept.get("partition")
    if isinstance(partition, Mapping):
        kept["partition"] = {key: value for key, value in partition.items() if key not in NEUTRAL_PARTITION}
    return kept


def _canonical(value: Any) -> Any:
    """Whole floats as integers, so that `1` and `1.0` are one value; containers through and through."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _word(value: Any) -> str:
    return "absent" if value is ABSENT else typed(value)
