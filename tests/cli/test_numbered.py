from __future__ import annotations

import logging
import sys

import pytest

from pffdst.cli.numbered import numbered


def test_every_line_carries_the_number(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(handler)
    try:
        with numbered(3):
            print("one", end=" ")
            print("two\nthree")
            print("wrong", file=sys.stderr)
            logging.getLogger("x").warning("logged")
            assert not sys.stdout.isatty()
        print("after")
        logging.getLogger("x").warning("later")
    finally:
        logging.getLogger().removeHandler(handler)
    out, err = capsys.readouterr()
    assert out == "[3] one two\n[3] three\n[3] logged\nafter\nlater\n"
    assert err == "[3] wrong\n"


def test_a_job_alone_has_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with numbered(None):
        print("one")
    assert capsys.readouterr().out == "one\n"
