"""Runs in the form of trained ones, small, and what is read of them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pffdst.report.groups import Group, group_runs, is_counted, keys_of
from pffdst.report.library import Library, Shelf

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The benchmarks' writer of runs: `write_run`, `DAMAGES`."""
    spec = importlib.util.spec_from_file_location("synthetic_runs", ROOT / "benchmarks/synthetic_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write(synthetic: ModuleType) -> Callable[..., Path]:
    """`write_run` of twenty rounds and three layers."""

    def written(folder: Path, **settings: object) -> Path:
        path: Path = synthetic.write_run(folder, **{"rounds": 20, "layers": 3, **settings})
        return path

    return written


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, write: Callable[..., Path], synthetic: ModuleType) -> Path:
    """Two methods at two sparsities over two seeds, an ablation, a run stopped half way and every kind of damage."""
    folder = tmp_path_factory.mktemp("somewhere") / "logs"
    number = 0
    for method in ("pffdst", "feddst"):
        for sparsity in (0.9, 0.95):
            for seed in (0, 1):
                write(folder / f"sweep/{number}", method=method, sparsity=sparsity, seed=seed)
                number += 1
    write(folder / "runs/ablation", freeze={"_target_": "pffdst.methods.freeze.none.NoFreezing"})
    write(folder / "runs/stopped", seed=7, done=10)
    for name, damage in synthetic.DAMAGES.items():
        damage(write(folder / f"damaged/{name}", seed=100 + number, method="random_mask"))
        number += 1
    return folder


@pytest.fixture(scope="session")
def shelf(logs: Path) -> Shelf:
    return Library([logs]).look()


@pytest.fixture(scope="session")
def groups(shelf: Shelf) -> list[Group]:
    keys = keys_of([run for run in shelf.runs if run.has_figures and not run.twin])
    return group_runs([run for run in shelf.runs if is_counted(run)], keys)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: PFFDST_TEST_CHROMIUM, or `chromium` on the path."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = os.environ.get("PFFDST_TEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("apt-get install chromium, or name one in PFFDST_TEST_CHROMIUM")
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


def labelled(groups: Sequence[Group], label: str) -> Group:
    return next(group for group in groups if group.label == label)
