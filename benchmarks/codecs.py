"""What a codec costs in accuracy and saves in bytes: PFFDST on LeNet and CIFAR-10, 60 rounds, sparsity 0.8.

    python benchmarks/codecs.py [--data FOLDER] [--runs FOLDER]

Plays fp32 and int8 over three seeds, bf16 and int4 over one. Runs that are done in the folder of runs are not played
again, so it can be stopped and started. The ratio is measured bytes over the papers' formula with the frozen weights'
first download.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.table import Table

from common import ROOT, cifar10_folder, console, describe, write_result
from pffdst.runs.files import CHECKPOINTS, LAST, SUMMARY

SEEDS = {"fp32": (0, 1, 2), "int8": (0, 1, 2), "bf16": (0,), "int4": (0,)}
ACCURACIES = {"last_5": "last5_acc_global", "average": "ema_acc_global", "last": "acc_global"}


def summary_of(codec: str, seed: int, settings: list[str], runs: Path) -> dict[str, Any]:
    """The summary of a run, which is played unless it is there."""
    folder = runs / f"{codec}_{seed}"
    if not (folder / SUMMARY).exists():
        print(f"playing {codec}, seed {seed}, in {folder}", flush=True)
        own = [f"codec={codec}", f"seed={seed}", f"hydra.run.dir={folder}", "logger=csv"]
        if (folder / CHECKPOINTS / LAST).exists():
            own.append("resume=true")
        elif folder.exists():
            shutil.rmtree(folder)  # stopped before its first checkpoint
        run = subprocess.run(
            [sys.executable, "train.py", *settings, *own], cwd=ROOT, check=False, stdout=subprocess.DEVNULL
        )
        if run.returncode != 0:
            sys.exit(f"the run in {folder} failed with exit code {run.returncode}")
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    return summary


def row(codec: str, seed: int, summary: dict[str, Any]) -> dict[str, Any]:
    sent = summary["bytes_up"] + summary["bytes_down"]
    return {
        "codec": codec,
        "seed": seed,
        **{name: round(100 * summary[key], 2) for name, key in ACCURACIES.items()},
        "up_mb": round(summary["bytes_up"] / 1e6, 1),
        "down_mb": round(summary["bytes_down"] / 1e6, 1),
        "of_paper_bytes": round(sent / (summary["paper_bytes"] + summary["frozen_bytes"]), 4),
    }


def against_exact(rows: list[dict[str, Any]], codec: str) -> dict[str, float]:
    """Mean over the seeds of how many points a codec lies above fp32."""
    exact = {r["seed"]: r for r in rows if r["codec"] == "fp32"}
    own = [r for r in rows if r["codec"] == codec]
    return {name: round(statistics.mean(r[name] - exact[r["seed"]][name] for r in own), 2) for name in ACCURACIES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--runs", type=Path, default=ROOT / "logs" / "codecs", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="four rounds of four clients on random images")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        settings = ["experiment=lenet_cifar10", f"dataset.path={folder.resolve()}", "rounds=60", "sparsity=0.8"]
        if data != "CIFAR-10":
            settings.append(f"paths.cache={scratch}")
        if chosen.quick:
            settings += ["rounds=4", "clients=4", "cohort=2", "local_epochs=1", "engine.workers=0"]
        runs = (scratch if chosen.quick else chosen.runs).resolve()
        seeds = {"fp32": (0,), "int4": (0,)} if chosen.quick else SEEDS
        with ThreadPoolExecutor(len(seeds) if chosen.quick else 1) as pool:
            cells = [(codec, seed) for codec, own in seeds.items() for seed in own]
            found = pool.map(lambda cell: summary_of(cell[0], cell[1], settings, runs), cells)
            rows = [row(codec, seed, summary) for (codec, seed), summary in zip(cells, found, strict=True)]
    result = describe() | {
        "run": " ".join(["python train.py", *(s for s in settings if not s.startswith("dataset.path"))]),
        "data": data,
        "rows": rows,
        "points_over_fp32": {codec: against_exact(rows, codec) for codec in seeds if codec != "fp32"},
    }
    shown = Table(title="codecs, PFFDST, LeNet on CIFAR-10 (accuracies in percent, pooled test set)")
    for column in rows[0]:
        shown.add_column(column.replace("_", " "), justify="left" if column == "codec" else "right")
    for one in rows:
        shown.add_row(*map(str, one.values()))
    screen = console()
    screen.print(shown)
    for codec, points in result["points_over_fp32"].items():
        screen.print(f"{codec} over fp32, points: " + ", ".join(f"{name} {p:+.2f}" for name, p in points.items()))
    screen.print(f"written to {write_result(chosen.results, 'codecs', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
