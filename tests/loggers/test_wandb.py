import json
import logging
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pffdst.core.errors import UserError
from pffdst.loggers.base import Loggers, RunInfo
from pffdst.loggers.csv import CsvLogger, read_metrics
from pffdst.loggers.wandb import WandbLogger
from pffdst.metrics import names

CONFIG = {"method_name": "pffdst", "sparsity": 0.8, "model": {"_target_": "SmallCNN"}}
OF_THE_START = {"resume": True, "paths": {"logs": "logs"}, "print_config": False, "search": None}
SUMMARY = {"acc_global": 0.75, "last5_acc_global": 0.5, "bytes_up": 5, "rounds": 100, "method": "pffdst", "wall_s": 7.5}
KEY = "a" * 40
# A process in which starting a run only says in which mode it would be.
MODE_OF = """
import sys, wandb
from pathlib import Path
from pffdst.loggers.base import RunInfo
from pffdst.loggers.wandb import WandbLogger
def init(**options):
    print("mode", options["settings"].mode, flush=True)
    raise SystemExit
wandb.init = init
WandbLogger("pffdst", mode=sys.argv[1]).open(RunInfo({}, Path(".")), None)
"""


def row_of(t):
    up, down = 10**15 * t + 1, 7 * t
    row = {names.ROUND: t, names.STAGE: 1 + t // 50, names.TRAIN_LOSS: 1 / t, names.density_of("fc.weight"): 0.1 * 3}
    row |= {names.COST_BYTES_UP: up, names.COST_BYTES_DOWN: down, names.COST_BYTES: up + down}
    evaluated = {name: 1 - (i + 1) / (3 * t) for i, name in enumerate(names.ACCURACIES)}
    return row | evaluated if t % 2 == 0 else row


def log(folder, rounds, resume=None, status="finished"):
    """Logs rounds into W&B and the CSV as a run does; gives the state a checkpoint would hold after the last."""
    loggers = Loggers({"csv": CsvLogger(names.columns(["fc.weight"])), "wandb": WandbLogger("pffdst", mode="offline")})
    loggers.open(RunInfo(CONFIG | OF_THE_START, folder, "pffdst s=0.8", "g", ("tag",)), resume)
    for t in rounds:
        loggers.log(row_of(t))
    loggers.summary(SUMMARY)
    loggers.close(status)
    return loggers.state_dict()


def another_second():
    """W&B names a run's folder by the second it began in."""
    began = int(time.time())
    while int(time.time()) == began:
        time.sleep(0.02)


def without_extra_axes(history):
    return [{key: value for key, value in row.items() if not key.startswith("by_bytes/")} for row in history]


def test_the_offline_run_on_disk_equals_the_csv(tmp_path, offline_run):
    log(tmp_path, range(1, 101))
    history = offline_run.read_offline_history(tmp_path)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert len(rows) == 100
    assert without_extra_axes(history) == rows
    assert sum(names.ACC_GLOBAL in row for row in history) == 50


def test_accuracies_have_the_cumulative_bytes_as_second_axis(tmp_path, offline_run):
    log(tmp_path, range(1, 5))
    records = offline_run.read_records(tmp_path)
    metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in metrics}
    assert axes.pop("*") == "round"
    assert axes == {"round": "", "cost/bytes": "", **{names.by_bytes(name): "cost/bytes" for name in names.ACCURACIES}}
    for row in offline_run.read_offline_history(tmp_path):
        assert {key: row.get(names.by_bytes(key)) for key in names.ACCURACIES} == {
            key: row.get(key) for key in names.ACCURACIES
        }


def run_of(records):
    return next(record.run for record in records if record.WhichOneof("record_type") == "run")


def config_of(records):
    return {item.key: json.loads(item.value_json) for item in run_of(records).config.update}


def told_in_summary(records):
    """What the program itself put into the summary; W&B adds the last value of every row's key."""
    found = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            items = record.summary.update
            found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
    return found


