"""Runs on texts: every engine, every kind of method, what is told of a pair that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pffdst
from pffdst.config.check import ConfigError, problems_of
from pffdst.config.compose import session
from pffdst.experiment import Experiment
from pffdst.run import play_round, run
from pffdst.runs import checkpoint
from tests.text.conftest import CONFIGS, reviews, watched

Make = Callable[..., Experiment]
LEARNING = (
    "rounds=12",
    "optimizer=adamw",
    "lr_schedule=cosine",
    "lr=0.03",
    "cohort=4",
    "batch_size=8",
    "local_epochs=2",
    "sparsity=0.5",
)
# One for each kind: masks by the server, by clients, by scores before training, by signals; dense; changes; memories.
METHODS = ["pffdst", "feddst", "fedavgm", "synflow", "grasp", "fedrts", "sparsyfed", "topk_ef"]


def played(experiment: Experiment, until: int | None = None) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.first, experiment.rounds if until is None else until):
            play_round(experiment, t)
    return experiment


def same(a: Experiment, b: Experiment) -> bool:
    return a.server.model.same_as(b.server.model) and a.server.averaged_model.same_as(b.server.averaged_model)


def test_engines_agree(make: Make) -> None:
    few = ("rounds=4", "readjust.schedule.interval=1", "model.dropout=0.1")
    exact = played(make("engine.exact=true", *few))
    assert same(exact, played(make("engine=trainer", *few)))
    assert same(exact, played(make("engine.workers=2", *few)))
    batched = played(make("engine=batched", "engine.device=cpu", *few))
    assert torch.allclose(exact.server.model.values, batched.server.model.values, atol=1e-5)
    assert exact.progress.rejected == batched.progress.rejected == 0


def test_it_learns_adamw_keeps_dead_and_frozen_weights_and_the_model_is_ready_to_use(
    make: Make, tmp_path: Path
) -> None:
    experiment = make(*LEARNING, folder=tmp_path)
    before = watched(experiment)
    assert len(before) == 6
    assert all(torch.equal(values, before[0]) for values in before)
    summary = experiment.finish()
    assert summary["acc_global"] > 0.8
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["type"] == "WordPiece"
    classify, test = pffdst.load(tmp_path), experiment.evaluator
    right = classify(test._test.part(slice(0, None))).argmax(1) == test._test.labels
    assert float(right.double().mean()) == summary["acc_global"]
    import tokenizers

    made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [text for text, _ in reviews(40, 1)]
    assert [made.encode(t).ids for t in texts] == [
        [i for i in row if i] for row in test._test.part(slice(0, None)).tolist()
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_every_kind_keeps_its_density_and_resumes_exactly(make: Make, method: str) -> None:
    lively = ["readjust.schedule.interval=1"] if method in ("pffdst", "feddst", "fedrts") else []
    asked = ["engine.exact=true", "rounds=4", "sparsity=0.6", f"method={method}", *lively]
    if method == "synflow":
        asked.append("readjust.iterations=5")
    whole = make(*asked)
    with whole.engine.open(whole.setup), whole.loggers as loggers:
        loggers.open(whole.info, None)
        for t in range(whole.first, whole.rounds):
            play_round(whole, t)
            if t + 1 == 2:
                whole.save()
                state = checkpoint.load(whole.checkpoints / "last.ckpt")
    assert whole.progress.rejected == 0
    assert whole.ledger.total["bytes_up"] > 0
    again = make(*asked)
    assert run(again, state)["model_sha256"] == whole.finish()["model_sha256"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["dataset=text", "dataset.path=."],
            "model=cnn needs channels, size, but dataset=text provides vocabulary, length, padding and classes: they "
            "do not match; use model=hf or model=text_transformer",
        ),
        (
            ["model=text_transformer"],
            "model=text_transformer needs length, padding, vocabulary, but dataset=digits provides channels, size and "
            "classes: they do not match; use model=cnn or model=lenet or model=resnet18",
        ),
    ],
)
def test_a_model_of_other_data_is_told_with_what_fits(overrides: list[str], said: str) -> None:
    with session(CONFIGS) as opened:
        composed = opened.compose(["logger=csv", *overrides])
        assert said in problems_of(composed.cfg, composed.choices)


def test_an_augmentation_of_images_is_told(make: Make) -> None:
    with pytest.raises(ConfigError, match="augmentation: CropFlip cannot augment texts; write augmentation=none"):
        make("augmentation=crop_flip")
