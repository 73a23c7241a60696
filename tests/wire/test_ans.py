"""The coder: what goes in comes out, the package and the plain arithmetic agree, tables are integers that fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pffdst.wire import ans
from pffdst.wire.ans import PRECISION, Coder, PackageCoder, PlainCoder, default_coder, geometric

CODERS = (PackageCoder, PlainCoder)
tables = st.tuples(st.integers(2, 10**8), st.floats(0.0, 1.0), st.integers(2, 4096)).map(
    lambda drawn: (max(1, min(drawn[0] - 1, round(drawn[0] * drawn[1]))), drawn[0], drawn[2])
)


@st.composite
def runs(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray]]:
    made = []
    for count, size, symbols in draw(st.lists(tables, max_size=4)):
        frequencies = geometric(count, size, symbols)
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        length = draw(st.integers(0, 60))
        likely = rng.choice(symbols, length, p=frequencies / frequencies.sum())
        any_symbol = rng.integers(0, symbols, length)
        made.append((np.where(rng.random(length) < 0.8, likely, any_symbol).astype(np.int32), frequencies))
    return made


@given(runs())
def test_what_was_coded_comes_back_from_either_coder(given_runs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    package, plain = (coder().encode(given_runs) for coder in CODERS)
    assert package.tolist() == plain.tolist()
    for kind in CODERS:
        coder: Coder = kind()
        coder.start(package)
        for symbols, frequencies in given_runs:
            assert coder.decode(len(symbols), frequencies).tolist() == symbols.tolist()
        assert coder.exhausted()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=12), tables)
def test_any_words_decode_to_the_same_symbols_in_both(words: list[int], table: tuple[int, int, int]) -> None:
    decoded = []
    for kind in CODERS:
        coder: Coder = kind()
        try:
            coder.start(np.array(words, np.uint32))
        except ValueError:
            decoded.append(None)
            continue
        symbols = coder.decode(40, geometric(*table))
        decoded.append((symbols.tolist(), coder.exhausted()))
        assert symbols.min() >= 0
        assert symbols.max() < table[2]
    assert decoded[0] == decoded[1]


@given(tables)
def test_a_table_is_of_positive_integers_that_sum_to_one(table: tuple[int, int, int]) -> None:
    frequencies = geometric(*table)
    assert frequencies.dtype == np.int64
    assert int(frequencies.min()) >= 1
    assert int(frequencies.sum()) == 1 << PRECISION


@pytest.mark.parametrize(("count", "size", "symbols"), [(1, 2, 18), (3, 10, 26), (50, 1000, 162), (7, 20000, 4096)])
def test_a_table_is_geometric(count: int, size: int, symbols: int) -> None:
    p, i = count / size, np.arange(symbols - 1)
    expected = np.append(p * (1 - p) ** i, (1 - p) ** (symbols - 1))
    found = geometric(count, size, symbols) / (1 << PRECISION)
    assert float((expected * np.log2(expected / found)).sum()) < 2e-3 * -math.log2(p)
    assert np.abs(found - expected).max() < symbols / (1 << PRECISION)


def test_without_the_package_the_plain_coder_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(default_coder(), PackageCoder)
    monkeypatch.setattr(ans, "constriction", None)
    assert isinstance(default_coder(), PlainCoder)
