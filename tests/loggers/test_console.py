import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pffdst.loggers.base import Loggers, RunInfo
from pffdst.loggers.console import ConsoleLogger, header
from pffdst.metrics import names

CONFIG = {
    "method_name": "pffdst",
    "dataset": {"name": "digits"},
    "model": {"_target_": "pffdst.models.cnn.SmallCNN"},
    "engine": {"_target_": "pffdst.engines.fabric.FabricEngine"},
    "sparsity": 0.8,
    "rounds": 100,
    "clients": 20,
    "cohort": 10,
    "seed": 0,
}
RUN = RunInfo(CONFIG, Path("logs/run"))
RUN_IN_TERMINAL = """
from pathlib import Path
from pffdst.loggers.base import RunInfo
from pffdst.loggers.console import ConsoleLogger
logger = ConsoleLogger(4, 2)
logger.open(RunInfo({}, Path("run")), None)
for t in (1, 2, 3, 4):
    logger.log({"round": t, "stage": 1, "test/acc_global": 0.5, "cost/bytes_up": 1000 * t, "cost/bytes_down": 5})
logger.close("finished")
"""


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def row_of(t, every):
    row = {names.ROUND: t, names.STAGE: 1, names.COST_BYTES_UP: 1000 * t, names.COST_BYTES_DOWN: 2_000_000 * t}
    return row | {names.ACC_GLOBAL: 0.5, names.ACC_CLIENT_MEAN: 0.4} if t % every == 0 else row


