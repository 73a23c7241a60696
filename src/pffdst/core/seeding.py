"""Named random draws: every random number of a run has a name, and none comes from a global generator.

A draw is named by the run's seed, a stream ("cohort", "grow", "client", ...) and identifiers such as the round and
the client, so any draw can be repeated without the ones before it: this makes resuming exact.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "derive_seed",
    "generator_for",
    "hidden_normals",
    "hidden_uniforms",
    "seeded_global_state",
    "without_replacement",
]

_BLOCK = 1 << 16  # pairs of normal numbers made at a time


def derive_seed(seed: int, stream: str, *ids: int) -> int:
    """A 63-bit seed that depends on the run's `seed`, the `stream`'s name and every identifier, in order."""
    words = ":".join([str(int(seed)), stream, *(str(int(i)) for i in ids)])
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, stream: str, *ids: int) -> torch.Generator:
    """A fresh CPU generator for one named draw, e.g. `generator_for(seed, "client", round, client)`."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, *ids))


def without_replacement(count: int, total: int, below: Callable[[int], int]) -> set[int]:
    """`count` distinct numbers in 0 .. total - 1, all sets equally likely; `below(n)` draws one in 0 .. n - 1.

    Floyd's sampling: as many draws as numbers, and memory only for them, however large the total.
    """
    chosen: set[int] = set()
    for last in range(total - count, total):
        drawn = below(last + 1)
        chosen.add(last if drawn in chosen else drawn)
    return chosen


def hidden_uniforms(count: int, seed: int, block: int = 0) -> NDArray[np.float64]:
    """`count` numbers in [0, 1), 53 bits each, that nobody can tell from others without knowing all of the `seed`.

    They are the output of SHAKE-256. torch's generators are no such draws: they use only 32 bits of their seed, so that
    four billion trials find any draw, and a part of their numbers gives away the others. `block` counts further draws.
    """
    words = np.frombuffer(hashlib.shake_256(f"{int(seed)}:{block}".encode()).digest(8 * count), "<u8")
    found: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def hidden_normals(count: int, seed: int) -> Tensor:
    """`count` standard normal numbers, float64, from `hidden_uniforms` (Box and Muller, 1958)."""
    found = torch.empty(count, dtype=torch.float64)
    for block, at in enumerate(range(0, count, 2 * _BLOCK)):
        pairs = (min(2 * _BLOCK, count - at) + 1) // 2
        radius, angle = hidden_uniforms(2 * pairs, seed, block).reshape(2, pairs)
        radius, angle = np.sqrt(-2 * np.log1p(-radius)), 2 * np.pi * angle
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        found[at : at + 2 * _BLOCK] = torch.from_numpy(both[: count - at])
    return found


@contextlib.contextmanager
def seeded_global_state(seed: int, stream: str, *ids: int) -> Iterator[None]:
    """Runs code that only knows the global generators (layer initialisation, Dropout) on a named draw.

    These are torch's on the CPU and on every CUDA device in use, numpy's and `random`'s. All are restored afterwards,
    so nothing outside is affected.
    """
    generators = _torch_generators()
    states, numpy_state, python_state = [g.get_state() for g in generators], np.random.get_state(), random.getstate()  # noqa: NPY002
    word = derive_seed(seed, stream, *ids)
    for generator in generators:
        generator.manual_seed(word)
    np.random.seed([word & 0xFFFFFFFF, word >> 32])  # noqa: NPY002
    random.seed(word)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _torch_generators() -> list[torch.Generator]:
    """The CPU's generator, and those of CUDA's devices once CUDA is in use."""
    devices = torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    return [torch.default_generator, *devices]
