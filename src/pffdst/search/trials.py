"""The trials of a search, on disk: which trials were proposed, what they reached, and which values come next.

Everything is in one SQLite file of Optuna's format (`optuna-dashboard sqlite:///FOLDER/search.db` reads it), committed
as it happens: a search that is killed at any instant knows what it had proposed. Every trial gets a new sampler, seeded
by the trial's number, so a search that was stopped and resumed proposes the same trials as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from sqlalchemy.pool import NullPool

from pffdst.core.errors import UserError
from pffdst.metrics.units import format_figure
from pffdst.runs.files import SEARCH
from pffdst.runs.foreign import foreign

__all__ = ["OBJECTIVES", "Direction", "Proposal", "Trial", "Trials", "Value", "front_table", "shown"]

Direction = Literal["maximize", "minimize"]
Value = bool | int | float | str | None
Status = Literal["running", "done", "failed"]

OBJECTIVES = "search.objectives"
_NAME = "search"
_SPEC, _GIVEN, _WANTED, _ERROR = "spec", "given", "wanted", "error"
_STATUS: Final[dict[TrialState, Status]] = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}


@final
@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number, from 0, and a value for every searched key; `resumed` if a kill left it open."""

    number: int
    values: Mapping[str, Value]
    resumed: bool


@final
@dataclass(frozen=True)
class Trial:
    """A trial's current state: `reached` has a figure per objective once it is done, `error` says why it failed."""

    number: int
    values: Mapping[str, Value]
    status: Status
    reached: Mapping[str, float]
    error: str


@final
class Trials:
    """The trials in a search's folder, an Optuna study; one process at a time works on it."""

    def __init__(self, folder: Path, study: optuna.Study, storage: RDBStorage) -> None:
        self.folder = folder
        self._study = study
        self._storage = storage
        self._objectives = tuple(self.spec[OBJECTIVES])

    @classmethod
    def open(cls, folder: Path, spec: Mapping[str, Any]) -> Trials:
        """Starts the study or opens it.

        `spec` describes in plain values what is searched, `spec[OBJECTIVES]` with a direction per figure; the study
        keeps it as it was at the start.
        """
        storage = _storage(folder)
        with _quiet():
            study = optuna.create_study(
                storage=storage, study_name=_NAME, directions=list(spec[OBJECTIVES].values()), load_if_exists=True
            )
        if _SPEC not in study.user_attrs:
            study.set_user_attr(_SPEC, json.dumps(spec))
        return cls(folder, study, storage)

    @classmethod
    def load(cls, folder: Path) -> Trials | None:
        """The study in a folder; None if there is none, or if it was stopped before it knew what to search."""
        if not (folder / SEARCH).is_file():
            return None
        storage = _storage(folder)
        if _NAME not in optuna.get_all_study_names(storage):
            return None
        study = optuna.load_study(study_name=_NAME, storage=storage)
        return cls(folder, study, storage) if _SPEC in study.user_attrs else None

    def note_request(self, given: Sequence[str], wanted: int) -> None:
        """Keeps the overrides of the command line and the number of trials it asks for, for reports of progress."""
        self._study.set_user_attr(_GIVEN, list(given))
        self._study.set_user_attr(_WANTED, wanted)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The figures that the search optimises."""
        return self._objectives

    @property
    def spec(self) -> dict[str, Any]:
        """The specification that the study was started with."""
        found: dict[str, Any] = json.loads(self._study.user_attrs[_SPEC])
        return found

    @property
    def given(self) -> tuple[str, ...]:
        """The overrides it was last started with."""
        return tuple(map(str, self._study.user_attrs.get(_GIVEN, ())))

    @property
    def left(self) -> int:
        """How many trials are still to be done."""
        done = sum(trial.status == "done" for trial in self.all())
        return max(0, int(self._study.user_attrs.get(_WANTED, 0)) - done)

    def all(self) -> list[Trial]:
        """Every trial so far, by number."""
        return [self._read(found) for found in self._study.get_trials(deepcopy=False)]

    def front(self) -> list[Trial]:
        """The trials that no other beats in every objective, sorted by the first objective, best first."""
        sign = -1 if self._study.directions[0] is StudyDirection.MAXIMIZE else 1
        best = [self._read(found) for found in self._study.best_trials]
        return sorted(best, key=lambda trial: (sign * trial.reached[self._objectives[0]], trial.number))

    def propose(self, space: Mapping[str, BaseDistribution], sampler: Callable[[int], BaseSampler]) -> Proposal:
        """The trial to run now: one that a killed search left unfinished, else a new one.

        `space` has a distribution per key, `sampler` makes the sampler of the trial with a number.
        """
        trials = self.all()
        left = [trial.number for trial in trials if trial.status == "running"]
        number = left[0] if left else len(trials)
        self._study.sampler = sampler(number)
        trial = self._resumed(number) if left else self._study.ask()
        # A kill may have come between two values: those already drawn are kept.
        values = {name: _suggest(trial, name, among) for name, among in space.items()}
        return Proposal(number, values, bool(left))

    def succeeded(self, number: int, reached: Mapping[str, float]) -> None:
        """Records what a trial reached: a finite figure per objective."""
        self._study.tell(number, [reached[name] for name in self._objectives])

    def failed(self, number: int, error: str) -> None:
        """Records why a trial has no figures."""
        self._resumed(number).set_user_attr(_ERROR, error)
        self._study.tell(number, state=TrialState.FAIL)

    def _resumed(self, number: int) -> optuna.Trial:
        study = self._storage.get_study_id_from_name(_NAME)
        return optuna.Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study, number))

    def _read(self, found: FrozenTrial) -> Trial:
        reached = dict(zip(self._objectives, found.values or (), strict=False))
        status = _STATUS.get(found.state, "running")
        return Trial(found.number, dict(found.params), status, reached, str(found.user_attrs.get(_ERROR, "")))


def front_table(study: Trials) -> Table:
    """The trials on the Pareto front: number, searched values, figures, where their files are."""
    front = study.front()
    searched = list(dict.fromkeys(name for trial in front for name in trial.values))
    best = "Best trial" if len(study.objectives) == 1 else "Pareto front"
    table = Table(title=foreign(f"{best} of {study.folder}"), title_justify="left")
    table.add_column("trial", justify="right")
    for name in (*searched, *study.objectives):
        table.add_column(foreign(name), justify="right", overflow="fold")
    for trial in front:
        values = (shown(trial.values.get(name)) for name in searched)
        figures = (format_figure(name, value) for name, value in trial.reached.items())
        table.add_row(str(trial.number), *map(foreign, (*values, *figures)))
    return table


def shown(value: Value) -> str:
    """A searched value, short enough to read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _storage(folder: Path) -> RDBStorage:
    if (folder / SEARCH).is_symlink():  # in somebody else's folder it may point to any of our databases
        raise UserError(f"{folder / SEARCH}: it is a link; replace it with what it points to")
    # No connection outlives a query: runs fork worker processes in between.
    return RDBStorage(f"sqlite:///{(folder / SEARCH).resolve()}", {"poolclass": NullPool})


def _suggest(trial: optuna.Trial, name: str, among: BaseDistribution) -> Value:
    if isinstance(among, FloatDistribution):
        return trial.suggest_float(name, among.low, among.high, step=among.step, log=among.log)
    if isinstance(among, IntDistribution):
        return trial.suggest_int(name, among.low, among.high, step=among.step, log=among.log)
    assert isinstance(among, CategoricalDistribution)
    return trial.suggest_categorical(name, among.choices)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Optuna's messages that a study was created or found; the search prints its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
