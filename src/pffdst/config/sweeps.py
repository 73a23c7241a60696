"""The jobs of a sweep, from its command line: what Hydra's sweeper makes of it, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

__all__ = ["grid_of", "jobs_in", "saved_overrides"]

_SAVED = "multirun.yaml"


def jobs_in(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of a sweep's overrides, in the order of the job numbers. HydraException where one is none."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    [jobs] = BasicSweeper.split_arguments(parsed, None)
    return [tuple(job) for job in jobs]


def saved_overrides(sweep: Path) -> list[str]:
    """The overrides a sweep was started with, those of its preset first; empty for a folder that holds no sweep."""
    if not (sweep / _SAVED).is_file():
        return []
    hydra = OmegaConf.load(sweep / _SAVED).hydra
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    return [*params, *map(str, hydra.overrides.task)]


def grid_of(sweep: Path) -> list[tuple[str, ...]]:
    """The jobs that a sweep's folder should hold; empty where that cannot be told."""
    try:
        return jobs_in(saved_overrides(sweep)) if (sweep / _SAVED).is_file() else []
    except HydraException:
        return []  # glob(...) needs the folders of configurations the sweep was started with
