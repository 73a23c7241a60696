"""What a search's yaml may say, and what is answered to one that may not."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pffdst.config.check import ConfigError
from pffdst.config.compose import compose, session
from pffdst.config.flags import CommandLine
from pffdst.config.overrides import preflight
from pffdst.core.errors import UserError
from pffdst.search.definition import Search, read_search, sampler_for, written
from pffdst.search.runner import refuse_another
from pffdst.search.trials import Trials

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "configs" / "search").glob("*.yaml"))
GOOD = """
    trials: 4
    folder: ${paths.logs}/searches/own
    sampler: {_target_: optuna.samplers.RandomSampler}
    objectives: {val/acc_global: maximize}
    fixed: {validation_share: 0.2, rounds: 40}
    space:
      lr: {low: 0.01, high: 1, log: true}
"""


ON_TEST = "test/acc_global: maximize}\n    fixed: {"


def read(folder: Path, text: str, *overrides: str, name: str = "own") -> Search:
    """The search of a yaml beside the shipped ones."""
    path = folder / "extra" / "search" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    place = f"file://{folder / 'extra'}"
    with session(ROOT / "configs", searchpath=[place]) as opened:
        return read_search(opened, [f"search={name}", *overrides])


def problems(folder: Path, text: str, *overrides: str, name: str = "own") -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(folder, text, *overrides, name=name)
    return refused.value.problems


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_search_can_be_run(name: str) -> None:
    with session(ROOT / "configs") as opened:
        search = read_search(opened, [f"search={name}"])
    sampler_for(search.sampler, lambda number: number)(3)
    assert search.folder == Path("logs/searches") / name


def test_whole_bounds_of_a_whole_number_give_whole_numbers(tmp_path: Path) -> None:
    text = GOOD + "  momentum: {low: 0, high: 0.9}\n      local_epochs: {low: 1, high: 3}\n      codec: [fp32, int8]\n"
    space = read(tmp_path, text.replace("  momentum", "      momentum", 1)).space
    assert space == {
        "lr": FloatDistribution(0.01, 1.0, log=True),
        "momentum": FloatDistribution(0.0, 0.9),
        "local_epochs": IntDistribution(1, 3),
        "codec": CategoricalDistribution(["fp32", "int8"]),
    }


def test_an_interval_is_tried_by_the_values_that_trials_get(tmp_path: Path) -> None:
    """A key that is null tells nothing of its kind: its interval is of real numbers, which this one does not take."""
    text = GOOD + "      aggregation.max_samples: {low: 50, high: 100}\n"
    found = problems(tmp_path, text)
    assert any("expected a whole number or null" in line and "50.0" in line for line in found), found
    assert read(tmp_path, text.replace("{low: 50, high: 100}", "[50, 100]")).space


def test_what_is_typed_wins(tmp_path: Path) -> None:
    two = GOOD + "      momentum: {low: 0, high: 0.9}\n"
    search = read(tmp_path, two, "lr=0.3", "rounds=60", "search.trials=9")
    assert set(search.space) == {"momentum"}
    assert search.overrides == ("validation_share=0.2", "lr=0.3", "rounds=60")
    assert search.trials == 9
    assert search.spec["rounds"] == 60


def test_more_trials_and_another_sampler_are_the_same_search(tmp_path: Path) -> None:
    before = read(tmp_path, GOOD)
    after = read(tmp_path, GOOD.replace("RandomSampler", "TPESampler"), "search.trials=99", "engine.workers=1")
    assert before.spec == after.spec
    assert read(tmp_path, GOOD.replace("0.01", "0.02")).spec != before.spec
    assert read(tmp_path, GOOD, "seed=1").spec != before.spec


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trials: 4", "trials: 0", "write e.g. search.trials=20"),
        ("trials: 4", "trails: 4", "did you mean trials?"),
        ("{low: 0.01, high: 1, log: true}", "0.1", "or an interval, such as {low: 0.01"),
        ("{low: 0.01, high: 1, log: true}", "[]", "no choice is given"),
        ("{low: 0.01, high: 1, log: true}", "{low: 1}", "high is missing"),
        ("{low: 0.01, high: 1, log: true}", "{low: 1, high: 0.5}", "the other way round"),
        ("{low: 0.01, high: 1, log: true}", "{low: 0.1, high: 1, logg: true}", "did you mean log?"),
        ("{low: 0.01, high: 1, log: true}", "{low: 0, high: 1, log: true}", "low"),
        ("{low: 0.01, high: 1, log: true}", "{low: 0.1, high: 1, log: true, step: 0.1}", "leave one out"),
        ("{low: 0.01, high: 1, log: true}", "{low: 0.0, high: 1}", "search.space, at lr=0.0: lr=0.0: expected lr > 0"),
        ("{low: 0.01, high: 1, log: true}", "[0.1, fast]", "lr=fast: expected a number"),
        ("lr: {low: 0.01, high: 1, log: true}", "{}", "search.space: no key is given; write e.g. lr:"),
        ("lr:", "learning_rate:", "there is no such key"),
        ("lr: {low: 0.01, high: 1, log: true}", "codec: [fp32, fp64]", "options: codec=bf16"),
        ("val/acc_global", "val/accuracy", "did you mean val/acc_global"),
        ("val/acc_global", "test/acc_global", "with validation_share above 0 it is val/acc_global"),
        ("val/acc_global", "val/f1", "no run has the figure val/f1"),
        ("maximize", "max", "expected maximize or minimize"),
        ("RandomSampler", "RandomSample", "write e.g. _target_: optuna.samplers.TPESampler"),
        ("optuna.samplers.RandomSampler", "pathlib.Path", "is not a sampler"),
        ("RandomSampler}", "RandomSampler, sed: 1}", "did you mean seed?"),
        ("RandomSampler}", "RandomSampler, seed: 1}", "leave it out: the run's seed"),
        ("rounds: 40", "lr: 0.1", "leave it out of fixed or of space"),
        ("validation_share: 0.2, ", "", "with validation_share=0 it is test/acc_global"),
        ("val/acc_global: maximize}\n    fixed: {validation_share: 0.2, ", ON_TEST, "search=own_on_test"),
    ],
)
def test_a_problem_says_what_to_write(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new))
    assert any(words in line for line in found), found


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD
    for old, new in (("trials: 4", "trials: 0"), ("maximize", "max"), ("lr: {", "lr: {low: 0}\n      momentum: {")):
        text = text.replace(old, new)
    found = "\n".join(problems(tmp_path, text))
    for part in ("search.trials=0", "expected maximize", "lr: high is missing", "at momentum=1.0: momentum=1.0"):
        assert part in found, found


def test_a_search_on_the_test_set_says_so_in_its_name(tmp_path: Path) -> None:
    text = GOOD.replace("validation_share: 0.2, ", "").replace("val/acc_global", "test/acc_global")
    assert read(tmp_path, text, name="own_on_test").spec["validation_share"] == 0
    costs = text.replace("test/acc_global: maximize", "cost/bytes: minimize")
    assert read(tmp_path, costs).objectives == {"cost/bytes": "minimize"}


def test_a_further_metric_can_be_searched_by_where_it_is_evaluated(tmp_path: Path) -> None:
    text = GOOD.replace("val/acc_global", "val/ema_f1")
    assert read(tmp_path, text, "metrics=f1").objectives == {"val/ema_f1": "maximize"}


def test_another_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    study = Trials.open(tmp_path, read(tmp_path, GOOD).spec)
    refuse_another(read(tmp_path, GOOD, "search.trials=9", "engine.workers=1"), study)
    for text, given, told in (
        (GOOD.replace("0.01", "0.02"), "name=x", r"search\.space\.lr\.low: saved 0\.01, now 0\.02"),
        (GOOD.replace("maximize", "minimize"), "name=x", r"saved maximize, now minimize"),
        (GOOD, "sparsity=0.9", r"sparsity: saved 0\.8, now 0\.9"),
    ):
        with pytest.raises(UserError, match=told):
            refuse_another(read(tmp_path, text, given), study)


def test_nothing_left_to_search(tmp_path: Path) -> None:
    assert "nothing is left to search" in problems(tmp_path, GOOD, "lr=0.1")[0]


@pytest.mark.parametrize("value", [None, True, False, 3, 0.1, 1e-7, "fp32", "two words", "a=b", "", "${x}", "it's"])
def test_a_written_value_is_read_back_as_it_was(value: Any) -> None:
    key = "name" if isinstance(value, str) else "resume"
    cfg = compose([written(key, value)], ROOT / "configs")
    assert cfg[key] == value
    assert type(cfg[key]) is type(value)


def test_which_command_lines_search() -> None:
    assert CommandLine.of(["seed=1", "search=digits_lr"]).searches
    for other in (["seed=1"], ["search=null"], ["search=digits_lr", "--cfg", "job"], ["search=digits_lr", "--help"]):
        assert not CommandLine.of(other).searches
    with pytest.raises(ConfigError, match=r"write python train\.py search=digits_lr"):
        preflight(["-m", "search=digits_lr"], ROOT / "configs")
