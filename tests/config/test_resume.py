from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pffdst.config.check import ConfigError
from pffdst.config.compose import compose, session
from pffdst.config.identity import fingerprint
from pffdst.config.overrides import preflight
from pffdst.config.resume import expand, quoted


@functools.cache
def composed(configs: Path, *overrides: str) -> DictConfig:
    return compose(overrides, configs)


def run_folder(path: Path, configs: Path, *overrides: str) -> Path:
    """A run's folder as Hydra and the run leave it."""
    (path / ".hydra").mkdir(parents=True)
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "last.ckpt").touch()
    OmegaConf.save(OmegaConf.create(list(overrides)), path / ".hydra" / "overrides.yaml")
    cfg = composed(configs, *(line for line in overrides if not line.startswith(("resume", "sweep"))))
    OmegaConf.save(cfg, path / "config.yaml", resolve=True)
    (path / "run.json").write_text(json.dumps({"fingerprint": fingerprint(cfg), "status": "running"}))
    return path


def refused(configs: Path, *argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight(argv, configs)
    [line] = caught.value.problems
    return line


@pytest.mark.parametrize("name", ["plain", "a = b", "it's", "2024", "a,b", "[x", "${x}", "a\\b"])
def test_a_folder_of_any_name(configs: Path, tmp_path: Path, name: str) -> None:
    folder = run_folder(tmp_path / "runs" / name, configs, "method=two", "lr=0.1")
    argv = expand([f"resume={folder}"], multirun=False).overrides
    assert argv[:2] == ["method=two", "lr=0.1"]
    with session(configs) as opened:
        run = opened.compose(argv)
    assert run.folder == folder
    assert run.cfg.resume is True
    assert (run.cfg.lr, run.cfg.method_name) == (0.1, "two")


@pytest.mark.parametrize("typed", ["../runs/one", "'../runs/one'", "../runs/one/"])
def test_relative_and_quoted(configs: Path, tmp_path: Path, typed: str) -> None:
    folder = run_folder(tmp_path / "runs" / "one", configs)
    assert preflight([f"resume={typed}"], configs) == [f"hydra.run.dir='{folder}'", "resume=true"]


def test_a_checkpoint_file_is_kept(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a run", configs, "lr=0.1")
    file = folder / "checkpoints" / "last.ckpt"
    argv = preflight([f"resume={file}"], configs)
    assert argv == ["lr=0.1", f"hydra.run.dir='{folder}'", f"resume='{file}'"]
    assert compose(argv, configs).resume == str(file)


def test_further_overrides_win(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs, "lr=0.1", "tags=[a]")
    argv = preflight([f"resume={folder}", "tags=[b]", "hydra.verbose=true"], configs)
    cfg = compose(argv, configs)
    assert (cfg.lr, list(cfg.tags)) == (0.1, ["b"])


def test_resuming_twice_and_a_sweeps_job(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs, "sweep=good", "lr=0.1", "resume=true")
    assert preflight([f"resume={folder}"], configs) == ["lr=0.1", f"hydra.run.dir='{folder}'", "resume=true"]


def test_what_cannot_be_resumed_says_what_to_write(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    assert "there is no such folder or file; write resume=FOLDER" in refused(configs, "resume=nowhere")
    assert "it has no .hydra folder" in refused(configs, f"resume={tmp_path}")
    assert "this is a sweep, not a run" in refused(configs, f"resume={tmp_path / 'sweep'}")
    assert "which run? write resume=FOLDER" in refused(configs, "resume=true")
    assert "leave out hydra.run.dir" in refused(configs, f"resume={folder}", "hydra.run.dir=x")
    assert "-m and resume cannot be combined" in refused(configs, "-m", f"resume={folder}", "seed=0,1")


def test_resume_false_and_hydras_own_way(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs)
    assert preflight(["resume=false"], configs) == ["resume=false"]
    argv = ["resume=true", f"hydra.run.dir={folder}"]
    assert preflight(argv, configs) == argv


def test_another_configuration_is_refused_before_hydra_writes(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs, "lr=0.1")
    line = refused(configs, f"resume={folder}", "lr=0.2")
    assert "contains another configuration's run" in line
    assert "lr: saved 0.1, now 0.2" in line
    assert preflight([f"resume={folder}", "name=other", "checkpoint_every=3"], configs)


def test_a_new_run_does_not_begin_in_the_folder_of_another(configs: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs)
    assert f"resume={folder}" in refused(configs, f"hydra.run.dir={folder}")


def test_a_run_stopped_before_its_first_checkpoint_is_started_again_by_its_command(
    configs: Path, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path / "run", configs, "lr=0.1")
    shutil.rmtree(folder / "checkpoints")
    again = ["lr=0.1", f"hydra.run.dir={folder}"]
    assert preflight(again, configs) == again
    assert f"resume={folder}" in refused(configs, "lr=0.2", f"hydra.run.dir={folder}")
    (folder / "summary.json").write_text("{}")
    assert f"resume={folder}" in refused(configs, *again)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1))
def test_quoting_survives_the_grammar(text: str) -> None:
    override = OverridesParser.create().parse_override(f"key={quoted(text)}")
    node = OmegaConf.create({"key": override.value()})
    assert node.key == text
