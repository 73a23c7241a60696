"""A finished model on data that number their classes or their tokens in another way than its own data did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from pffdst.cli import evaluate
from pffdst.config.compose import compose
from pffdst.core.inputs import ImageInputs, Inputs
from pffdst.models.saved import ModelCard, SavedModel
from pffdst.runs import files

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHADES = {"black": 0, "grey": 120, "white": 255}


class Shade(nn.Linear):
    """Tells black, grey and white apart, as classes 0 to 2."""

    def __init__(self) -> None:
        super().__init__(16, 3)
        with torch.no_grad():  # logits 2 a x - a^2 are greatest for the a next to x
            shades = torch.tensor([0.0, 0.47, 1.0])
            self.weight.copy_(2 * shades[:, None].expand(3, 16) / 16)
            self.bias.copy_(-(shades**2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1))


class FirstWord(nn.Embedding):
    """The class of a text is the number of its first word, modulo 2."""

    def __init__(self, vocabulary: int, length: int, padding: int, classes: int) -> None:
        super().__init__(vocabulary, classes)
        with torch.no_grad():
            self.weight.copy_(torch.eye(2)[torch.arange(vocabulary) % 2])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens[:, 1])


def finished(run: Path, target: type[nn.Module], arguments: Mapping[str, Any], inputs: Inputs, *more: str) -> Path:
    """A run's folder with a model of these arguments and classes black, grey, white (or none), and its data."""
    names = tuple(SHADES) if isinstance(inputs, ImageInputs) else ("no", "yes")
    card = ModelCard(f"{__name__}.{target.__name__}", arguments, len(names), inputs, names)
    run.mkdir()
    (run / files.MODEL).write_bytes(SavedModel(card, target(**arguments).state_dict(), {}, {}).packed())
    for name, text in inputs.files().items():
        (run / name).write_text(text)
    from omegaconf import OmegaConf

    cfg = compose(["logger=csv", f"paths.cache={run.parent / 'cache'}", *more], CONFIGS)
    OmegaConf.save(
        OmegaConf.create({"dataset": OmegaConf.to_container(cfg.dataset, resolve=True), "seed": 0}), run / files.CONFIG
    )
    return run


def pictures(folder: Path, shades: Mapping[str, int]) -> Path:
    """A training and a test image of every class."""
    for split in ("train", "test"):
        for name, shade in shades.items():
            (folder / split / name).mkdir(parents=True)
            Image.new("L", (4, 4), shade + (split == "test") * (1 - 2 * (shade > 0))).save(
                folder / split / name / "0.png"
            )
    return folder


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    inputs = ImageInputs((1, 4, 4), (0.0,), (1.0,))
    return finished(tmp_path / "run", Shade, {}, inputs, "dataset=folder", f"dataset.path={tmp_path}/none")


@pytest.mark.parametrize("names", [("black", "grey", "white"), ("white", "grey")])
def test_classes_are_those_of_the_same_name(
    shades: Path, tmp_path: Path, names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone, grey and white would be classes 0 and 1: the model's are 1 and 2."""
    folder = pictures(tmp_path / "data", {name: SHADES[name] for name in names})
    assert evaluate.main([str(shades), f"dataset.path={folder}"]) == 0
    rows = [re.findall(r"[\w.%-]+", line) for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    expected = [[name, "1", "100.00", "%"] if name in names else [name, "0", "-"] for name in SHADES]
    assert rows == [*expected, ["all", str(len(names)), "100.00", "%"]]


def test_classes_that_the_model_does_not_know_are_told(
    shades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "data", {"anthracite": 30, "black": 0, "grey": 120})
    assert evaluate.main([str(shades), f"dataset.path={folder}"]) == 2
    assert "its classes anthracite are not among black, grey, white" in capsys.readouterr().err


def test_of_data_without_a_test_split_all_samples_are_scored(
    shades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "data", SHADES) / "train"
    assert evaluate.main([str(shades), f"dataset.path={folder}"]) == 0
    told = capsys.readouterr().out
    assert "on all images of folder" in told
    assert re.search(r"all +│ +3 │ +100.00 %", told)


def test_a_run_s_own_samples_are_not_scored_for_want_of_a_test_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "data", SHADES) / "train"
    inputs = ImageInputs((1, 4, 4), (0.0,), (1.0,))
    run = finished(tmp_path / "run", Shade, {}, inputs, "dataset=folder", f"dataset.path={folder}")
    assert evaluate.main([str(run)]) == 2
    assert "have no test split; --validation scores" in capsys.readouterr().err


def test_texts_have_the_model_s_tokens_whatever_texts_lie_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other training texts give a trained tokenizer other numbers: the model must not see them."""
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    from hydra.utils import instantiate

    asked = ["dataset=text", "dataset.length=8"]
    for place, words in (("own", "mole newt otter quail"), ("other", "zebra yak xerus")):
        (tmp_path / place).mkdir()
        rows = [f"{word} {word},{'yes' if word in 'mole quail' else 'no'}" for word in words.split() * 2]
        (tmp_path / place / "train.csv").write_text("\n".join(["text,label", *rows, "otter mole,no", "x,yes"]))
    (tmp_path / "own/test.csv").write_text("text,label\nmole,no\nnewt,no\notter,no\nquail,no\n")
    own = instantiate(
        compose(["logger=csv", f"paths.cache={tmp_path}", *asked, f"dataset.path={tmp_path}/own"], CONFIGS).dataset
    ).load(0)
    told = (own.test.part(slice(0, None))[:, 1] % 2).tolist()
    assert len(set(told)) == 2
    right = [f"{word},{('no', 'yes')[n]}" for word, n in zip(("mole", "newt", "otter", "quail"), told, strict=True)]
    for place in ("own", "other"):
        (tmp_path / place / "test.csv").write_text("\n".join(["text,label", *right]))
    run = finished(
        tmp_path / "run", FirstWord, own.inputs.arguments() | {"classes": 2}, own.inputs, *asked, "dataset.path=none"
    )
    for place in ("own", "other"):
        assert evaluate.main([str(run), f"dataset.path={tmp_path / place}"]) == 0
        assert re.search(r"all +│ +4 │ +100.00 %", capsys.readouterr().out), place
    (run / "tokenizer.json").unlink()
    assert evaluate.main([str(run), f"dataset.path={tmp_path}/other"]) == 2
    assert "the model's tokenizer.json is missing" in capsys.readouterr().err
