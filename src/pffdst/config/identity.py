"""What a configuration's result depends on: its fingerprint, and how two configurations differ."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pffdst.config.schema import NEUTRAL, NEUTRAL_DATASET, NEUTRAL_PARTITION, OPTIONAL
from pffdst.core.places import places_of
from pffdst.core.words import dotted, typed

__all__ = [
    "ABSENT",
    "but_for_the_seed",
    "changed",
    "content_differences",
    "content_digest",
    "differences",
    "engine_identity",
    "essence",
    "fingerprint",
]


def fingerprint(cfg: DictConfig) -> str:
    """16 hexadecimal digits that two configurations share if they must give the same result.

    Left out: how it runs (engine), what is scored besides accuracy (metrics), where it writes (logger, paths, name,
    tags, resume, profile, checkpoint_every, partition.save) and where the data are (dataset.path, cache, download).
    The path counts for a dataset that only its path identifies, that is, one without `archive`. Raises OmegaConf's
    errors if a value is missing or cannot be resolved.
    """
    return _digest(essence(cfg))


def engine_identity(cfg: DictConfig) -> str:
    """16 hexadecimal digits of how a run is computed: the engine and its keys, without `workers`, which changes no bit.

    A resumed run may change engines, but sweep jobs with different engines are different jobs. Further metrics count
    too, since they cannot be added once a run is done.
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


def but_for_the_seed(cfg: DictConfig) -> str:
    """A digest that runs share which differ in their seed alone."""
    return _digest({key: value for key, value in essence(cfg).items() if key != "seed"})


def _digest(plain: Any) -> str:
    text = json.dumps(_canonical(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two resolved configurations, except result-neutral keys: `lr: saved 0.01, now 0.05`."""
    return [f"{key}: saved {_word(old)}, now {_word(new)}" for key, (old, new) in changed(saved, now).items()]


def changed(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys that differ, except result-neutral ones, with both values, each of which may be ABSENT."""
    before, after = dotted(_canonical(_essence(saved))), dotted(_canonical(_essence(now)))
    found = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in {**before, **after}}
    return {key: (old, new) for key, (old, new) in found.items() if old != new}


def content_digest(content: Mapping[str, str]) -> str:
    """16 hexadecimal digits of a run's data and its tensors' types and shapes."""
    return _digest(dict(content))


def content_differences(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """How a run's data or tensors differ from before: `training set: was 700 images ..., now 1,400 ...`."""
    lines = {name: (saved.get(name, "absent"), now.get(name, "absent")) for name in {**saved, **now}}
    return [f"{name}: was {old}, now {new}" for name, (old, new) in lines.items() if old != new]


ABSENT = object()


def _essence(plain: Any) -> dict[str, Any]:
    kept = {key: value for key, value in plain.items() if key not in NEUTRAL and (value or key not in OPTIONAL)}
    dataset = kept.get("dataset")
    if isinstance(dataset, Mapping):
        neutral = NEUTRAL_DATASET | places_of(dataset)
        kept["dataset"] = {key: value for key, value in dataset.items() if key not in neutral}
    partition = kept.get("partition")
    if isinstance(partition, Mapping):
        kept["partition"] = {key: value for key, value in partition.items() if key not in NEUTRAL_PARTITION}
    return kept


def _canonical(value: Any) -> Any:
    """Whole floats as integers, so that `1` and `1.0` are one value; infinity and NaN as words; recursively."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # which JSON has no number for
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _word(value: Any) -> str:
    return "absent" if value is ABSENT else typed(value)
