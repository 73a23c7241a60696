"""Sets as bytes: exact, near their entropy, the same from both coders, and any bytes are a set or an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pffdst.wire.ans import PackageCoder, PlainCoder
from pffdst.wire.frame import WireError
from pffdst.wire.sets import decode_set, encode_set, entropy_bytes, read_varint, write_varint

universes = st.lists(st.integers(0, 400), max_size=5)


def chosen(sizes: list[int], seed: int, share: float) -> np.ndarray:
    return np.flatnonzero(np.random.default_rng(seed).random(sum(sizes)) < share)


@given(universes, st.integers(0, 10**6), st.sampled_from([0.0, 0.004, 0.1, 0.6, 1.0]))
def test_a_set_comes_back_as_it_was(sizes: list[int], seed: int, share: float) -> None:
    positions = chosen(sizes, seed, share)
    body = encode_set(positions, sizes, coder=PackageCoder())
    assert body == encode_set(positions, sizes, coder=PlainCoder())
    for coder in (PackageCoder(), PlainCoder()):
        assert decode_set(body, sizes, "X", coder=coder).tolist() == positions.tolist()


@given(st.lists(st.integers(1, 300), max_size=4), st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_a_balanced_set_comes_back_and_is_shorter(sizes: list[int], seed: int, share: float) -> None:
    rng, universe = np.random.default_rng(seed), [*sizes, *(2 * n for n in sizes)]
    counts, offsets = [round(share * n) for n in sizes] * 2, np.cumsum([0, *universe])
    parts = [offset + np.sort(rng.permutation(n)[:k]) for offset, n, k in zip(offsets, universe, counts, strict=False)]
    positions = np.concatenate(parts) if parts else np.empty(0, np.int64)
    body = encode_set(positions, universe, balanced=True)
    assert decode_set(body, universe, "X", balanced=True).tolist() == positions.tolist()
    assert len(body) + sum(len(write_varint(k)) for k in counts) // 2 == len(encode_set(positions, universe))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 0.001, 1e-5])
def test_a_set_is_as_long_as_its_entropy(share: float) -> None:
    sizes = [200_000, 1_000_000]
    positions = chosen(sizes, 3, share)
    counts = np.histogram(positions, [0, sizes[0], sum(sizes)])[0]
    bound = entropy_bytes(counts.tolist(), sizes)
    assert bound < len(encode_set(positions, sizes)) < 1.002 * bound + 16


def test_gaps_longer_than_the_table_are_passed_by_skips() -> None:
    positions, sizes = np.array([0, 99_999, 3_000_000]), [3_000_001]
    body = encode_set(positions, sizes)
    assert decode_set(body, sizes, "X").tolist() == positions.tolist()
    assert len(body) < 4000


def test_the_entropy_bound_is_the_known_one() -> None:
    assert entropy_bytes([50], [100]) == pytest.approx(12.5)
    assert entropy_bytes([0, 7], [10, 7]) == 0.0
    assert entropy_bytes([25, 50], [100, 100]) == pytest.approx(12.5 + 100 * 0.8112781 / 8)


@given(st.integers(0, 2**35 - 1))
def test_a_number_comes_back_as_it_was(value: int) -> None:
    body = write_varint(value)
    assert read_varint(memoryview(body), 0, "X") == (value, len(body))
    for cut in range(len(body)):
        with pytest.raises(WireError, match="X: the body ends"):
            read_varint(memoryview(body[:cut]), 0, "X")


def test_a_number_without_an_end_is_an_error() -> None:
    with pytest.raises(WireError, match="X: a number has more than 5 bytes"):
        read_varint(memoryview(b"\xff" * 100), 0, "X")


@given(universes, st.binary(max_size=60))
def test_any_bytes_are_a_set_or_an_error(sizes: list[int], body: bytes) -> None:
    try:
        positions = decode_set(body, sizes, "X")
    except WireError:
        return
    assert (np.diff(positions) > 0).all()
    assert positions.size == 0 or 0 <= positions[0] <= positions[-1] < sum(sizes)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "ends inside"),
        (b"\x65", "101 positions are claimed"),
        (b"\x00\x01\x02", "4-byte words"),
        (b"\x00\x00\x00\x00\x00", "never 0"),
        (b"\x00\x01\x00\x00\x00", "continues after"),
        (b"\x02\xff\xff\xff\xff", "are outside their layer"),
    ],
)
def test_what_is_malformed_is_named(body: bytes, word: str) -> None:
    with pytest.raises(WireError, match=f"X: .*{word}"):
        decode_set(body, [100], "X")
