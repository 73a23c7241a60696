"""The root's numbers: what each may be, and what to write where it may not."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

__all__ = ["range_problems"]


@final
@dataclass(frozen=True)
class _Rule:
    key: str
    holds: Callable[[float], bool]
    expected: str
    example: str

    def problem(self, value: Any) -> str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and math.isfinite(value) and self.holds(value):
            return None
        return f"{self.key}={value}: expected {self.expected}; write e.g. {self.key}={self.example}"


def _at_least(key: str, low: int, example: str) -> _Rule:
    return _Rule(key, lambda v: v >= low, f"{key} >= {low}", example)


def _below_one(key: str, example: str) -> _Rule:
    return _Rule(key, lambda v: 0 <= v < 1, f"0 <= {key} < 1", example)


_RULES = (
    _below_one("sparsity", "0.95"),
    _at_least("rounds", 1, "100"),
    _Rule("seed", lambda v: 0 <= v < 2**63, "0 <= seed < 2**63", "0"),
    _at_least("clients", 1, "20"),
    _at_least("cohort", 1, "10"),
    _at_least("local_epochs", 1, "2"),
    _at_least("batch_size", 1, "32"),
    _Rule("lr", lambda v: v > 0, "lr > 0", "0.05"),
    _below_one("momentum", "0.9"),
    _at_least("weight_decay", 0, "0.001"),
    _at_least("prox_mu", 0, "0.0"),
    _at_least("clip_norm", 0, "0.0"),
    _below_one("server_ema", "0.9"),
    _below_one("validation_share", "0.2"),
    _at_least("eval_every", 1, "2"),
    _at_least("eval_every_bytes", 0, "0"),
    _at_least("checkpoint_every", 1, "10"),
)


def range_problems(cfg: DictConfig) -> list[str]:
    """One line for every root scalar out of its range; those without a value are not judged here."""
    given: dict[str, Any] = {}
    for key in map(str, cfg):
        with suppress(OmegaConfBaseException):  # missing, or an interpolation that leads nowhere
            given[key] = cfg[key]
    lines = [rule.problem(given[rule.key]) for rule in _RULES if rule.key in given]
    lines += [_cohort(given), _name(given), _resume(given), _profile(given)]
    return [line for line in lines if line is not None]


def _cohort(given: dict[str, Any]) -> str | None:
    cohort, clients = given.get("cohort"), given.get("clients")
    if cohort is None or clients is None or not 1 <= clients < cohort:
        return None
    return f"cohort={cohort}: expected cohort <= clients={clients}; write e.g. cohort={clients} or clients={cohort}"


def _name(given: dict[str, Any]) -> str | None:
    name = given.get("name")
    if name is None or (name.strip() and name.isprintable() and not set(name) & set('/\\:*?"<>|')):
        return None
    return f"name={name}: expected text that can be part of a folder's name; write e.g. name=digits"


def _profile(given: dict[str, Any]) -> str | None:
    profile = given.get("profile", False)
    if isinstance(profile, bool) or profile == "trace":
        return None
    return f"profile={profile}: expected true, false or trace; write e.g. profile=true"


def _resume(given: dict[str, Any]) -> str | None:
    resume = given.get("resume", False)
    if isinstance(resume, bool) or (isinstance(resume, str) and resume):
        return None
    return f"resume={resume}: expected a run's folder or a checkpoint; write e.g. resume=logs/runs/DATE/RUN"
