"""A set of positions is the same set in every form, and its arithmetic is that of sets."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
import zlib
from itertools import pairwise

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pffdst.core.model import Entry, Layout
from pffdst.core.positions import Positions, bitmap_of, bits_of

LAYOUT = Layout(
    (
        Entry("a", (4, 5), 0, "maskable"),
        Entry("b", (1,), 20, "maskable"),
        Entry("c", (3, 3), 21, "maskable"),
        Entry("c.bias", (3,), 30, "parameter"),
    )
)
W = LAYOUT.maskable
sets = st.one_of(
    st.sets(st.integers(0, W - 1)), st.just(set[int]()), st.just(set(range(W))), st.sets(st.integers(0, 4))
)


def as_index(chosen: set[int]) -> Positions:
    return Positions(LAYOUT, index=torch.tensor(sorted(chosen), dtype=torch.int64))


def as_bits(chosen: set[int]) -> Positions:
    bits = torch.zeros(W, dtype=torch.bool)
    bits[sorted(chosen)] = True
    return Positions(LAYOUT, bits=bits)


positions = st.builds(lambda chosen, dense: as_bits(chosen) if dense else as_index(chosen), sets, st.booleans())


def members(of: Positions) -> set[int]:
    """The set, checked to be the same in its two forms."""
    assert of.index.dtype == torch.int64
    assert of.bits.dtype == torch.bool
    assert of.bits.shape == (W,)
    assert of.index.tolist() == sorted(set(of.index.tolist())) == of.bits.nonzero().flatten().tolist()
    return set(of.index.tolist())


# ---- forms -------------------------------------------------------------------------------------------------------


@given(sets)
def test_either_form_makes_the_other(chosen: set[int]) -> None:
    for made in (as_index(chosen), as_bits(chosen)):
        assert members(made) == chosen
        assert len(made) == len(chosen)
        assert made.everything == (len(chosen) == W)
        assert [j for j in range(W) if j in made] == sorted(chosen)


@given(sets)
def test_what_travels_and_is_kept_comes_back(chosen: set[int]) -> None:
    for made in (as_index(chosen), as_bits(chosen)):
        back = [
            Positions.unpacked(LAYOUT, made.packed()),
            Positions(LAYOUT, bits=bits_of(made.bitmap, W)),
            pickle.loads(pickle.dumps(made)),
            copy.deepcopy(made),
        ]
        assert [members(b) for b in back] == [chosen] * 4
        assert made.packed().dtype == torch.uint8


@given(sets)
def test_a_bitmap_has_position_j_in_bit_j_of_its_number(chosen: set[int]) -> None:
    number = sum(1 << j for j in chosen)
    assert as_index(chosen).bitmap == as_bits(chosen).bitmap == number.to_bytes((W + 7) // 8, "little")


@given(st.integers(1, 70), st.integers(0, 10**6))
def test_a_bitmap_of_any_length_comes_back(length: int, seed: int) -> None:
    mask = torch.rand(length, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(bits_of(bitmap_of(mask), length), mask)


@given(sets)
def test_a_digest_is_the_checksum_of_the_positions_as_words(chosen: set[int]) -> None:
    expected = xxhash.xxh3_64_intdigest(b"".join(j.to_bytes(4, "little") for j in sorted(chosen))) & 0xFFFFFFFF
    assert as_index(chosen).digest == as_bits(chosen).digest == expected


@given(sets)
def test_counts_and_spans_are_those_of_the_layers(chosen: set[int]) -> None:
    for made in (as_index(chosen), as_bits(chosen)):
        by_layer = [[j for j in sorted(chosen) if e.span.start <= j < e.span.stop] for e in LAYOUT.layers]
        assert made.counts == tuple(map(len, by_layer))
        assert [made.index[span].tolist() for span in made.spans()] == by_layer


@given(sets, sets)
def test_equal_are_those_with_the_same_members(one: set[int], two: set[int]) -> None:
    for a in (as_index(one), as_bits(one)):
        for b in (as_index(two), as_bits(two)):
            assert (a == b) == (one == two)
            assert one != two or hash(a) == hash(b)
    assert as_index(one) != one


# ---- arithmetic --------------------------------------------------------------------------------------------------


@given(positions, positions)
def test_arithmetic_is_that_of_sets(one: Positions, two: Positions) -> None:
    a, b = members(one), members(two)
    assert members(one.without(two)) == a - b
    assert members(one.plus(two)) == a | b
    assert members(one.complement()) == set(range(W)) - a
    assert one.inside(two).tolist() == [j in b for j in sorted(a)]
    assert (members(one), members(two)) == (a, b), "nobody writes into them"


@given(positions, st.integers(0, 10**6))
def test_gather_and_spread_undo_each_other(at: Positions, seed: int) -> None:
    weights = numbers(W, seed)
    assert torch.equal(at.gather(weights), weights[at.bits])
    assert torch.equal(at.spread(weights[at.bits]), torch.where(at.bits, weights, 0.0))
    assert torch.equal(at.gather(at.spread(weights[at.bits])), weights[at.bits])


@given(positions, positions, st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_what_is_carried_keeps_its_values_and_is_new_at_zero(
    one: Positions, two: Positions, seed: int, dtype: torch.dtype
) -> None:
    values = numbers(len(one), seed, dtype)
    carried = one.carry(values, two)
    assert carried.dtype == dtype
    assert torch.equal(carried, one.spread(values)[two.bits])
    shared = Positions(LAYOUT, bits=one.bits & two.bits)
    assert torch.equal(two.carry(carried, shared), one.carry(values, shared))


def numbers(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_none_and_all_are_the_empty_and_the_whole_set() -> None:
    assert members(Positions.none(LAYOUT)) == set()
    assert members(Positions.all(LAYOUT)) == set(range(W))
    assert Positions.none(LAYOUT).complement() == Positions.all(LAYOUT)


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_set_has_one_form_to_begin_with() -> None:
    bits, index = torch.zeros(W, dtype=torch.bool), torch.empty(0, dtype=torch.int64)
    for given_forms in ({}, {"bits": bits, "index": index}):
        with pytest.raises(ValueError, match="one of `bits` and `index`"):
            Positions(LAYOUT, **given_forms)


@pytest.mark.parametrize(
    ("bitmap", "problem"),
    [(b"\xff" * 3, "bitmap of 4 bytes"), (b"\xff" * 5, "bitmap of 4 bytes"), (b"\0\0\0\x40", "past position 30")],
)
def test_a_bitmap_of_another_layout_is_refused(bitmap: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        bits_of(bitmap, W)
    packed = torch.frombuffer(bytearray(zlib.compress(bitmap)), dtype=torch.uint8)
    with pytest.raises(ValueError, match=problem):
        Positions.unpacked(LAYOUT, packed)


def test_what_is_no_compressed_bitmap_is_refused() -> None:
    with pytest.raises(ValueError, match="compressed bitmap"):
        Positions.unpacked(LAYOUT, torch.arange(9, dtype=torch.uint8))
    bomb = torch.frombuffer(bytearray(zlib.compress(bytes(1 << 24))), dtype=torch.uint8)
    with pytest.raises(ValueError, match="bitmap of 4 bytes, but got 5"):
        Positions.unpacked(LAYOUT, bomb)


def test_a_mask_does_not_hold_the_next_one() -> None:
    """Values follow a mask from round to round; else the first would hold all masks of a run."""
    layout = Layout((Entry("a", (10, 10), 0, "maskable"),))
    masks = [Positions(layout, bits=torch.arange(100) % n == 0) for n in (2, 3, 5, 7)]
    gone, values = weakref.ref(masks[2]), torch.ones(50)
    for mask, following in pairwise(masks):
        values = mask.carry(values, following)
    assert len(values) == len(masks[3])
    del masks[1:], mask, following
    gc.collect()
    assert gone() is None