def piped(rounds, every, start=1, stop=None, summary=None):
    stream = io.StringIO()
    logger = ConsoleLogger(rounds, every, Console(file=stream))
    with Loggers({"console": logger}) as loggers:
        loggers.open(RUN, None)
        for t in range(start, (stop or rounds) + 1):
            loggers.log(row_of(t, every))
        if summary is not None:
            loggers.summary(summary)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("rounds", "every"), [(1, 1), (8, 1), (20, 1), (21, 1), (100, 2), (350, 5), (1400, 3), (7, 10)]
)
def test_a_pipe_gets_about_twenty_lines_and_the_last_round(rounds, every):
    lines = [line for line in piped(rounds, every) if line.startswith("round")]
    assert 1 <= len(lines) <= 22
    assert len(lines) >= min(rounds // every, 10)
    assert lines[-1].startswith(f"round {rounds}/{rounds} ")
    assert all("acc 50.00 %" in line for line in lines if every <= rounds)


def test_a_line_says_round_stage_accuracy_traffic_and_time_left():
    line = piped(100, 2, stop=2)[-1]
    assert re.fullmatch(
        r"round   2/100  stage 1  acc 50\.00 % \(clients 40\.00 %\)  up 2\.00 kB, down 4\.00 MB  ETA \S+( s)?", line
    )


def test_an_accuracy_on_a_validation_set_is_called_one():
    stream = io.StringIO()
    logger = ConsoleLogger(2, 2, Console(file=stream))
    logger.log(names.as_evaluated(row_of(2, 2), "validation"))
    assert "val acc 50.00 % (clients 40.00 %)" in stream.getvalue()


def test_a_pipe_gets_no_control_codes():
    assert "\x1b" not in "".join(piped(10, 1, summary={"method": "pffdst"}))


def test_the_header_names_what_is_run_and_where():
    first, second = piped(1, 1)[:2]
    assert (
        first == "pffdst on digits, SmallCNN, sparsity 0.8, 100 rounds, 10 of 20 clients a round, engine fabric, seed 0"
    )
    assert second == "files in logs/run"
    assert header(RunInfo(CONFIG, Path("logs/run")), resumed=True)[1] == "resumed in logs/run"


def test_a_bare_configuration_is_no_obstacle():
    assert header(RunInfo({}, Path("logs/run")))[0].startswith("? on ?")
    assert "100 rounds," in header(RunInfo(CONFIG, Path("logs/run")))[0]
    assert ", 1 round," in header(RunInfo(CONFIG | {"rounds": 1}, Path("logs/run")))[0]


def test_zeros_are_told_of_the_weights_with_masks_and_of_all_parameters():
    run = RunInfo({"sparsity": 0.8}, Path("logs/run"), parameters=13706, maskable=13584, alive=2717)
    assert "sparsity 0.8 of 13,584 weights (0.793 of all 13,706 parameters)" in header(run)[0]
    assert ", dense: 13,706 parameters," in header(replace(run, alive=13584))[0]


def test_refused_updates_are_counted():
    stream = io.StringIO()
    logger = ConsoleLogger(2, 1, Console(file=stream))
    logger.log(row_of(1, 1) | {names.ROUND_REJECTED: 2})
    logger.log(row_of(2, 1) | {names.ROUND_REJECTED: 1})
    assert "3 rejected" in stream.getvalue().splitlines()[-1]
    resumed = ConsoleLogger(3, 1, Console(file=stream))
    resumed.open(RunInfo(CONFIG, Path("logs/run")), logger.state_dict())
    resumed.log(row_of(3, 1))
    assert "3 rejected" in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_a_run_that_broke_off_says_after_which_round(error, status):
    stream = io.StringIO()
    logger = ConsoleLogger(9, 1, Console(file=stream))
    logger.open(RUN, None)
    logger.log(row_of(4, 1))
    with pytest.raises(error), Loggers({"console": logger}):
        raise error
    assert stream.getvalue().splitlines()[-1] == f"Run {status} after round 4/9."


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_terminal_gets_a_bar_that_fits_and_is_given_back(width):
    stream = FakeTerminal()
    console = Console(file=stream, force_terminal=True, width=width, _environ={"TERM": "xterm"})
    with Loggers({"console": ConsoleLogger(1000, 1, console)}) as loggers:
        loggers.open(RUN, None)
        for t in (1, 999, 1000):
            loggers.log(row_of(t, 1))
    shown = stream.getvalue()
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()[2:]
    assert all(len(frame) <= width for frame in frames)
    assert any("1000/1000  stage 1  acc 50.00 %" in frame and "down 2.00 GB" in frame for frame in frames)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is shown again


def test_forced_colours_do_not_make_a_pipe_a_terminal():
    stream = io.StringIO()
    logger = ConsoleLogger(3, 1, Console(file=stream, force_terminal=True))
    logger.open(RUN, None)
    logger.log(row_of(3, 1))
    assert "\x1b[?25l" not in stream.getvalue()


def test_in_a_real_terminal():
    controller, terminal = pty.openpty()
    environment = dict(os.environ) | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", RUN_IN_TERMINAL], stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError:  # Linux: the other side closed the terminal
            break
        if not part:
            break
        shown += part
    os.close(controller)
    assert done.wait(timeout=30) == 0
    assert "4/4  stage 1  acc 50.00 %" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_within_a_round_the_bar_moves_and_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("pffdst.loggers.console.time.monotonic", lambda: float(next(clock)))
    stream = FakeTerminal()
    logger = ConsoleLogger(10, 1, Console(file=stream, force_terminal=True, width=150, _environ={"TERM": "xterm"}))
    logger.open(RUN, None)
    logger.step("clients", 5, 10)
    logger.log(row_of(1, 1))
    logger.step("evaluating", 300, 360)
    logger.close("finished")
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    assert any("0/10" in frame and "clients 5/10  ETA" in frame for frame in frames)
    assert any("1/10" in frame and "acc 50.00 %" in frame and "evaluating 300/360" in frame for frame in frames)


def test_a_pipe_hears_nothing_within_a_round():
    stream = io.StringIO()
    logger = ConsoleLogger(10, 1, Console(file=stream))
    logger.step("clients", 5, 10)
    assert stream.getvalue() == ""


def test_a_resumed_run_reckons_with_its_own_rounds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pffdst.loggers.console.time.monotonic", lambda: float(next(clock)))
    clock = iter([0.0, 0.0, 10.0])
    stream = io.StringIO()
    logger = ConsoleLogger(100, 1, Console(file=stream))
    logger.open(RUN, {"round": "50"})
    logger.log(row_of(51, 1))
    assert "ETA 8:10" in stream.getvalue(), "49 rounds of 10 s"
    assert logger.state_dict() == {"round": "51", "rejected": "0"}


def test_what_was_never_open_says_nothing_and_an_end_is_told_once():
    stream = io.StringIO()
    logger = ConsoleLogger(10, 1, Console(file=stream))
    logger.close("failed")
    assert stream.getvalue() == ""
    logger.open(RUN, None)
    logger.close("failed")
    logger.close("failed")
    assert stream.getvalue().count("Run failed after round 0/10.") == 1
