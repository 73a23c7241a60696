from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pffdst.config.check import ConfigError, check, problems_of
from pffdst.config.choices import Choices
from pffdst.config.compose import Composed, compose, register, session
from pffdst.config.constructors import TargetError, locate
from pffdst.config.ranges import range_problems
from pffdst.config.schema import RootConfig
from pffdst.core.errors import UserError


def problems(configs: Path, *overrides: str) -> list[str]:
    composed = _composed(configs, *overrides)
    return problems_of(composed.cfg, composed.choices)


@functools.cache
def _composed(configs: Path, *overrides: str) -> Composed:
    with session(configs) as opened:
        return opened.compose(overrides)


def changed(configs: Path, override: str) -> DictConfig:
    """The configuration with one value more, without composing it anew."""
    cfg = copy.deepcopy(_composed(configs).cfg)
    parsed = OverridesParser.create().parse_override(override)
    OmegaConf.update(cfg, parsed.key_or_group, parsed.value())
    return cfg


def test_a_good_configuration_passes(configs: Path) -> None:
    assert problems(configs) == []
    check(compose([], configs))


def test_every_problem_is_told_at_once(configs: Path) -> None:
    cfg = compose(["sparsity=1.2", "cohort=30", "lr=0", "model=large"], configs)
    with pytest.raises(ConfigError) as caught:
        check(cfg)
    assert isinstance(caught.value, UserError)
    assert len(caught.value.problems) == 4
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 problems in the configuration:"
    assert lines[1] == "  - sparsity=1.2: expected 0 <= sparsity < 1; write e.g. sparsity=0.95"


@pytest.mark.parametrize(
    "override",
    [
        *("sparsity=1", "sparsity=-0.1", "sparsity=nan", "rounds=0", "seed=-1", "clients=0", "cohort=0", "cohort=21"),
        *("local_epochs=0", "batch_size=0", "lr=0", "lr=-1", "lr=inf", "momentum=1", "momentum=-0.1"),
        *(
            "weight_decay=-1",
            "prox_mu=-1",
            "server_ema=1",
            "server_ema=-0.5",
            "eval_every=0",
            "eval_every_bytes=-1",
            "checkpoint_every=0",
        ),
        *("name=a/b", "name=''", "resume=3"),
    ],
)
def test_each_scalar_has_its_range(configs: Path, override: str) -> None:
    key = override.partition("=")[0]
    [line] = range_problems(changed(configs, override))
    assert line.startswith(f"{key}=")
    assert "; write e.g. " in line


@pytest.mark.parametrize("override", ["sparsity=0", "seed=0", "prox_mu=0", "momentum=0", "server_ema=0", "cohort=20"])
def test_zero_is_a_value(configs: Path, override: str) -> None:
    assert range_problems(changed(configs, override)) == []


@given(key=st.sampled_from(["sparsity", "momentum", "server_ema"]), value=st.floats())
def test_half_open_unit_interval(key: str, value: float) -> None:
    assert bool(range_problems(OmegaConf.create({key: value}))) == (not 0 <= value < 1)


@given(cohort=st.integers(-3, 40), clients=st.integers(-3, 40))
def test_cohort_is_drawn_without_replacement(cohort: int, clients: int) -> None:
    cfg = OmegaConf.create({"cohort": cohort, "clients": clients})
    assert (range_problems(cfg) == []) == (1 <= cohort <= clients)


def test_missing_values_are_named(configs: Path) -> None:
    assert problems(configs, "dataset=own") == ["dataset.path is missing; write dataset.path=..."]


def test_unresolvable_values_are_named(configs: Path) -> None:
    for key in ("dataset.name", "label", "method_name", "readjust.ratio"):
        [line] = problems(configs, f"{key}=${{nowhere}}")
        assert line == f"{key}: Interpolation key 'nowhere' not found; write {key}=..."
    [line] = problems(configs, "tags=[${nowhere}]")
    assert line == "tags: Interpolation key 'nowhere' not found; write tags=..."


def test_model_and_dataset_must_fit(configs: Path) -> None:
    [line] = problems(configs, "model=large")
    assert line == "model=large needs images of at least 13x13, but dataset=small has 8x8: use model=net"


def test_labels_without_hydra_are_the_class_names(configs: Path) -> None:
    [line] = problems_of(compose(["model=large"], configs), Choices())
    assert line.startswith("model=LargeNet needs images of at least 13x13, but dataset=Source has 8x8")


