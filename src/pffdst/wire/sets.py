"""Sets of positions as bytes, within thousandths of their entropy.

A universe is divided into segments (layers) of known sizes n_l, with k_l chosen positions each, so every segment has
its own density. The gaps between neighbours, which are geometric with p = k_l / n_l, are coded in one stream:

    per segment   k_l, as a varint
    rest          the stream (ans.py): the symbols of every segment with 0 < k_l < n_l, 32-bit words, little-endian

There are A_l = min(4096, 8 floor(n_l / k_l) + 2) symbols. The last is a skip: it passes A_l - 1 positions and chooses
none. Any other symbol i passes i positions and chooses the next one; a segment ends with its k_l-th choice. In a
balanced set the second half of the segments has the same k_l as the first half, so only the first half is written. A
varint is LEB128: seven bits per byte, low bits first; the eighth bit says that more follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pffdst.wire.ans import Coder, default_coder, geometric
from pffdst.wire.frame import WireError

__all__ = ["decode_set", "encode_set", "entropy_bytes", "read_varint", "write_varint"]

_LARGEST = 4096
_BYTES = 5  # for a varint below 2^35

Positions = NDArray[np.int64]


def entropy_bytes(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """The entropy bound of sets that choose `counts[l]` of `sizes[l]` positions: sum of n H(k / n), in bytes."""
    k, n = np.asarray(counts, np.float64), np.asarray(sizes, np.float64)
    inside = (k > 0) & (k < n)
    k, n = k[inside], n[inside]
    return float((k * np.log2(n / k) + (n - k) * np.log2(n / (n - k))).sum() / 8)


def write_varint(value: int) -> bytes:
    """A non-negative integer as LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(body: memoryview, at: int, name: str) -> tuple[int, int]:
    """The integer at offset `at`, and the offset after it. WireError naming `name` if there is no integer."""
    value = 0
    for i in range(_BYTES):
        if at + i >= len(body):
            raise WireError(f"{name}: the body ends inside a number")
        value |= (body[at + i] & 0x7F) << 7 * i
        if body[at + i] < 0x80:
            return value, at + i + 1
    raise WireError(f"{name}: a number has more than {_BYTES} bytes")


def _symbols(count: int, size: int) -> int:
    return min(_LARGEST, 8 * (size // count) + 2)


def encode_set(
    positions: Positions, sizes: Sequence[int], *, balanced: bool = False, coder: Coder | None = None
) -> bytes:
    """Increasing positions of the universe of `sizes` as bytes. `balanced`: both halves have the same counts."""
    coder = coder or default_coder()
    ends = np.searchsorted(positions, np.cumsum(sizes)).tolist()
    counts = [end - begin for begin, end in itertools.pairwise([0, *ends])]
    runs, offset = [], 0
    for size, count, end in zip(sizes, counts, ends, strict=True):
        if 0 < count < size:
            symbols = _symbols(count, size)
            run = _gaps(positions[end - count : end] - offset, symbols)
            runs.append((run, geometric(count, size, symbols)))
        offset += size
    written = counts[: len(counts) // 2] if balanced else counts
    return b"".join((*map(write_varint, written), coder.encode(runs).astype("<u4").tobytes()))


def _gaps(positions: Positions, symbols: int) -> NDArray[np.int32]:
    """A segment's positions as symbols."""
    gaps = np.diff(positions, prepend=-1) - 1
    skips, rest = np.divmod(gaps, symbols - 1)
    if not skips.any():
        return rest.astype(np.int32)
    run = np.full(len(gaps) + int(skips.sum()), symbols - 1, np.int32)
    run[np.cumsum(skips + 1) - 1] = rest
    return run


def decode_set(
    body: bytes, sizes: Sequence[int], name: str, *, balanced: bool = False, coder: Coder | None = None
) -> Positions:
    """The inverse of `encode_set`. Raises WireError naming `name` if the body is malformed; O(universe) memory."""
    coder, view, at = coder or default_coder(), memoryview(body), 0
    counts = list[int]()
    for _ in range(len(sizes) // 2 if balanced else len(sizes)):
        count, at = read_varint(view, at, name)
        counts.append(count)
    counts *= 2 if balanced else 1
    for size, count in zip(sizes, counts, strict=True):
        if count > size:
            raise WireError(f"{name}: {count} positions are claimed in a layer that has {size}")
    if (len(body) - at) % 4:
        raise WireError(f"{name}: expected a stream of 4-byte words, but got {len(body) - at} bytes")
    try:
        coder.start(np.frombuffer(view[at:], "<u4").astype(np.uint32))
    except ValueError as error:
        raise WireError(f"{name}: {error}") from error
    found, offset = list[Positions](), 0
    for size, count in zip(sizes, counts, strict=True):
        found.append(offset + _decode_segment(size, count, name, coder))
        offset += size
    if not coder.exhausted():
        raise WireError(f"{name}: the stream continues after the last position")
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _decode_segment(size: int, count: int, name: str, coder: Coder) -> Positions:
    """The chosen positions within a segment. Reads at most size / (symbols - 1) skips."""
    if count in (0, size):
        return np.arange(count)
    symbols = _symbols(count, size)
    frequencies, runs, missing, passed = geometric(count, size, symbols), list[Positions](), count, 0
    while missing and passed <= size:
        run = coder.decode(missing, frequencies).astype(np.int64)
        skips = int(np.count_nonzero(run == symbols - 1))
        runs.append(run)
        missing, passed = skips, passed + skips * (symbols - 1)
    run = runs[0] if len(runs) == 1 else np.concatenate(runs)
    chosen = run < symbols - 1
    positions = np.cumsum(run + chosen)
    positions = (positions if len(runs) == 1 else positions[chosen]) - 1
    if missing or positions[-1] >= size:
        raise WireError(f"{name}: the stream's positions are outside their layer")
    return positions
