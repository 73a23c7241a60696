"""Every command of the README is one that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pffdst.config.check import ConfigError
from pffdst.config.overrides import preflight

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SCALE = (ROOT / "docs/scale.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README + SCALE, flags=re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("python train.py") and "submitit" not in line  # a plugin that is not installed here
]
# words of the README that stand for something of the reader's own
PLACEHOLDERS = ("FOLDER", "DATE/RUN", "DIR")


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


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "\n".join(BLOCKS), flags=re.MULTILINE))
def test_the_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_the_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_summary_keys_of_the_readme_are_written() -> None:
    source = (ROOT / "src/pffdst/experiment.py").read_text() + (ROOT / "src/pffdst/build.py").read_text()
    for key in ("model_sha256", "wall_s", "peak_rss_mb", "rejected", "alive", "frozen", "method", "seed"):
        assert f'"{key}"' in source
