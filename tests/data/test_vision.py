import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.datasets as official
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pffdst.config.check import problems_of
from pffdst.config.choices import Choices
from pffdst.config.compose import compose
from pffdst.data.dataset import DataError, ImageSet, channel_statistics
from pffdst.data.sources.archive import Archive
from pffdst.data.sources.vision import ParquetSource, VisionSource

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "dataset"
CIFAR = ("cifar10_train.parquet", "cifar10_test.parquet")


def configured(name, path, cache):
    """The source as the project's own configuration describes it."""
    return instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), path=str(path), cache=str(cache))


@pytest.fixture
def cifar(tmp_path):
    (tmp_path / "data").mkdir()
    return replace(configured("cifar10", tmp_path / "data", tmp_path / "cache"), download=False)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "data").mkdir()
    return configured("parquet", tmp_path / "data", tmp_path / "cache")


@pytest.fixture
def put(tmp_path, encode, write_shard, pictures):
    """Writes shards of 32x32 images into the data folder, from {name: labels}."""

    def write(shards, image="img", **options):
        for seed, (name, labels) in enumerate(shards.items()):
            cells = [encode(p) for p in pictures(len(labels), **({"side": 32} | options), seed=seed)]
            write_shard(tmp_path / "data" / name, cells, labels, image=image)

    return write


def _check_statistics(data):
    mean, std = channel_statistics(data.train.images)
    np.testing.assert_allclose((*mean, *std), (*data.inputs.mean, *data.inputs.std), atol=2e-3)


def test_all_of_cifar10_is_read_at_once_the_second_time(tmp_path, real_data):
    source = configured("cifar10", real_data, tmp_path)
    assert source.problems() == []
    first = source.load(0)
    assert first.describe() == "cifar10: 50,000 + 10,000 images of 3x32x32, 10 classes"
    _check_statistics(first)
    began = time.perf_counter()
    second = source.load(1)
    assert time.perf_counter() - began < 2.0  # about 0.1 on an idle machine; decoding takes several seconds
    assert torch.equal(second.test.images, first.test.images)
    assert second.train.files is not None


@pytest.mark.parametrize(("name", "classes"), [("cifar100", 100), ("mnist", 10)])
def test_configured_statistics_fit_every_fifth_real_image(tmp_path, real_data, name, classes):
    for split in ("train", "test"):
        table = pq.read_table(real_data / f"{name}_{split}.parquet")
        pq.write_table(table.take(list(range(0, len(table), 5))), tmp_path / f"{name}_{split}.parquet")
    data = configured(name, tmp_path, tmp_path / "cache").load(0)
    assert len(data.train.labels.unique()) == data.classes == classes
    _check_statistics(data)


def test_the_configurations_name_known_archives(tmp_path):
    for name in ("cifar10", "cifar100", "mnist", "fashion_mnist"):
        assert configured(name, tmp_path, tmp_path).problems() == []


def test_parquet_comes_before_the_archive(tmp_path, cifar, put, monkeypatch):
    put({CIFAR[0]: [0, 1, 2], CIFAR[1]: [9]})
    monkeypatch.setattr(Archive, "load", None)
    monkeypatch.setattr(Archive, "present", lambda _: True)
    data = cifar.load(0)
    assert data.describe() == "cifar10: 3 + 1 images of 3x32x32, 10 classes"
    assert data.inputs.mean == (0.4914, 0.4822, 0.4465)


def test_several_shards_are_read_in_order(cifar, put):
    put({"cifar10_train-1.parquet": [4, 5], "cifar10_train-0.parquet": [0, 1], CIFAR[1]: [9]})
    assert cifar.load(0).train.labels.tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("present", [0, 1])
def test_half_of_the_shards_is_a_problem_even_with_download(cifar, put, present):
    put({CIFAR[present]: [0]})
    for source in (cifar, replace(cifar, download=True)):
        (problem,) = source.problems() or source.test_problems()
        assert f"matches dataset.parquet.{('test', 'train')[present]}=" in problem
        with pytest.raises(DataError, match="no file in" if present else "the test split is empty"):
            source.load(0).with_validation(0, 0)


def test_nothing_there_says_what_to_put_where(tmp_path, cifar):
    (problem,) = cifar.problems()
    for words in (
        f"dataset cifar10 is not in {tmp_path / 'data'} (dataset.download=false)",
        "cifar-10-python.tar.gz (or unpacked: cifar-10-batches-py/data_batch_1",
        "cifar10_train*.parquet and cifar10_test*.parquet, with the columns img and label",
        "dataset.path=FOLDER dataset.download=false",
    ):
        assert words in problem
    with pytest.raises(DataError, match=re.escape(problem)):
        cifar.load(0)


