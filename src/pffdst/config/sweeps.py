"""The jobs of a sweep, from its command line: what Hydra's sweeper would run, without running anything."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pffdst.config.check import problems_of
from pffdst.config.compose import Composed, Session, composition_line
from pffdst.config.flags import key_of
from pffdst.config.identity import fingerprint
from pffdst.config.ranges import range_problems
from pffdst.runs.files import SWEEP, FileProblem, read_yaml
from pffdst.runs.jobs import holds_work, read_run

__all__ = ["Jobs", "grid_of", "jobs_in", "preset_lines", "saved_launcher", "saved_overrides", "saved_subdir"]

_MOST_JOBS = 100_000
_NO_VALUES = (ValueError, TypeError, ArithmeticError)  # raised by a sweep that can be written but not counted
_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
Job = tuple[str, ...]
_LAUNCHER = re.compile(r"hydra/launcher=joblib|hydra\.launcher\.n_jobs=-?[0-9]{1,4}")
_NUMBER = "hydra.job.num"


def jobs_in(overrides: Sequence[str], parser: OverridesParser | None = None) -> list[tuple[str, ...]]:
    """Every combination of a sweep's overrides, in the order of the job numbers.

    HydraException if a line is not an override, or sweeps over an interval, which has no values to count.
    """
    parsed = (parser or OverridesParser.create()).parse_overrides(list(overrides))
    lines = {override.get_key_element(): _lines(override) for override in parsed}  # the last of a key counts
    return list(itertools.product(*lines.values()))


def _lines(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise HydraException(f"{override.input_line}: a sweep takes single values, such as {key}=1,2 or range(0,3)")
    try:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except _NO_VALUES as error:  # range(0,3,0)
        raise HydraException(f"{override.input_line}: a sweep cannot use these values: {error}") from error


def preset_lines(hydra: Any) -> list[str]:
    """The overrides that a `sweep=` preset adds, from Hydra's own node."""
    return [f"{key}={value}" for key, value in (hydra["sweeper"].get("params") or {}).items()]


def saved_overrides(sweep: Path) -> list[str]:
    """The overrides a sweep was started with, those of its preset first; empty for a folder without a sweep."""
    try:
        hydra = read_yaml(sweep / SWEEP)["hydra"]
        return [*preset_lines(hydra), *map(str, hydra["overrides"]["task"])]
    except (FileProblem, AttributeError, KeyError, TypeError):
        return []  # not there, or not what Hydra writes


def saved_subdir(sweep: Path) -> list[str]:
    """The override that says where in a sweep's folder its jobs are; empty if it was started without one.

    Other Hydra settings are not repeated: a folder may come from anyone.
    """
    return [line for line in _said_to_hydra(sweep) if line.startswith("hydra.sweep.subdir=")][-1:]


def saved_launcher(sweep: Path) -> list[str]:
    """The overrides that made a sweep's jobs run in parallel, with a launcher installed with this package."""
    return [line for line in _said_to_hydra(sweep) if _LAUNCHER.fullmatch(line)]


def _said_to_hydra(sweep: Path) -> list[str]:
    try:
        return list(map(str, read_yaml(sweep / SWEEP)["hydra"]["overrides"]["hydra"]))
    except (FileProblem, AttributeError, KeyError, TypeError):
        return []


def grid_of(sweep: Path) -> list[tuple[str, ...]]:
    """The jobs that a sweep's folder should contain; empty if they cannot be determined."""
    saved = saved_overrides(sweep)
    try:
        return jobs_in(saved) if saved and _job_count(saved) <= _MOST_JOBS else []
    except (HydraException, *_NO_VALUES):
        return []  # glob(...) needs the configuration folders that the sweep was started with


