"""What is installed of the package trains and compares without a clone, from the files that a wheel takes along."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="pip install setuptools, which builds the wheel")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
TINY = ("experiment=debug", "logger=csv", "rounds=4", "readjust.schedule.interval=1")


def clean(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.endswith(".egg-info")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of a copy of the sources, of which nothing else is left."""
    clone = tmp_path_factory.mktemp("clone")
    for name in SOURCES:
        shutil.copy(ROOT / name, clone)
    for name in ("configs", "src"):
        shutil.copytree(ROOT / name, clone / name, ignore=clean)
    backend = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", backend], cwd=clone, capture_output=True, text=True, check=True)
    target = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(clone / built.stdout.split()[-1]).extractall(target)
    shutil.rmtree(clone)
    return target


def pffdst(installed: Path, away: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of the wheel, in a folder that is no clone; -P keeps that folder off the path."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "pffdst", *words]
    return subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True, timeout=120)


def test_every_file_that_is_no_code_is_taken_along(installed: Path) -> None:
    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    package = files(installed / "pffdst")
    assert {path.relative_to("configs") for path in package if path.parts[0] == "configs"} == files(ROOT / "configs")
    assert {path for path in package if path.parts[0] != "configs"} == files(ROOT / "src/pffdst")


def test_a_run_and_its_page(installed: Path, tmp_path: Path) -> None:
    run = pffdst(installed, tmp_path, "train", *TINY, "hydra.run.dir=run")
    assert run.returncode == 0, run.stderr
    assert f"files in {tmp_path / 'run'}" in run.stdout
    page = pffdst(installed, tmp_path, "report", "run", "-o", "page.html")
    assert page.returncode == 0, page.stderr
    assert (tmp_path / "page.html").stat().st_size > 50_000


def test_the_command_has_its_name(installed: Path) -> None:
    [points] = installed.glob("*.dist-info/entry_points.txt")
    assert "pffdst = pffdst.cli.main:main" in points.read_text().splitlines()