def test_config_and_labels_are_kept(tmp_path, offline_run):
    log(tmp_path, range(1, 3))
    records = offline_run.read_records(tmp_path)
    run, config = run_of(records), config_of(records)
    assert {key: config[key] for key in CONFIG} == CONFIG
    assert not OF_THE_START.keys() & config.keys()
    assert (run.project, run.run_group, run.display_name, list(run.tags)) == ("pffdst", "g", "pffdst s=0.8", ["tag"])


def test_commit_and_command_are_in_the_configuration(tmp_path, offline_run):
    sittings = [{"git": "0" * 40, "command": "python old.py"}, {"git": "a" * 40, "command": "python train.py seed=1"}]
    (tmp_path / "provenance.json").write_text(json.dumps(sittings))
    log(tmp_path, range(1, 3))
    config = config_of(offline_run.read_records(tmp_path))
    assert (config["commit"], config["command"]) == ("a" * 40, "python train.py seed=1")


def test_the_summary_has_each_figure_once(tmp_path, offline_run):
    log(tmp_path, range(1, 3))
    records = offline_run.read_records(tmp_path)
    told = told_in_summary(records)
    assert (told["method"], told["wall_s"]) == ("pffdst", 7.5)
    assert not {"acc_global", "bytes_up", "rounds"} & told.keys(), "the last row has them"
    metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    silent = {metric.name for metric in metrics if metric.summary.none}
    assert silent == {names.by_bytes(name) for name in names.ACCURACIES}, "a second curve is no second figure"


def test_on_a_validation_set_the_keys_say_so(tmp_path, offline_run):
    with Loggers({"wandb": WandbLogger("pffdst", mode="offline")}) as loggers:
        loggers.open(RunInfo(CONFIG, tmp_path), None)
        loggers.log(names.as_evaluated(row_of(2), "validation"))
    [row] = offline_run.read_offline_history(tmp_path)
    assert {name for name in row if name.startswith(("test/", "val/"))} == {
        names.on("validation", name) for name in names.ACCURACIES
    }
    assert row[names.by_bytes(names.ACC_GLOBAL)] == row["val/acc_global"]


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1), ("interrupted", 1)])
def test_the_exit_code_tells_how_it_ended(tmp_path, offline_run, status, code):
    log(tmp_path, range(1, 2), status=status)
    exits = [r.exit.exit_code for r in offline_run.read_records(tmp_path) if r.WhichOneof("record_type") == "exit"]
    assert exits == [code]


def test_a_resumed_run_has_the_same_id_and_every_round_once(tmp_path, offline_run):
    """Killed in round 6, checkpoint at 4: W&B had not written what came last."""
    state = log(tmp_path, range(1, 5))
    log(tmp_path, range(5, 7), resume=state)
    offline_run.read_records(tmp_path)  # waits for their end, then they are lost
    shutil.rmtree(tmp_path / "wandb")
    after = log(tmp_path, range(5, 9), resume=state)
    assert after["wandb"]["run_id"] == state["wandb"]["run_id"]
    assert without_extra_axes(offline_run.read_offline_history(tmp_path)) == [row_of(t) for t in range(1, 9)]


def test_a_killed_offline_run_is_uploaded_with_every_round_once(tmp_path, offline_run):
    """`wandb sync` appends: the file that the resumed run replaces is kept, under a name it does not look for."""
    state = log(tmp_path, range(1, 5))
    another_second()
    log(tmp_path, range(5, 7), resume=state)
    another_second()
    log(tmp_path, range(5, 9), resume=state)
    assert [row[names.ROUND] for row in offline_run.read_offline_history(tmp_path)] == list(range(1, 9))
    assert len(list((tmp_path / "wandb").glob("replaced-offline-run-*"))) == 2


def test_what_was_uploaded_already_is_not_in_the_next_file(tmp_path, offline_run):
    state = log(tmp_path, range(1, 5))
    offline_run.read_records(tmp_path)
    [first] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    first.with_name(first.name + ".synced").touch()  # as `wandb sync` leaves it
    another_second()
    log(tmp_path, range(5, 9), resume=state)
    assert [row[names.ROUND] for row in offline_run.read_offline_history(tmp_path)] == list(range(1, 9))


