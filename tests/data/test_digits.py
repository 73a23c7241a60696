from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from pffdst.data.dataset import DataError, channel_statistics
from pffdst.data.sources.digits import DigitsSource

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dataset" / "digits.yaml"


def source():
    keys = OmegaConf.to_container(OmegaConf.load(CONFIG))
    assert keys.pop("_target_") == "pffdst.data.sources.digits.DigitsSource"
    return DigitsSource(**keys)


def test_every_image_is_there_once():
    data = source().load(0)
    ours = torch.cat([data.train.images, data.test.images]).flatten(1).numpy()
    theirs = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_all_seeds_judge_on_the_same_stratified_test_set():
    one, two = source().load(0), source().load(1)
    assert torch.equal(one.test.images, two.test.images)
    assert torch.equal(one.test.labels, two.test.labels)
    everything = torch.bincount(torch.cat([one.train.labels, one.test.labels]))
    assert torch.equal(torch.bincount(one.test.labels), (everything * 0.2).round().long())


def test_the_configured_statistics_are_those_of_the_training_images():
    data = source().load(0)
    mean, std = channel_statistics(data.train.images)
    assert [round(v, 4) for v in (*mean, *std)] == [*data.inputs.mean, *data.inputs.std]


def test_what_is_null_is_read_off():
    data = replace(source(), channels=None, size=None, classes=None, mean=None, std=None).load(0)
    assert data.describe() == source().load(0).describe()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_out_of_range_is_a_problem(share):
    broken = replace(source(), test_share=share)
    assert len(broken.problems()) == 1
    with pytest.raises(DataError, match=r"dataset\.test_share must be between 0 and 1"):
        broken.load(0)


def test_no_problems_with_the_configuration():
    assert source().problems() == []
