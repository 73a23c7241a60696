import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.core.seeding import generator_for
from pffdst.data.batches import ClientBatches, batch_indices, steps
from pffdst.data.cache import SampleCache
from pffdst.data.samples import ImageSet, SharedImages
from pffdst.data.sources.digits import DigitsSource


@pytest.fixture(scope="module")
def digits():
    return DigitsSource("digits", 1, 8, 10, None, None, 0.2).load(0)


def batches_of(digits, count, batch_size, seed=0):
    indices = torch.arange(0, 3 * count, 3)
    return ClientBatches(digits.train, indices, batch_size, generator_for(seed, "client"))


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2**60))
def test_every_epoch_takes_every_sample_once(count, batch_size, epochs, seed):
    found = list(batch_indices(count, batch_size, epochs, torch.Generator().manual_seed(seed)))
    assert len(found) == epochs
    for epoch in found:
        assert len(epoch) == steps(count, batch_size)
        assert sorted(torch.cat(epoch).tolist() if epoch else []) == list(range(count))


@given(st.integers(2, 100), st.integers(2, 40))
def test_no_batch_of_one(count, batch_size):
    (epoch,) = batch_indices(count, batch_size, 1, torch.Generator().manual_seed(0))
    lengths = [len(b) for b in epoch]
    assert min(lengths) >= 2
    assert all(n == batch_size for n in lengths[:-1])
    assert lengths[-1] <= batch_size + 1


@pytest.mark.parametrize(
    ("count", "batch_size", "lengths"),
    [(0, 4, []), (1, 4, [1]), (4, 4, [4]), (5, 4, [5]), (6, 4, [4, 2]), (9, 4, [4, 5]), (3, 1, [1, 1, 1])],
)
def test_lengths(count, batch_size, lengths):
    (epoch,) = batch_indices(count, batch_size, 1, torch.Generator().manual_seed(0))
    assert [len(b) for b in epoch] == lengths


def test_epochs_are_reshuffled_and_the_generator_decides():
    def flat(seed):
        return [torch.cat(e) for e in batch_indices(50, 8, 2, torch.Generator().manual_seed(seed))]

    first, second = flat(0)
    assert not torch.equal(first, second)
    assert torch.equal(flat(0)[1], second)
    assert not torch.equal(flat(1)[0], first)


def test_client_batches_are_the_clients_own_samples(digits):
    loader = batches_of(digits, 33, 16)
    epochs = [list(loader) for _ in range(2)]
    assert len(loader) == 2
    for epoch in epochs:
        assert [len(y) for _, y in epoch] == [16, 17]
        images, labels = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        assert images.dtype == torch.uint8
        own = torch.arange(0, 99, 3)
        pairs = sorted((x.flatten().tolist(), y) for x, y in zip(images, labels.tolist(), strict=True))
        expected = zip(digits.train.images[own], digits.train.labels[own].tolist(), strict=True)
        assert pairs == sorted((x.flatten().tolist(), y) for x, y in expected)
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1])


def test_epochs_equal_the_index_function(digits):
    images, labels = digits.train.images[::3][:40], digits.train.labels[::3][:40]
    loader = batches_of(digits, 40, 8)
    for epoch in batch_indices(40, 8, 3, generator_for(0, "client")):
        for (x, y), index in zip(loader, epoch, strict=True):
            assert torch.equal(x, images[index])
            assert torch.equal(y, labels[index])


def test_an_iterator_that_is_never_used_draws_nothing(digits):
    plain, asked = batches_of(digits, 40, 8), batches_of(digits, 40, 8)
    iter(asked)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, asked, strict=True))


def test_a_client_without_samples_has_no_batches(digits):
    loader = batches_of(digits, 0, 8)
    assert len(loader) == 0
    assert list(loader) == []


def test_shared_images_open_to_the_same_and_pickle_small(tmp_path, digits):
    shared = [s.share(tmp_path / "deep" / "folder") for s in (digits.train, digits.test)]
    for handle, original in zip(shared, (digits.train, digits.test), strict=True):
        sent = pickle.dumps(handle)
        found = pickle.loads(sent).open()
        assert len(sent) < 1000
        assert torch.equal(found.images, original.images)
        assert torch.equal(found.labels, original.labels)


def test_writing_into_opened_images_reaches_nobody(tmp_path, digits):
    shared = digits.test.share(tmp_path)
    shared.open().images.zero_()
    assert torch.equal(shared.open().images, digits.test.images)


def test_images_that_are_mapped_already_are_not_copied(tmp_path, digits):
    kept = SampleCache(tmp_path / "cache").store("k", digits.test, {})
    shared = kept.share(tmp_path / "never")
    assert shared.files == kept.files
    assert not (tmp_path / "never").exists()
    assert shared.open().share(tmp_path / "never") == shared.share(tmp_path / "never") == shared


def test_shared_files_that_changed_or_went_are_refused(tmp_path, digits):
    shared = digits.test.share(tmp_path)
    other = ImageSet(digits.test.images[:5], digits.test.labels[:5]).share(tmp_path)
    with pytest.raises(ValueError, match=r"Expected .* to hold"):
        SharedImages(other.files, shared.shape).open()
    shared.files[0].unlink()
    with pytest.raises(OSError, match="No such file"):
        shared.open()
