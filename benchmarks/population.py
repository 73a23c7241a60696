"""What a population costs: seconds a round and peak memory, from 10^2 to 10^6 clients.

    python benchmarks/population.py [--data FOLDER]

Plays a few rounds of the LeNet setting on CIFAR-10 with `partition=drawn` and the default engine. Clients have 50
samples on average whatever their number, so that nothing but the number of clients changes from row to row. Seconds are
the median of the rounds after the first; memory is that of all processes, a shared page counted once (memory.py). Needs
Linux.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import ROOT, cifar10_folder, describe, load, write_result
from memory import watch
from pffdst.runs.files import CHECKPOINTS, LAST, METRICS

TARGET = 1.5
ROWS = ((10**2, 20, 8), (10**4, 20, 8), (10**6, 20, 8), (10**6, 1000, 4))
"""Clients, cohort, rounds."""
QUICK = ((10**5, 2, 4),)


def play(clients: int, cohort: int, rounds: int, where: list[str], folder: Path) -> dict[str, Any]:
    """One run, and what it took."""
    own = [f"clients={clients}", f"cohort={cohort}", f"rounds={rounds}", f"eval_every={rounds}"]
    settings = ["experiment=lenet_cifar10", "partition=drawn", "logger=csv", "checkpoint_every=2", *own]
    command = [sys.executable, str(ROOT / "train.py"), *settings, *where, f"hydra.run.dir={folder}"]
    top, _, seconds = watch(command, dict(os.environ))
    with (folder / METRICS).open(newline="") as file:
        times = [float(row["round/seconds"]) for row in csv.DictReader(file)]
    return {
        "clients": clients,
        "cohort": cohort,
        "rounds": rounds,
        "round_s": round(statistics.median(times[1:]), 3),
        "round_s_all": [round(t, 3) for t in times],
        "outside_rounds_s": round(seconds - sum(times), 1),
        "peak_mb": round(top.mb, 1),
        "checkpoint_mb": round((folder / CHECKPOINTS / LAST).stat().st_size / 1e6, 2),
        "run": " ".join(["python train.py", *settings]),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(title="what a population costs")
    for column in ("clients", "cohort", "s a round", "s outside rounds", "peak MB", "checkpoint MB"):
        shown.add_column(column, justify="right")
    for row in rows:
        numbers = (f"{row['round_s']:.2f}", f"{row['outside_rounds_s']:.1f}", f"{row['peak_mb']:.0f}")
        shown.add_row(f"{row['clients']:,}", f"{row['cohort']:,}", *numbers, f"{row['checkpoint_mb']:.1f}")
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="a few rounds on random images: does it run?")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("benchmarks/population.py needs Linux: it reads /proc/PID/smaps_rollup")
    before = load()
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        where = [f"dataset.path={folder}", f"paths.cache={scratch / 'cache'}"]
        quick = ["partition.samples=8", "partition.panel=10", "local_epochs=1"] if chosen.quick else []
        if not chosen.quick:
            play(10, 2, 4, where, scratch / "first")  # decodes the images, which is no cost of a population
        plays = enumerate(QUICK if chosen.quick else ROWS)
        rows = [play(*row, [*where, *quick], scratch / str(number)) for number, row in plays]
    same = [row["peak_mb"] for row in rows if row["cohort"] == rows[0]["cohort"]]
    ratio = round(same[-1] / same[0], 3)
    result = describe() | {"load": {"before": before, "after": load()}, "data": data, "rows": rows}
    console = Console()
    console.print(table(rows))
    console.print(f"memory, most over fewest clients: {ratio:.2f} (target: at most {TARGET})")
    path = write_result(chosen.results, "population", result | {"memory_ratio": ratio, "target": TARGET})
    console.print(f"written to {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
