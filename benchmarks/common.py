"""What the benchmarks share: data, the description of machine and code, paired times, the written result.

Nothing here imports torch: pages of a library that this process maps would be shared with the processes it measures.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pffdst.runs.provenance import provenance

__all__ = [
    "LENET_BRIEF",
    "ROOT",
    "cifar10_folder",
    "console",
    "describe",
    "load",
    "paired",
    "played",
    "quartiles",
    "rounds_done",
    "timed",
    "write_result",
    "write_table",
]

ROOT = Path(__file__).resolve().parents[1]
LENET_BRIEF = (
    *("experiment=lenet_cifar10", "partition.alpha=1", "sparsity=0.9", "lr=0.03"),
    *("cohort=10", "local_epochs=1", "rounds=40"),
)
"""The paper's network and clients in half a minute a run: at its Dirichlet 0.1 nothing learns in so few rounds."""

_QUICK, _WHOLE = (400, 100), (50_000, 10_000)  # random training and test images


def cifar10_folder(given: Path | None, scratch: Path, *, quick: bool) -> tuple[Path, str]:
    """A folder with CIFAR-10 in parquet shards, and what the images are: real ones where there are any.

    Looks in `given`, else beside the repository; without CIFAR-10 there, or for a `quick` run, writes random images
    under `scratch`.
    """
    folder = given if given is not None else ROOT.parent / "shared" / "data"
    if not quick and any(folder.glob("cifar10_train*.parquet")):
        return folder, "CIFAR-10"
    if given is not None and not quick:
        sys.exit(f"{given} holds no cifar10_train*.parquet: name another folder, or none for random images")
    for split, count in zip(("train", "test"), _QUICK if quick else _WHOLE, strict=True):
        _write_random(scratch / f"cifar10_{split}.parquet", count)
    return scratch, "random images"


def _write_random(path: Path, count: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    generator = np.random.default_rng(0)
    cells = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "BMP")
        cells.append({"bytes": buffer.getvalue()})
    labels = pa.array(generator.integers(0, 10, count))
    pq.write_table(pa.table({"img": pa.array(cells), "label": labels}), path)


# ---- paired times --------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(base: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Seconds of `base` and, right after it, of `other`: what slows the machine for a while slows both."""
    return timed(base), timed(other)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def console() -> Console:
    """A console that cuts no table short where the output is a file or a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=160)


# ---- where and with what -------------------------------------------------------------------------------------------


def load() -> list[float]:
    """Load average over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def describe() -> dict[str, Any]:
    """Machine, versions, command, date and commit: what a reader needs to run it again."""
    return provenance([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def write_result(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes `result` as `name`.json and gives the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def write_table(page: Path, mark: str, table: str) -> None:
    """Puts a table into a page of docs, between the lines `<!-- mark -->` and `<!-- end -->`."""
    begin, end = f"<!-- {mark} -->\n", "<!-- end -->"
    head, _, rest = page.read_text().partition(begin)
    page.write_text(head + begin + table + end + rest.partition(end)[2])


# ---- whole runs ----------------------------------------------------------------------------------------------------


def rounds_done(rows: Path, head: int = 1) -> int:
    """Lines of a run's metrics.csv below its head; 0 where there is no such file yet."""
    with contextlib.suppress(OSError):
        return max(0, rows.read_bytes().count(b"\n") - head)
    return 0


def played(line: Sequence[str], figures: Sequence[str]) -> dict[str, Any]:
    """Those of the summary's figures that there are, of a run that is played here and leaves nothing."""
    from pffdst.build import build
    from pffdst.config.compose import compose
    from pffdst.config.overrides import preflight
    from pffdst.run import run

    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as folder, contextlib.redirect_stdout(io.StringIO()):
        configured = compose(preflight(line, ROOT / "configs"), ROOT / "configs")
        summary = run(build(configured, Path(folder), "benchmark"))
    return {name: summary[name] for name in figures if name in summary}
