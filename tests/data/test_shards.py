"""Which files are the splits: series of shards, folders of the hub, data sets saved with save_to_disk."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pffdst.config.check import problems_of
from pffdst.config.choices import Choices
from pffdst.config.compose import compose
from pffdst.data.dataset import DataError
from pffdst.data.sources.shards import TableFiles, digests_of

FILES = TableFiles("*train*.parquet", "*test*.parquet", None, None, None)
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dataset" / "parquet.yaml"
WORDS = ("zero", "one", "two")
METADATA = {
    b"huggingface": json.dumps(
        {"info": {"features": {"picture": {"_type": "Image"}, "kind": {"names": WORDS, "_type": "ClassLabel"}}}}
    ).encode("utf-8")
}


@pytest.fixture
def load(tmp_path):
    def call(**parquet):
        node = OmegaConf.load(CONFIG)
        node.parquet.update({"owner": None} | parquet)
        return instantiate(node, path=str(tmp_path / "data"), cache=str(tmp_path / "cache")).load(0)

    return call


@pytest.fixture
def table(encode):
    """The hub's columns: images whose every pixel is the number, numbered classes with names, and another column."""

    def make(numbers, labels, metadata=METADATA):
        cells = [{"bytes": encode(np.full((4, 4), n, dtype=np.uint8)), "path": None} for n in numbers]
        columns = {"picture": pa.array(cells), "kind": pa.array(labels, pa.int64()), "quality": pa.array(labels)}
        return pa.table(columns).replace_schema_metadata(metadata)

    return make


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("place", ["", "data", "plain_text"])
def test_shards_lie_in_the_folder_or_in_one_below(tmp_path, load, table, place):
    folder = tmp_path / "data" / place
    folder.mkdir(parents=True)
    shards = {"train-00001-of-00002": [3], "train-00000-of-00002": [1, 2], "test-00000-of-00001": [4]}
    for name, numbers in shards.items():
        pq.write_table(table(numbers, [n % 3 for n in numbers]), folder / f"{name}.parquet")
    data = load()
    assert data.train.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.train.labels.tolist() == [1, 2, 0]
    assert data.class_names == WORDS


def test_several_folders_of_shards_are_told_apart(tmp_path):
    touch(tmp_path, "fine/train-0.parquet", "coarse/train-0.parquet")
    (problem,) = FILES.problems(tmp_path)
    assert "several folders with training shards: coarse, fine; write e.g. dataset.path=" in problem


def test_a_missing_shard_of_a_series_is_named(tmp_path):
    touch(tmp_path, "train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "test-00000-of-00002.parquet")
    first, second = FILES.problems(tmp_path)
    assert "lacks train-00001-of-00003.parquet, of 3 shards" in first
    assert "lacks test-00001-of-00002.parquet, of 2 shards" in second
    touch(tmp_path, "train-00001-of-00003.parquet", "test-00001-of-00002.parquet")
    assert FILES.problems(tmp_path) == []


def test_a_second_download_of_the_same_bytes_is_refused(tmp_path, load, table):
    (tmp_path / "data").mkdir()
    for name, numbers in (("train-0", [1, 2]), ("test-0", [0])):
        pq.write_table(table(numbers, numbers), tmp_path / "data" / f"{name}.parquet")
    shutil.copy(tmp_path / "data/train-0.parquet", tmp_path / "data/train-0 (1).parquet")
    with pytest.raises(DataError, match=r"train-0\.parquet has the same bytes as .*train-0 \(1\)\.parquet: remove one"):
        load()


def test_different_files_have_different_digests(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name, encoding="utf-8")
    digests = digests_of([tmp_path / "a", tmp_path / "b"])
    assert len(set(digests.values())) == 2


@pytest.fixture
def save(tmp_path, table):
    """Writes a split as save_to_disk does: streams of record batches, named in state.json."""

    def write(place, shards, **state):
        folder = tmp_path / "data" / place
        folder.mkdir(parents=True)
        names = [f"data-{i:05}-of-{len(shards):05}.arrow" for i in range(len(shards))]
        for name, numbers in zip(names, shards, strict=True):
            rows = table(numbers, [n % 3 for n in numbers])
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
                for batch in rows.to_batches(max_chunksize=2):
                    stream.write_batch(batch)
        content = {"_data_files": [{"filename": name} for name in names]} | state
        (folder / "state.json").write_text(json.dumps(content), encoding="utf-8")

    return write


def test_a_saved_data_set_is_read(tmp_path, load, save):
    save("train", [[1, 2, 3, 4, 5], [6, 7]])
    save("validation", [[9]])
    (tmp_path / "data/dataset_dict.json").write_text('{"splits": ["train", "validation"]}', encoding="utf-8")
    data = load()
    assert data.train.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert data.train.labels.tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert (data.class_names, len(data.test)) == (WORDS, 0)
    for pattern in ("validation", "*val*.parquet"):
        assert load(test=pattern).test.images[:, 0, 0, 0].tolist() == [9]
    (tmp_path / "data/train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow is missing"):
        load()


def test_a_saved_data_set_without_splits_is_the_training_split(load, save):
    save("", [[1, 2, 0]])
    assert (len(load().train), len(load().test)) == (3, 0)


def test_a_saved_selection_and_damaged_files_are_refused(tmp_path, load, save):
    save("", [[1, 2, 0]], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match=r"call flatten_indices\(\) before save_to_disk"):
        load()
    (tmp_path / "data/state.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not a data set written by save_to_disk"):
        load()
    content = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "data/state.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "data/data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match=r"the arrow file cannot be read"):
        load()


