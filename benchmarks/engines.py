"""Whole rounds of every engine against a bare PyTorch loop over the same steps, by network and size of the cohort.

    python benchmarks/engines.py [--data FOLDER] [--pairs N] [--device cpu|cuda]

A sample is a round from the plan to the next model: dispatch, decoding, training, encoding, averaging; not evaluation.
Each comes right after one of the bare loop on the same clients, and figures are ratios within these pairs. On the CPU,
ResNet-18 trains clients of 64 images for one epoch, which is two steps; LeNet, and both networks on CUDA, train the
paper's clients (Dirichlet 0.1). Engines are opened one after another, so that the memory at the peak is their own.
"""

from __future__ import annotations

import argparse
import copy
import gc
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table

from bare import BareLoop
from common import ROOT, cifar10_folder, console, describe, load, paired, quartiles, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment
from pffdst.measure.memory import memory_mb

COHORTS = (1, 5, 20, 50)
NETWORKS = {
    "cpu": {
        "LeNet": ["experiment=lenet_cifar10"],
        "ResNet-18": ["experiment=resnet18_cifar10", "partition=iid", "clients=781", "local_epochs=1"],
    },
    "cuda": {"LeNet": ["experiment=lenet_cifar10"], "ResNet-18": ["experiment=resnet18_cifar10"]},
}
ENGINES = {
    "cpu": {
        "fabric": ["engine=fabric"],
        "batched, on the CPU": ["engine=batched", "engine.device=cpu"],
        "trainer": ["engine=trainer"],
    },
    "cuda": {
        "batched, fp32": ["engine=batched", "engine.device=cuda"],
        "batched, tf32": ["engine=batched", "engine.device=cuda", "engine.precision=tf32"],
        "batched, bf16": ["engine=batched", "engine.device=cuda", "engine.precision=bf16"],
        "fabric": ["engine=fabric", "engine.device=cuda"],
        "trainer": ["engine=trainer", "engine.device=cuda"],
    },
}
QUICK = ["model.width=4"]


def play(experiment: Experiment, t: int) -> None:
    """A round, up to the next model."""
    server = experiment.server
    now = server.begin(t)
    for update in experiment.engine.run(now.tasks()):
        if update.payload is None:
            raise RuntimeError(f"a client did not train: {update.problem}")
        now.absorb(update)
    now.conclude()


def measure(settings: list[str], scratch: Path, pairs: int, untimed: int, device: str) -> dict[str, Any]:
    """One engine on one network and size of cohort: `untimed` pairs to warm up, then those that count."""
    experiment = build(compose(settings, ROOT / "configs"), scratch, "benchmark")
    bare = BareLoop(experiment.setup, copy.deepcopy(experiment.setup.network), device)
    found, memory = [], 0.0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with experiment.engine.open(experiment.setup):
        for t in range(untimed + pairs):
            cohort = experiment.server.begin(t).plan.cohort
            bare_s, s = paired(partial(bare.round, cohort, t), partial(play, experiment, t))
            memory = max(memory, memory_mb())
            if t >= untimed:
                found.append({"bare_s": bare_s, "s": s, "steps": bare.steps(cohort), "samples": bare.samples(cohort)})
    return summarise(found) | {
        "host_mb": round(memory),
        "device_mb": round(torch.cuda.max_memory_allocated() / 1e6) if device == "cuda" else None,
        "pairs": found,
    }


def summarise(found: list[dict[str, float]]) -> dict[str, Any]:
    first, median, third = quartiles([p["s"] / p["bare_s"] for p in found])
    seconds = sum(p["s"] for p in found)
    return {
        "of_bare": round(median, 4),
        "quartiles": [round(first, 4), round(third, 4)],
        "rounds_per_s": round(len(found) / seconds, 3),
        "samples_per_s": round(sum(p["samples"] for p in found) / seconds, 1),
        "bare_samples_per_s": round(sum(p["samples"] for p in found) / sum(p["bare_s"] for p in found), 1),
    }


def table(rows: list[dict[str, Any]], device: str) -> Table:
    shown = Table(title=f"rounds on {device}, time / bare loop")
    for name in ("network", "cohort", "engine"):
        shown.add_column(name)
    for name in ("of bare", "quartiles", "rounds/s", "samples/s", "bare: samples/s", "host MB", "device MB"):
        shown.add_column(name, justify="right")
    for row in rows:
        low, high = row["quartiles"]
        shown.add_row(
            *(str(row[key]) for key in ("network", "cohort", "engine")),
            f"{row['of_bare']:.3f}",
            f"{low:.3f} - {high:.3f}",
            *(f"{row[key]:,.2f}" if key == "rounds_per_s" else f"{row[key]:,.0f}" for key in _RATES),
            f"{row['host_mb']:,}",
            "-" if row["device_mb"] is None else f"{row['device_mb']:,}",
        )
    return shown


_RATES = ("rounds_per_s", "samples_per_s", "bare_samples_per_s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--pairs", type=int, help="pairs per row (default: 3, on the CPU 1 for ResNet-18)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="one pair on a few random images: does it run?")
    return parser.parse_args()


def rows_of(chosen: argparse.Namespace, data: list[str], scratch: Path) -> list[dict[str, Any]]:
    device = chosen.device
    cohorts = COHORTS[1:2] if chosen.quick else COHORTS
    cells = [(n, k, e) for n in NETWORKS[device] for k in cohorts for e in ENGINES[device]]
    rows = []
    for network, cohort, engine in track(cells, "measuring", transient=True):
        pairs = chosen.pairs or (1 if chosen.quick or (network != "LeNet" and device == "cpu") else 3)
        settings = [*NETWORKS[device][network], *ENGINES[device][engine], *data, f"cohort={cohort}", "logger=csv"]
        if chosen.quick:
            settings += ["clients=6", "local_epochs=1", *(["model.width=4"] if network != "LeNet" else [])]
        # a minute of ResNet-18 on a CPU needs no warming up, and has no time for it
        untimed = 0 if chosen.quick or (network == "ResNet-18" and device == "cpu" and cohort > 5) else 1
        found = measure(settings, scratch, pairs, untimed, device)
        rows.append({"network": network, "cohort": cohort, "engine": engine} | found)
        if not chosen.quick:
            gc.collect()
    return rows


def main() -> None:
    chosen = arguments()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: run with --device cpu")
    for name in ("lightning.pytorch", "pffdst"):
        logging.getLogger(name).setLevel(logging.ERROR)
    before = load()
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        where = [f"dataset.path={folder}"] + ([] if data == "CIFAR-10" else [f"paths.cache={scratch}"])
        rows = rows_of(chosen, where, scratch)
    result = describe() | {"load": {"before": before, "after": load()}, "data": data, "rows": rows}
    shown = console()
    shown.print(table(rows, chosen.device))
    name = "engines" if chosen.device == "cpu" else "engines_cuda"
    shown.print(f"written to {write_result(chosen.results, name, result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
