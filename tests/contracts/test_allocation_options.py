"""What every option of configs/allocation must keep, on every shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pffdst.core.flat import layout_of
from pffdst.core.model import Layout
from pffdst.methods.allocation import Allocation, Dense, Erk
from pffdst.models.cnn import SmallCNN
from pffdst.models.lenet import LeNet
from pffdst.models.resnet import ResNet18

OPTIONS = sorted((Path(__file__).resolve().parents[2] / "configs" / "allocation").glob("*.yaml"))


def layout_on_paper(make: Any, channels: int, size: int) -> Layout:
    with torch.device("meta"):
        return layout_of(make(channels, size, 10))


LAYOUTS = {
    "cnn": layout_on_paper(SmallCNN, 1, 8),
    "lenet": layout_on_paper(LeNet, 3, 32),
    "resnet18": layout_on_paper(ResNet18, 3, 32),
}


@pytest.fixture(scope="module", params=OPTIONS, ids=lambda path: path.stem)
def rule(request: pytest.FixtureRequest) -> Allocation:
    made: Allocation = instantiate(OmegaConf.load(request.param))
    return made


@pytest.mark.parametrize("model", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(sparsity=st.floats(0, 0.9999))
def test_counts_are_exact_to_the_weight_and_fit(rule: Allocation, model: str, sparsity: float) -> None:
    layout = LAYOUTS[model]
    counts = rule.counts(layout, 1.0 - sparsity)
    asked = layout.maskable if isinstance(rule, Dense) else round((1.0 - sparsity) * layout.maskable)
    assert sum(counts) == max(asked, len(layout.layers))
    assert all(1 <= k <= e.size for k, e in zip(counts, layout.layers, strict=True))
    assert all(type(k) is int for k in counts)


@pytest.mark.parametrize("model", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(one=st.floats(0, 0.99), two=st.floats(0, 0.99))
def test_a_sparser_model_has_no_denser_layer(rule: Allocation, model: str, one: float, two: float) -> None:
    layout = LAYOUTS[model]
    if getattr(rule, "dense_output", False):  # dense as long as there is room, then a layer as any other
        assume(_has_room(layout, one) == _has_room(layout, two))
    sparse, dense = (rule.counts(layout, 1 - s) for s in (max(one, two), min(one, two)))
    # a weight of rounding apart
    assert all(k <= m + 1 for k, m in zip(sparse, dense, strict=True))


def _has_room(layout: Layout, sparsity: float) -> bool:
    """Whether the last layer alone is less than the whole."""
    return layout.layers[-1].size < (1 - sparsity) * layout.maskable


@pytest.mark.parametrize("model", LAYOUTS)
def test_an_output_that_has_no_room_is_a_layer_as_any_other(model: str) -> None:
    layout = LAYOUTS[model]
    edge = 1 - layout.layers[-1].size / layout.maskable
    more, less = edge - 2 / layout.maskable, edge + 2 / layout.maskable
    assert Erk(dense_output=True).counts(layout, 1 - less) == Erk().counts(layout, 1 - less)
    assert Erk(dense_output=True).counts(layout, 1 - more)[-1] >= layout.layers[-1].size - len(layout.layers)


def test_the_same_question_has_the_same_answer(rule: Allocation) -> None:
    layout = LAYOUTS["lenet"]
    assert rule.counts(layout, 0.1) == rule.counts(layout, 0.1)
