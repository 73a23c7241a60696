"""Laws over every yaml there is, found by themselves."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pffdst.config.check import problems_of
from pffdst.config.choices import options_of
from pffdst.config.compose import Composed, compose, session
from pffdst.config.constructors import accepted_keys, locate, own_keys
from pffdst.config.schema import RootConfig, groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OPTIONS = sorted((path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml"))
METHODS = [name for group, name in OPTIONS if group == "method"]
EXPERIMENTS = [name for group, name in OPTIONS if group == "experiment"]
SINGLE = {name for name, kind in groups().items() if not kind.several}
PRESETS = ("method", "experiment", "sweep")


@functools.cache
def composed(*overrides: str) -> Composed:
    with session(CONFIGS) as opened:
        return opened.compose(overrides)


def wrong(run: Composed) -> list[str]:
    """The problems, but for packages of other people's loggers."""
    return [line for line in problems_of(run.cfg, run.choices) if "needs the package" not in line]


# Methods and experiments are looked at in pairs, below.
@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] not in ("method", "experiment")])
def test_every_option_composes_and_checks(group: str, option: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    beside = {"text": ["model=text_transformer"], "sst2": ["model=text_transformer"]}
    beside |= {"hf": ["dataset=text"], "text_transformer": ["dataset=text"]}
    run = composed(f"{group}={option}", *beside.get(option, []))
    found = wrong(run)
    # An option may need a value, or another option beside it; nothing else is wrong with any.
    needs = {
        "parquet": ("dataset.path is missing",),
        "counted": ("dataset.path is missing", "dataset.counts is missing"),
        "folder": ("dataset.path is missing",),
        "text": ("dataset.path is missing",),
        "text_transformer": ("dataset.path is missing",),
        "sst2": ("dataset.path must name the folder", "no file in"),
        "hf": ("dataset.path is missing", "model.path is missing"),
        "column": ("partition.column is missing",),
        "file": ("partition.path is missing",),
        "csv": ("time.path is missing",),
        "lenet": ("model=lenet needs images of at least 13x13",),
    }
    if option in needs and group != "logger":  # csv is also a form of `time`
        assert found
        assert all(line.startswith(needs[option]) for line in found)
        return
    advised = [word for line in found for word in re.findall(r"write ([\w./]+=\S+)", line)]
    assert len(advised) >= len(found), "each line says what to write"
    run = composed(f"{group}={option}", *advised)
    assert wrong(run) == [], "what is advised works"


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] in SINGLE])
def test_every_option_has_a_class_that_takes_its_keys(group: str, option: str) -> None:
    node = OmegaConf.load(CONFIGS / group / f"{option}.yaml")
    if (group, option) == ("faults", "none"):
        assert node == {}, "nothing, so that a run without faults is the run it was before there were any"
        return
    accepted = accepted_keys(locate(node._target_))
    assert accepted is None or set(own_keys(node)) - {"dense"} <= set(accepted)  # `model.dense` is the run's own


