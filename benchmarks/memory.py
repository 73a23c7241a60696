"""Peak memory of a whole run, over all its processes.

    python benchmarks/memory.py [--data FOLDER]

Plays 6 rounds of the LeNet setting (400 clients, CIFAR-10) with the default engine, twice: first with an empty cache of
decoded images, then with a full one. Every 0.2 s the run's processes are looked at:

    PSS  proportional set size: a page that k processes share counts 1/k in each, so a sum counts it once
    RSS  resident set size: a shared page counts in full in every process, so a sum says more than there is

A page of a library or of the images that programs outside the run map too would count for less; such pages are counted
in full. Needs Linux.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import psutil
from rich.table import Table

from common import ROOT, cifar10_folder, console, describe, load, write_result

TARGET_MB = 1200.0
INTERVAL_S = 0.2


@final
@dataclass(frozen=True)
class Process:
    """Memory of one process in MB (1e6 bytes); `private` is the anonymous part of its PSS, its own and forked pages."""

    role: str
    pss: float
    private: float
    file: float
    rss_file: float
    rss: float


@final
@dataclass(frozen=True)
class Sample:
    """All processes of the run at one moment."""

    seconds: float
    processes: tuple[Process, ...]

    @property
    def mb(self) -> float:
        """Memory of the run: the PSS, file pages counted as if no program outside the run mapped them."""
        shared = max(sum(p.file for p in self.processes), max((p.rss_file for p in self.processes), default=0.0))
        return sum(p.private for p in self.processes) + shared

    @property
    def pss(self) -> float:
        return sum(p.pss for p in self.processes)

    @property
    def rss(self) -> float:
        return sum(p.rss for p in self.processes)


def look(root: psutil.Process, began: float) -> Sample:
    """The run's processes now."""
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    found = []
    for process in tree:
        role = "main" if process.pid == root.pid else f"child {process.pid - root.pid:+d}"
        measured = memory_of(process.pid, role)
        if measured is not None:
            found.append(measured)
    return Sample(round(time.monotonic() - began, 2), tuple(found))


def memory_of(pid: int, role: str) -> Process | None:
    """What the kernel says of a process; None where it is gone."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    mb = {row.split(":")[0]: int(row.split()[1]) * 1024 / 1e6 for row in (*rows, *status) if row.endswith(" kB")}
    if "Pss" not in mb or "VmRSS" not in mb:
        return None  # it is ending: its memory is gone, its number is not
    private = mb["Pss_Anon"] + mb["Pss_Shmem"]
    return Process(role, mb["Pss"], private, mb["Pss_File"], mb["RssFile"], mb["VmRSS"])


def watch(command: list[str], environment: dict[str, str]) -> tuple[Sample, Sample, float]:
    """Runs a command to its end; the samples of most memory and of most RSS, and the seconds it took."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        root = psutil.Process(run.pid)
        samples = []
        while run.poll() is None:
            samples.append(look(root, began))
            time.sleep(INTERVAL_S)
        if run.returncode != 0:
            output.seek(0)
            sys.exit(f"the run failed with exit code {run.returncode}:\n{output.read().decode()[-4000:]}")
    return max(samples, key=lambda s: s.mb), max(samples, key=lambda s: s.rss), time.monotonic() - began


def report(top: Sample, rss: Sample, seconds: float) -> dict[str, Any]:
    return {
        "peak_mb": round(top.mb, 1),
        "peak_pss_mb": round(top.pss, 1),
        "peak_rss_sum_mb": round(rss.rss, 1),
        "peak_at_s": top.seconds,
        "seconds": round(seconds, 1),
        "processes": [
            {"role": p.role, "pss_mb": round(p.pss, 1), "private_mb": round(p.private, 1), "rss_mb": round(p.rss, 1)}
            for p in top.processes
        ],
    }


def table(runs: dict[str, Any]) -> Table:
    shown = Table(title="memory at the peak, MB (1e6 bytes)")
    for column in ("run", "process", "PSS", "of it private", "RSS"):
        shown.add_column(column, justify="left" if column in ("run", "process") else "right")
    for name, run in runs.items():
        for row in run["processes"]:
            shown.add_row("", row["role"], *(f"{row[key]:.0f}" for key in ("pss_mb", "private_mb", "rss_mb")))
        totals = (f"{run['peak_pss_mb']:.0f}", "", f"{run['peak_rss_sum_mb']:.0f}")
        shown.add_row(name, f"all: {run['peak_mb']:.0f} (at {run['peak_at_s']:.0f} s)", *totals, end_section=True)
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="four rounds on a few random images, once: does it run?")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("benchmarks/memory.py needs Linux: it reads /proc/PID/smaps_rollup")
    before = load()
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        settings = ["experiment=lenet_cifar10", "logger=csv", "rounds=6", "eval_every=2"]
        if chosen.quick:
            settings = ["experiment=lenet_cifar10", "logger=csv", "rounds=4", "clients=8", "cohort=2", "local_epochs=1"]
        environment = os.environ | {"PFFDST_CACHE": str(scratch / "cache")}
        for run in ("cold cache",) if chosen.quick else ("cold cache", "warm cache"):
            where = [f"dataset.path={folder}", f"hydra.run.dir={scratch / run.split()[0]}"]
            command = [sys.executable, str(ROOT / "train.py"), *settings, *where]
            runs[run] = report(*watch(command, environment))
    result = describe() | {
        "run": " ".join(["python train.py", *settings]),
        "load": {"before": before, "after": load()},
        "data": data,
        "target_mb": TARGET_MB,
        "runs": runs,
    }
    screen = console()
    screen.print(table(runs))
    peak = max(run["peak_mb"] for run in runs.values())
    screen.print(f"peak: {peak:.0f} MB (target: at most {TARGET_MB:.0f} MB)")
    screen.print(f"written to {write_result(chosen.results, 'memory', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
