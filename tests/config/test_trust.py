"""A run's folder is data: what its saved command line may say, and what is the user's alone to say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pffdst.config.check import ConfigError
from pffdst.config.overrides import preflight
from pffdst.config.resume import expand
from pffdst.config.trust import node_problems, recorded_places

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs"


def folder_with(place: Path, lines: object) -> Path:
    (place / ".hydra").mkdir(parents=True)
    (place / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(lines))
    return place


HOSTILE = {
    "a callback of Hydra's": "+hydra.callbacks={x: {_target_: joblib.load, filename: /tmp/x}}",
    "a search path": "hydra.searchpath=['file:///tmp']",
    "another launcher": "hydra/launcher=joblib",
    "a class": "+dataset._target_=joblib.load",
    "a class deep inside": "+model.more={a: [{_target_: joblib.load}]}",
    "a class in an option's place": "dataset={_target_: joblib.load, filename: /tmp/x}",
    "an option from elsewhere": "dataset=../../../../../../tmp/evil",
    "an option under another name": "+dataset@freeze=digits",
    "arguments by place": "+model._args_=[1]",
    "a secret of the environment": "tags=['${oc.env:HOME}']",
    "a key that is taken away": "~dataset",
    "what cannot be read": "lr=[",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_folder_says_beyond_settings_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path / "run", ["lr=0.1", HOSTILE[name]])
    with pytest.raises(ConfigError) as caught:
        preflight([f"resume={folder}"], SHIPPED)
    [line] = caught.value.problems
    assert line.startswith(f"{folder}/.hydra/overrides.yaml: {HOSTILE[name]}: ")


def test_settings_and_options_that_are_installed_are_taken(tmp_path: Path) -> None:
    lines = ["method=feddst", "lr=0.1", "dataset=digits", "tags=[a,b]", "readjust.schedule.interval=2", "rounds=30"]
    folder = folder_with(tmp_path / "run", lines)
    assert preflight([f"resume={folder}"], SHIPPED)[: len(lines)] == lines


@pytest.mark.parametrize("lines", [{"a": 1}, [1, 2], "lr=0.1", ["x" * 20_000], ["lr=0.1"] * 2000])
def test_what_is_no_command_line_is_refused(tmp_path: Path, lines: object) -> None:
    folder = folder_with(tmp_path / "run", lines)
    with pytest.raises(ConfigError):
        preflight([f"resume={folder}"], SHIPPED)


def test_aliases_of_aliases_end_at_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", [])
    bomb = ["- &a0 [x,x,x,x,x,x,x,x,x]"] + [f"- &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (folder / ".hydra" / "overrides.yaml").write_text("\n".join(bomb))
    assert "uses an alias" in " ".join(expand([f"resume={folder}"], multirun=False).problems)


def test_an_option_of_ones_own_is_taken_where_its_folder_is_named(tmp_path: Path) -> None:
    own = tmp_path / "myconf"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text((SHIPPED / "model" / "cnn.yaml").read_text())
    folder = folder_with(tmp_path / "run", ["model=mine"])
    sources = [{"path": str(own), "schema": "file", "provider": "command-line"}]
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"config_sources": sources}}}))
    with pytest.raises(ConfigError, match="model=mine") as caught:
        preflight([f"resume={folder}"], SHIPPED)
    assert f"the run was started with --config-dir {own}: add it if you trust" in caught.value.problems[-1]
    assert recorded_places(folder) == ["--config-dir", str(own)]
    assert "model=mine" in preflight([f"resume={folder}", "--config-dir", str(own)], SHIPPED)


def test_a_search_path_of_the_command_line_is_told_and_taken(tmp_path: Path) -> None:
    own = tmp_path / "myconf"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text((SHIPPED / "model" / "cnn.yaml").read_text())
    folder = folder_with(tmp_path / "run", ["model=mine"])
    sources = [{"path": str(own), "schema": "file", "provider": "hydra.searchpath in command-line"}]
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"config_sources": sources}}}))
    [word] = recorded_places(folder)
    assert word == f"hydra.searchpath=[file://{own}]"
    assert "model=mine" in preflight([f"resume={folder}", word], SHIPPED)


def test_configurations_inside_the_folder_are_not_found_by_standing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path / "run", ["lr=0.1"])
    (folder / "configs").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="cannot provide configurations"):
        preflight(["resume=."], SHIPPED)


def test_classes_are_those_that_a_configuration_here_names() -> None:
    assert node_problems({"_target_": "pffdst.models.lenet.LeNet"}, [SHIPPED]) == []
    [problem] = node_problems({"a": [{"_target_": "os.system"}]}, [SHIPPED])
    assert "os.system" in problem
    assert node_problems({"path": "${oc.env:HOME}"}, [SHIPPED])
