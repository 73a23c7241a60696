"""Texts in memory: what a batch, a selection and a shared copy of them hold."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.core.inputs import Inputs, TokenInputs
from pffdst.data.batches import ClientBatches
from pffdst.data.cache import SampleCache
from pffdst.data.texts import TextSet, width_of

Texts = list[list[int]]


def text_set(texts: Texts, padding: int = 0, limit: int = 40) -> TextSet:
    starts = torch.tensor([0, *(len(t) for t in texts)]).cumsum(0)
    tokens = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    labels = torch.arange(len(texts)) % 3
    return TextSet(tokens, starts, torch.tensor([padding, limit], dtype=torch.int32), labels)


def read(batch: torch.Tensor, padding: int) -> Texts:
    """The texts of a batch without what fills it up, which must all lie behind."""
    rows = []
    for row in batch.tolist():
        length = next((i for i, token in enumerate(row) if token == padding), len(row))
        assert set(row[length:]) <= {padding}
        rows.append(row[:length])
    return rows


texts = st.lists(st.lists(st.integers(1, 99), max_size=40), min_size=1, max_size=9)


@given(texts, st.data())
@settings(max_examples=40)
def test_a_batch_holds_the_texts_asked_for_and_padding_behind_them(given_texts: Texts, data: st.DataObject) -> None:
    found = text_set(given_texts)
    asked = data.draw(st.lists(st.integers(0, len(given_texts) - 1), min_size=1, max_size=12))
    batch, labels = found.batch(torch.tensor(asked))
    assert read(batch, 0) == [given_texts[i] for i in asked]
    assert labels.tolist() == [i % 3 for i in asked]
    assert tuple(batch.shape) == found.batch_shape(torch.tensor(asked))
    own = found.take(torch.tensor(asked))
    assert read(own.part(slice(0, None)), 0) == [given_texts[i] for i in asked]
    assert own.labels.tolist() == labels.tolist()


def test_padding_may_be_any_token() -> None:
    batch, _ = text_set([[1, 2, 3], [4]], padding=7).batch(torch.tensor([0, 1]))
    assert batch.tolist() == [[1, 2, 3, 7, 7, 7, 7, 7], [4, *[7] * 7]]


@pytest.mark.parametrize("limit", [5, 64, 100, 512])
def test_widths_are_few_hold_the_longest_and_are_no_wider_than_the_limit(limit: int) -> None:
    widths = [width_of(longest, limit) for longest in range(limit + 1)]
    assert all(w >= longest for longest, w in enumerate(widths))
    assert max(widths) <= limit
    assert len(set(widths)) <= 14
    assert all(w <= 8 or w <= 1.5 * longest for longest, w in enumerate(widths))


def test_a_client_s_epoch_is_each_of_its_texts_once() -> None:
    found = text_set([[i] * (i % 5 + 1) for i in range(1, 21)])
    own = torch.tensor([3, 4, 8, 9, 15, 19])
    batches = list(ClientBatches(found, own, 4, torch.Generator().manual_seed(0)))
    assert sorted(row[0] for batch, _ in batches for row in read(batch, 0)) == [i + 1 for i in own.tolist()]


def test_kept_shared_and_pickled_they_are_the_same_and_other_tokens_are_not(tmp_path: Path) -> None:
    fresh = text_set([[1, 2], [3], [], [4, 5, 6]])
    kept = SampleCache(tmp_path).store("k", fresh, {})
    shared = pickle.loads(pickle.dumps(fresh.share(tmp_path))).open()
    for found in (kept, shared, SampleCache(tmp_path).load("k", TextSet)[0], kept.share(tmp_path).open()):
        assert found.digest == fresh.digest
        assert torch.equal(found.part(slice(0, 4)), fresh.part(slice(0, 4)))
    assert text_set([[1, 2], [3], [], [4, 5, 7]]).digest != fresh.digest
    assert text_set([[1], [2, 3], [], [4, 5, 6]]).digest != fresh.digest


def test_inputs_are_told_in_words_and_read_back() -> None:
    inputs = TokenInputs(50, 16, 3, 7, "{}")
    assert Inputs.of_words(inputs.words()) == inputs
    tokens = inputs.random(100, longest=True)
    assert tokens.shape == (100, 16)
    assert not bool((tokens[::2] == 3).any())
    assert bool((tokens[1::2, 1:] == 3).all())
    assert int(tokens.max()) == 49
    assert int(tokens.min()) == 0
    with pytest.raises(TypeError, match="Expected token ids"):
        inputs.front(torch.float32, torch.contiguous_format, "cpu")(torch.zeros(2, 3))
