"""The group `metrics`: torchmetrics beside accuracy, anew at every evaluation, for both models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score, recall_score
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.core.inputs import ImageInputs
from pffdst.data.samples import ImageSet
from pffdst.experiment import Experiment
from pffdst.loggers.csv import read_metrics
from pffdst.metrics.evaluate import Evaluator

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OPTIONS = sorted(path.stem for path in (CONFIGS / "metrics").glob("*.yaml"))
MEAN, STD = (0.3053,), (0.3764,)


def evaluator(**metrics: Any) -> Evaluator:
    data = load_digits()
    images = torch.from_numpy(data.images * 15.9375).round().to(torch.uint8).unsqueeze(1)[:600]
    labels = torch.from_numpy(data.target)[:600]
    return Evaluator(
        ImageSet(images, labels), torch.zeros_like(labels), 1, ImageInputs((1, 8, 8), MEAN, STD), metrics=metrics
    )


def network(seed: int, scale: float = 1.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        last = nn.Linear(64, 10)
    last.weight.data *= scale
    return nn.Sequential(nn.Flatten(), last)


def predictions(model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    images = torch.from_numpy(data.images * 15.9375).round().to(torch.uint8).float()[:600] / 255
    with torch.no_grad():
        return data.target[:600], model((images - MEAN[0]) / STD[0]).argmax(1).numpy()


class Constant(Metric):
    """A metric of somebody's own that computes this."""

    full_state_update = False

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Looks at nothing."""

    def compute(self) -> Any:
        return self.value


@pytest.mark.parametrize("value", [None, "high", [1.0, "a"], {"a": None}, object()])
def test_a_result_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(UserError, match=r"metrics\.own.* is not a number"):
        evaluator(own=Constant(value)).evaluate(network(0))
    numbers = {"one": 1, "two": [1.0, 2.0], "three": torch.ones(1)}
    found = evaluator(own=Constant(numbers)).evaluate(network(0)).metrics
    assert {name: found[name] for name in found if name.startswith("own")} == {
        "own/one": 1.0,
        "own/two/0": 1.0,
        "own/two/1": 2.0,
        "own/three": 1.0,
    }


def test_they_are_those_of_scikit_learn_over_all_batches() -> None:
    model = network(0)
    labels, predicted = predictions(model)
    one = evaluator(f1=MulticlassF1Score(10, average="macro"), acc=MulticlassAccuracy(10, average="none"))
    found = one.evaluate(model).metrics
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0), abs=1e-6)
    recalls = recall_score(labels, predicted, average=None, zero_division=0)
    assert [found[f"acc/{label}"] for label in range(10)] == pytest.approx(recalls.tolist(), abs=1e-6)


def test_every_evaluation_begins_anew() -> None:
    one = evaluator(f1=MulticlassF1Score(10, average="macro"))
    first = one.evaluate(network(0)).metrics
    other = one.evaluate(network(1)).metrics
    assert first != other
    assert one.evaluate(network(0)).metrics == first


def test_logits_that_look_like_probabilities_are_logits() -> None:
    """All of them in [0, 1]: torchmetrics would take them as they are."""
    model = nn.Sequential(network(0, 0.001), nn.Sigmoid())
    found = evaluator(ece=MulticlassCalibrationError(10, n_bins=15, norm="l1")).evaluate(model).metrics["ece"]
    labels, predicted = predictions(model)
    accuracy, confidence = (labels == predicted).mean(), 0.1  # a softmax of ten nearly equal numbers
    assert found == pytest.approx(abs(accuracy - confidence), abs=0.01)


def test_a_collection_has_a_figure_for_each_of_its_members() -> None:
    both = MetricCollection([MulticlassF1Score(10), MulticlassAccuracy(10)])
    found = evaluator(mine=both).evaluate(network(0)).metrics
    assert found.keys() == {"mine/MulticlassF1Score", "mine/MulticlassAccuracy"}


def test_a_diverged_model_is_scored_not_refused() -> None:
    model = network(0)
    model[1].weight.data.fill_(math.nan)
    measures = {"f1": MulticlassF1Score(10), "ece": MulticlassCalibrationError(10)}
    assert evaluator(**measures).evaluate(model).metrics.keys() == {"f1", "ece"}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_logged_for_the_last_model_and_the_average(
    option: str, make_experiment: Callable[..., Experiment], play: Callable[[Experiment], Any]
) -> None:
    experiment = make_experiment(f"metrics={option}", "method=fedavg", "rounds=2", "eval_every=1")
    play(experiment)
    rows = read_metrics(experiment.folder / "metrics.csv")
    names = {n.removeprefix("test/").partition("/")[0] for n in rows[-1] if n.startswith("test/")}
    further = {n for n in names if "acc_global" not in n and "acc_client_mean" not in n and n != "loss_global"}
    asked = set(compose([f"metrics={option}"], CONFIGS).metrics)
    assert further == asked | {f"ema_{name}" for name in asked}
    found = experiment.finish().get("metrics", {})
    assert {name.partition("/")[0] for name in found} == further
    assert all(found[name] == rows[-1][f"test/{name}"] for name in found)


def test_with_a_validation_share_they_are_val(
    make_experiment: Callable[..., Experiment], play: Callable[[Experiment], Any]
) -> None:
    settings = ["method=fedavg", "rounds=1", "eval_every=1", "validation_share=0.2", "dataset.test_share=0.2"]
    experiment = make_experiment("metrics=f1", *settings)
    play(experiment)
    [row] = read_metrics(experiment.folder / "metrics.csv")
    assert {"val/f1", "val/ema_f1", "val/acc_global"} <= row.keys()
    assert not any(name.startswith("test/") for name in row)
    summary = experiment.finish()
    assert summary["evaluated_on"] == "validation"
    assert (summary["acc_global"], summary["metrics"]["f1"]) == (row["val/acc_global"], row["val/f1"])
