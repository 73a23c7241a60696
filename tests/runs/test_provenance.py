"""A result names the commit of the program that made it, and no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pffdst
from pffdst.runs import provenance

ASK = "from pffdst.runs.provenance import commit; print(commit())"


def copy_in(folder: Path) -> Path:
    """A copy of the package, as a folder that somebody unpacked somewhere."""
    source = Path(pffdst.__file__).parent
    shutil.copytree(source, folder / "pffdst", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def said(folder: Path, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != provenance.COMMIT} | {"PYTHONPATH": str(folder)} | environment
    return subprocess.run(
        [sys.executable, "-c", ASK], cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_repository_around_the_package_that_does_not_track_it_is_not_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "notes").write_text("of somebody else")
    git(tmp_path, "add", "notes")
    git(tmp_path, "commit", "-qm", "another repository")
    assert said(copy_in(tmp_path)) == "None"
    assert said(tmp_path, PFFDST_COMMIT="abc123") == "abc123"


def test_the_repository_that_tracks_it_is(tmp_path: Path) -> None:
    git(copy_in(tmp_path), "init", "-q")
    git(tmp_path, "add", "pffdst")
    git(tmp_path, "commit", "-qm", "the package")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert said(tmp_path, PFFDST_COMMIT="abc123") == head
    (tmp_path / "pffdst" / "__init__.py").write_text("changed = True\n")
    assert said(tmp_path) == f"{head}-dirty"


def test_without_git_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(provenance.COMMIT, raising=False)
    assert provenance.commit() is None
