"""A Hugging Face model as a user has it: a folder. It is made here, small and at random."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pffdst
from pffdst.cli import export
from pffdst.config.check import ConfigError
from pffdst.core.errors import UserError
from pffdst.core.flat import coverage
from pffdst.experiment import Experiment
from pffdst.models.hf import sequence_classifier
from pffdst.run import run
from pffdst.runs import checkpoint
from tests.text.conftest import BAD, FILLING, GOOD, watched
from tests.text.test_runs import played, same

transformers = pytest.importorskip("transformers", reason="the extra `text` is not installed")
Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and a BERT of two layers."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILLING]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def hf(make: Make, bert: Path) -> Make:
    return lambda *overrides, **keys: make("model=hf", f"model.path={bert}", *overrides, **keys)


def test_its_encoder_has_masks_its_embeddings_and_classifier_none_and_its_weights_are_the_folder_s(
    hf: Make, bert: Path
) -> None:
    setup = hf("rounds=4").setup
    masked = {e.name for e in setup.layout.layers}
    assert len(masked) == 13  # of each layer six, and the pooler
    assert {e.name for e in coverage(setup.layout).dense} == {
        "model.bert.embeddings.word_embeddings.weight",
        "model.bert.embeddings.position_embeddings.weight",
        "model.bert.embeddings.token_type_embeddings.weight",
        "model.classifier.weight",
    }
    stored = transformers.BertForMaskedLM.from_pretrained(bert).state_dict()
    own = setup.network.state_dict()
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    assert torch.equal(own[f"model.{name}"], stored[name])
    assert setup.inputs.arguments() == {"vocabulary": 27, "length": 16, "padding": 0}
    assert "model.classifier.weight" in {e.name for e in hf("rounds=4", "model.dense=[]").setup.layout.layers}


def test_a_round_in_every_engine(hf: Make) -> None:
    asked = ("rounds=4", "readjust.schedule.interval=1")
    exact = played(hf("engine.exact=true", *asked))
    for engine in ("engine=trainer", "engine.workers=1"):
        assert same(exact, played(hf(engine, *asked)))
    batched = played(hf("engine=batched", "engine.device=cpu", *asked))
    assert torch.allclose(exact.server.model.values, batched.server.model.values, atol=1e-5)


def test_masks_freezing_resume_and_export(hf: Make, tmp_path: Path) -> None:
    asked = ("engine.exact=true", "rounds=6", "sparsity=0.9", "optimizer=adamw", "lr=0.003")
    whole = hf(*asked, folder=tmp_path / "whole")
    states = list[Any]()

    def keep(t: int) -> None:
        if t == 3:
            whole.save()
            states.append(checkpoint.load(whole.checkpoints / "last.ckpt"))

    frozen = watched(whole, keep)
    assert len(frozen) == 3
    assert all(torch.equal(values, frozen[0]) for values in frozen)
    assert len(whole.server.model.alive_at) == round(0.1 * whole.setup.layout.maskable)
    summary = whole.finish()
    again = run(hf(*asked, folder=tmp_path / "again"), states[0])
    assert again["model_sha256"] == summary["model_sha256"]
    tokens = whole.evaluator._test.part(slice(0, 5))
    logits = pffdst.load(tmp_path / "whole")(tokens)
    assert export.main([str(tmp_path / "whole"), "--to", "plain"]) == 0
    assert export.main([str(tmp_path / "whole"), "--to", "pt2"]) == 0
    program = torch.export.load(tmp_path / "whole/model.pt2").module()
    padded = torch.nn.functional.pad(tokens, (0, 16 - tokens.shape[1]))
    assert torch.allclose(program(padded), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.path=/nowhere"], "model.path must name a Hugging Face folder, but /nowhere is not one"),
        (["dataset.tokenizer=null"], "the tokenizer has .* tokens, but the model in model.path knows 27"),
        (["dataset.length=64"], "dataset.length=64, but the model takes at most 20 tokens: write dataset.length="),
        (["model.dense=[head]"], "'head' matches none of model.bert"),
    ],
)
def test_what_does_not_fit_is_told(hf: Make, overrides: list[str], said: str) -> None:
    more = ["dataset.tokenizer=null"] if "nowhere" in overrides[0] else []
    with pytest.raises(ConfigError, match=said):
        hf("rounds=4", *overrides, *more)


def test_a_folder_without_safetensors_is_told(make: Make, bert: Path, tmp_path: Path) -> None:
    """Weights of pickle are never read."""
    folder = tmp_path / "bert"
    folder.mkdir()
    for path in bert.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"no weights")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    with pytest.raises(ConfigError, match="has no readable sequence-classification model"):
        make("model=hf", f"model.path={folder}", "rounds=4")


def _narrower(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 8}))


def _kept(folder: Path, name: Callable[[str], str | None]) -> None:
    stored = load_file(folder / "model.safetensors")
    named = {new: tensor for old, tensor in stored.items() if (new := name(old)) is not None}
    save_file(named, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_narrower, r"do not have the shapes of its config.json: bert\.[\w.]+ \[16\] instead of \[8\], "),
        (lambda folder: _kept(folder, lambda name: f"net.{name}"), "its file has none of the 39 weights of Bert"),
    ],
)
def test_weights_that_do_not_fit_never_become_random_ones(
    bert: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(bert, tmp_path / "bert")
    damage(folder)
    with pytest.raises(UserError, match=said):
        sequence_classifier(27, 16, 0, 2, path=str(folder))
    sequence_classifier(27, 16, 0, 2, path=str(folder), pretrained=False)


def test_weights_that_the_folder_lacks_are_told(bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shutil.copytree(bert, tmp_path / "bert")
    _kept(folder, lambda name: None if "layer.1" in name else name)
    for _ in range(2):
        sequence_classifier(27, 16, 0, 2, path=str(folder))
    [line] = [record.getMessage() for record in caplog.records if str(folder) in record.getMessage()]
    assert "lacks 18 of 39 weights, which start at random: bert.encoder.layer.1." in line  # and the pooler's two
