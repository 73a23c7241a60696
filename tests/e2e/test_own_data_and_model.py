"""docs/own_data_and_model.md, followed to the letter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.warm import WarmPython

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "own_data_and_model.md").read_text()


def test_the_recipe_works_as_written(tmp_path: Path, warm: WarmPython, monkeypatch: pytest.MonkeyPatch) -> None:
    files = re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)```", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == ["make_shards.py", "my_model.py", "my_configs/model/mlp.yaml"]
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("PFFDST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    [block] = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    for command in block.splitlines():
        if command.startswith("PYTHONPATH=. "):
            monkeypatch.setenv("PYTHONPATH", ".", prepend=":")
        words = shlex.split(command.removeprefix("PYTHONPATH=. "))[1:]
        small = ["rounds=4", "logger=csv", "engine.workers=0", "hydra.run.dir=run"] if words[0] == "train.py" else []
        words[0] = str(ROOT / "train.py") if words[0] == "train.py" else words[0]
        done = warm(*words, *small, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["model"], summary["dataset"]) == ("MLP", "parquet")
    assert summary["alive"] == round(0.2 * (64 * 64 + 64 * 10))
