"""Asymmetric numeral systems (Duda 2009): symbols under integer probabilities as 32-bit words, and back.

The coder is a stack with a 64-bit state and 32-bit words. A symbol of frequency f and cumulative frequency c, out of
2^24, is pushed by

    if state >> 40 >= f: the state's low word goes to the stack, state >>= 32
    state = (state // f << 24) + c + state % f

and popped by

    q = state mod 2^24; the symbol is the one with c <= q < c + f
    state = f * (state >> 24) + q - c
    if state < 2^32 and words are left: state = state << 32 | the word on top

At the end the state's words follow, low one first, without leading zeros. The package `constriction` does this if it is
installed; without it, the same arithmetic in Python gives the same words, a hundred times slower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

try:
    import constriction
except ImportError:
    constriction = None

__all__ = ["PRECISION", "Coder", "PackageCoder", "PlainCoder", "default_coder", "geometric"]

PRECISION = 24
_ONE = 1 << PRECISION
_FIXED = 31  # binary places of the survival probabilities

Integers = NDArray[np.int64]


def geometric(count: int, size: int, symbols: int) -> Integers:
    """Frequencies [symbols], at least 1, of gaps between `count` of `size` positions; they sum to 2^24.

    Symbol i < symbols - 1 is the gap i, of probability p (1-p)^i with p = count / size; the last is every longer gap.
    Only integers are used, so that two machines get the same table. 0 < count < size.
    """
    survival = np.empty(symbols, np.int64)  # (1-p)^i in units of 2^-31, by doubling
    survival[0], power, filled = 1 << _FIXED, ((size - count) << _FIXED) // size, 1
    while filled < symbols:
        step = min(filled, symbols - filled)
        survival[filled : filled + step] = survival[:step] * power >> _FIXED
        power, filled = power * power >> _FIXED, filled + step
    shares = np.append(survival[:-1] - survival[1:], survival[-1])
    frequencies = 1 + (shares * (_ONE - symbols) >> _FIXED)
    frequencies[0] += _ONE - frequencies.sum()
    return frequencies


class Coder(ABC):
    """Codes runs of symbols, each run under its own frequencies."""

    @abstractmethod
    def encode(self, runs: Iterable[tuple[NDArray[np.int32], Integers]]) -> NDArray[np.uint32]:
        """The words of (symbols, frequencies) in their order."""

    @abstractmethod
    def start(self, words: NDArray[np.uint32]) -> None:
        """Takes words to decode. ValueError if no encoder can have made them."""

    @abstractmethod
    def decode(self, count: int, frequencies: Integers) -> NDArray[np.int32]:
        """The next `count` symbols. Any words decode to something: the caller must check the result."""

    @abstractmethod
    def exhausted(self) -> bool:
        """Whether all that was encoded has been decoded."""


@final
class PackageCoder(Coder):
    """The package's coder, with its tables set to our integers."""

    def __init__(self) -> None:
        self._ans: Any = None

    def encode(self, runs: Iterable[tuple[NDArray[np.int32], Integers]]) -> NDArray[np.uint32]:
        """The words, last run and last symbol first onto the stack."""
        ans = constriction.stream.stack.AnsCoder()
        for symbols, frequencies in reversed(list(runs)):
            ans.encode_reverse(symbols, _categorical(frequencies))
        words: NDArray[np.uint32] = ans.get_compressed()
        return words

    def start(self, words: NDArray[np.uint32]) -> None:
        """Takes words to decode."""
        _check_last(words)
        self._ans = constriction.stream.stack.AnsCoder(words)

    def decode(self, count: int, frequencies: Integers) -> NDArray[np.int32]:
        """The next symbols."""
        symbols: NDArray[np.int32] = self._ans.decode(_categorical(frequencies), count)
        return symbols

    def exhausted(self) -> bool:
        """Whether the stack is empty."""
        return bool(self._ans.is_empty())


def _categorical(frequencies: Integers) -> Any:
    """The package's table of exactly these frequencies.

    It gives every symbol 1 and divides the rest of 2^24 by floating-point weights; integer weights with exactly that
    sum come out unchanged.
    """
    weights = (frequencies - 1).astype(np.float64)
    return constriction.stream.model.Categorical(weights, lazy=False, perfect=False)


@final
class PlainCoder(Coder):
    """The same arithmetic in Python."""

    def __init__(self) -> None:
        self._state, self._words = 0, list[int]()

    def encode(self, runs: Iterable[tuple[NDArray[np.int32], Integers]]) -> NDArray[np.uint32]:
        """The words, last run and last symbol first onto the stack."""
        state, words = 0, list[int]()
        for symbols, frequencies in reversed(list(runs)):
            first = _cumulative(frequencies)
            sizes = frequencies.tolist()
            for symbol in reversed(symbols.tolist()):
                f = sizes[symbol]
                if state >> 40 >= f:
                    words.append(state & 0xFFFFFFFF)
                    state >>= 32
                state = (state // f << PRECISION) + first[symbol] + state % f
        while state:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        return np.array(words, np.uint32)

    def start(self, words: NDArray[np.uint32]) -> None:
        """Takes words to decode."""
        _check_last(words)
        self._state, self._words = 0, words.tolist()
        self._refill()
        self._refill()

    def _refill(self) -> None:
        if self._state < 1 << 32 and self._words:
            self._state = self._state << 32 | self._words.pop()

    def decode(self, count: int, frequencies: Integers) -> NDArray[np.int32]:
        """The next symbols."""
        first = _cumulative(frequencies)
        symbols = np.empty(count, np.int32)
        for i in range(count):
            q = self._state & (_ONE - 1)
            symbol = symbols[i] = bisect_right(first, q) - 1
            self._state = (first[symbol + 1] - first[symbol]) * (self._state >> PRECISION) + q - first[symbol]
            self._refill()
        return symbols

    def exhausted(self) -> bool:
        """Whether the stack is empty."""
        return self._state == 0 and not self._words


def _cumulative(frequencies: Integers) -> list[int]:
    """Where each symbol's share of 2^24 begins, and the end."""
    return [0, *np.cumsum(frequencies).tolist()]


def _check_last(words: NDArray[np.uint32]) -> None:
    if words.size and words[-1] == 0:
        raise ValueError("the last word of a coded stream is never 0")


def default_coder() -> Coder:
    """The package's coder if it is installed, else the plain one."""
    return PlainCoder() if constriction is None else PackageCoder()
