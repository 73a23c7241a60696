import re
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pffdst.data.cache import SampleCache
from pffdst.data.dataset import DataError
from pffdst.data.sources import decode, parquet, tables
from pffdst.data.sources.decode import Form
from pffdst.data.sources.parquet import read_shards
from pffdst.data.sources.shards import TableFiles, digests_of

FILES = TableFiles("train*.parquet", "test*.parquet", "img", "label", None)


@pytest.fixture
def read(tmp_path):
    def call(*shards, channels=None, files=FILES):
        return read_shards(digests_of(shards), files, Form(channels), SampleCache(tmp_path / "cache"), "toy").samples

    return call


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("grey", [True, False])
def test_png_pixels_come_back_exactly(tmp_path, read, encode, write_shard, pictures, struct, grey):
    pixels = pictures(7, grey=grey)
    shard = write_shard(tmp_path / "train.parquet", [encode(p) for p in pixels], range(7), struct)
    found = read(shard)
    expected = pixels[:, None] if grey else pixels.transpose(0, 3, 1, 2)
    assert np.array_equal(found.images.numpy(), expected)
    assert found.labels.tolist() == list(range(7))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # two empty files have the same bytes, which is refused
    st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(lambda rows: any(rows) and rows.count(0) < 2),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_rows_keep_their_order_over_shards_batches_and_tasks(tmp_path_factory, encode, counts, rows, task):
    folder = tmp_path_factory.mktemp("shards")
    number = 0
    for index, count in enumerate(counts):
        cells = [encode(np.full((2, 2), number + i, dtype=np.uint8)) for i in range(count)]
        table = pa.table(
            {"img": pa.array(cells, pa.binary()), "label": pa.array(range(number, number + count), pa.int32())}
        )
        pq.write_table(table, folder / f"train-{index}.parquet", row_group_size=7)
        number += count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK", rows)
        patch.setattr(decode, "_TASK", task)
        found = read_shards(
            digests_of(FILES.find(folder).train), FILES, Form(), SampleCache(folder / "cache"), "toy"
        ).samples
    assert found.labels.tolist() == list(range(number))
    assert found.images[:, 0, 0, 0].tolist() == list(range(number))


def test_channels_are_converted_when_asked_for(tmp_path, read, encode, write_shard, pictures):
    colour = pictures(3)
    shard = write_shard(tmp_path / "train.parquet", [encode(p) for p in colour], range(3))
    grey = read(shard, channels=1)
    assert np.array_equal(grey.images[0, 0].numpy(), np.asarray(Image.fromarray(colour[0]).convert("L")))
    shard = write_shard(tmp_path / "grey.parquet", [encode(p) for p in pictures(3, grey=True)], range(3))
    three = read(shard, channels=3).images
    assert three.shape == (3, 3, 6, 6)
    assert torch.equal(three[:, 0], three[:, 2])


def test_a_palette_with_transparency_is_no_warning(tmp_path, read, encode, write_shard, pictures):
    image = Image.fromarray(pictures(1)[0]).quantize(4)
    image.save(tmp_path / "x.png", transparency=bytes([0, 255, 255, 255]))
    shard = write_shard(tmp_path / "train.parquet", [(tmp_path / "x.png").read_bytes()], [0])
    assert read(shard).images.shape == (1, 3, 6, 6)


def test_the_second_reading_is_mapped_and_decodes_nothing(tmp_path, read, encode, write_shard, pictures, monkeypatch):
    shard = write_shard(tmp_path / "train.parquet", [encode(p) for p in pictures(4)], range(4))
    first = read(shard)
    monkeypatch.setattr(parquet, "decode_all", None)
    second = read(shard)
    assert second.files is not None
    assert torch.equal(first.images, second.images)
    moved = shard.rename(tmp_path / "other.parquet")
    assert torch.equal(read(moved).images, first.images)


