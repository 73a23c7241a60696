"""One line in the schema is all that a setting or a group needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pffdst.config.check import data_problems, problems_of
from pffdst.config.choices import Choices, options_of
from pffdst.config.compose import compose
from pffdst.config.help import examples, settings
from pffdst.config.ranges import range_problems
from pffdst.config.schema import NEUTRAL, RootConfig, allowed, groups
from pffdst.core.facts import Checked, Facts
from pffdst.report.groups import is_neutral

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FIELDS = {field.name: field for field in dataclasses.fields(RootConfig)}
PRESETS = {"method", "experiment", "sweep"}


def test_every_group_has_its_line_and_its_default() -> None:
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    default = options_of(OmegaConf.load(CONFIGS / "train.yaml"))  # type: ignore[arg-type]
    assert folders == set(default) == set(groups()) | PRESETS | {"paths", "search"}
    for name, kind in groups().items():
        assert kind.optional or default[name] is not None, f"{name}: null is its default, not the schema's"


def test_every_number_is_told_in_the_help_and_has_a_range() -> None:
    numbers = {name for name, field in FIELDS.items() if field.type in ("int", "float")}
    assert numbers == set(allowed()) & numbers
    assert all(f"  {name} " in settings() for name in numbers)
    assert "sparsity=0.95" in examples()


@pytest.mark.parametrize("name", sorted(allowed()))
def test_the_example_of_a_range_lies_in_it(name: str) -> None:
    rule = allowed()[name]
    example = OmegaConf.create({name: OmegaConf.from_dotlist([f"x={rule.example}"]).x})
    assert range_problems(example) == []
    if rule.expected != allowed()["name"].expected:
        assert not rule.holds(["no", 7])


def test_what_changes_no_result_is_said_once() -> None:
    assert {name for name, field in FIELDS.items() if field.metadata.get("neutral")} | {"hydra"} == NEUTRAL
    assert all(is_neutral(name) for name in NEUTRAL), "the report reads it there"
    assert not {"seed", "lr", "sparsity", "readjust"} & NEUTRAL


def test_a_group_added_to_the_schema_is_checked(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else in the package has to hear of it."""
    cfg = compose([], configs)
    node: dict[str, Any] = {"_target_": "pffdst_fakes.Pace", "every": 7, "untill": 1}
    cfg = OmegaConf.create({**OmegaConf.to_container(cfg, resolve=True), "pace": node})  # type: ignore[dict-item]
    assert problems_of(cfg, Choices()) == []
    kinds = groups() | {"pace": groups()["codec"]}
    monkeypatch.setattr("pffdst.config.check.groups", lambda: kinds)
    assert problems_of(cfg, Choices()) == ["pace.untill: Pace has no such key; did you mean until?"]
    del cfg.pace["untill"]
    cfg.rounds = 5
    assert "a pace of 7 needs more rounds" in problems_of(cfg, Choices())


def test_parts_are_asked_before_the_data_and_after(configs: Path) -> None:
    cfg = compose([], CONFIGS)
    assert data_problems(cfg, samples=1437, size=8, dataset="digits") == []
    [line] = data_problems(cfg, samples=30, size=8, dataset="digits")
    assert "there are 30" in line
    [line] = problems_of(compose(["partition.alpha=0"], CONFIGS), Choices())
    assert line.startswith("partition.alpha must be above 0")
    [line] = data_problems(compose(["partition=column", "partition.column=writer"], CONFIGS),
                           samples=1437, owners=7, size=8, dataset="mine")  # fmt: skip
    assert line == "clients=20, but the data name 7 clients; write clients=7"
    large = compose(["model=lenet", "dataset=cifar10"], CONFIGS)
    [line] = data_problems(large, samples=50_000, size=8, dataset="mine")
    assert line.startswith("model=LeNet needs images of at least 13x13, but mine has 8x8")


def test_facts_that_are_not_known_are_no_problem() -> None:
    from hydra.utils import instantiate

    cfg = compose([], CONFIGS)
    parts = [instantiate(cfg[name]) for name in ("dataset", "readjust", "freeze", "engine")]
    assert all(isinstance(part, Checked) for part in parts)
    assert [line for part in parts for line in part.problems(Facts())] == []
