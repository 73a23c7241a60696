"""Masks as bytes: exact both ways, always the smallest coding, nothing malformed accepted."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pffdst.wire.messages import Section, WireError
from pffdst.wire.positions import ALL, BITMAP, INDICES, decode_positions, encode_positions


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    length = draw(st.integers(1, 300))
    share = draw(st.sampled_from([0.0, 0.01, 0.03, 0.5, 0.97, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return torch.rand(length, generator=generator) < share


def indices(*positions: int) -> bytes:
    return struct.pack(f"<{len(positions)}I", *positions)


@given(masks())
def test_a_mask_comes_back_as_it_was(mask: Tensor) -> None:
    back = decode_positions(encode_positions(mask), mask.numel(), "X")
    assert back.dtype == torch.bool
    assert torch.equal(back, mask)


@given(masks())
def test_the_smallest_coding_is_taken(mask: Tensor) -> None:
    count, length = int(mask.sum()), mask.numel()
    sizes = {BITMAP: (length + 7) // 8, INDICES: 4 * count} | ({ALL: 0} if count == length else {})
    section = encode_positions(mask)
    assert len(section.body) == sizes[section.coding] == min(sizes.values())


def test_each_coding_has_its_day() -> None:
    dense, half, few = torch.ones(100), torch.arange(100) % 2, torch.arange(100) == 3
    assert [encode_positions(m.bool()).coding for m in (dense, half, few)] == [ALL, BITMAP, INDICES]


@given(st.integers(1, 80), st.sampled_from([ALL, BITMAP, INDICES, 3, 255]), st.binary(max_size=40))
def test_any_bytes_are_a_mask_or_an_error_and_never_two_masks(length: int, coding: int, body: bytes) -> None:
    section = Section(coding, body)
    try:
        mask = decode_positions(section, length, "X")
    except WireError:
        return
    assert mask.shape == (length,)
    assert {ALL: b"", BITMAP: _bitmap(mask), INDICES: indices(*mask.nonzero().flatten().tolist())}[coding] == body


def _bitmap(mask: Tensor) -> bytes:
    number = sum(1 << j for j in mask.nonzero().flatten().tolist())
    return number.to_bytes((mask.numel() + 7) // 8, "little")


@pytest.mark.parametrize(
    ("section", "word"),
    [
        (Section(ALL, b"\0"), "empty body"),
        (Section(BITMAP, b"\xff"), "bitmap of 2 bytes"),
        (Section(BITMAP, b"\xff\xff\0"), "bitmap of 2 bytes"),
        (Section(BITMAP, b"\xff\x08"), "past position 11"),
        (Section(INDICES, b"\0\0\0"), "4 bytes"),
        (Section(INDICES, indices(*range(12))), "at most 11"),
        (Section(INDICES, indices(3, 11)), "strictly increasing below 11"),
        (Section(INDICES, indices(3, 2**32 - 1)), "strictly increasing below 11"),
        (Section(INDICES, indices(3, 3)), "strictly increasing"),
        (Section(INDICES, indices(4, 3, 5)), "strictly increasing"),
        (Section(7, b""), "coding 7 is unknown"),
    ],
)
def test_what_is_malformed_is_named(section: Section, word: str) -> None:
    with pytest.raises(WireError, match=f"PLACE: .*{word}"):
        decode_positions(section, 11, "PLACE")
