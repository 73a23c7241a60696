import numpy as np
import pytest
import torch

from pffdst.data.cache import SampleCache
from pffdst.data.samples import ImageSet


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (5, 3, 4, 4), generator=generator).to(torch.uint8), torch.arange(5))


def test_what_was_stored_is_mapped(tmp_path, images):
    cache = SampleCache(tmp_path / "deep" / "cache")
    assert cache.load("k", ImageSet) is None
    stored = cache.store("k", images, {"names": ["a", "é"]})
    kept, notes = cache.load("k", ImageSet)
    assert notes == {"names": ["a", "é"]}
    for found in (stored, kept):
        assert found.digest == images.digest
        assert found.files is not None
        assert torch.equal(found.images, images.images)
        assert torch.equal(found.labels, images.labels)
    assert cache.load("other", ImageSet) is None
    assert len(list(cache._folder.iterdir())) == 3


def test_writing_into_a_mapped_tensor_stays_off_the_file(tmp_path, images):
    cache = SampleCache(tmp_path)
    cache.store("k", images, {"names": ["a", "é"]}).images.zero_()
    assert torch.equal(cache.load("k", ImageSet)[0].images, images.images)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def _zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def _strings(path):
    with path.open("wb") as file:
        np.save(file, np.array(["a", "b"]))


@pytest.mark.parametrize("damage", [_cut, _flip, _zeros, _strings, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
@pytest.mark.parametrize("which", ["images.npy", "labels.npy", "json"])
def test_a_damaged_file_is_missing_and_can_be_stored_again(tmp_path, images, which, damage):
    cache = SampleCache(tmp_path)
    cache.store("k", images, {"names": ["a", "é"]})
    target = tmp_path / f"k.{which}"
    damage(target)
    assert cache.load("k", ImageSet) is None
    assert torch.equal(cache.store("k", images, {"names": ["a", "é"]}).images, images.images)
    assert cache.load("k", ImageSet) is not None


def test_a_write_that_fails_leaves_nothing(tmp_path, images, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    cache = SampleCache(tmp_path)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert cache.store("k", images, {"names": ["a", "é"]}) is images
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("old", "new"), [('"dog"', '"dot"'), ('"digest": "', '"digest": "0')])
def test_a_record_that_says_something_else_is_damaged(tmp_path, images, old, new):
    cache = SampleCache(tmp_path)
    cache.store("k", images, {"names": ["cat", "dog"]})
    record = tmp_path / "k.json"
    text = record.read_text(encoding="utf-8")
    assert old in text
    record.write_text(text.replace(old, new), encoding="utf-8")
    assert cache.load("k", ImageSet) is None
