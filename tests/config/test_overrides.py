from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from pffdst.config.check import ConfigError
from pffdst.config.overrides import preflight


def refused(configs: Path, *argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight(argv, configs)
    return caught.value.problems


def test_good_arguments_come_back(configs: Path) -> None:
    assert preflight(["sparsity=0.95", "readjust.interval=5"], configs) == ["sparsity=0.95", "readjust.interval=5"]
    assert preflight([], configs) == []


def test_global_state_is_left_clean(configs: Path) -> None:
    preflight(["method=two"], configs)
    assert not GlobalHydra.instance().is_initialized()
    refused(configs, "sparity=0.5")
    assert not GlobalHydra.instance().is_initialized()


def test_flags_go_behind_the_overrides(configs: Path) -> None:
    assert preflight(["seed=1", "-m", "lr=0.1,0.2"], configs) == ["seed=1", "lr=0.1,0.2", "-m"]
    assert preflight(["--info", "defaults", "seed=1"], configs) == ["seed=1", "--info", "defaults"]


@pytest.mark.parametrize("flags", [["--help"], ["--hydra-help"], ["--help", "sparity=2"]])
def test_help_is_never_refused(configs: Path, flags: list[str]) -> None:
    assert preflight(flags, configs) == flags


def test_hydras_own_options_are_its_own_words(configs: Path) -> None:
    [line] = refused(configs, "hydra/launcher=jobllib")
    assert "Could not find 'hydra/launcher/jobllib' Available options" in line
    assert "basic" in line


def test_hydra_overrides_pass(configs: Path) -> None:
    argv = ["hydra.run.dir=x", "hydra.verbose=true", "+hydra.job.env_set.A=b", "hydra/job_logging=disabled"]
    assert preflight(argv, configs) == argv


def test_showing_the_configuration_needs_no_sound_values(configs: Path) -> None:
    argv = ["sparsity=2", "--cfg", "job"]
    assert preflight(argv, configs) == argv
    assert refused(configs, "sparity=0.5", "--cfg", "job")


def test_all_problems_at_once(configs: Path) -> None:
    lines = refused(configs, "sparity=0.5", "rounds=abc", "lr=-1", "+x=1", "~seed", "partition=shar", "bare", "name=[1")
    assert len(lines) == 8
    for start in ("sparity:", "rounds=abc:", "lr=-1.0:", "+x=1:", "~seed:", "partition=shar:", "bare:", "name=[1:"):
        assert any(line.startswith(start) for line in lines), start


WORDS = {
    "sparity=0.9": "did you mean sparsity?",
    "readjust.intervall=5": "did you mean readjust.interval?",
    "interval=5": "did you mean readjust.interval?",
    "readjust.zzzzz=5": "the keys of readjust: readjust.interval, readjust.ratio, readjust.mode",
    "partition=shar": "did you mean share? options: partition=equal, partition=share",
    "freeze=null": "options: freeze=halves, freeze=none",
    "model=[net,large]": "no such option",
    "rounds=abc": "expected a whole number; write e.g. rounds=100",
    "rounds=1.5": "expected a whole number",
    "lr=x": "expected a number; write e.g. lr=0.05",
    "tags=a": "expected a list, such as [a,b]",
    "+lr=1": "write lr=1",
    "++lr=1": "write lr=1",
    "+experiment=exp": "write experiment=exp",
    "+sparity=0.5": "did you mean sparsity?",
    "~lr": "lr=0.05",
    "~experiment": "leave it out",
    "~partition": "choose an option: partition=equal, partition=share",
    "lr": "expected key=value",
    "seed=0,1": "python train.py -m seed=0,1",
    "sweep=good": "python train.py -m sweep=good",
    "--lr=0.1": "write lr=0.1",
    "hydra.run.dir=a=b": "hydra.run.dir='a=b'",
    "name=a{b": "name='a{b'",
}


def test_each_problem_says_what_to_write(configs: Path) -> None:
    lines = refused(configs, *WORDS)
    assert len(lines) == len(WORDS)
    for argument, words in WORDS.items():
        # The whole argument, or its key alone where the key is the trouble.
        told = [line for line in lines if line.startswith((f"{argument}:", f"{argument.partition('=')[0]}:"))]
        assert any(words in line for line in told), (argument, told)


def test_keys_of_an_option_not_chosen(configs: Path) -> None:
    [line] = refused(configs, "readjust=still", "readjust.interval=5")
    assert line.startswith("readjust.interval: beside readjust=still there is no such key")


def test_a_misspelt_option_brings_no_second_complaint(configs: Path) -> None:
    assert len(refused(configs, "readjust=rul", "readjust.interval=5")) == 1


def test_a_preset_key_named_on_the_command_line_is_not_left_out(configs: Path) -> None:
    assert refused(configs, "experiment=exp", "partition=equal", "partition.alpha=1")


def test_sweeps_are_looked_at_but_not_their_ranges(configs: Path) -> None:
    argv = ["-m", "sparsity=0.5,2", "readjust=rule,still", "seed=range(0,3)"]
    assert preflight(argv, configs) == [*argv[1:], "-m"]
    [line] = refused(configs, "-m", "lr=0.1,abc")
    assert line.startswith("lr=abc: expected a number")
    [line] = refused(configs, "-m", "partition=share,shar")
    assert line.startswith("partition=shar: no such option")
    [line] = refused(configs, "-m", "readjust=rule,still", "readjust.ratio=0.1")
    assert "beside readjust=still there is no such key" in line


def test_sweep_presets_are_looked_at(configs: Path) -> None:
    assert preflight(["-m", "sweep=good"], configs) == ["sweep=good", "-m"]
    [line] = refused(configs, "-m", "sweep=seeds")
    assert line.startswith("rounds=x: expected a whole number")
    assert preflight(["-m", "sweep=seeds", "rounds=40"], configs)


def test_globs_name_options(configs: Path) -> None:
    assert preflight(["-m", "partition=glob(*)"], configs) == ["partition=glob(*)", "-m"]


def test_extra_folders_of_configurations(configs: Path, tmp_path: Path) -> None:
    extra = tmp_path / "more of them"
    (extra / "experiment").mkdir(parents=True)
    (extra / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    argv = ["experiment=mine", "--config-dir", str(extra)]
    assert preflight(argv, configs) == argv
    argv = ["experiment=mine", f"hydra.searchpath=['file://{extra}']"]
    assert preflight(argv, configs) == argv
    [line] = refused(configs, "--config-dir", "nowhere")
    assert line.startswith("--config-dir nowhere")
