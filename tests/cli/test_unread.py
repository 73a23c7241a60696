from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pffdst.cli.main import main
from pffdst.cli.unread import outlived
from tests.cli.test_status import run


def closed_pipe() -> io.TextIOWrapper:
    """A stream whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", buffering=1)


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_printed_to_nobody_ends_nothing_and_is_told_once(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stdout", closed_pipe())
    monkeypatch.setattr(sys, "stderr", told)
    with outlived(quiet):
        print("one")
        Console().print("two")  # which would end the process
        with outlived():
            print("three")
    assert told.getvalue().count("the output is no longer read") == (not quiet)
    sys.stdout.close()  # nothing is left in it to fail


def test_ctrl_c_ends_a_command_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(given: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pffdst.cli.evaluate.main", interrupted)
    assert main(["evaluate", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "evaluate: stopped\n"


def test_what_is_read_is_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with outlived():
            print("one")
            assert not sys.stdout.isatty()
            assert sys.stdout.fileno() == stream.fileno()
        assert sys.stdout is stream
        assert (tmp_path / "out").read_text() == "one\n"


def test_a_command_whose_reader_went_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path / "runs" / "day" / "time", "done", "seed=1")
    monkeypatch.setattr(sys, "stdout", closed_pipe())
    assert main(["status", str(folder)]) == 0
    sys.stdout.close()
