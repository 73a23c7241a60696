"""Whether the values of the root are allowed, and what to write where one is not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pffdst.config.schema import allowed

__all__ = ["range_problems"]


def range_problems(cfg: DictConfig) -> list[str]:
    """One line for every value at the root out of its range; those without a value are not judged here."""
    given: dict[str, Any] = {}
    for key in map(str, cfg):
        with suppress(OmegaConfBaseException):  # missing, or an interpolation that leads nowhere
            given[key] = cfg[key]
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
