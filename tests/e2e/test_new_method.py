"""docs/new_method.md, followed to the letter."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.warm import WarmPython

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "new_method.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page."""
    place = tmp_path_factory.mktemp("mine")
    files = re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)```", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == ["my_votes.py", "my_configs/readjust/votes.yaml", "test_my_votes.py"]
    for name, content in files:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
    return place


def test_the_recipe_works_as_written(folder: Path, warm: WarmPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", ".")
    [block] = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    small = [*SMALL, "rounds=8", "readjust.schedule.interval=2", "logger=csv", "engine.workers=0"]
    for command in block.splitlines():
        words = shlex.split(command.removeprefix("PYTHONPATH=. "))[1:]
        if words[0] == "train.py":
            words = [str(ROOT / "train.py"), *words[1:], *small]
        done = warm(*words, cwd=folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    summary = json.loads((folder / "logs" / "votes" / "summary.json").read_text())
    assert (summary["rejected"], summary["bytes_up"] > 0) == (0, True)
    with (folder / "logs" / "votes" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mask/changed"]) > 0 for row in rows] == [t in (0, 2) for t in range(8)]
    assert (folder / "report.html").stat().st_size > 0