def test_a_run_killed_before_its_first_checkpoint_keeps_its_id(tmp_path, offline_run):
    first = log(tmp_path, range(1, 3))
    (tmp_path / "metrics.csv").unlink()
    another_second()
    assert log(tmp_path, range(1, 5))["wandb"]["run_id"] == first["wandb"]["run_id"]
    assert [row[names.ROUND] for row in offline_run.read_offline_history(tmp_path)] == list(range(1, 5))


def test_a_run_resumed_with_wandb_after_a_start_without_it_has_all_its_rounds(tmp_path, offline_run):
    state = log(tmp_path, range(1, 5))
    shutil.rmtree(tmp_path / "wandb")
    log(tmp_path, range(5, 9), resume={"csv": state["csv"], "wandb": {}})
    assert [row[names.ROUND] for row in offline_run.read_offline_history(tmp_path)] == list(range(1, 9))


def test_a_resumed_run_stays_in_its_group_and_the_environment_names_what_it_may(tmp_path, offline_run, monkeypatch):
    state = log(tmp_path, range(1, 3))
    for name, value in {"WANDB_NAME": "mine", "WANDB_TAGS": "a, tag"}.items():
        monkeypatch.setenv(name, value)
    loggers = Loggers({"wandb": WandbLogger("pffdst", mode="offline")})
    loggers.open(RunInfo(CONFIG, tmp_path, "other", "another sweep", ("tag",)), state)
    loggers.close("finished")
    run = [r.run for r in offline_run.read_records(tmp_path) if r.WhichOneof("record_type") == "run"][-1]
    assert (run.run_group, run.display_name, list(run.tags)) == ("g", "mine", ["tag", "a"])


def test_an_upload_that_does_not_end_says_how_to_end_it(tmp_path, monkeypatch, caplog):
    logger = WandbLogger("pffdst", mode="offline")
    logger.open(RunInfo(CONFIG, tmp_path), None)
    real = logger._run

    def never(**options):
        real.finish(**options)
        raise TimeoutError("timed out")

    logger._run = SimpleNamespace(finish=never, dir=real.dir)
    with caplog.at_level(logging.WARNING):
        logger.close("finished")
    assert f"not everything was uploaded (timed out); `wandb sync {Path(real.dir).parent}`" in caplog.text


def test_a_server_that_does_not_answer_is_waited_for_once(tmp_path, monkeypatch, caplog):
    tried = []

    def init(self, info, mode):
        tried.append(mode)
        if mode == "online":
            raise OSError("no answer in 30 seconds")
        raise SystemExit

    monkeypatch.setattr(WandbLogger, "_answers", True)
    monkeypatch.setattr(WandbLogger, "_init", init)
    for _ in range(2):
        with pytest.raises(SystemExit), caplog.at_level(logging.WARNING):
            WandbLogger("pffdst")._start(RunInfo(CONFIG, tmp_path), "online")
    assert tried == ["online", "offline", "offline"]
    assert caplog.text.count("no answer in 30 seconds") == 1


def test_no_folder_of_this_machine_is_sent(tmp_path):
    dataset = {"archive": "x", "path": "/home/somebody/data", "cache": "/home/somebody/.cache", "name": "cifar10"}
    told = RunInfo({"dataset": dataset, "seed": 0}, tmp_path, group_key="abc").settings
    assert told == {"dataset": {"archive": "x", "name": "cifar10"}, "seed": 0, "group_key": "abc"}


def test_wandb_mode_of_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    log(tmp_path, range(1, 3))
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_an_unknown_mode_is_refused(monkeypatch, where):
    if where == "argument":
        with pytest.raises(UserError, match=r"logger.wandb.mode.*'on'"):
            WandbLogger("pffdst", mode="on")
    else:
        monkeypatch.setenv("WANDB_MODE", "on")
        with pytest.raises(UserError, match=r"WANDB_MODE to be online, offline or disabled.*'on'"):
            WandbLogger("pffdst")


