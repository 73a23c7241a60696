"""The jobs of a sweep, from its command line: what Hydra's sweeper makes of it, without running anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pffdst.runs.files import SWEEP, FileProblem, read_yaml

__all__ = ["grid_of", "jobs_in", "saved_overrides"]

_MOST_JOBS = 100_000


def jobs_in(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of a sweep's overrides, in the order of the job numbers. HydraException where one is none."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    [jobs] = BasicSweeper.split_arguments(parsed, None)
    return [tuple(job) for job in jobs]


def saved_overrides(sweep: Path) -> list[str]:
    """The overrides a sweep was started with, those of its preset first; empty for a folder that holds no sweep."""
    try:
        hydra = read_yaml(sweep / SWEEP)["hydra"]
        params = [f"{key}={value}" for key, value in (hydra["sweeper"].get("params") or {}).items()]
        return [*params, *map(str, hydra["overrides"]["task"])]
    except (FileProblem, AttributeError, KeyError, TypeError):
        return []  # not there, or not what Hydra writes


def grid_of(sweep: Path) -> list[tuple[str, ...]]:
    """The jobs that a sweep's folder should hold; empty where that cannot be told."""
    saved = saved_overrides(sweep)
    try:
        return jobs_in(saved) if saved and _job_count(saved) <= _MOST_JOBS else []
    except HydraException:
        return []  # glob(...) needs the folders of configurations the sweep was started with


def _job_count(overrides: Sequence[str]) -> int:
    """How many jobs a grid has, counted up to a little above _MOST_JOBS: what a folder says may have no end."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = [each.sweep_iterator() for each in parsed if each.is_sweep_override()]
    return math.prod(sum(1 for _ in islice(choices, _MOST_JOBS + 1)) for choices in swept)
