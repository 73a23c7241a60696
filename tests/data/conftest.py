"""Real data where it is, and small files in the formats that the sources read."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real parquet data sets."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("PFFDST_TEST_DATA", beside))
    if not (folder / "mnist_test.parquet").is_file():
        pytest.skip(f"no real data in {folder}: name a folder with PFFDST_TEST_DATA")
    return folder


@pytest.fixture
def encode() -> Callable[..., bytes]:
    def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        return buffer.getvalue()

    return encoded


@pytest.fixture
def write_shard() -> Callable[..., Path]:
    def write(path: Path, cells: Sequence[Any], labels: Any, struct: bool = True, image: str = "img") -> Path:
        column = pa.array([{"bytes": cell, "path": None} for cell in cells] if struct else list(cells))
        labels = labels if isinstance(labels, pa.Array) else pa.array(list(labels), pa.int64())
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({image: column, "label": labels}), path)
        return path

    return write


@pytest.fixture
def pictures() -> Callable[..., NDArray[np.uint8]]:
    """Random images [n, side, side, 3], or [n, side, side] when grey."""

    def draw(count: int, side: int = 6, grey: bool = False, seed: int = 0) -> NDArray[np.uint8]:
        shape = (count, side, side) if grey else (count, side, side, 3)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return draw
