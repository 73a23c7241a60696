"""Labels and owners as people write them: which number stands for which value, in both splits alike."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.data.columns import Column, of_words, owners_of, ranked, shared_labels
from pffdst.data.dataset import DataError

WORDS = st.text(alphabet="abcä01", min_size=1, max_size=3)


def words(values):
    distinct = list(dict.fromkeys(values))
    return of_words(distinct, torch.tensor([distinct.index(v) for v in values], dtype=torch.int64).numpy())


def numbers(values):
    return Column(torch.tensor(values, dtype=torch.int64))


def joined(train, test, classes=None):
    said = []
    first, second, names = shared_labels("toy", train, test, classes, said.append)
    return first.tolist(), second.tolist(), names, said


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=2, max_size=20), st.data())
def test_words_become_their_places_in_order(train, data):
    test = data.draw(st.lists(st.sampled_from(train), max_size=10))
    first, second, names, _ = joined(words(train), words(test))
    assert list(names) == ranked(train)
    assert [names[code] for code in first] == train
    assert [names[code] for code in second] == test


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-5, 10**9), min_size=2, max_size=20), st.data())
def test_numbers_with_gaps_become_their_places_by_value(train, data):
    test = data.draw(st.lists(st.sampled_from(train), max_size=10))
    first, second, names, _ = joined(numbers(train), numbers(test))
    order = sorted(set(train))
    assert [order[code] for code in first] == train
    assert [order[code] for code in second] == test
    assert names == tuple(map(str, order))


def test_words_that_are_numbers_are_in_order_of_value():
    assert ranked(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert ranked(["10", "9", "a"]) == ["10", "9", "a"]


@pytest.mark.parametrize("values", [[1, 2, 3, 1], [0, 5, 9, 1000], [-1, 1]])
def test_what_is_no_plain_numbering_is_said(values):
    *_, names, said = joined(numbers(values), numbers([]))
    assert len(names) == len(set(values))
    assert re.search(r"the \d labels .* become classes 0..\d in this order", *said)


def test_plain_numbers_stay_the_very_tensor_without_a_word():
    train, test = numbers([0, 2, 1]), numbers([1])
    said = []
    first, second, names = shared_labels("toy", train, test, None, said.append)
    assert (first is train.codes, second is test.codes, names, said) == (True, True, ("0", "1", "2"), [])
    assert shared_labels("toy", train, test, 7, said.append)[2] == tuple("0123456")
    assert joined(numbers([0, 7]), test, 10)[0] == [0, 7]  # declared: 7 of ten classes have no sample


def test_names_of_the_file_number_the_classes_even_without_a_sample():
    train, test = (Column(torch.tensor(codes), "classes", ("cat", "dog", "eel")) for codes in ([2, 0], [0]))
    assert joined(train, test) == ([2, 0], [0], ("cat", "dog", "eel"), [])
    assert joined(train, numbers([1]))[1:3] == ([1], ("cat", "dog", "eel"))


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (words(["a", "b"]), words(["c"]), None, "labels without a training sample: c; leave out those rows, or write"),
        (numbers([0, 1]), numbers([2]), None, "without a training sample: 2; leave"),
        (words(["a", "b"]), words([]), 3, "dataset.classes=3, but the labels have 2 values: a, b; write"),
        (words(["a", "b"]), numbers([0]), None, "training split are words, those of the test split numbers"),
        (Column(torch.tensor([0]), "classes", ("a", "b")), numbers([0]), 3, "the files name 2 classes: a, b; write"),
        (
            Column(torch.tensor([0]), "classes", ("a", "b")),
            Column(torch.tensor([0]), "classes", ("b", "a")),
            None,
            "they are not splits of the same data set",
        ),
    ],
)
def test_columns_that_do_not_go_together(train, test, classes, message):
    with pytest.raises(DataError, match=re.escape(message)):
        joined(train, test, classes)


def test_declared_classes_confirm_a_label_of_the_test_split_alone():
    assert joined(words(["b", "a"]), words(["c"]), 3)[:3] == ([1, 0], [2], ("a", "b", "c"))


def test_owners_are_the_same_in_both_splits():
    train, test = owners_of("toy", words(["p10", "p9", "p10"]), words(["p9"]))
    assert (train.tolist(), test.tolist()) == ([0, 1, 0], [1])
    train, test = owners_of("toy", numbers([30, 4, 30]), None)
    assert (train.tolist(), test) == ([1, 0, 1], None)
    with pytest.raises(DataError, match="1 owners of test samples have no training sample: p7; remove those rows"):
        owners_of("toy", words(["p9"]), words(["p7"]))
