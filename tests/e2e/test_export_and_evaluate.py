"""What comes out of a run: every export, and the model evaluated again, agree with it on the whole test set."""

from __future__ import annotations

import errno
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch import Tensor

import pffdst
from pffdst.cli import evaluate, export
from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.models.cnn import SmallCNN
from pffdst.runs import files

ROOT = Path(__file__).resolve().parents[2]
Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = train("logger=csv", "method=feddst", "rounds=30", "eval_every=10", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def test_set(run: Path) -> tuple[Tensor, Tensor]:
    node = compose(["logger=csv"], ROOT / "configs").dataset
    data = instantiate(node).load(0)
    return data.test.images, data.test.labels


def accuracy_of(run: Path, **which: bool) -> float:
    return float(json.loads((run / "summary.json").read_text())["ema_acc_global" if which else "acc_global"])


def share(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def written(run: Path, to: str, folder: Path, *more: str) -> Path:
    path = folder / f"model.{to}"
    assert export.main([str(run), "--to", to, "-o", str(path), *more]) == 0
    return path


@pytest.mark.parametrize("which", [{}, {"average": True}], ids=["last", "average"])
def test_load_scores_what_the_run_did(run: Path, test_set: tuple[Tensor, Tensor], which: dict[str, bool]) -> None:
    images, labels = test_set
    accuracy = accuracy_of(run, **which)
    assert accuracy > 0.5
    with torch.no_grad():
        assert share(pffdst.load(run, **which)(images), labels) == accuracy


def test_the_lines_of_the_docs_give_the_same_model(run: Path, test_set: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Those for a coded file, without this package, and those for a plain one."""
    images, labels = test_set
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/saved_models.md").read_text(), flags=re.DOTALL)
    coded, plain = (block for block in blocks if "safe_open" in block)
    written(run, "plain", tmp_path)
    for block, path in ((coded, run / "model.safetensors"), (plain, tmp_path / "model.plain")):
        found: dict[str, object] = {"network": SmallCNN(1, 8, 10), "images": images, "PATH": str(path)}
        assert "pffdst" not in re.sub(r'\["pffdst"\]', "", block)
        exec(block, found)
        assert share(found["logits"], labels) == accuracy_of(run)  # type: ignore[arg-type]


def test_plain_is_taken_as_it_is(run: Path, tmp_path: Path) -> None:
    keys = SmallCNN(1, 8, 10).load_state_dict(load_file(written(run, "plain", tmp_path)))
    assert (keys.missing_keys, keys.unexpected_keys) == ([], [])


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_holds_the_alive_weights_alone(run: Path, test_set: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    images, labels = test_set
    state = torch.load(written(run, "sparse", tmp_path), weights_only=True)
    compressed = {name: tensor for name, tensor in state.items() if tensor.layout is torch.sparse_csr}
    alive = json.loads((run / "summary.json").read_text())["alive"]
    dense = sum(t.numel() for n, t in state.items() if n.endswith("weight") and n not in compressed)
    assert sum(tensor.values().numel() for tensor in compressed.values()) + dense == alive
    classifier, network = pffdst.load(run), SmallCNN(1, 8, 10)
    shapes = network.state_dict()
    network.load_state_dict({name: tensor.to_dense().view(shapes[name].shape) for name, tensor in state.items()})
    classifier.network = network.eval()
    with torch.no_grad():
        assert share(classifier(images), labels) == accuracy_of(run)


@pytest.mark.parametrize("more", [[], ["--average"]], ids=["last", "average"])
def test_pt2_takes_pixels_and_any_batch(
    run: Path, test_set: tuple[Tensor, Tensor], tmp_path: Path, more: list[str]
) -> None:
    images, labels = test_set
    program = torch.export.load(written(run, "pt2", tmp_path, *more)).module()
    assert share(program(images), labels) == accuracy_of(run, **({"average": True} if more else {}))
    assert program(images[:1]).shape == (1, 10)


def test_onnx_takes_pixels_and_any_batch(run: Path, test_set: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'pffdst[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'pffdst[onnx]'")
    images, labels = test_set
    session = runtime.InferenceSession(written(run, "onnx", tmp_path), providers=["CPUExecutionProvider"])
    [logits] = session.run(["logits"], {"images": images.numpy()})
    assert share(torch.from_numpy(logits), labels) == accuracy_of(run)
    assert session.run(["logits"], {"images": images[:1].numpy()})[0].shape == (1, 10)


def test_evaluate_tells_the_accuracy_of_each_class(
    run: Path, test_set: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run)]) == 0
    rows = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    images, labels = test_set
    with torch.no_grad():
        right = pffdst.load(run)(images).argmax(1) == labels
    expected = [
        [str(c), f"{int((labels == c).sum())}", f"{100 * right[labels == c].double().mean():.2f} %"] for c in range(10)
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        *expected,
        ["all", f"{len(labels)}", f"{100 * accuracy_of(run):.2f} %"],
    ]


def test_evaluate_on_other_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(run), "dataset.test_share=0.5"]) == 0
    assert re.search(r"all +│ +89\d", capsys.readouterr().out)
    assert evaluate.main([str(run), "dataset=digits", "--average"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lr=0.1"], "only dataset settings are allowed here"),
        (["dataset.tset_share=0.5"], "did you mean test_share"),
        (["dataset=digit"], "did you mean digits"),
        (["dataset.test_share=0"], "test_share"),
        (["--validation"], "had no validation set"),
    ],
)
def test_what_cannot_be_evaluated_is_one_message(
    run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_average_is_another_file_than_the_one_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program in (evaluate.main, lambda words: export.main([*words, "--to", "plain"])):
        assert program([str(run / "model.safetensors"), "--average"]) == 2
        assert "the server average is another file" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"its model_ema\.safetensors"):
        pffdst.load(run / "model.safetensors", average=True)
    assert pffdst.load(run / "model_ema.safetensors", average=True) is not None


def test_a_runs_own_files_are_not_written_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "model.safetensors").read_bytes()
    assert export.main([str(run), "--to", "plain", "-o", str(run / "model.safetensors")]) == 2
    assert "name another with -o FILE" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("form", ["plain", "sparse", "pt2"])
def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(
    run: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (old := tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export.main([str(run), "--to", form, "-o", str(old)])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert old.read_bytes() == b"old"


def test_a_folder_without_a_model_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 2
    assert export.main([str(tmp_path), "--to", "plain"]) == 2
    assert capsys.readouterr().err.count("there is no such file; name a finished run's folder") == 2