def test_other_bytes_columns_or_channels_are_other_images(tmp_path, read, encode, write_shard, pictures):
    shard = write_shard(tmp_path / "train.parquet", [encode(p) for p in pictures(4)], range(4))
    first = read(shard)
    assert read(shard, channels=1).images.shape[1] == 1
    write_shard(shard, [encode(p) for p in pictures(4, seed=1)], range(4))
    assert not torch.equal(read(shard).images, first.images)


def _shard_with(write_shard, encode, pictures, folder, cells=None, labels=None, **options):
    cells = [encode(p) for p in pictures(3)] if cells is None else cells
    return write_shard(folder / "train.parquet", cells, range(len(cells)) if labels is None else labels, **options)


def test_damaged_image_names_file_and_row(tmp_path, read, encode, write_shard, pictures):
    whole = [encode(p) for p in pictures(3)]
    for broken in (b"", b"not an image", whole[1][:60]):
        shard = write_shard(tmp_path / "train.parquet", [whole[0], broken, whole[2]], range(3))
        with pytest.raises(DataError, match=re.escape(f"{shard}, row 1: the image cannot be decoded")):
            read(shard)


def test_rows_are_numbered_over_batches(tmp_path, read, encode, write_shard, pictures, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 2)
    cells = [encode(p) for p in pictures(7)]
    cells[5] = b"x"
    shard = write_shard(tmp_path / "train.parquet", cells, range(7))
    with pytest.raises(DataError, match="row 5: the image cannot"):
        read(shard)
    shard = write_shard(tmp_path / "train.parquet", [*cells[:5], None, cells[6]], range(7))
    with pytest.raises(DataError, match="row 5: the cell of column 'img' is null"):
        read(shard)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0, None, 2], pa.int64()), "train.parquet, row 1: the cell of column 'label' is null"),
        (pa.array([0.0, 1.0, 2.0]), "labels must be integers or words, column 'label' has double"),
        (pa.array(["a", "", "c"]), "train.parquet, row 1: the cell of column 'label' is empty"),
        (pa.array([0, 1, 2**64 - 1], pa.uint64()), "has the number 18446744073709551615, 2^63 or more"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, read, encode, write_shard, pictures, labels, message):
    shard = _shard_with(write_shard, encode, pictures, tmp_path, labels=labels)
    with pytest.raises(DataError, match=re.escape(message)):
        read(shard)


@pytest.mark.parametrize("struct", [True, False])
def test_null_images(tmp_path, read, encode, write_shard, pictures, struct):
    cells = [encode(pictures(1)[0]), encode(pictures(1)[0]), None]
    shard = _shard_with(write_shard, encode, pictures, tmp_path, cells, struct=struct)
    with pytest.raises(DataError, match="row 2: the cell of column 'img' is null"):
        read(shard)


def test_missing_columns_are_answered_with_those_there_are(tmp_path, read, encode, write_shard, pictures):
    shard = _shard_with(write_shard, encode, pictures, tmp_path, image="picture")
    with pytest.raises(
        DataError, match=r"no column 'img'; its columns are picture, label: write dataset.parquet.image="
    ):
        read(shard)


def test_columns_that_could_be_neither_are_told_with_their_types(tmp_path, read):
    pq.write_table(pa.table({"image": [[1, 2]], "label": [0.5]}), tmp_path / "train.parquet")
    open_files = TableFiles("train*.parquet", "test*.parquet", None, None, None)
    said = (
        r"which column is the image, which must be encoded bytes; its columns are image \(list<.*>\), label \(double\)"
    )
    with pytest.raises(DataError, match=said):
        read(tmp_path / "train.parquet", files=open_files)


def test_a_text_column_is_no_image(tmp_path, read, encode, write_shard, pictures):
    shard = _shard_with(write_shard, encode, pictures, tmp_path, ["a", "b"], struct=False)
    with pytest.raises(DataError, match="column 'img' has string"):
        read(shard)


