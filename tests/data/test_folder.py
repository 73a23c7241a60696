"""Class folders of image files."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pffdst.data.dataset import DataError
from pffdst.data.sources import folder

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dataset" / "folder.yaml"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "data").mkdir()
    return instantiate(OmegaConf.load(CONFIG), path=str(tmp_path / "data"), cache=str(tmp_path / "cache"))


@pytest.fixture
def put(tmp_path, encode):
    """Writes grey images whose every pixel is the number, from {path: number}."""

    def write(files):
        for name, number in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(np.full((4, 4), number, dtype=np.uint8)))

    return write


TWO = {"train/dog/b.png": 1, "train/dog/a.png": 2, "train/cat/deep/er.PNG": 3, "test/cat/x.png": 4, "test/dog/y.png": 5}


def test_folders_are_classes_in_order_of_name(source, put):
    put(TWO)
    assert (source.problems(), source.test_problems()) == ([], [])
    data = source.load(0)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [3, 2, 1]
    assert (data.test.labels.tolist(), data.test.images[:, 0, 0, 0].tolist()) == ([0, 1], [4, 5])


def test_numbered_folders_are_in_order_of_value(source, put):
    put({f"train/{n}/x.png": n for n in (10, 9, 1)} | {"test/9/x.png": 4})
    data = source.load(0)
    assert data.class_names == ("1", "9", "10")
    assert data.train.images[:, 0, 0, 0].tolist() == [1, 9, 10]


def test_the_second_reading_is_mapped_and_other_bytes_are_other_images(tmp_path, source, put, monkeypatch):
    put(TWO)
    first = source.load(0)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode_all", None)
        second = source.load(0)
    assert second.train.files is not None
    assert (first.content, first.class_names) == (second.content, second.class_names)
    put({"train/dog/b.png": 77})
    assert source.load(0).content != first.content
    shutil.move(tmp_path / "data/train/dog/b.png", tmp_path / "data/train/cat/b.png")
    assert source.load(0).train.labels.tolist() == [0, 0, 1]


def test_one_tree_has_no_test_split_but_a_validation_share(source, put):
    put({f"{label}/{n}.png": n for label in ("cat", "dog") for n in range(5)})
    assert source.problems() == []
    (problem,) = source.test_problems()
    assert "validation_share=0.2" in problem
    data = source.load(0)
    with pytest.raises(DataError, match="the test split is empty"):
        data.with_validation(0, 0)
    assert len(data.with_validation(0.2, 0).test) == 2


def test_what_is_no_image_of_a_class_is_left_out_and_said(tmp_path, source, put, caplog):
    put(TWO | {"train/loose.png": 6, "train/dog/b (1).png": 1})
    (tmp_path / "data/train/dog/notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "data/train/dog/.hidden.png").write_text("x", encoding="utf-8")
    put({"train/dog/.ipynb_checkpoints/a.png": 7})
    caplog.set_level("INFO")
    for _ in range(2):  # also when it comes from the cache
        assert len(source.load(0).train) == 4
        said = caplog.text
        assert "2 files in train are not images of a class: they are left out" in said
        assert "1 of 4 images have the same bytes as an earlier one" in said
        caplog.clear()


def test_problems_are_seen_at_a_glance(tmp_path, source, put):
    assert "contains no class folders" in source.problems()[0]
    put({"training/dog/a.png": 1, "validation/dog/a.png": 2})
    (problem,) = source.problems()
    assert "has no folder train, but training, validation: write dataset.train=NAME" in problem
    own = replace(source, train="training")
    assert "has no folder test, but training, validation: write dataset.test=NAME" in own.test_problems()[0]
    assert replace(own, test="validation").test_problems() == []
    (tmp_path / "data/training/eel").mkdir()
    assert re.search(r"training/eel contains no images", own.problems()[0])
    assert "is not one" in replace(source, path=str(tmp_path / "gone")).problems()[0]


def test_a_damaged_file_is_named(tmp_path, source, put):
    put(TWO)
    (tmp_path / "data/train/dog/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/dog/a\.png: the image cannot be decoded"):
        source.load(0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_named_and_not_waited_for(tmp_path, source, put):
    put(TWO)
    os.mkfifo(tmp_path / "data/train/dog/pipe.png")
    with pytest.raises(DataError, match=r"train/dog/pipe\.png: this is not a regular file"):
        source.load(0)


def test_links_to_folders_are_followed(tmp_path, source, put):
    put(TWO)
    shutil.move(tmp_path / "data/train/dog", tmp_path / "elsewhere")
    (tmp_path / "data/train/dog").symlink_to(tmp_path / "elsewhere")
    assert torch.equal(source.load(0).train.labels, torch.tensor([0, 1, 1]))


def test_a_link_back_to_a_parent_folder_repeats_nothing(tmp_path, source, put):
    put(TWO)
    (tmp_path / "data/train/cat/again").symlink_to(tmp_path / "data/train/cat", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data/train/cat/deep/er.PNG").rename(tmp_path / "elsewhere/moved.png")
    (tmp_path / "data/train/cat/more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert source.load(0).train.images[:, 0, 0, 0].tolist() == [3, 2, 1]
