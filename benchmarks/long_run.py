"""Whether a run of many rounds stays as it began: memory, open files, threads, checkpoint, seconds a round.

    python benchmarks/long_run.py [--rounds 1000] [--workers 1]

Plays PFFDST in one stage, its mask moving to the end, with LeNet on random images of CIFAR-10's size: 60 clients of
about 8 samples, 6 a round, some of them lost or late by a model of time. Every 0.5 s all processes of the run are
looked at. Given are the medians of the looks in the first 100 rounds and in the last 100, the first ten rounds left
out, in which libraries load. Needs Linux.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from rich.table import Table

from common import ROOT, cifar10_folder, console, describe, load, rounds_done, write_result
from pffdst.runs.files import CHECKPOINTS, LAST, METRICS

SPAN, WARM = 100, 10  # rounds at each end; first rounds that do not count
GROWTH = {"round_s": 1.5}  # most that a figure of the last rounds may be over that of the first: of a busy machine
USUAL = 1.05  # and of the other figures
LOOK = 0.5  # seconds
SETTINGS = (
    *("experiment=lenet_cifar10", "method=pffdst", "freeze=none", "readjust.schedule.interval=5", "sparsity=0.9"),
    *("readjust.schedule.until=1.0", "partition=drawn", "partition.samples=8", "partition.panel=50"),
    *("clients=60", "cohort=6", "local_epochs=1", "eval_every=50", "checkpoint_every=10", "logger=csv"),
    *("participation.dropout_before=0.1", "participation.dropout_after=0.1", "participation.extra=2"),
    *("time=links", "time.link_spread=1.0", "time.device_spread=1.0"),
)


def look(processes: Sequence[psutil.Process], folder: Path) -> dict[str, float]:
    """All processes together: memory (shared pages once), that of theirs alone; files, threads, the checkpoint."""
    found = {"mb": 0.0, "own_mb": 0.0, "files": 0.0, "threads": 0.0, "processes": 0.0}
    for process in processes:
        with suppress(psutil.Error):
            memory = process.memory_full_info()
            own = {"mb": memory.pss / 1e6, "own_mb": memory.uss / 1e6, "files": process.num_fds()}
            for name, value in (own | {"threads": process.num_threads(), "processes": 1}).items():
                found[name] += value
    with suppress(OSError):
        found["checkpoint_kb"] = (folder / CHECKPOINTS / LAST).stat().st_size / 1e3
    return found


def play(command: list[str], folder: Path) -> list[dict[str, float]]:
    """Runs it to its end; what was seen, each look with its round."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = []
    while run.poll() is None:
        with suppress(psutil.Error):
            main = psutil.Process(run.pid)
            processes = [main, *main.children(recursive=True)]
            seen.append({"round": float(rounds_done(folder / METRICS)), **look(processes, folder)})
        time.sleep(LOOK)
    assert run.stderr is not None
    errors = run.stderr.read().decode()
    if run.returncode != 0:
        sys.exit(errors)
    return seen


def ends(seen: Sequence[dict[str, float]], name: str, rounds: int, span: int) -> tuple[float, float]:
    """The medians of a figure in the first and in the last rounds."""
    first = [s[name] for s in seen if name in s and WARM < s["round"] <= span]
    last = [s[name] for s in seen if name in s and s["round"] > rounds - span]
    return statistics.median(first), statistics.median(last)


def compared(seen: list[dict[str, float]], folder: Path, rounds: int, span: int) -> dict[str, dict[str, float]]:
    """First against last, by figure."""
    with (folder / METRICS).open(newline="") as file:
        rows = [{"round": float(r["round"]), "seconds": float(r["round/seconds"])} for r in csv.DictReader(file)]
    found = {name: ends(seen, name, rounds, span) for name in ("mb", "own_mb", "files", "threads", "checkpoint_kb")}
    found["round_s"] = ends([{**row, "round_s": row["seconds"]} for row in rows], "round_s", rounds, span)
    return {k: {"first": round(a, 4), "last": round(b, 4), "ratio": round(b / a, 4)} for k, (a, b) in found.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1, help="worker processes of engine=fabric")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="60 rounds: does it run?")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    rounds, span = (60, 30) if chosen.quick else (chosen.rounds, SPAN)
    before = load()
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        data, _ = cifar10_folder(None, scratch, quick=True)
        settings = [*SETTINGS, f"rounds={rounds}", f"engine.workers={chosen.workers}"]
        where = [f"dataset.path={data}", f"paths.cache={scratch / 'cache'}", f"hydra.run.dir={scratch / 'run'}"]
        seen = play([sys.executable, str(ROOT / "train.py"), *settings, *where], scratch / "run")
        figures = compared(seen, scratch / "run", rounds, span)
    shown = Table(title=f"first and last {span} of {rounds} rounds")
    for column in ("figure", "first", "last", "ratio"):
        shown.add_column(column, justify="right")
    for figure, row in figures.items():
        shown.add_row(figure, *(f"{row[key]:.4g}" for key in ("first", "last", "ratio")))
    console().print(shown)
    grown = [figure for figure, row in figures.items() if row["ratio"] > GROWTH.get(figure, USUAL)]
    result = {
        "rounds": rounds,
        "span": span,
        "target": {figure: GROWTH.get(figure, USUAL) for figure in figures},
        "figures": figures,
        "grown": grown,
    }
    told = {"load": {"before": before, "after": load()}, "run": " ".join(["python train.py", *settings])}
    path = write_result(chosen.results, "long_run", describe() | told | result)
    console().print(
        f"grown by more than its target: {', '.join(grown) or 'nothing'}; written to {path}", soft_wrap=True
    )


if __name__ == "__main__":
    main()