def _job_count(overrides: Sequence[str]) -> int:
    """How many jobs a grid has, counted to just above _MOST_JOBS: a folder's contents may never end."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = [each.sweep_iterator() for each in parsed if each.is_discrete_sweep()]
    return math.prod(sum(1 for _ in islice(choices, _MOST_JOBS + 1)) for choices in swept)


@final
class Jobs:
    """The check of every job of a sweep before the first one starts.

    `bases` has the configurations composed so far, by the options they were composed from.
    """

    def __init__(self, opened: Session, parser: OverridesParser, bases: dict[tuple[str, ...], Composed]) -> None:
        self._session = opened
        self._groups = opened.groups()
        self._parser = parser
        self._bases = bases

    def problems(self, lines: Sequence[str], hydra: Sequence[str]) -> list[str]:
        """Problems of the jobs that these overrides, except `hydra.*`, produce; each line names its jobs."""
        try:
            if str(self._session.compose(hydra).hydra.sweeper._target_) != _SWEEPER:
                return []  # what another sweeper will try is not known
            jobs = jobs_in(lines, self._parser)
            found = self._by_line(jobs)
            return [_told(line, numbers, jobs) for line, numbers in found.items()] or self._clashes(jobs, hydra)
        except HydraException as error:
            return [composition_line(error)]

    def _by_line(self, jobs: Sequence[Job]) -> dict[str, list[int]]:
        """The jobs with each problem. Of jobs that differ only in the seed, one is checked in full."""
        found: dict[str, list[int]] = defaultdict(list)
        seen: dict[Job, list[str]] = {}
        for number, job in enumerate(jobs):
            made = self._made(job)
            seedless = tuple(line for line in job if key_of(line).lstrip("+") != "seed")
            if seedless not in seen:
                seen[seedless] = problems_of(made.cfg, made.choices)
            for line in dict.fromkeys([*seen[seedless], *range_problems(made.cfg)]):
                found[line].append(number)
        return found

    def _made(self, job: Job) -> Composed:
        """The job's configuration: the same result as composing it, in a tenth of the time."""
        options = tuple(line for line in job if key_of(line) in self._groups)
        if options not in self._bases:
            self._bases[options] = self._session.compose(options)
        base = self._bases[options]
        cfg = copy.deepcopy(base.cfg)
        for line in job:
            if key_of(line) not in self._groups:
                override = self._parser.parse_override(line)
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)
        return replace(base, cfg=cfg)

    def _clashes(self, jobs: Sequence[Job], hydra: Sequence[str]) -> list[str]:
        """A line for every folder that several jobs would write to, or that has another run's results."""
        node = self._session.compose(hydra).hydra
        raw: Any = OmegaConf.to_container(node.sweep, resolve=False)
        written, root = str(raw["subdir"]), Path(str(node.sweep.dir))
        if "hydra.job.id" in written or (_NUMBER in written and not root.is_dir()):
            return []
        users: dict[str, list[int]] = defaultdict(list)
        plain = written == f"${{{_NUMBER}}}"
        for number, job in enumerate(jobs):
            users[str(number) if plain else _subdir(self._session.compose([*job, *hydra]), number)].append(number)
        shared = {folder: numbers for folder, numbers in users.items() if len(numbers) > 1}
        return [
            f"hydra.sweep.subdir={written}: jobs {', '.join(map(str, numbers))} would all write to {folder}; "
            "name every swept key in it, or leave it out to number the jobs"
            for folder, numbers in shared.items()
        ] or self._occupied(root, {numbers[0]: folder for folder, numbers in users.items()}, jobs)

    def _occupied(self, root: Path, folders: Mapping[int, str], jobs: Sequence[Job]) -> list[str]:
        """A line if jobs would write to folders with results of other runs: Hydra would overwrite their command lines.

        The jobs of the sweep that was started there before, and of one with more jobs after them, are continued.
        """
        taken = [number for number, name in folders.items() if self._is_of_another(root / name, jobs[number])]
        if not taken:
            return []
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        return [
            f"hydra.sweep.dir={root}: {folders[taken[0]]} contains another run than job {taken[0]}"
            f" ({' '.join(jobs[taken[0]])}){more}: choose another folder; new values go after those it was started with"
        ]

    def _is_of_another(self, folder: Path, job: Job) -> bool:
        return holds_work(folder) and read_run(folder).get("fingerprint") != fingerprint(self._made(job).cfg)


def _subdir(composed: Composed, number: int) -> str:
    whole = OmegaConf.create(OmegaConf.to_container(composed.cfg, resolve=False))
    whole.hydra = OmegaConf.to_container(composed.hydra, resolve=False)
    whole.hydra.job.num = number
    return str(whole.hydra.sweep.subdir)


def _told(line: str, numbers: Sequence[int], jobs: Sequence[Job]) -> str:
    """The problem, with the jobs that have it, unless all do."""
    if len(numbers) == len(jobs):
        return line
    shared = set.intersection(*map(set, jobs))
    first = " ".join(line for line in jobs[numbers[0]] if line not in shared)
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f"{line} (job {numbers[0]}{more} of {len(jobs)}: {first})"
