import csv as plain_csv
import math
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.loggers.base import RunInfo
from pffdst.loggers.csv import CsvLogger, read_metrics
from pffdst.metrics import names

numbers = st.floats(allow_nan=False) | st.integers(-(2**63), 2**70)
rows = st.lists(st.dictionaries(st.sampled_from(names.columns(["fc"])[2:]), numbers), min_size=1, max_size=8)


def numbered(bodies):
    return [{names.ROUND: t + 1, **body} for t, body in enumerate(bodies)]


def write(folder, rows, columns=(), resume=None):
    logger = CsvLogger(columns)
    logger.open(RunInfo({}, folder), resume)
    for row in rows:
        logger.log(row)
    logger.close("finished")
    return logger


@settings(deadline=None, max_examples=40)
@given(rows, st.booleans())
def test_what_is_read_back_is_what_was_logged(tmp_path_factory, bodies, columns_known):
    folder = tmp_path_factory.mktemp("run")
    logged = numbered(bodies)
    write(folder, logged, names.columns(["fc"]) if columns_known else ())
    read = read_metrics(folder / "metrics.csv")
    assert read == logged
    assert [[type(v) for v in row.values()] for row in read] == [
        [type(row[key]) for key in got] for row, got in zip(logged, read, strict=True)
    ]


@settings(deadline=None, max_examples=40)
@given(rows, st.integers(0, 8), st.integers(0, 8))
def test_a_resumed_file_equals_one_never_stopped(tmp_path_factory, bodies, checkpoint, more):
    """Stopped some rounds after the checkpoint, then resumed from it."""
    logged, columns = numbered(bodies), names.columns(["fc"])
    whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
    write(whole, logged, columns)
    state = write(resumed, logged[:checkpoint], columns).state_dict()
    write(resumed, logged[checkpoint : checkpoint + more], columns, resume=state)
    write(resumed, logged[checkpoint:], columns, resume=state)
    assert (resumed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_half_written_last_line_is_dropped(tmp_path, cut):
    logged = [{"round": 1, "train/loss": 0.25}, {"round": 2, "train/loss": 0.125}]
    write(tmp_path, logged)
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"3,0.0625,more\n"[:cut])
    assert read_metrics(path) == logged
    write(tmp_path, [{"round": 3, "train/loss": 0.5}], resume={"round": "2"})
    assert path.read_bytes() == whole + b"3,0.5\n"


def test_a_run_that_starts_at_0_starts_the_file_anew(tmp_path):
    write(tmp_path, numbered([{}, {}]))
    write(tmp_path, [{"round": 1, "train/loss": 1.0}])
    assert read_metrics(tmp_path / "metrics.csv") == [{"round": 1, "train/loss": 1.0}]


def test_the_file_is_whole_after_kill_9(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from pffdst.loggers.base import RunInfo\n"
        "from pffdst.loggers.csv import CsvLogger\n"
        "logger = CsvLogger(); logger.open(RunInfo({}, Path(sys.argv[1])), None)\n"
        "[logger.log({'round': t, 'train/loss': 1 / t}) for t in (1, 2, 3)]\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_metrics(tmp_path / "metrics.csv") == [{"round": t, "train/loss": 1 / t} for t in (1, 2, 3)]


def test_a_plain_reader_reads_it_between_two_rows(tmp_path):
    logger = CsvLogger(("train/loss", "test/acc_global"))
    logger.open(RunInfo({}, tmp_path), None)
    logger.log({"round": 1, "train/loss": 0.1})
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        assert list(plain_csv.DictReader(stream)) == [{"round": "1", "train/loss": "0.1", "test/acc_global": ""}]
    logger.close("finished")
    logger.close("finished")


def test_a_name_nobody_announced_widens_the_file(tmp_path):
    logged = [{"round": 1, "a": 1}, {"round": 2, "b": 0.1}]
    write(tmp_path, logged, columns=("a",))
    assert read_metrics(tmp_path / "metrics.csv") == logged
    assert (tmp_path / "metrics.csv").read_text() == "round,a,b\n1,1,\n2,,0.1\n"


def test_words_and_infinities_stay_in_their_row(tmp_path):
    write(tmp_path, [{"round": 1, "note": 'two\nlines, "quoted"', "train/loss": math.inf}])
    row = read_metrics(tmp_path / "metrics.csv")[0]
    assert row == {"round": 1, "note": 'two lines, "quoted"', "train/loss": math.inf}


def test_nan_reads_back_as_nan(tmp_path):
    write(tmp_path, [{"round": 1, "train/loss": math.nan}])
    assert math.isnan(read_metrics(tmp_path / "metrics.csv")[0]["train/loss"])


def test_the_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    """A kill while a resumed file is rewritten leaves the old one."""
    write(tmp_path, numbered([{}, {}, {}]))
    before = (tmp_path / "metrics.csv").read_bytes()

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        CsvLogger().open(RunInfo({}, tmp_path), {"round": "1"})
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_mistakes_are_named(tmp_path):
    logger = CsvLogger()
    with pytest.raises(ValueError, match="to be open before a row is logged"):
        logger.log({"round": 1})
    logger.open(RunInfo({}, tmp_path), None)
    logger.log({"round": 2})
    with pytest.raises(ValueError, match="a round after 2, but got round 2"):
        logger.log({"round": 2})
    logger.close("finished")
    with pytest.raises(FileNotFoundError, match=r"nowhere.*no such file"):
        read_metrics(tmp_path / "nowhere")
