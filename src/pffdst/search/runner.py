"""Running a search: trial after trial through Hydra's launcher, each a normal run in a folder of its own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from rich.console import Console

from pffdst.config.compose import Session
from pffdst.config.flags import CommandLine
from pffdst.config.identity import differences
from pffdst.config.overrides import opened_for
from pffdst.config.resume import quoted
from pffdst.core.errors import UserError
from pffdst.core.program import command_line
from pffdst.core.seeding import derive_seed
from pffdst.loggers.csv import CsvLogger, read_metrics
from pffdst.metrics.units import format_figure
from pffdst.runs.files import LOG
from pffdst.runs.jobs import locked, read_run, result_folder
from pffdst.search.definition import Search, assigned, read_search, sampler_for
from pffdst.search.trials import Proposal, Trials, front_table, shown

__all__ = ["refuse_another", "run_search"]

_IN_A_ROW = 3
Task = Callable[[DictConfig], float]


def run_search(argv: Sequence[str], config_dir: Path, task: Task) -> int:
    """Runs what is left of the search; returns the exit code, 1 where failures stopped it.

    Raises:
        ConfigError: with every problem of the search.
        UserError: where its folder holds another search, or another process is running there.
    """
    line = CommandLine.of(argv)
    with opened_for(line, config_dir) as opened:
        search = read_search(opened, line.overrides)
        with locked(search.folder):
            trials = Trials.open(search.folder, search.spec)
            refuse_another(search, trials)
            trials.note_request(line.overrides, search.trials)
            seed = int(search.spec["seed"])
            return _Run(search, trials, seed, _launcher(opened, search, task), Console()).to_the_end()


@final
class _Run:
    """One process running a search."""

    def __init__(self, search: Search, trials: Trials, seed: int, launcher: Any, console: Console) -> None:
        self._search = search
        self._trials = trials
        self._launcher = launcher
        self._console = console
        self._sampler = sampler_for(search.sampler, lambda number: derive_seed(seed, "search", number) % 2**32)

    def to_the_end(self) -> int:
        """Runs trials until enough are done, or too many in a row have failed."""
        self._say(self._beginning())
        in_a_row = 0
        while self._done() < self._search.trials and in_a_row < _IN_A_ROW:
            proposal = self._trials.propose(self._search.space, self._sampler)
            in_a_row = 0 if self._run(proposal) else in_a_row + 1
        self._console.print(front_table(self._trials))
        trials = self._trials.all()
        failed = [trial for trial in trials if trial.status == "failed"]
        self._say(f"{self._done()} of {self._search.trials} trials done, {len(failed)} failed")
        if in_a_row < _IN_A_ROW:
            return 0
        again = command_line("train", sys.argv[1:])
        self._say(f"The search stopped after {_IN_A_ROW} failures in a row: {failed[-1].error}")
        self._say(f"Finished trials are kept. To resume: {again}")
        return 1

    def _done(self) -> int:
        return sum(trial.status == "done" for trial in self._trials.all())

    def _beginning(self) -> str:
        search, trials = self._search, self._trials.all()
        aims = ", ".join(f"{direction} {figure}" for figure, direction in search.objectives.items())
        if not trials:
            return f"search {search.name}: {search.trials} trials, {aims}; files in {search.folder}"
        left = "".join(f"; trial {t.number} was stopped and will be resumed" for t in trials if t.status == "running")
        return f"search {search.name} resumes in {search.folder}: {self._done()} of {search.trials} trials done{left}"

    def _run(self, proposal: Proposal) -> bool:
        """Runs one trial; returns whether it gave its figures."""
        values = "  ".join(f"{key}={shown(value)}" for key, value in proposal.values.items())
        self._say(f"\ntrial {proposal.number}{' (resumed)' if proposal.resumed else ''}: {values}")
        own = [assigned(key, value) for key, value in proposal.values.items()]
        self._launcher.launch([[*self._search.overrides, *own]], initial_job_idx=proposal.number)
        reached, problem = _figures(self._search.folder / str(proposal.number), list(self._search.objectives))
        if problem is not None:
            self._trials.failed(proposal.number, problem)
            self._say(f"trial {proposal.number} failed: {problem}")
            return False
        self._trials.succeeded(proposal.number, reached)
        figures = "  ".join(f"{name} {format_figure(name, value)}" for name, value in reached.items())
        self._say(f"trial {proposal.number}: {figures}")
        return True

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _figures(folder: Path, names: Sequence[str]) -> tuple[dict[str, float], str | None]:
    """The figures of a trial's last round, or why there are none."""
    source = result_folder(folder)
    run = read_run(source)
    if run.get("status") != "done":
        return {}, str(run.get("error", f"it ended without a result; see its {LOG}"))
    row = read_metrics(source / CsvLogger.FILE)[-1]
    missing = [name for name in names if not isinstance(row.get(name), int | float)]
    if missing:
        return {}, f"its last round has no {' and no '.join(missing)}"
    reached = {name: float(row[name]) for name in names}
    if lost := [f"{name} {value}" for name, value in reached.items() if not math.isfinite(value)]:
        return {}, f"its last round has {' and '.join(lost)}"
    return reached, None


def _launcher(opened: Session, search: Search, task: Task) -> Any:
    """Hydra's launcher, as a sweep would use it: job folders below the search's own, W&B's group its name."""
    own = [f"hydra.sweep.dir={quoted(str(search.folder.resolve()))}", "hydra.mode=MULTIRUN", "hydra/hydra_logging=none"]
    lines = [*search.overrides, *own, *opened.places]
    config = opened.loader.load_configuration(opened.config_name, lines, run_mode=RunMode.MULTIRUN)
    context = HydraContext(config_loader=opened.loader, callbacks=Callbacks())
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)


def refuse_another(search: Search, trials: Trials) -> None:
    """UserError where the search was started with other settings, naming them."""
    lines = differences(trials.spec, search.spec)
    if lines:
        told = "\n".join(f"  - {line}" for line in lines)
        raise UserError(
            f"{search.folder} holds a search with other settings; use the same ones, or start another search with "
            f"search.folder=DIR:\n{told}"
        )
