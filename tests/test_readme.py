"""Every command of the README is one that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pffdst.cli import dashboard, status
from pffdst.config.check import ConfigError
from pffdst.config.compose import session
from pffdst.config.flags import CommandLine
from pffdst.config.overrides import preflight
from pffdst.search.definition import read_search

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SCALE = (ROOT / "docs/scale.md").read_text()
COMMAND_LINE = (ROOT / "docs/command_line.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README + SCALE + COMMAND_LINE, flags=re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("python train.py") and "submitit" not in line  # a plugin that is not installed here
]
# words of the README that stand for something of the reader's own
PLACEHOLDERS = ("FOLDER", "DATE/RUN", "DIR")
LINES = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]
SEARCHES = [line for line in COMMANDS if CommandLine.of(shlex.split(line)[2:]).searches]


def problems_of(command: str) -> list[str]:
    try:
        preflight(shlex.split(command)[2:], ROOT / "configs")
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_is_accepted(command: str) -> None:
    """Composed and checked as train.py does; a placeholder is refused for being one and for nothing else."""
    placeholder = next((word for word in PLACEHOLDERS if word in command), "no placeholder")
    assert [problem for problem in problems_of(command) if placeholder not in problem] == []


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) >= 10
    assert len(SEARCHES) >= 3


@pytest.mark.parametrize("command", SEARCHES)
def test_the_search_can_be_run(command: str) -> None:
    with session(ROOT / "configs") as opened:
        assert read_search(opened, shlex.split(command)[2:]).space


@pytest.mark.parametrize("command", [line for line in LINES if "pffdst.cli.status" in line])
def test_the_status_is_told(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's folders, with a run in each."""
    monkeypatch.chdir(tmp_path)
    for folder in ("logs/runs/today/now", "logs/searches/digits_lr"):
        Path(folder).mkdir(parents=True)
        Path(folder, "run.json").write_text('{"status": "done"}')
    assert status.main(shlex.split(command)[3:]) == 0


@pytest.mark.parametrize("command", [line for line in LINES if "pffdst.cli.dashboard" in line])
def test_the_dashboard_starts(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_made", lambda project, name: f"made for {project}")
    assert dashboard.main(shlex.split(command)[3:]) == 0


def test_offline_runs_lie_where_the_sync_command_looks() -> None:
    [command] = [line for line in LINES if "wandb sync" in line and line.startswith("find ")]
    written = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "train.yaml"))["hydra"]["run"]["dir"]
    runs = re.sub(r"\$\{now:.*?\}[^/]*", "*", written).replace("${paths.logs}", "logs")
    words = shlex.split(command, comments=True)
    assert runs.startswith(f"{words[1]}/")
    assert words[words.index("-name") + 1] == "offline-run-*"


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "\n".join(BLOCKS), flags=re.MULTILINE))
def test_the_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_the_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_summary_keys_of_the_readme_are_written() -> None:
    source = "".join((ROOT / "src/pffdst" / name).read_text() for name in ("experiment.py", "build.py", "records.py"))
    for key in ("model_sha256", "wall_s", "peak_rss_mb", "rejected", "alive", "frozen", "method", "seed"):
        assert f'"{key}"' in source
