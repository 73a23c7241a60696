"""Whether the root's values are allowed, and what to write if one is not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pffdst.config.schema import allowed

__all__ = ["range_problems"]


def range_problems(cfg: DictConfig) -> list[str]:
    """One line for every root value out of range; missing values are not checked here."""
    given: dict[str, Any] = {}
    for key in allowed():
        with suppress(OmegaConfBaseException):  # missing, or an interpolation that cannot be resolved
            value = cfg[key]
            given[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    lines = [
        f"{key}={given[key]}: expected {rule.expected.format(key=key)}; write e.g. {key}={rule.example}"
        for key, rule in allowed().items()
        if key in given and not rule.holds(given[key])
    ]
    return lines + _cohort(given)


def _cohort(given: dict[str, Any]) -> list[str]:
    cohort, clients = given.get("cohort"), given.get("clients")
    if cohort is None or clients is None or not 1 <= clients < cohort:
        return []
    return [f"cohort={cohort}: expected cohort <= clients={clients}; write e.g. cohort={clients} or clients={cohort}"]
