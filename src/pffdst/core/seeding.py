"""Named random draws: every random number of a run has a name, and none comes from a global generator.

A draw is named by the run's seed, a stream ("cohort", "grow", "client", ...) and identifiers such as the round and
the client, so any draw can be made again without the ones before it: that is what makes resuming exact.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

__all__ = ["derive_seed", "generator_for", "seeded_global_state"]


def derive_seed(seed: int, stream: str, *ids: int) -> int:
    """A 63-bit seed that depends on the run's `seed`, the `stream`'s name and every identifier, in order."""
    words = ":".join([str(int(seed)), stream, *(str(int(i)) for i in ids)])
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, stream: str, *ids: int) -> torch.Generator:
    """A fresh CPU generator for one named draw, e.g. `generator_for(seed, "client", round, client)`."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, *ids))


@contextlib.contextmanager
def seeded_global_state(seed: int, stream: str, *ids: int) -> Iterator[None]:
    """Runs code that only knows torch's global generator (layer initialisation) on a named draw.

    The global generator is put back afterwards, so nothing outside sees the draw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, stream, *ids))
        yield
