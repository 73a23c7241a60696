"""A command that is told can be typed where the program was started."""

from __future__ import annotations

import sys

import pytest

from pffdst.config.help import examples
from pffdst.core.program import DEPLOYED, command_line
from pffdst.runs.provenance import provenance


@pytest.mark.parametrize(
    ("started", "train", "report", "command"),
    [
        ("train.py", "python train.py lr=1", "python -m pffdst report logs", "python train.py lr=1"),
        ("/a b/train.py", "python '/a b/train.py' lr=1", "python -m pffdst report logs", "python train.py lr=1"),
        ("/bin/pffdst", "pffdst train lr=1", "pffdst report logs", "pffdst train lr=1"),
        (DEPLOYED, "pffdst deploy run SUPERLINK lr=1", "pffdst report logs", "pffdst deploy run SUPERLINK lr=1"),
        (
            "/lib/pffdst/__main__.py",
            "python -m pffdst train lr=1",
            "python -m pffdst report logs",
            "python -m pffdst train lr=1",
        ),
    ],
)
def test_commands_have_the_form_in_which_the_program_was_started(
    monkeypatch: pytest.MonkeyPatch, started: str, train: str, report: str, command: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started, "lr=1"])
    assert command_line("train", ["lr=1"]) == train
    assert command_line("report", ["logs"]) == report
    assert provenance()["command"] == command
    lines = examples().splitlines()
    first = train.removesuffix(" lr=1").replace("'/a b/train.py'", "train.py")
    assert lines[0].split("  ")[1] == first
    assert sum(line.startswith(f"  {first} ") for line in lines) == 10
    assert "feddst sparsity=0.95" in lines[1]