@pytest.mark.parametrize("name", ["team/pffdst", "50%", "p" * 129])
def test_a_project_that_wandb_would_refuse_is_refused_before(name):
    import wandb

    with pytest.raises(UserError, match=r"logger.wandb.project.*128 characters"):
        WandbLogger(name)
    with pytest.raises(wandb.UsageError):
        wandb.Settings(project=name)


@pytest.mark.parametrize("broken", ["init", "log", "summary"])
def test_training_goes_on_without_wandb_after_one_warning(tmp_path, monkeypatch, caplog, broken):
    import wandb

    def fail(*args, **kwargs):
        raise OSError("no space left")

    def work(*args, **kwargs):
        pass

    run = SimpleNamespace(
        id="abc",
        dir=str(tmp_path / "files"),
        define_metric=work,
        finish=work,
        log=fail if broken == "log" else work,
        summary=SimpleNamespace(update=fail if broken == "summary" else work),
    )
    monkeypatch.setattr(wandb, "init", fail if broken == "init" else lambda **options: run)
    with caplog.at_level(logging.WARNING):
        log(tmp_path, range(1, 4))
    assert len(caplog.records) == 1
    assert "the run continues without it" in caplog.text
    assert len(read_metrics(tmp_path / "metrics.csv")) == 3


def test_the_run_id_outlives_a_resume_in_which_wandb_did_not_start(tmp_path, monkeypatch):
    import wandb

    def fail(**options):
        raise OSError("no service")

    monkeypatch.setattr(wandb, "init", fail)
    assert log(tmp_path, range(1, 3), resume={"wandb": {"run_id": "abc"}})["wandb"]["run_id"] == "abc"


def test_wandb_is_not_imported_before_it_is_needed():
    code = "import sys, pffdst.loggers.wandb as m; m.WandbLogger('p'); sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("mode", "login", "expected"),
    [("auto", None, "offline"), ("auto", "environment", "online"), ("auto", "netrc", "online")],
)
def test_auto_is_online_only_with_a_login(tmp_path, mode, login, expected):
    environment = dict(os.environ)
    if login == "environment":
        environment["WANDB_API_KEY"] = KEY
    elif login == "netrc":
        (tmp_path / "no-netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
        (tmp_path / "no-netrc").chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-c", MODE_OF, mode], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"mode {expected}\n"


def test_a_terminal_is_never_asked(tmp_path):
    """Online without a login, standard input a terminal: the one case in which W&B would ask for a key."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MODE_OF, "online"], cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = _until_closed(controller)
    assert process.wait(timeout=30) == 0
    assert "mode offline" in shown
    assert "no login was found" in shown
    assert "API key" not in shown.replace("WANDB_API_KEY", "")


def _until_closed(controller, seconds=30.0):
    shown, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and select.select([controller], [], [], end - time.monotonic())[0]:
        try:
            part = os.read(controller, 4096)
        except OSError:  # Linux: the other side closed the terminal
            break
        if not part:
            break
        shown += part
    os.close(controller)
    return shown.decode()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_models_are_an_artifact_if_asked_for(tmp_path, offline_run, wanted):
    for name in ("model.safetensors", "model_ema.safetensors", "config.yaml"):
        (tmp_path / name).write_bytes(b"content")
    with Loggers({"wandb": WandbLogger("pffdst", mode="offline", log_model=wanted)}) as loggers:
        loggers.open(RunInfo(CONFIG, tmp_path), None)
        loggers.log(row_of(1))
        loggers.summary(SUMMARY)
    asked = [
        r.request.log_artifact.artifact
        for r in offline_run.read_records(tmp_path)
        if r.request.HasField("log_artifact")
    ]
    found = [
        *asked,
        *(r.artifact for r in offline_run.read_records(tmp_path) if r.WhichOneof("record_type") == "artifact"),
    ]
    files = {entry.path for artifact in found for entry in artifact.manifest.contents}
    assert files == ({"model.safetensors", "model_ema.safetensors", "config.yaml"} if wanted else set())
