"""A search's memory: what was proposed is never lost, and being killed changes no proposal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from rich.console import Console

from pffdst.runs.files import SEARCH
from pffdst.search.trials import OBJECTIVES, Proposal, Trials, front_table

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.01, 1.0, log=True),
    "readjust.interval": IntDistribution(2, 20, step=3),
    "codec": CategoricalDistribution(["fp32", "int8", None, True, 4]),
}
SPEC = {OBJECTIVES: {"test/acc_global": "maximize", "cost/bytes": "minimize"}, "lr": 0.1}
MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda number: TPESampler(seed=number, multivariate=True, n_startup_trials=3),
    "random": lambda number: RandomSampler(seed=number),
    "nsga2": lambda number: NSGAIISampler(seed=number, population_size=3),
}


def figures(proposal: Proposal) -> dict[str, float]:
    lr, interval = proposal.values["lr"], proposal.values["readjust.interval"]
    assert isinstance(lr, float)
    assert isinstance(interval, int)
    return {"test/acc_global": 1 - abs(lr - 0.1), "cost/bytes": 1000 * lr + interval}


def begin(folder: Path) -> Trials:
    study = Trials.open(folder, SPEC)
    study.note_request(["search=x", "rounds=4"], wanted=6)
    return study


def play(folder: Path, sampler: Callable[[int], BaseSampler], trials: int) -> list[Proposal]:
    study, seen = begin(folder), []
    while study.left > 6 - trials:
        seen.append(study.propose(SPACE, sampler))
        study.succeeded(seen[-1].number, figures(seen[-1]))
    return seen


@pytest.mark.parametrize("name", MAKERS)
def test_a_search_that_was_killed_proposes_what_one_never_stopped_does(name: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = play(tmp_path / "whole", MAKERS[name], 6)
    play(tmp_path / "killed", MAKERS[name], 4)
    cut = begin(tmp_path / "killed").propose(SPACE, MAKERS[name])  # and killed while it runs
    again = begin(tmp_path / "killed").propose(SPACE, MAKERS[name])
    assert (cut.number, cut.values, cut.resumed) == (4, whole[4].values, False)
    assert (again.number, again.values, again.resumed) == (4, whole[4].values, True)
    study = begin(tmp_path / "killed")
    study.succeeded(4, figures(again))
    rest = play(tmp_path / "killed", MAKERS[name], 6)
    assert [proposal.values for proposal in rest] == [proposal.values for proposal in whole[5:]]


def test_values_drawn_before_a_kill_stay_and_the_rest_is_drawn(tmp_path: Path) -> None:
    """The kill comes between two values of one proposal."""
    study = begin(tmp_path)
    half = study.propose({"lr": SPACE["lr"]}, MAKERS["random"])
    whole = begin(tmp_path).propose(SPACE, MAKERS["random"])
    assert (whole.number, whole.resumed) == (half.number, True)
    assert whole.values["lr"] == half.values["lr"]
    assert set(whole.values) == set(SPACE)


def test_what_is_asked_for_stays_with_the_study(tmp_path: Path) -> None:
    begin(tmp_path)
    other = Trials.open(tmp_path, SPEC | {"lr": 0.2})
    assert (other.spec, other.given, other.left) == (SPEC, ("search=x", "rounds=4"), 6)
    other.note_request(["search=x"], wanted=9)
    assert (other.spec, other.given, other.left) == (SPEC, ("search=x",), 9)
    assert Trials.load(tmp_path / "nowhere") is None
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / SEARCH).touch()
    assert Trials.load(tmp_path / "empty") is None


def test_failures_are_recorded_and_count_for_nothing(tmp_path: Path) -> None:
    study = begin(tmp_path)
    study.failed(study.propose(SPACE, MAKERS["random"]).number, "out of memory")
    [trial] = begin(tmp_path).all()
    assert (trial.status, trial.error, trial.reached) == ("failed", "out of memory", {})
    assert study.left == 6
    assert study.propose(SPACE, MAKERS["random"]).number == 1
    assert study.front() == []


@pytest.fixture(scope="session")
def empty_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    begin(folder)
    return folder / SEARCH


@settings(max_examples=5, deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4))
def test_the_front_holds_every_trial_that_no_other_beats(
    points: list[tuple[int, int]], empty_study: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("front")
    shutil.copy(empty_study, folder / SEARCH)
    study = begin(folder)
    for accuracy, size in points:
        number = study.propose(SPACE, MAKERS["random"]).number
        study.succeeded(number, {"test/acc_global": float(accuracy), "cost/bytes": float(size)})
    beaten = {
        i for i, (a, b) in enumerate(points) for other in points if other != (a, b) and other[0] >= a and other[1] <= b
    }
    front = study.front()
    assert {trial.number for trial in front} == set(range(len(points))) - beaten
    reached = [trial.reached["test/acc_global"] for trial in front]
    assert reached == sorted(reached, reverse=True)


def test_the_front_as_a_table(tmp_path: Path) -> None:
    study = begin(tmp_path)
    number = study.propose(SPACE, MAKERS["random"]).number
    study.succeeded(number, {"test/acc_global": 0.91234, "cost/bytes": 1.5e6})
    console = Console(width=120)
    with console.capture() as capture:
        console.print(front_table(study))
    for words in ("Pareto front", "readjust.interval", "91.23 %", "1.50 MB"):
        assert words in capture.get(), words
