"""Sets of positions as bytes, within thousandths of their entropy.

A universe is cut into segments (layers) of known sizes n_l, of which k_l positions are chosen, each segment with a
density of its own. The gaps between neighbours, which are geometric with p = k_l / n_l, are coded in one stream:

    per segment   2 k_l, or 2 k_l + 1 and the number of skips where there are any: varints
    rest          the stream (ans.py): the symbols of every segment with 0 < k_l < n_l, 32-bit words, little-endian

Of A_l = min(4096, 8 floor(n_l / k_l) + 2) symbols the last is a skip: A_l - 1 positions are passed and none is chosen.
Any other, i, passes i positions and chooses the next. A varint is LEB128: seven bits a byte, low ones first, the eighth
says that more follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pffdst.wire.ans import Coder, default_coder, geometric
from pffdst.wire.messages import WireError

__all__ = ["decode_set", "encode_set", "entropy_bytes", "read_varint", "write_varint"]

_LARGEST = 4096
_BYTES = 5  # of a varint below 2^35

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
    """The integer at offset `at`, and the offset after it. WireError naming `name` where there is none."""
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


def encode_set(positions: Positions, sizes: Sequence[int], coder: Coder | None = None) -> bytes:
    """Increasing positions of the universe of `sizes` as bytes."""
    coder = coder or default_coder()
    ends = np.searchsorted(positions, np.cumsum(sizes)).tolist()
    counts = [end - begin for begin, end in itertools.pairwise([0, *ends])]
    numbers, runs, offset = list[bytes](), [], 0
    for size, count, end in zip(sizes, counts, ends, strict=True):
        skips = 0
        if 0 < count < size:
            symbols = _symbols(count, size)
            run = _gaps(positions[end - count : end] - offset, symbols)
            runs.append((run, geometric(count, size, symbols)))
            skips = len(run) - count
        numbers += [write_varint(2 * count + 1), write_varint(skips)] if skips else [write_varint(2 * count)]
        offset += size
    return b"".join((*numbers, coder.encode(runs).astype("<u4").tobytes()))


def _gaps(positions: Positions, symbols: int) -> NDArray[np.int32]:
    """A segment's positions as symbols."""
    gaps = np.diff(positions, prepend=-1) - 1
    skips, rest = np.divmod(gaps, symbols - 1)
    if not skips.any():
        return rest.astype(np.int32)
    run = np.full(len(gaps) + int(skips.sum()), symbols - 1, np.int32)
    run[np.cumsum(skips + 1) - 1] = rest
    return run


def decode_set(body: bytes, sizes: Sequence[int], name: str, coder: Coder | None = None) -> Positions:
    """The other way round. Raises WireError naming `name` where the body is malformed; takes O(universe) memory."""
    coder, view = coder or default_coder(), memoryview(body)
    counts, skips, at = list[int](), list[int](), 0
    for size in sizes:
        number, at = read_varint(view, at, name)
        count, more = number // 2, 0
        if count > size:
            raise WireError(f"{name}: {count} positions are claimed in a layer that has {size}")
        if number % 2:
            more, at = read_varint(view, at, name)
            if not 0 < count < size or count + more * (_symbols(count, size) - 1) > size:
                raise WireError(f"{name}: {more} skips lead past the end of a layer that has {size} positions")
        counts.append(count)
        skips.append(more)
    if (len(body) - at) % 4:
        raise WireError(f"{name}: expected a stream of 4-byte words, but got {len(body) - at} bytes")
    try:
        coder.start(np.frombuffer(view[at:], "<u4").astype(np.uint32))
    except ValueError as error:
        raise WireError(f"{name}: {error}") from error
    found, offset = list[Positions](), 0
    for size, count, more in zip(sizes, counts, skips, strict=True):
        found.append(offset + _decode_segment(size, count, more, name, coder))
        offset += size
    if not coder.exhausted():
        raise WireError(f"{name}: the stream goes on after the last position")
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _decode_segment(size: int, count: int, skips: int, name: str, coder: Coder) -> Positions:
    if count in (0, size):
        return np.arange(count)
    symbols = _symbols(count, size)
    run = coder.decode(count + skips, geometric(count, size, symbols)).astype(np.int64)
    if not skips:
        positions = np.cumsum(run + 1) - 1
        chosen = run < symbols - 1
    else:
        chosen = run < symbols - 1
        positions = np.cumsum(run + chosen)[chosen] - 1
    if len(positions) != count or int(chosen.sum()) != count or positions[-1] >= size:
        raise WireError(f"{name}: the stream's positions do not lie in their layer")
    return positions
