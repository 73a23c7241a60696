"""The notebooks run from top to bottom on tiny runs, and are kept without what they show."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.launch import recorded_run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = ("experiment=debug", "rounds=4", "eval_every=2", "engine.exact=true")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three settings, one of them with two seeds, one told apart by its learning rate alone."""
    root = tmp_path_factory.mktemp("logs")
    for number, own in enumerate(("seed=0", "seed=1", "lr=0.05", "method=fedavg")):
        folder = root / str(number)
        folder.mkdir()
        experiment = build(compose([*TINY, own], ROOT / "configs"), folder, f"test {number}")
        recorded_run(experiment, None, f"test {number}")
    return root


def played(name: str, folder: Path) -> str:
    """Runs a copy of a notebook where it lies among the configurations; gives its outputs, images as `<image>`."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (folder / "notebooks").mkdir()
    shutil.copytree(ROOT / "configs", folder / "configs")
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    images = ["<image>" for output in outputs if "image/png" in output.get("data", {})]
    return "\n".join([*map(str, texts), *images])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}


def test_the_notebooks_are_these() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["mask", "runs"], "a test below plays each of them"


def test_finished_runs_are_drawn(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a run counts once, and a damaged one not at all."""
    shutil.copytree(logs / "0", logs / "copy")
    shutil.copytree(logs / "1", logs / "damaged")
    (logs / "damaged" / "summary.json").write_text("{")
    monkeypatch.setenv("PFFDST_LOGS", str(logs))
    shown = played("runs", tmp_path)
    assert shown.count("<image>") == 2, "accuracy against bytes, bytes by part"
    assert "pffdst, s=0.5, 4 rounds (lr=0.05)" in shown
    assert "pffdst, s=0.5, 4 rounds (lr=0.1)" in shown, "both seeds, under one label"
    assert "seed=" not in shown


def test_without_runs_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFFDST_LOGS", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match=r"start one, e\.g\. python train\.py"):
        played("runs", tmp_path)


def test_a_masks_life_keeps_its_own_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFFDST_ROUNDS", "24")
    shown = played("mask", tmp_path)
    assert shown.count("<image>") == 3, "counts, moves, one layer"
    assert "stayed so to the end" in shown
