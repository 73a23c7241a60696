"""Small data sets of texts, and how to play a run of them."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment
from pffdst.run import play_round

pytest.importorskip("tokenizers", reason="the extra `text` is not installed")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GOOD, BAD = ("good", "fine", "warm", "clever", "moving"), ("bad", "dull", "cold", "silly", "empty")
FILLING = ("a", "the", "film", "story", "of", "and", "its", "actors", "with", "music", "long", "short")


def write_table(path: Path, rows: Sequence[Sequence[object]], names: Sequence[str] = ("text", "label")) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def reviews(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of 3 to 14 words of which one tells the label, a word."""
    draw, rows = random.Random(seed), []
    for i in range(count):
        words = [draw.choice(FILLING) for _ in range(draw.randint(2, 13))]
        words.insert(draw.randrange(len(words) + 1), draw.choice(BAD if i % 2 else GOOD))
        rows.append((" ".join(words), "negative" if i % 2 else "positive"))
    return rows


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv and test.csv."""
    folder = tmp_path_factory.mktemp("films")
    write_table(folder / "train.csv", reviews(160, 0))
    write_table(folder / "test.csv", reviews(40, 1))
    return folder


@pytest.fixture(scope="session")
def make(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Experiment]:
    """A run of a small transformer on the films, nothing played yet."""
    cache = tmp_path_factory.mktemp("cache")

    def made(*overrides: str, folder: Path | None = None) -> Experiment:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        cfg = compose(
            [
                "logger=csv",
                "dataset=text",
                f"dataset.path={films}",
                "dataset.length=16",
                "dataset.vocabulary=200",
                f"paths.cache={cache}",
                *([] if any(o.startswith("model=") for o in overrides) else SMALL),
                "clients=4",
                "cohort=2",
                "local_epochs=1",
                "eval_every=100",
                "checkpoint_every=1000",
                *overrides,
            ],
            CONFIGS,
        )
        return build(cfg, tmp_path_factory.mktemp("run") if folder is None else folder, "test")

    return made


SMALL = ("model=text_transformer", "model.width=16", "model.hidden=24", "model.heads=2", "model.layers=1")


def watched(experiment: Experiment, after: Callable[[int], None] = lambda _: None) -> list[torch.Tensor]:
    """Plays all rounds, and calls `after` each. Dead weights are 0; given are the frozen ones of rounds with some."""
    frozen: list[torch.Tensor] = []
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            play_round(experiment, t)
            model = experiment.server.model
            assert not bool(model.weights[~model.alive].any())
            frozen += [model.weights[model.frozen_at.bits]] if len(model.frozen_at) else []
            after(t)
    return frozen