def test_differing_sizes(tmp_path, read, encode, write_shard, pictures):
    cells = [encode(pictures(1)[0]), encode(pictures(1, side=8)[0])]
    shard = _shard_with(write_shard, encode, pictures, tmp_path, cells)
    with pytest.raises(DataError, match="row 1: the image is 8x8 pixels, but the first one gives 6x6"):
        read(shard)


def test_colours_after_a_grey_first_image_are_not_lost_silently(tmp_path, read, encode, write_shard, pictures):
    cells = [encode(pictures(1, grey=True)[0]), encode(pictures(1)[0])]
    shard = _shard_with(write_shard, encode, pictures, tmp_path, cells)
    with pytest.raises(DataError, match="row 1: the image has colours, but the first one is grey"):
        read(shard)
    assert read(shard, channels=3).images.shape == (2, 3, 6, 6)


def test_sixteen_bits_are_refused(tmp_path, read, encode, write_shard, pictures):
    shard = _shard_with(write_shard, encode, pictures, tmp_path, [encode(np.zeros((4, 4), dtype=np.uint16))])
    with pytest.raises(DataError, match="row 0: images need 8 bits per channel"):
        read(shard)


def test_files_that_are_no_parquet_or_are_cut(tmp_path, read, encode, write_shard, pictures):
    shard = _shard_with(write_shard, encode, pictures, tmp_path)
    whole = shard.read_bytes()
    for content in (b"hello", b"", whole[: len(whole) // 2], whole[:100] + bytes(100) + whole[200:]):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(shard))):
            read(shard)


def test_no_rows_are_no_split(tmp_path):
    shard = tmp_path / "train.parquet"
    for empty in (pa.array([], pa.binary()), pa.array([], pa.null())):  # a table of no rows knows no types
        pq.write_table(pa.table({"img": empty, "label": pa.array([], pa.null())}), shard)
        assert read_shards(digests_of([shard]), FILES, Form(), SampleCache(tmp_path / "cache"), "toy") is None


def test_an_unwritable_cache_warns_once_and_goes_on(tmp_path, encode, write_shard, pictures):
    shard = _shard_with(write_shard, encode, pictures, tmp_path)
    (tmp_path / "file").write_text("")
    cache = SampleCache(tmp_path / "file" / "cache")
    with pytest.warns(RuntimeWarning, match="decoded samples are not cached: cannot write to") as caught:
        first = read_shards(digests_of([shard]), FILES, Form(), cache, "toy").samples
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = read_shards(digests_of([shard]), FILES, Form(), cache, "toy").samples
    assert first.files is None
    assert torch.equal(first.images, second.images)


def test_patterns_find_shards_in_order_of_name(tmp_path):
    for name in ("train-2.parquet", "train-10.parquet", "test.parquet", "train-1.parquet", "train.csv"):
        (tmp_path / name).touch()
    found = FILES.find(tmp_path)
    assert [p.name for p in found.train] == ["train-1.parquet", "train-10.parquet", "train-2.parquet"]
    assert [p.name for p in found.test] == ["test.parquet"]
    assert FILES.problems(tmp_path) == []


def test_patterns_that_miss_or_overlap_are_problems(tmp_path):
    (train,), (test,) = FILES.problems(tmp_path), FILES.test_problems(tmp_path)
    assert [re.search(r"parquet\.(\w+)=", p).group(1) for p in (train, test)] == ["train", "test"]
    assert "validation_share=0.2" in test
    (tmp_path / "a.parquet").touch()
    (problem,) = TableFiles("*.parquet", "a*.parquet", "img", "label", None).problems(tmp_path)
    assert "a.parquet in" in problem
    assert "narrower" in problem


def test_wrong_keys_are_named():
    with pytest.raises(DataError, match=r"needs the keys .* got \['train'\]"):
        TableFiles.from_mapping({"train": "x"})
