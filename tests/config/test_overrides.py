from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from pffdst.config.check import ConfigError
from pffdst.config.compose import compose
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
    assert sorted(preflight(flags, configs)) == sorted(flags)


def test_hydras_own_options_are_its_own_words(configs: Path) -> None:
    [line] = refused(configs, "hydra/launcher=jobllib")
    assert "Could not find 'hydra/launcher/jobllib' Available options" in line
    assert "basic" in line


def test_a_range_without_a_step_is_one_line(configs: Path) -> None:
    [line] = refused(configs, "-m", "seed=range(0,3,0)")
    assert line.startswith("seed=range(0,3,0): a sweep cannot use these values")


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
    "+experiment=exp": "write experiment=exp",
    "+sparity=0.5": "did you mean sparsity?",
    "~lr": "lr=0.05",
    "~experiment": "write experiment=null",
    "~logger": "write logger=null",
    "++sparity=0.5": "did you mean sparsity?",
    "+readjust.intervall=1": "did you mean readjust.interval?",
    "+readjust.interval=1": "write readjust.interval=1",
    "logger=[one,tow]": "logger=tow: no such option; did you mean two? options: logger=none, logger=one, logger=two",
    "~partition": "choose an option: partition=equal, partition=share",
    "lr": "expected key=value",
    "seed=0,1": "python train.py -m seed=0,1",
    "sweep=good": "python train.py -m sweep=good",
    "--lr": "write lr=...",
    "--rate=0.1": "there is no such key",
    "hydra.run.dir=a=b": "hydra.run.dir='a=b'",
    "name=a{b": "name='a{b'",
}


def test_each_problem_says_what_to_write(configs: Path) -> None:
    lines = refused(configs, *WORDS)
    assert len(lines) == len(WORDS)
    for argument, words in WORDS.items():
        # The whole argument, or its key alone where the key is the trouble.
        key = argument.partition("=")[0].lstrip("-")
        told = [line for line in lines if line.startswith((f"{argument}:", f"{key}:", f"{key}=tow:"))]
        assert any(words in line for line in told), (argument, told)


def test_keys_of_an_option_not_chosen(configs: Path) -> None:
    [line] = refused(configs, "readjust=still", "readjust.interval=5")
    assert line.startswith("readjust.interval: with readjust=still there is no such key")


def test_a_misspelt_option_brings_no_second_complaint(configs: Path) -> None:
    assert len(refused(configs, "readjust=rul", "readjust.interval=5")) == 1


def test_a_preset_key_named_on_the_command_line_is_not_left_out(configs: Path) -> None:
    assert refused(configs, "experiment=exp", "partition=equal", "partition.alpha=1")


def test_every_job_of_a_sweep_is_checked_before_the_first(configs: Path) -> None:
    argv = ["-m", "sparsity=0.5,0.9", "readjust=rule,still", "seed=range(0,3)"]
    assert preflight(argv, configs) == [*argv[1:], "-m"]
    [line] = refused(configs, "-m", "sparsity=0.9,95", "seed=0,1")
    assert line.startswith("sparsity=95.0: expected 0 <= sparsity < 1; write e.g. sparsity=0.95")
    assert line.endswith("(job 2 and 1 more of 4: sparsity=95 seed=0)")
    assert refused(configs, "-m", "seed=0,-1") == [
        "seed=-1: expected 0 <= seed < 2**63; write e.g. seed=0 (job 1 of 2: seed=-1)"
    ]
    assert refused(configs, "-m", "rounds=10,60", "freeze=halves,none") == [
        "stages [5, 5] are too short (job 0 of 4: rounds=10 freeze=halves)"
    ]
    assert refused(configs, "-m", "cohort=30", "seed=0,1")[0].endswith("cohort=20 or clients=30"), "all jobs have it"


def test_the_keys_of_a_sweep_are_looked_at_beside_every_option(configs: Path) -> None:
    [line] = refused(configs, "-m", "lr=0.1,abc")
    assert line.startswith("lr=abc: expected a number")
    [line] = refused(configs, "-m", "partition=share,shar")
    assert line.startswith("partition=shar: no such option")
    [line] = refused(configs, "-m", "readjust=rule,still", "readjust.ratio=0.1")
    assert "with readjust=still there is no such key" in line


def test_two_jobs_of_one_folder_are_told_before(configs: Path) -> None:
    swept = ["-m", "seed=0,1", "lr=0.1,0.2"]
    assert preflight([*swept, "hydra.sweep.subdir=${hydra.job.override_dirname}"], configs)
    assert preflight([*swept, "hydra.sweep.subdir=s${seed}/lr${lr}"], configs)
    lines = refused(configs, *swept, "hydra.sweep.subdir=s${seed}")
    assert [line.split(":")[1].split(";")[0] for line in lines] == [
        " jobs 0, 1 would all write to s0",
        " jobs 2, 3 would all write to s1",
    ]


def test_keys_of_the_constructor_can_be_set_though_the_yaml_has_them_not(configs: Path) -> None:
    for typed in ("model.dropout=0.1", "+model.dropout=0.1", "++model.dropout=0.1", "--model.dropout=0.1"):
        argv = preflight([typed, "seed=1"], configs)
        assert argv in (["++model.dropout=0.1", "seed=1"], ["+model.dropout=0.1", "seed=1"])
        assert compose(argv, configs).model.dropout == 0.1
    assert preflight(["-m", "model.dropout=0.1,0.2"], configs) == ["++model.dropout=0.1,0.2", "-m"]
    [line] = refused(configs, "model.dropout=much")
    assert line.startswith("model.dropout=much: expected a number; write e.g. model.dropout=0.0")
    [line] = refused(configs, "model=large", "+model.drop=0.1", "dataset.size=32")
    assert line == "model.drop: LargeNet has no such key; did you mean dropout?"