def test_unknown_size_is_left_to_the_data(configs: Path) -> None:
    assert problems(configs, "model=large", "dataset=own", "dataset.path=x") == []


def test_unknown_keys_of_a_group(configs: Path) -> None:
    assert problems(configs, "readjust=typo") == ["readjust.intervall: Rule has no such key; did you mean interval?"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("readjust.interval=abc", "a whole number; write e.g. readjust.interval=10"),
        ("readjust.interval=1.5", "a whole number"),
        ("readjust.ratio=true", "a number; write e.g. readjust.ratio=0.5"),
        ("readjust.mode=c", "a or b"),
        ("dataset.size=big", "a whole number or null"),
        ("dataset.mean=[a]", "a list"),
        ("dataset.name=null", "text"),
    ],
)
def test_types_of_group_values(configs: Path, override: str, expected: str) -> None:
    [line] = problems_of(changed(configs, override), Choices())
    assert line.startswith(override.partition("=")[0])
    assert f"expected {expected}" in line


@pytest.mark.parametrize("override", ["readjust.ratio=1", "readjust.mode=b", "dataset.size=null", "dataset.mean=[1]"])
def test_values_that_fit_their_types(configs: Path, override: str) -> None:
    assert problems_of(changed(configs, override), Choices()) == []


def test_constructor_refusals_are_problems(configs: Path) -> None:
    assert problems(configs, "readjust.ratio=2") == ["readjust=rule: expected 0 <= ratio <= 1, got 2"]
    told = ["logger.two: expected mode auto or offline, got loud"]
    assert problems(configs, "logger=[one,two]", "+logger.two.mode=loud") == told


def test_hooks_are_asked(configs: Path) -> None:
    assert problems(configs, "dataset=gone") == ["the files of this dataset are not there"]
    assert problems(configs, "rounds=10") == ["stages [5, 5] are too short"]
    assert problems(configs, "rounds=10", "freeze=none") == []
    assert problems(configs, "rounds=1") == ["two stages need two rounds"]


def test_a_target_that_cannot_be_imported_is_a_problem(configs: Path) -> None:
    [line] = problems(configs, "model=absent")
    assert line.startswith("model: _target_ pffdst_fakes.nowhere.Net cannot be imported: ")


def test_a_module_that_is_not_on_the_path_is_told_how_it_gets_there() -> None:
    with pytest.raises(TargetError, match=r"contains nowhere: PYTHONPATH=FOLDER$"):
        locate("nowhere.Net")
    with pytest.raises(TargetError) as absent:
        locate("pffdst.nowhere.Net")  # the package is found: the path is not to blame
    assert "PYTHONPATH" not in str(absent.value)


def test_a_group_without_a_target(configs: Path) -> None:
    cfg = compose([], configs)
    cfg.codec = 3
    assert problems_of(cfg, Choices())[0].startswith("codec: expected a mapping with a _target_, got 3")


def test_a_preset_for_an_option_not_chosen_is_left_out(configs: Path) -> None:
    assert problems(configs, "experiment=exp", "partition=equal", "method=two") == []
    cfg = compose(["experiment=exp", "partition=equal"], configs)
    assert "alpha" not in cfg.partition
    assert compose(["experiment=exp"], configs).partition.alpha == 0.1


def test_a_misspelt_preset_comes_to_light(configs: Path) -> None:
    assert problems(configs, "experiment=typo") == ["readjust.intervl: Rule has no such key; did you mean interval?"]


def test_check_changes_nothing(configs: Path) -> None:
    cfg = compose([], configs)
    before = copy.deepcopy(cfg)
    check(cfg)
    assert cfg == before


def test_schema_is_typed_and_closed(configs: Path) -> None:
    register()
    register()
    cfg = compose([], configs)
    assert OmegaConf.get_type(cfg) is RootConfig
    with pytest.raises(Exception, match="could not be converted to Integer"):
        cfg.rounds = "abc"
    with pytest.raises(Exception, match="zzz"):
        cfg.zzz = 1


@pytest.mark.parametrize("tags", ["['']", f"[{'x' * 65}]"])
def test_tags_that_a_logger_would_refuse_are_refused_before_any_work(configs: Path, tags: str) -> None:
    with pytest.raises(ConfigError, match=r"expected words of 1 to 64 characters; write e\.g\. tags=\[mine,first\]"):
        check(compose([f"tags={tags}"], configs))
