import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.build import build
from pffdst.config.check import ConfigError
from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.data.cache import SampleCache
from pffdst.data.dataset import DataError, channel_statistics, image_dataset
from pffdst.data.samples import ImageSet
from pffdst.data.sources.base import ImageSource


class Toy(ImageSource):
    """A source of whatever it is given."""

    numbered = staticmethod(lambda samples, labels: samples.numbered(labels, None))

    def load(self, seed):
        raise NotImplementedError

    def problems(self):
        return self.shape_problems()


def image_set(count=6, channels=1, height=4, width=4, labels=None):
    images = torch.randint(0, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 3 if labels is None else torch.tensor(labels)
    return ImageSet(images.to(torch.uint8), labels)


def dataset(train=None, test=None, classes=3, mean=(0.5,), std=(0.25,)):
    train = image_set() if train is None else train
    return image_dataset("toy", train, image_set() if test is None else test, tuple("abcdefgh"[:classes]), mean, std)


def test_describe_and_properties():
    found = dataset()
    assert (found.inputs.shape, len(found.train)) == ((1, 4, 4), 6)
    assert found.describe() == "toy: 6 + 6 images of 1x4x4, 3 classes"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8).permute(0, 3, 1, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_image_set_refuses_other_tensors(images, labels):
    with pytest.raises(ValueError, match="Expected"):
        ImageSet(images, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": image_set(height=5), "test": image_set(height=5)}, "training set: images must be square, got 1x5x4"),
        ({"test": image_set(height=5, width=5)}, "test set: its images are 1x5x5, the training images 1x4x4"),
        ({"train": image_set(count=0)}, "training set: it contains no images"),
        ({"classes": 2}, "labels must be 0..1, got 2 in row 2; write dataset.classes=3"),
        ({"test": image_set(labels=[0, 1, -1, 0, 0, 0])}, "got -1 in row 2; -1 means a hidden label"),
        ({"mean": (0.1, 0.2)}, "dataset.mean needs one number per channel (1), got [0.1, 0.2]"),
        ({"std": (0.0,)}, "dataset.std needs numbers above 0, got [0.0]"),
    ],
)
def test_dataset_refuses_parts_that_do_not_fit(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataset(**change)


def source(**declared):
    keys = dict.fromkeys(("channels", "size", "classes", "mean", "std")) | declared
    return Toy("toy", **keys)


def test_a_source_reads_off_what_is_none():
    train, test = image_set(), image_set(labels=[0, 1, 2, 3, 4, 4])
    found = source().dataset(train, test)
    assert (found.inputs.shape, found.class_names) == ((1, 4, 4), ("0", "1", "2", "3", "4"))
    assert (found.inputs.mean, found.inputs.std) == channel_statistics(train.images)
    half = source(channels=1, size=4, classes=7, mean=[0.1]).dataset(train, test)
    assert (half.classes, half.inputs.mean, half.inputs.std) == (7, (0.1,), found.inputs.std)


@pytest.mark.parametrize(("key", "value"), [("channels", 3), ("size", 5)])
def test_a_source_refuses_other_images_than_declared(key, value):
    with pytest.raises(DataError, match=f"dataset.{key}={value}, but the images' shape is 1x4x4; write dataset.{key}="):
        source(**{key: value}).dataset(image_set(), image_set())


def test_resized_images_need_not_have_the_declared_size():
    found = source(size=28, resize=6).dataset(image_set(), image_set())
    assert (found.inputs.shape[1], found.test.images.shape[2:]) == (6, (6, 6))


def test_a_source_names_impossible_values():
    problems = source(channels=2, size=0, resize=0, classes=1).problems()
    keys = ["dataset.channels", "dataset.size", "dataset.resize", "dataset.classes"]
    assert [p.split(" must")[0] for p in problems] == keys
    assert source().problems() == source(channels=1, size=8, classes=10, mean=[0.1], std=[0.2]).problems() == []


def test_content_is_another_number_for_other_data():
    one = image_set()
    flipped = ImageSet(one.images.flip(0), one.labels)
    relabelled = ImageSet(one.images, one.labels.flip(0))
    owned = ImageSet(one.images, one.labels, one.labels)
    found = [dataset(train=part).content for part in (one, flipped, relabelled, owned)]
    found += [dataset(test=flipped).content, dataset(classes=4).content]
    assert len(set(found)) == 6
    assert dataset().content == dataset(mean=(0.1,)).content == found[0]
    assert re.fullmatch("[0-9a-f]{32}", found[0])


def test_mapped_images_have_the_digest_of_those_in_memory(tmp_path):
    fresh = image_set()
    kept = SampleCache(tmp_path).store("k", fresh, {})
    assert kept.image_digest is not None
    assert kept.digest == SampleCache(tmp_path).load("k", ImageSet)[0].digest == fresh.digest


def test_other_labels_than_those_of_the_file_are_shared_beside_the_mapped_images(tmp_path):
    kept = SampleCache(tmp_path / "cache").store("k", image_set(labels=[5, 9, 5, 9, 5, 9]), {})
    found = Toy.numbered(kept, torch.tensor([0, 1, 0, 1, 0, 1]))
    shared = found.share(tmp_path / "shared")
    assert shared.files[0] == kept.files[0]
    assert shared.open().labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(list((tmp_path / "shared").rglob("*.npy"))) == 1


def test_an_empty_test_set_is_called_empty_unless_a_share_stands_in():
    empty = dataset(test=image_set(count=0), train=image_set(30))
    with pytest.raises(DataError, match=r"dataset toy: the test split is empty; .* write validation_share=0\.2"):
        empty.with_validation(0, 0)
    assert len(empty.with_validation(0.2, 0).test) == 6
    whole = dataset()
    assert whole.with_validation(0, 0) is whole


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 3))
def test_validation_leaves_every_natural_client_a_sample(share, seed):
    images = image_set(61)
    owners = torch.tensor([0] + [1 + i % 4 for i in range(60)])
    found = dataset(train=ImageSet(images.images, images.labels, owners)).with_validation(share, seed)
    assert torch.bincount(found.train.owners, minlength=5).tolist() == [1] + [15 - min(round(share * 15), 14)] * 4
    assert len(found.train) + len(found.test) == 61


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31))
def test_statistics_equal_float64_ones(count, channels, size, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator).to(torch.uint8)
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), scaled.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), scaled.std(dim=(0, 2, 3), correction=0))


