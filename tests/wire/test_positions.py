"""Masks as bytes: exact both ways, in the smallest coding, nothing malformed accepted."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.masks import Move
from pffdst.core.model import Entry, Layout
from pffdst.core.positions import Positions
from pffdst.wire.frame import Section, WireError
from pffdst.wire.positions import (
    MOST_MOVES,
    Coding,
    Known,
    decode_positions,
    encode_move,
    encode_positions,
    positions_of,
)
from pffdst.wire.sets import encode_set, entropy_bytes, write_varint

LAYOUT = Layout(
    (
        Entry("a", (60, 50), 0, "maskable"),
        Entry("b", (7,), 3000, "maskable"),
        Entry("c", (40, 30), 3007, "maskable"),
        Entry("d", (5,), 4207, "parameter"),
    )
)
W = LAYOUT.maskable
NOTHING = Positions.none(LAYOUT)
densities = st.sampled_from([0.0, 0.003, 0.05, 0.5, 0.97, 1.0])
seeds = st.integers(0, 10**6)


def drawn(seed: int, density: float) -> Positions:
    return Positions(LAYOUT, bits=torch.rand(W, generator=torch.Generator().manual_seed(seed)) < density)


def both(one: Positions, two: Positions) -> Positions:
    """The positions of both."""
    return Positions(LAYOUT, bits=one.bits & two.bits)


def room(taken: Positions) -> tuple[int, ...]:
    """Positions per layer that are not taken."""
    return taken.complement().counts


@st.composite
def frozen_and_held(draw: st.DrawFn) -> Known:
    frozen = drawn(draw(seeds), draw(st.sampled_from([0.0, 0.1, 1.0])))
    held = drawn(draw(seeds), draw(densities)) if draw(st.booleans()) else None
    return Known(frozen, held)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Known, Positions, list[bytes]]:
    """Moves from the held mask or afresh: what is known, the mask they lead to, and they, coded."""
    known = draw(frozen_and_held())
    afresh = known.held is None or draw(st.booleans())
    mask, coded = (NOTHING if afresh else known.former), []
    for i in range(draw(st.integers(1, 4))):
        dropped = None if afresh and i == 0 else both(mask, drawn(draw(seeds), draw(densities)))
        kept = NOTHING if dropped is None else mask.without(dropped)
        share = draw(st.sampled_from([0.0, 0.02, 0.6, 1.0]))
        counts = tuple(round(share * r) for r in room(kept.plus(known.barred)))
        move = Move(dropped, counts, draw(st.integers(0, 2**64 - 1)))
        coded.append(encode_move(move, mask))
        mask = move.apply(mask, known.barred)
    return known, mask, coded


# ---- both ways --------------------------------------------------------------------------------------------------


@given(frozen_and_held(), seeds, densities)
def test_a_mask_comes_back_as_it_was(known: Known, seed: int, density: float) -> None:
    mask = drawn(seed, density).without(known.barred)
    assert decode_positions(encode_positions(mask, known), known, "X") == mask


@given(histories())
def test_a_mask_that_was_made_by_moves_comes_back(history: tuple[Known, Positions, list[bytes]]) -> None:
    known, mask, moves = history
    for section in (encode_positions(mask, known, moves), as_moves(mask, moves)):
        assert decode_positions(section, known, "X") == mask
    assert len(encode_positions(mask, known, moves).body) <= len(encode_positions(mask, known).body) + 8


def as_moves(mask: Positions, moves: list[bytes]) -> Section:
    """The moves, also where another coding is smaller."""
    return Section(Coding.MOVES, checked(mask, write_varint(len(moves)) + b"".join(moves)))


@given(seeds, densities)
def test_a_bitmap_comes_back_as_it_was(seed: int, density: float) -> None:
    mask = drawn(seed, density)
    assert positions_of(mask.bitmap, LAYOUT, "X") == mask


# ---- which coding -----------------------------------------------------------------------------------------------


def held_and_changed(share: float) -> tuple[Known, Positions]:
    """A mask of density 0.2 of which a share of the positions has moved."""
    held = drawn(1, 0.2)
    left = both(held, drawn(2, share))
    joined = drawn(3, share / 4).without(held)
    return Known(NOTHING, held), held.without(left).plus(joined)


@pytest.mark.parametrize(
    ("density", "coding"), [(0.0, Coding.SET), (0.02, Coding.SET), (0.5, Coding.BITMAP), (1.0, Coding.ALL)]
)
def test_a_density_has_its_coding(density: float, coding: Coding) -> None:
    assert encode_positions(drawn(1, density), Known(NOTHING)).coding == coding


def test_a_few_changes_are_sent_as_changes_and_many_as_a_new_mask() -> None:
    few, mask = held_and_changed(0.02)
    assert encode_positions(mask, few).coding == Coding.CHANGED
    assert encode_positions(drawn(9, 0.2), few).coding == Coding.SET


def test_the_same_mask_again_costs_next_to_nothing() -> None:
    known, _ = held_and_changed(0.0)
    assert known.held is not None
    assert len(encode_positions(known.held, known).body) == 4 + 1 + len(LAYOUT.layers)


def test_a_draw_costs_a_seed_and_a_count_per_layer() -> None:
    move = Move(None, (700, 3, 200), 2**63 - 5)
    coded = encode_move(move, NOTHING)
    for held in (None, drawn(1, 0.2)):
        section = encode_positions(move.apply(NOTHING, NOTHING), Known(NOTHING, held), [coded])
        assert section.coding == Coding.MOVES
        assert len(section.body) == 4 + 1 + 1 + 8 + 2 + 1 + 2


def test_growth_from_a_seed_costs_no_more_than_what_was_dropped() -> None:
    held = drawn(1, 0.2)
    dropped = both(held, drawn(2, 0.3))
    move = Move(dropped, dropped.counts, 17)
    section = encode_positions(move.apply(held, NOTHING), Known(NOTHING, held), [encode_move(move, held)])
    alone = encode_set(held.inside(dropped).nonzero().flatten().numpy(), held.counts)
    assert section.coding == Coding.MOVES
    assert len(section.body) <= len(alone) + 4 + 2 + 2 + 8 + 2 * len(LAYOUT.layers)


def test_a_client_that_was_never_there_is_told_how_the_mask_was_made_where_that_is_shorter() -> None:
    start = Move(None, (700, 3, 200), 5)
    first = start.apply(NOTHING, NOTHING)
    prune = Move(both(first, drawn(2, 0.3)), (0, 0, 0), 6)
    mask = prune.apply(first, NOTHING)
    moves = [encode_move(start, NOTHING), encode_move(prune, first)]
    known = Known(NOTHING)
    section = encode_positions(mask, known, moves)
    assert section.coding == Coding.MOVES
    assert len(section.body) < 0.6 * len(encode_positions(mask, known).body)


def test_a_history_too_long_for_a_decoder_is_not_sent() -> None:
    nothing_leaves = encode_move(Move(NOTHING, (0, 0, 0), 0), NOTHING)
    moves = [encode_move(Move(None, (700, 3, 200), 5), NOTHING), *[nothing_leaves] * MOST_MOVES]
    mask = Move(None, (700, 3, 200), 5).apply(NOTHING, NOTHING)
    assert encode_positions(mask, Known(NOTHING), moves).coding != Coding.MOVES
    with pytest.raises(WireError, match=f"X: expected 1 to {MOST_MOVES} moves, but got {MOST_MOVES + 1}"):
        decode_positions(as_moves(mask, moves), Known(NOTHING), "X")


def test_what_is_decoded_twice_is_the_same_and_what_is_read_off_it_may_be_written_to() -> None:
    move = encode_move(Move(None, (700, 3, 200), 5), NOTHING)
    mask = Move(None, (700, 3, 200), 5).apply(NOTHING, NOTHING)
    section = encode_positions(mask, Known(NOTHING), [move])
    decode_positions(section, Known(NOTHING), "X").bits.fill_(True)
    assert decode_positions(section, Known(NOTHING), "X") == mask


def test_what_is_frozen_costs_nothing() -> None:
    """The held mask froze: a mask beside it is coded among the rest alone."""
    frozen = drawn(1, 0.5)
    known = Known(frozen, frozen)
    assert encode_positions(frozen.complement(), known) == Section(Coding.ALL, b"")
    mask = drawn(2, 0.01).without(frozen)
    alone = entropy_bytes(mask.counts, room(frozen))
    for either in (known, Known(frozen)):
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
    counts = tuple(r // 3 for r in room(frozen))
    mask, keys = Move(None, counts, seed).apply(NOTHING, frozen), splitmix64(seed, W)
    for layer, count in zip(LAYOUT.layers, counts, strict=True):
        free = [j for j in range(layer.span.start, layer.span.stop) if j not in frozen]
        least = sorted(free, key=keys.__getitem__)[:count]
        assert sorted(least) == (mask.bits[layer.span].nonzero().flatten() + layer.offset).tolist()


# ---- what is malformed ------------------------------------------------------------------------------------------


def checked(mask: Positions, body: bytes) -> bytes:
    return struct.pack("<I", mask.digest) + body


def moving(*moves: bytes, count: int | None = None) -> Section:
    return Section(Coding.MOVES, bytes(4) + write_varint(len(moves) if count is None else count) + b"".join(moves))


def afresh(*counts: int) -> bytes:
    return b"\2" + struct.pack("<Q", 3) + b"".join(map(write_varint, counts))


MALFORMED: list[tuple[Callable[[], Section], str]] = [
    (lambda: Section(Coding.ALL, b"\0"), "empty body"),
    (lambda: Section(Coding.BITMAP, b"\xff"), f"bitmap of {(W + 7) // 8} bytes"),
    (lambda: Section(Coding.BITMAP, b"\xff" * ((W + 7) // 8)), f"past position {W}"),
    (lambda: Section(Coding.SET, b"abc"), "checksum of the mask"),
    (lambda: Section(Coding.SET, bytes(4) + encode_set(torch.arange(9).numpy(), [3000, 7, 1200])), "checksum"),
    (lambda: Section(Coding.SET, bytes(4)), "ends inside a number"),
    (lambda: Section(Coding.CHANGED, bytes(8)), "holds none"),
    (lambda: moving(), "1 to 64 moves"),
    (lambda: moving(afresh(1, 1, 1), count=2), "expected a move"),
    (lambda: moving(b"\0"), "expected a move"),
    (lambda: moving(b"\4"), "expected a move"),
    (lambda: moving(b"\1\0"), "holds none"),
    (lambda: moving(b"\1\xff\xff\xff\xff\x07"), "ends inside a move"),
    (lambda: moving(afresh(1, 1)), "ends inside"),
    (lambda: moving(afresh()[:5]), "ends inside"),
    (lambda: moving(afresh(1, 8, 1)), "at least 8 candidates in layer b"),
    (lambda: moving(afresh(1, 1, 1), b"x", count=1), "1 bytes follow the last move"),
    (lambda: moving(afresh(1, 1, 1)), "checksum"),
    (lambda: moving(afresh(1, 1, 1), b"\1\1\x02"), "ends inside a number"),
    (lambda: Section(77, b""), "coding 77 is unknown"),
]


@pytest.mark.parametrize(("section", "word"), MALFORMED)
def test_what_is_malformed_is_named(section: Callable[[], Section], word: str) -> None:
    with pytest.raises(WireError, match=f"PLACE: .*{word}"):
        decode_positions(section(), Known(NOTHING), "PLACE")


def test_a_change_to_another_mask_than_the_held_one_is_found() -> None:
    known, mask = held_and_changed(0.02)
    section = encode_positions(mask, known)
    with pytest.raises(WireError, match="PLACE"):
        decode_positions(section, Known(NOTHING, drawn(8, 0.2)), "PLACE")


@pytest.mark.parametrize("body", [b"", b"\2\0\0\0"])
def test_a_change_is_balanced_or_not(body: bytes) -> None:
    with pytest.raises(WireError, match="PLACE: expected a byte 0 or 1"):
        decode_positions(Section(Coding.CHANGED, bytes(4) + body), held_and_changed(0.1)[0], "PLACE")


def test_a_frozen_position_cannot_be_claimed() -> None:
    section = Section(Coding.BITMAP, drawn(1, 0.1).bitmap)
    with pytest.raises(WireError, match="PLACE: a position is both trainable and frozen"):
        decode_positions(section, Known(drawn(1, 0.2)), "PLACE")


@given(frozen_and_held(), st.integers(0, 7), st.binary(max_size=60))
def test_any_bytes_are_a_mask_outside_the_frozen_or_an_error(known: Known, coding: int, body: bytes) -> None:
    try:
        mask = decode_positions(Section(coding, body), known, "X")
    except WireError:
        return
    assert mask.bits.shape == (W,)
    assert mask.index.tolist() == mask.bits.nonzero().flatten().tolist()
    assert not bool(mask.inside(known.barred).any())