def test_layers_of_any_model_can_be_kept_dense_from_the_command_line(configs: Path) -> None:
    """`model.dense` is the run's own key: no yaml lists it and no constructor takes it."""
    for typed in ("model.dense=[head]", "+model.dense=[head]", "++model.dense=[head]"):
        assert compose(preflight([typed], configs), configs).model.dense == ["head"]
    [line] = refused(configs, "dataset.dense=[head]")
    assert line.startswith("dataset.dense: ")


def test_a_constructor_of_any_keyword_takes_a_plus_sign(configs: Path) -> None:
    argv = ["model=any", "dataset.size=32", "+model.width=2"]
    assert compose(preflight(argv, configs), configs).model.width == 2
    assert "write +model.width=2" in refused(configs, *argv[:2], "model.width=2")[0]


def test_keys_of_components_inside_components(configs: Path) -> None:
    argv = ["readjust=paced", "readjust.pace.every=5", "readjust.pace.until=0.5"]
    node = compose(preflight(argv, configs), configs).readjust.pace
    assert (node.every, node.until) == (5, 0.5)
    assert refused(configs, "readjust=paced", "readjust.pace.evry=5") == [
        "readjust.pace.evry: there is no such key; did you mean readjust.pace.every?"
    ]
    [line] = refused(configs, "readjust=paced", "readjust.pace.every=often")
    assert line == "readjust.pace.every=often: expected a whole number; write e.g. readjust.pace.every=1"
    assert refused(configs, "readjust=paced", "readjust.pace.every=0") == ["readjust.pace: expected every >= 1, got 0"]
    assert refused(configs, "readjust=paced", "readjust.pace.every=999") == ["a pace of 999 needs more rounds"]


def test_null_where_a_group_may_be_off(configs: Path) -> None:
    for group in ("logger", "experiment", "sweep"):
        assert preflight([f"{group}=null"], configs) == [f"{group}=[]"], "which is how Hydra takes it"
    assert preflight(["search=null"], configs) == ["search=null"]
    assert dict(compose(["logger=[]"], configs).logger) == {}
    assert preflight(["-m", "logger=one,null"], configs) == ["logger=one,[]", "-m"]


def test_several_options_of_a_group_that_holds_several(configs: Path) -> None:
    argv = ["logger=[one,two]", "logger.two.project=q"]
    found = compose(preflight(argv, configs), configs).logger
    assert {name: node.project for name, node in found.items()} == {"one": "p", "two": "q"}
    assert preflight(["-m", "logger=[one,two],one"], configs)
    [line] = refused(configs, "logger=none", "logger.one.project=q")
    assert line == "logger.one.project: there is no such key; logger has no keys"


def test_the_command_line_of_an_agent(configs: Path) -> None:
    argv = ["--sparsity=0.9", "--readjust.interval=5", "--method=one", "--sparse_init=True", "--config-name=train"]
    assert preflight(argv, configs) == [*(token[2:] for token in argv[:-1]), "--config-name=train"]


def test_flags_that_do_not_go_together(configs: Path) -> None:
    assert any("leave out -m" in line for line in refused(configs, "-m", "seed=0,1", "--cfg", "job"))
    assert any("--run and --multirun" in line for line in refused(configs, "--run", "-m", "seed=0,1"))
    for first, second in (("--run", "--cfg"), ("--run", "--info"), ("--cfg", "--info")):
        words = {"--run": ["--run"], "--cfg": ["--cfg", "job"], "--info": ["--info", "all"]}
        assert refused(configs, *words[first], *words[second]) == [
            f"{first} and {second} cannot be combined: write one of them"
        ]
    assert refused(configs, "--resolve") == ["--resolve needs --cfg: write --cfg job --resolve"]


def test_a_folder_of_configurations_in_the_working_directory_is_found(configs: Path) -> None:
    own = Path("configs/method")
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nmethod_name: mine\nlocal_epochs: 1\n")
    assert preflight(["method=mine"], configs) == ["method=mine", "--config-dir", "configs"]


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
    for odd in ("5", "a,b"):
        [line] = refused(configs, f"hydra.searchpath={odd}")
        assert "hydra.searchpath" in line
    [line] = refused(configs, "--config-dir", "nowhere")
    assert line.startswith("--config-dir nowhere")


def test_the_advice_for_a_list_with_other_letters_is_accepted(configs: Path) -> None:
    [line] = refused(configs, "tags=[é, b]")
    assert line.endswith("quote items with special characters: \"tags=['é','b']\"")
    assert preflight(["tags=['é','b']"], configs) == ["tags=['é','b']"]


def test_a_file_with_a_byte_order_mark_is_named(configs: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "experiment" / "marked.yaml"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"\xef\xbb\xbf# @package _global_\nseed: 3\n")
    line, _ = refused(configs, "experiment=marked", "--config-dir", str(tmp_path / "mine"))
    assert line == f"{own}: it begins with a byte order mark; save it as UTF-8 without one"
    own.write_bytes(own.read_bytes()[3:])
    assert preflight(["experiment=marked", "--config-dir", str(tmp_path / "mine")], configs)