def test_statistics_go_over_every_chunk():
    images = torch.zeros(5000, 1, 1, 1, dtype=torch.uint8)
    images[2500:] = 255
    assert channel_statistics(images) == ((0.5,), (0.5,))


def test_statistics_of_nothing_are_refused():
    with pytest.raises(DataError, match="no images"):
        channel_statistics(torch.zeros(0, 1, 4, 4, dtype=torch.uint8))


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.1, 0.9), seed=st.integers(0, 3))
def test_validation_takes_its_share_of_every_class_from_the_training_set_alone(share, seed):
    images = image_set(60)
    found = dataset(train=images).with_validation(share, seed)
    parts = [{bytes(image.numpy().tobytes()) for image in part.images} for part in (found.train, found.test)]
    everything = {bytes(image.numpy().tobytes()) for image in images.images}
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    assert torch.bincount(found.test.labels, minlength=3).tolist() == [round(share * 20)] * 3
    again = dataset(train=images).with_validation(share, seed)
    assert torch.equal(found.test.images, again.test.images)
    assert (found.inputs.mean, found.inputs.std) == (again.inputs.mean, again.inputs.std)


def test_validation_by_another_seed_is_another():
    first, second = (dataset(train=image_set(60)).with_validation(0.3, seed).test.images for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_validation_leaves_no_set_empty(share):
    with pytest.raises(DataError, match=re.escape(f"validation_share={share}")):
        dataset().with_validation(share, 0)


def test_classes_are_renumbered_by_name_and_unknown_ones_refused():
    one = dataset().numbered_as(("d", "c", "b", "a"))
    assert (one.classes, one.class_names) == (4, ("d", "c", "b", "a"))
    for before, after in ((dataset().train, one.train), (dataset().test, one.test)):
        assert ["dcba"[label] for label in after.labels] == ["abc"[label] for label in before.labels]
        assert torch.equal(before.images, after.images)
    with pytest.raises(DataError, match="its classes b are not among a, c"):
        dataset().numbered_as(("a", "c"))


def test_a_run_needs_two_classes(config_dir, tmp_path, encode):
    """A folder that lies one level too deep is one class, and every model is right on all of it."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / "pictures" / name).mkdir(parents=True)
            pixels = torch.full((8, 8), len(split) + len(name) * (name == "cat"), dtype=torch.uint8).numpy()
            (tmp_path / split / "pictures" / name / "0.png").write_bytes(encode(pixels))
    own = ["logger=csv", "dataset=folder", f"dataset.path={tmp_path}", f"paths.cache={tmp_path / 'cache'}"]
    cfg = compose([*own, "clients=1", "cohort=1", "partition=iid"], config_dir)
    with pytest.raises(ConfigError, match="all samples have the label pictures, but there must be two or more"):
        build(cfg, tmp_path / "run", "test")