def test_columns_that_cannot_be_told_are_asked_for(tmp_path, load, table):
    (tmp_path / "data").mkdir()
    plain = table([0, 1], [0, 1], metadata=None)
    for name in ("train", "test"):
        pq.write_table(plain.slice(name == "test"), tmp_path / "data" / f"{name}.parquet")
    with pytest.raises(DataError, match=r"cannot tell which column is the label, .* write dataset\.parquet\.label="):
        load()
    assert load(label="kind").class_names == ("0", "1")


def test_a_cell_that_names_a_file_says_so(tmp_path, load):
    (tmp_path / "data").mkdir()
    image = pa.array([{"bytes": None, "path": "/x/cat.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    rows = pa.table({"image": image, "label": pa.array(["cat"])})
    pq.write_table(rows, tmp_path / "data/train.parquet")
    with pytest.raises(DataError, match=r"row 0: column 'image' names the file /x/cat\.png but has no bytes"):
        load()


def test_no_test_split_at_all(tmp_path):
    touch(tmp_path, "train.parquet")
    files = TableFiles("*train*.parquet", None, None, None, None)
    assert files.problems(tmp_path) == []
    assert re.search(r"test=null leaves no test split: validation_share=0\.2", *files.test_problems(tmp_path))


def test_hidden_labels_are_called_so(tmp_path, load, table):
    (tmp_path / "data").mkdir()
    pq.write_table(table([0, 1, 2], [0, 1, 2]), tmp_path / "data/train.parquet")
    pq.write_table(table([3], [-1]), tmp_path / "data/test.parquet")
    with pytest.raises(DataError, match=r"got -1 in row 0; -1 means a hidden label"):
        load()
    assert torch.equal(load(test=None).train.labels, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_check_asks_for_a_test_split_unless_a_share_stands_in(tmp_path, config_dir, share):
    touch(tmp_path, "train.parquet")
    (tmp_path / "tree/dog").mkdir(parents=True)
    touch(tmp_path, "tree/dog/a.png")
    sources = {"parquet": tmp_path, "folder": tmp_path / "tree"}
    for own in ([f"dataset={name}", f"dataset.path={path}"] for name, path in sources.items()):
        found = problems_of(compose([*own, f"validation_share={share}"], config_dir), Choices())
        assert len(found) == (share == 0)
        assert all("validation_share=0.2" in line for line in found)


def test_the_check_knows_the_size_that_images_are_brought_to(config_dir):
    assert problems_of(compose(["model=lenet", "dataset.resize=16"], config_dir), Choices()) == []
    assert problems_of(compose(["model=lenet", "dataset=mnist", "dataset.resize=8"], config_dir), Choices()) != []


def test_shards_that_number_the_classes_differently_are_refused(tmp_path, load, table):
    """Their numbers mean other classes: half of the labels would be wrong."""
    (tmp_path / "data").mkdir()
    words, turned = (json.dumps(names).encode() for names in (WORDS, WORDS[::-1]))
    swapped = {b"huggingface": METADATA[b"huggingface"].replace(words, turned)}
    assert swapped != METADATA
    pq.write_table(table([0, 1], [0, 1]), tmp_path / "data/train-0.parquet")
    pq.write_table(table([2, 3], [0, 1], swapped), tmp_path / "data/train-1.parquet")
    pq.write_table(table([4, 5], [0, 1]), tmp_path / "data/test.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet numbers the classes .*, .*train-0\.parquet"):
        load()
    pq.write_table(table([2, 3], [0, 1], None), tmp_path / "data/train-1.parquet")
    assert load().train.labels.tolist() == [0, 1, 0, 1]


def test_test_files_may_lack_the_clients(tmp_path, load, table, caplog):
    (tmp_path / "data").mkdir()
    for name, first in (("train", 0), ("test", 4)):
        rows = table(range(first, first + 4), [0, 1, 0, 1])
        owned = rows.append_column("writer", pa.array(["b", "a", "b", "a"]))
        pq.write_table(owned if name == "train" else rows, tmp_path / "data" / f"{name}.parquet")
    caplog.set_level("INFO")
    data = load(owner="writer")
    assert data.train.owners.tolist() == [1, 0, 1, 0]
    assert data.test.owners is None
    assert "test split: its files have no column 'writer'" in caplog.text
    with pytest.raises(DataError, match="there is no column 'author'"):
        load(owner="author")
