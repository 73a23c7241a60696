"""Pixels to inputs: one place for training, evaluation and saved models."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pffdst.client.module import ClientModule
from pffdst.core.inputs import ImageInputs, Normalise
from pffdst.methods.local import LocalTraining

IMAGES = torch.from_numpy(load_digits().images * 15.9375).round().to(torch.uint8).unsqueeze(1)[:64]
MEAN, STD = (0.3053,), (0.3764,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_what_training_does_to_the_bit(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    got = Normalise(MEAN, STD, dtype=dtype, memory_format=memory_format)(IMAGES)
    last, network = memory_format is torch.channels_last, nn.Linear(64, 10).to(dtype)
    client = ClientModule(
        network, LocalTraining(1, 4, 0.1, 0.0, 0.0, 0.0), ImageInputs((1, 8, 8), MEAN, STD), channels_last=last
    )
    assert torch.equal(got, client.inputs(IMAGES))
    assert torch.allclose(got.double(), (IMAGES.double() / 255 - MEAN[0]) / STD[0], rtol=1e-6, atol=1e-6)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=memory_format)


def test_channels_have_their_own_numbers() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    got = Normalise((0.0, 0.5, 1.0), (1.0, 0.5, 2.0))(images)
    assert got[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_pixels_stay_as_they_were_and_floats_are_refused() -> None:
    before = IMAGES.clone()
    Normalise(MEAN, STD)(IMAGES)
    assert torch.equal(IMAGES, before)
    with pytest.raises(TypeError, match="uint8 images"):
        Normalise(MEAN, STD)(IMAGES / 255)


def test_it_adds_nothing_to_a_state_dict() -> None:
    assert Normalise(MEAN, STD).state_dict() == {}