@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_every_experiment(method: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = _scalars("method", method)
    for experiment in EXPERIMENTS:
        if _method_of(experiment) not in (None, method):  # the setting of one method's source
            continue
        run = composed(f"method={method}", f"experiment={experiment}")
        # Data and models that are not downloaded; a method of plain SGD beside an experiment with an optimizer.
        absent = ("dataset.path must name the folder", "no file in", "model.path is missing", "updates=scaffold needs")
        problems = [line for line in problems_of(run.cfg, run.choices) if not line.startswith(absent)]
        assert problems == [], (method, experiment)
        written = numbers | _scalars("experiment", experiment)
        assert {key: run.cfg[key] for key in written} == written, (method, experiment)


def _method_of(experiment: str) -> str | None:
    """The method that an experiment names itself."""
    found = options_of(OmegaConf.load(CONFIGS / "experiment" / f"{experiment}.yaml"))  # type: ignore[arg-type]
    return found.get("method")


def _scalars(group: str, option: str) -> dict[str, Any]:
    """The numbers of an option, over those of the options of its group that it begins with."""
    node = OmegaConf.load(CONFIGS / group / f"{option}.yaml")
    assert isinstance(node, DictConfig)
    before = [line for line in node.get("defaults") or () if isinstance(line, str) and line != "_self_"]
    found = {key: value for other in before for key, value in _scalars(group, other).items()}
    return found | {str(key): value for key, value in node.items() if not OmegaConf.is_config(value)}


SOURCES = {
    "readjust/client_gradient": {"alpha": 0.01, "schedule": {"interval": 10, "first": 1, "until": 0.5}},
    "readjust/server_differential": {"ratio": 0.5, "schedule": {"first": 0, "until": 0.25}},
    "readjust/snip": {"init_share": 1.0, "normalise": "sum", "score_mode": "eval"},
    "readjust/ssfl": {"init_share": 1.0, "normalise": "none", "least": 0, "score_mode": "eval"},
    "readjust/grasp": {"temperature": 200.0, "normalise": "sum"},
    "readjust/synflow": {"iterations": 100},
    "readjust/prunefl": {
        "decrement": 0.3,
        "halved_in": 1e4,
        "fixed_time": 0.7,
        "schedule": {"interval": 50, "first": 50},
    },
    "readjust/prunefl_exact": {"alpha": 0.4, "schedule": {"interval": 10, "first": 0, "until": 0.6}},
    "readjust/flash": {"mask": "fixed", "init_share": 0.1, "init_epochs": 10, "rate": 0.25, "dense_linear": True},
    "readjust/flash_moving": {"mask": "moving", "init_share": 0.1, "init_epochs": 10, "rate": 0.25, "every": 1},
    "readjust/fedtiny": {"alpha": 0.4, "candidates": 0, "schedule": {"interval": 10, "first": 0, "until": 0.6}},
    "readjust/fedmef": {"alpha": 0.4, "schedule": {"interval": 10, "first": 0, "until": 0.6}},
    "readjust/fedrts": {
        "alpha": 0.4,
        "gamma": 0.5,
        "step": 10.0,
        "schedule": {"interval": 10, "first": 0, "until": 0.6},
    },
    "readjust/feddip": {"initial": 0.5, "penalty": 5e-4, "segments": 20, "schedule": {"interval": 20, "until": 1.0}},
    "readjust/sparsyfed": {"power": 1.25},
    "updates/apf": {"decay": 0.99, "threshold": 0.05},
    "server_optimizer/momentum": {"beta": 0.9, "eta": 1.0},
    "server_optimizer/adam": {"eta": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "server_optimizer/yogi": {"eta": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "method/pffdst": {"local_epochs": 2},
    "method/feddst": {"local_epochs": 3},
    "method/scaffold": {"momentum": 0.0, "aggregation": {"weights": "clients"}},
    "method/fedadam": {"momentum": 0.0},
    "method/fedyogi": {"momentum": 0.0},
    "method/fedrts": {"local_epochs": 5, "allocation": {"dense_output": True}},
    "method/ssfl": {"local_epochs": 5},
    "method/flash": {"local_epochs": 1},
    "method/sparsyfed": {"local_epochs": 1},
}


@pytest.mark.parametrize("option", SOURCES)
def test_an_option_has_the_values_of_its_source(option: str) -> None:
    node = OmegaConf.load(CONFIGS / f"{option}.yaml")
    assert OmegaConf.merge(node, SOURCES[option]) == node


def test_no_group_shares_a_scalars_name() -> None:
    scalars = {field.name for field in dataclasses.fields(RootConfig)} - {group for group, _ in OPTIONS}
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert "sparsity" in scalars
    assert not folders & scalars
    assert folders == {group for group, _ in OPTIONS}, "an empty folder is a group to Hydra"


def test_the_schema_names_every_group_and_scalar() -> None:
    fields = {field.name for field in dataclasses.fields(RootConfig)}
    written = OmegaConf.load(CONFIGS / "train.yaml")
    assert {str(key) for key in written} - {"defaults", "hydra"} <= fields
    assert {group for group, _ in OPTIONS} - set(PRESETS) <= fields


def test_numbers_live_once() -> None:
    scalars = set(RootConfig.__annotations__) - {group for group, _ in OPTIONS} - {"name"}
    for group, option in OPTIONS:
        if group not in PRESETS:
            node = OmegaConf.load(CONFIGS / group / f"{option}.yaml")
            assert not set(map(str, node)) & scalars, (group, option)


def test_the_command_line_beats_every_preset() -> None:
    cfg = composed("local_epochs=7", "prox_mu=0.5", "lr=0.3", "experiment=lenet_cifar10", "method=feddst_prox").cfg
    assert (cfg.local_epochs, cfg.prox_mu, cfg.lr, cfg.method_name) == (7, 0.5, 0.3, "feddst_prox")


def test_ablations_are_options_beside_a_method() -> None:
    cfg = compose(["freeze=none", "method=pffdst"], CONFIGS)
    assert cfg.freeze._target_.endswith("NoFreezing")
    assert cfg.readjust._target_.endswith("ServerDifferential")
    cfg = compose(["method=pffdst", "readjust=static", "experiment=debug"], CONFIGS)
    assert cfg.readjust._target_.endswith("Static")
    assert "interval" not in cfg.readjust
    cfg = compose(["allocation=erk_feddst", "method=feddst"], CONFIGS)
    assert cfg.allocation._target_.endswith("ErkFedDst")


def test_a_step_of_nesterov_is_one_of_momentum() -> None:
    for momentum, expected in ((0.0, ["optimizer.nesterov=true needs momentum: write momentum=0.9"]), (0.5, [])):
        run = composed("optimizer.nesterov=true", f"momentum={momentum}")
        assert [line.partition(" or ")[0] for line in problems_of(run.cfg, run.choices)] == expected


def test_experiments_are_loaded_after_methods() -> None:
    cfg = compose(["experiment=lenet_cifar10", "method=feddst"], CONFIGS)
    assert (cfg.clients, cfg.sparsity, cfg.partition.alpha) == (400, 0.8, 0.1)
    assert cfg.model._target_.endswith("LeNet")
    assert cfg.readjust._target_.endswith("ClientGradient")


def test_sparsity_is_a_number_on_the_command_line() -> None:
    assert compose(["sparsity=0.95"], CONFIGS).sparsity == 0.95


def test_a_sweeps_folder_does_not_hang_on_what_jobs_change() -> None:
    with session(CONFIGS) as opened:
        hydra = opened.compose([]).hydra
    raw = OmegaConf.to_container(hydra.sweep, resolve=False)
    assert isinstance(raw, dict)
    assert set(raw["dir"].split("${")[1:][0].split("}")[0].split()) == {"paths.logs"}
    assert "${name}" not in raw["dir"]