def test_a_failed_download_is_one_message(tmp_path, cifar, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(official.CIFAR10, "url", "http://127.0.0.1:9/x.tar.gz")
    source = replace(cifar, download=True, path=str(tmp_path / "new" / "data"))
    assert source.problems() == []
    with pytest.raises(DataError, match=r"(?s)the download failed: .*refused.*torchvision's archive: cifar-10-python"):
        source.load(0)
    assert not (tmp_path / "new").exists()


def test_the_archive_is_read_without_a_download(cifar, monkeypatch):
    images = ImageSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
    monkeypatch.setattr(Archive, "present", lambda _: True)
    monkeypatch.setattr(Archive, "load", lambda _: (images, images))
    monkeypatch.setattr(Archive, "download", None)
    assert len(replace(cifar, download=True).load(0).train) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archive": "ImageNet"}, "dataset.archive must be one of CIFAR10, CIFAR100, MNIST"),
        ({"channels": 2}, "dataset.channels must be 1, 3 or null, got 2"),
        ({"path": __file__}, "dataset.path must be a folder, but"),
    ],
)
def test_settings_out_of_range(cifar, change, message):
    assert any(message in problem for problem in replace(cifar, download=True, **change).problems())


def test_data_other_than_declared(cifar, put):
    put({CIFAR[0]: [0, 1, 10], CIFAR[1]: [9]})
    with pytest.raises(DataError, match=r"training set: labels must be 0..9, got 10 in row 2"):
        cifar.load(0)
    with pytest.raises(DataError, match=r"dataset.size=28, but the images' shape is 3x32x32; write dataset.size=32"):
        replace(cifar, size=28).load(0)


def test_own_images_describe_themselves(own, put):
    put({"my-train-0.parquet": [0, 1, 2, 2], "my-test.parquet": [1]}, image="image", side=8, grey=True)
    data = own.load(0)
    assert isinstance(own, ParquetSource)
    assert own.problems() == []
    assert data.describe() == "parquet: 4 + 1 images of 1x8x8, 3 classes"
    assert (data.inputs.mean, data.inputs.std) == channel_statistics(data.train.images)


def test_own_test_images_take_the_channels_of_the_training_images(tmp_path, own, put, encode, write_shard, pictures):
    put({"train.parquet": [0, 1]}, image="image", side=8, grey=True)
    write_shard(tmp_path / "data" / "test.parquet", [encode(pictures(1, side=8)[0])], [0], image="image")
    assert own.load(0).test.images.shape == (1, 1, 8, 8)


def test_own_images_that_are_not_square(tmp_path, own, encode, write_shard):
    cell = encode(np.zeros((4, 6), dtype=np.uint8))
    for name, count in (("train.parquet", 2), ("test.parquet", 1)):
        write_shard(tmp_path / "data" / name, [cell] * count, [0] * count, image="image")
    with pytest.raises(DataError, match="images must be square, got 1x4x6"):
        replace(own, mean=[0.5], std=[0.5]).load(0)


def test_own_folder_missing_or_empty(tmp_path, own):
    problems = own.problems() + own.test_problems()
    assert [re.search(r"parquet\.(\w+)=", p).group(1) for p in problems] == ["train", "test"]
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"dataset.path must name the folder of the parquet shards, but .* is not one"):
        own.load(0)


@pytest.mark.parametrize(("dataset", "model"), [("parquet", "cnn"), ("folder", "cnn"), ("text", "text_transformer")])
def test_a_folder_that_is_not_there_is_one_problem(tmp_path, config_dir, dataset, model):
    """Not one for each split."""
    path = tmp_path / "gone"
    (problem,) = problems_of(
        compose([f"dataset={dataset}", f"model={model}", f"dataset.path={path}"], config_dir), Choices()
    )
    assert f"{path} is not one" in problem


def test_a_colourless_training_set_cannot_be_normalised(tmp_path, own, encode, write_shard):
    for name in ("train.parquet", "test.parquet"):
        cells = [encode(np.zeros((4, 4), dtype=np.uint8))] * len(name)
        write_shard(tmp_path / "data" / name, cells, [0] * len(name), image="image")
    with pytest.raises(DataError, match=r"dataset.std needs numbers above 0, got \[0.0\]"):
        own.load(0)


def test_vision_source_is_what_the_configuration_builds(cifar):
    assert isinstance(cifar, VisionSource)
