"""Values as bytes: the same bits both ways, as many as are due, all of them finite."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pffdst.wire.messages import Section, WireError
from pffdst.wire.values import Float32

DTYPES = {torch.float32: 32, torch.float64: 64}


@st.composite
def vectors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(list(DTYPES)))
    number = st.floats(width=DTYPES[dtype], allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    return torch.tensor(draw(st.lists(number, max_size=40)), dtype=dtype)


@given(vectors())
def test_values_come_back_to_the_bit(values: Tensor) -> None:
    section = Float32().encode(values)
    back = Float32().decode(section, values.numel(), "X")
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[values.dtype]
    assert back.dtype == values.dtype
    assert torch.equal(back.view(bits), values.view(bits))
    assert len(section.body) == values.numel() * values.element_size()


def test_a_view_with_gaps_is_sent_as_what_it_shows() -> None:
    values = torch.arange(10.0)[::3]
    assert torch.equal(Float32().decode(Float32().encode(values), 4, "X"), values)


def test_what_comes_back_can_be_written_to() -> None:
    section = Float32().encode(torch.ones(3))
    Float32().decode(section, 3, "X").zero_()
    assert torch.equal(Float32().decode(section, 3, "X"), torch.ones(3))


def test_the_bytes_are_little_endian_singles() -> None:
    assert Float32().encode(torch.tensor([1.5, -2.0])) == Section(1, struct.pack("<2f", 1.5, -2.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_refused(value: float, dtype: torch.dtype) -> None:
    section = Float32().encode(torch.tensor([1.0, value, 2.0], dtype=dtype))
    with pytest.raises(WireError, match="PLACE: a value is not finite"):
        Float32().decode(section, 3, "PLACE")


@given(vectors(), st.integers(0, 50))
def test_another_number_of_values_is_refused(values: Tensor, due: int) -> None:
    if due == values.numel():
        return
    with pytest.raises(WireError, match=f"PLACE: expected {due} values"):
        Float32().decode(Float32().encode(values), due, "PLACE")


@given(st.integers(0, 5), st.integers(0, 255), st.binary(max_size=48))
def test_any_bytes_are_values_or_an_error(count: int, coding: int, body: bytes) -> None:
    try:
        values = Float32().decode(Section(coding, body), count, "X")
    except WireError:
        return
    assert values.shape == (count,)
    assert bool(torch.isfinite(values).all())
