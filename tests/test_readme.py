"""Every command of the README and the pages works, every link leads somewhere, every method is told of."""

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
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = "".join(path.read_text() for path in PAGES if path.name != "own_data_and_model.md")  # it has tests of its own
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDES, flags=re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("python train.py") and "submitit" not in line  # a plugin that is not installed here
]
# words of the README that stand for something of the reader's own
PLACEHOLDERS = ("FOLDER", "DATE/RUN", "DIR", "NAME")
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


@pytest.mark.parametrize("command", [line for line in LINES if "pffdst status" in line])
def test_the_status_is_told(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's folders, with a run in each."""
    monkeypatch.chdir(tmp_path)
    for folder in ("logs/runs/today/now", "logs/searches/digits_lr", "logs/sweeps/DATE"):
        Path(folder).mkdir(parents=True)
        Path(folder, "run.json").write_text('{"status": "done"}')
    assert status.main(shlex.split(command)[4:]) == 0


@pytest.mark.parametrize("command", [line for line in LINES if "pffdst dashboard" in line])
def test_the_dashboard_starts(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_made", lambda project, name: f"made for {project}")
    assert dashboard.main(shlex.split(command)[4:]) == 0


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


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for path, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)]*)\)", text):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_method_is_told_of() -> None:
    methods = {path.stem for path in (ROOT / "configs/method").glob("*.yaml")}
    table = README.split("## Methods")[1].split("## Where")[0].split("| `method=`")[1]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == methods
    index = (ROOT / "docs/methods.md").read_text()
    assert set(re.findall(r"^\| \[(\w+)\]\(methods/", index, flags=re.MULTILINE)) == methods


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_the_summary_keys_of_the_pages_are_written() -> None:
    source = "".join((ROOT / "src/pffdst" / name).read_text() for name in ("experiment.py", "build.py", "records.py"))
    for key in (
        "model_sha256",
        "wall_s",
        "peak_rss_mb",
        "rejected",
        "alive",
        "frozen",
        "method",
        "seed",
        "sparsity_overall",
    ):
        assert f'"{key}"' in source
