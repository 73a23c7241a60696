"""Updates are encoded in threads: whatever the threads share must not care."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pffdst.wire.values import ValueCodec

from pffdst.core.seeding import generator_for

CODECS = sorted((Path(__file__).resolve().parents[2] / "configs" / "codec").glob("*.yaml"))
THREADS, VECTORS, LENGTH = 8, 24, 60_000


@pytest.mark.parametrize("path", CODECS, ids=lambda path: path.stem)
def test_eight_threads_write_and_read_what_one_does(path: Path) -> None:
    codec: ValueCodec = instantiate(OmegaConf.load(path))
    vectors = [torch.randn(LENGTH, generator=generator_for(0, "threads", i)) for i in range(VECTORS)]

    def there_and_back(i: int) -> tuple[bytes, bytes]:
        base = vectors[i - 1]
        section = codec.encode(vectors[i], seed=i, base=base)
        return section.body, codec.decode(section, LENGTH, "values", base=base).numpy().tobytes()

    alone = [there_and_back(i) for i in range(VECTORS)]
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(there_and_back, [*range(VECTORS)] * 2)) == alone * 2
