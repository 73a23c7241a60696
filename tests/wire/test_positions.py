"""Masks as bytes: exact both ways, in the smallest coding, nothing malformed accepted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pffdst.sparsity.masks import Move
from pffdst.state import Entry, Layout
from pffdst.wire.messages import Section, WireError
from pffdst.wire.positions import Coding, Known, decode_positions, encode_positions, from_bitmap, to_bitmap
from pffdst.wire.sets import encode_set, entropy_bytes

LAYOUT = Layout(
    (
        Entry("a", (60, 50), 0, "maskable"),
        Entry("b", (7,), 3000, "maskable"),
        Entry("c", (40, 30), 3007, "maskable"),
        Entry("d", (5,), 4207, "parameter"),
    )
)
W = LAYOUT.maskable
NOTHING = torch.zeros(W, dtype=torch.bool)
densities = st.sampled_from([0.0, 0.003, 0.05, 0.5, 0.97, 1.0])
seeds = st.integers(0, 10**6)


def drawn(seed: int, density: float) -> Tensor:
    return torch.rand(W, generator=torch.Generator().manual_seed(seed)) < density


@st.composite
def frozen_and_held(draw: st.DrawFn) -> Known:
    frozen = drawn(draw(seeds), draw(st.sampled_from([0.0, 0.1, 1.0])))
    held = drawn(draw(seeds), draw(densities)) if draw(st.booleans()) else None
    return Known(LAYOUT, frozen, held)


@st.composite
def moves(draw: st.DrawFn, known: Known) -> Move:
    """A move that the known masks allow: from the held one, or afresh."""
    afresh = known.held is None or draw(st.booleans())
    dropped = None if afresh else known.former & drawn(draw(seeds), draw(densities))
    kept = NOTHING if dropped is None else known.former & ~dropped
    room = LAYOUT.per_layer(~(kept | known.frozen))
    share = draw(st.sampled_from([0.0, 0.02, 0.6, 1.0]))
    return Move(dropped, tuple(round(share * r) for r in room), draw(st.integers(0, 2**63 - 1)))


# ---- both ways --------------------------------------------------------------------------------------------------


@given(frozen_and_held(), seeds, densities)
def test_a_mask_comes_back_as_it_was(known: Known, seed: int, density: float) -> None:
    mask = drawn(seed, density) & ~known.frozen
    back = decode_positions(encode_positions(mask, known), known, "X")
    assert back.dtype == torch.bool
    assert torch.equal(back, mask)


@given(st.data(), frozen_and_held())
def test_a_mask_that_was_made_by_a_move_comes_back(data: st.DataObject, known: Known) -> None:
    move = data.draw(moves(known))
    start = NOTHING if move.dropped is None else known.former
    mask = move.apply(LAYOUT, start, known.frozen)
    section = encode_positions(mask, known, move)
    assert torch.equal(decode_positions(section, known, "X"), mask)
    assert len(section.body) <= len(encode_positions(mask, known).body) + 8


@given(st.integers(1, 70), seeds)
def test_a_bitmap_comes_back_as_it_was(length: int, seed: int) -> None:
    mask = drawn(seed, 0.5)[:length]
    assert torch.equal(from_bitmap(to_bitmap(mask), length, "X"), mask)
    number = sum(1 << j for j in mask.nonzero().flatten().tolist())
    assert to_bitmap(mask) == number.to_bytes((length + 7) // 8, "little")


# ---- which coding -----------------------------------------------------------------------------------------------


def held_and_changed(share: float) -> tuple[Known, Tensor]:
    """A mask of density 0.2 of which a share of the positions has moved."""
    held = drawn(1, 0.2)
    left = held & drawn(2, share)
    joined = ~held & drawn(3, share / 4)
    return Known(LAYOUT, NOTHING, held), (held & ~left) | joined


@pytest.mark.parametrize(
    ("density", "coding"), [(0.0, Coding.SET), (0.02, Coding.SET), (0.5, Coding.BITMAP), (1.0, Coding.ALL)]
)
def test_a_density_has_its_coding(density: float, coding: Coding) -> None:
    assert encode_positions(drawn(1, density), Known(LAYOUT, NOTHING)).coding == coding


def test_a_few_changes_are_sent_as_changes_and_many_as_a_new_mask() -> None:
    few, mask = held_and_changed(0.02)
    assert encode_positions(mask, few).coding == Coding.MOVED
    assert encode_positions(drawn(9, 0.2), few).coding == Coding.SET


def test_the_same_mask_again_costs_next_to_nothing() -> None:
    known, _ = held_and_changed(0.0)
    assert known.held is not None
    assert len(encode_positions(known.held, known).body) == 4 + 2 * len(LAYOUT.layers)


def test_a_draw_costs_a_seed_and_a_count_per_layer() -> None:
    move = Move(None, (700, 3, 200), 2**63 - 5)
    for held in (None, drawn(1, 0.2)):
        known = Known(LAYOUT, NOTHING, held)
        section = encode_positions(move.apply(LAYOUT, NOTHING, NOTHING), known, move)
        assert section.coding == Coding.DRAWN
        assert len(section.body) == 4 + 8 + 2 + 1 + 2


def test_growth_from_a_seed_costs_no_more_than_what_was_dropped() -> None:
    held = drawn(1, 0.2)
    dropped = held & drawn(2, 0.3)
    move = Move(dropped, tuple(LAYOUT.per_layer(dropped)), 17)
    known = Known(LAYOUT, NOTHING, held)
    section = encode_positions(move.apply(LAYOUT, held, NOTHING), known, move)
    alone = encode_set(torch.nonzero(dropped[held]).flatten().numpy(), LAYOUT.per_layer(held))
    assert section.coding == Coding.MOVED_DRAWN
    assert len(section.body) <= len(alone) + 4 + 8 + 2 * len(LAYOUT.layers)


def test_what_is_frozen_costs_nothing() -> None:
    """The held mask froze: a mask beside it is coded among the rest alone."""
    frozen = drawn(1, 0.5)
    known = Known(LAYOUT, frozen, frozen)
    assert encode_positions(~frozen, known) == Section(Coding.ALL, b"")
    mask = drawn(2, 0.01) & ~frozen
    alone = entropy_bytes(LAYOUT.per_layer(mask), LAYOUT.per_layer(~frozen))
    for either in (known, Known(LAYOUT, frozen)):
        assert len(encode_positions(mask, either).body) < alone + 30


# ---- draws ------------------------------------------------------------------------------------------------------


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator as its authors give it, in plain integers."""
    out, state, mask = [], seed, 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_the_generator_is_the_known_one() -> None:
    assert splitmix64(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(seed=st.integers(0, 2**64 - 1), density=densities)
def test_a_draw_is_the_documented_one(seed: int, density: float) -> None:
    frozen = drawn(4, density)
    counts = tuple(r // 3 for r in LAYOUT.per_layer(~frozen))
    mask, keys = Move(None, counts, seed).apply(LAYOUT, NOTHING, frozen), splitmix64(seed, W)
    for layer, count in zip(LAYOUT.layers, counts, strict=True):
        free = [j for j in range(layer.span.start, layer.span.stop) if not frozen[j]]
        least = sorted(free, key=keys.__getitem__)[:count]
        assert sorted(least) == (mask[layer.span].nonzero().flatten() + layer.offset).tolist()


# ---- what is malformed ------------------------------------------------------------------------------------------


def checked(mask: Tensor, body: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(to_bitmap(mask))) + body


def seeded(*counts: int, tail: bytes = b"") -> bytes:
    return bytes(4) + struct.pack("<Q", 3) + b"".join(bytes((c & 0x7F | 0x80, c >> 7)) for c in counts) + tail


MALFORMED: list[tuple[Callable[[], Section], str]] = [
    (lambda: Section(Coding.ALL, b"\0"), "empty body"),
    (lambda: Section(Coding.BITMAP, b"\xff"), f"bitmap of {(W + 7) // 8} bytes"),
    (lambda: Section(Coding.BITMAP, b"\xff" * ((W + 7) // 8)), f"past position {W}"),
    (lambda: Section(Coding.SET, b"abc"), "crc32 of the mask"),
    (lambda: Section(Coding.SET, bytes(4) + encode_set(torch.arange(9).numpy(), [3000, 7, 1200])), "checksum"),
    (lambda: Section(Coding.SET, bytes(4)), "ends inside a number"),
    (lambda: Section(Coding.DRAWN, bytes(9)), "seed of 8 bytes"),
    (lambda: Section(Coding.DRAWN, seeded(1, 1)), "ends inside a number"),
    (lambda: Section(Coding.DRAWN, seeded(1, 8, 1)), "at least 8 candidates in layer b"),
    (lambda: Section(Coding.DRAWN, seeded(1, 1, 1, tail=b"x")), "1 bytes follow"),
    (lambda: Section(Coding.DRAWN, seeded(1, 1, 1)), "checksum"),
    (lambda: Section(Coding.MOVED, bytes(8)), "holds none"),
    (lambda: Section(Coding.MOVED_DRAWN, bytes(20)), "holds none"),
    (lambda: Section(77, b""), "coding 77 is unknown"),
]


@pytest.mark.parametrize(("section", "word"), MALFORMED)
def test_what_is_malformed_is_named(section: Callable[[], Section], word: str) -> None:
    with pytest.raises(WireError, match=f"PLACE: .*{word}"):
        decode_positions(section(), Known(LAYOUT, NOTHING), "PLACE")


def test_a_change_to_another_mask_than_the_held_one_is_found() -> None:
    known, mask = held_and_changed(0.02)
    section = encode_positions(mask, known)
    with pytest.raises(WireError, match="PLACE"):
        decode_positions(section, Known(LAYOUT, NOTHING, drawn(8, 0.2)), "PLACE")


def test_a_frozen_position_cannot_be_claimed() -> None:
    section = Section(Coding.BITMAP, to_bitmap(drawn(1, 0.1)))
    with pytest.raises(WireError, match="PLACE: a position is both trainable and frozen"):
        decode_positions(section, Known(LAYOUT, drawn(1, 0.2)), "PLACE")


@given(frozen_and_held(), st.integers(0, 7), st.binary(max_size=60))
def test_any_bytes_are_a_mask_outside_the_frozen_or_an_error(known: Known, coding: int, body: bytes) -> None:
    try:
        mask = decode_positions(Section(coding, body), known, "X")
    except WireError:
        return
    assert mask.shape == (W,)
    assert not bool((mask & known.frozen).any())
