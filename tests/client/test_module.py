"""The client's module: what it says of its training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pffdst.client.loaded import Loaded
from pffdst.client.module import ClientModule
from pffdst.core.flat import FlatModule
from pffdst.core.inputs import ImageInputs
from pffdst.core.model import GlobalModel
from pffdst.methods.local import LocalTraining


def begun(weight: float) -> ClientModule:
    """A linear classifier of one pixel into two classes, its logits 0 and weight * pixel / 255."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    module = ClientModule(
        network, LocalTraining(1, 4, 0.1, 0.0, 0.0, 0.0), ImageInputs((1, 8, 8), (0.0,), (1.0,)), channels_last=False
    )
    layout = FlatModule(network).layout
    alive = torch.ones(layout.maskable, dtype=torch.bool)
    loaded = Loaded(module.flat)
    loaded.load_(GlobalModel(layout, torch.tensor([0.0, weight, 0.0, 0.0]), alive, ~alive))
    module.begin(loaded)
    return module


def batch(pixels: list[int], labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels)


def test_training_metrics_are_means_over_samples_not_over_batches() -> None:
    module = begun(2.0)
    module.training_step(batch([255, 255, 255], [1, 1, 1]), 0)
    module.training_step(batch([255], [0]), 1)
    right, wrong = math.log1p(math.exp(-2.0)), math.log1p(math.exp(2.0))
    loss, accuracy = module.training_metrics()
    assert accuracy == 0.75
    assert loss == pytest.approx((3 * right + wrong) / 4, rel=1e-6)


def test_the_loss_of_a_diverged_client_is_not_a_number() -> None:
    module = begun(float("nan"))
    module.training_step(batch([255], [1]), 0)
    assert math.isnan(module.training_metrics()[0])
