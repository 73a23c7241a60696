"""What clients that drop out cost: pffdst, feddst and fedavg with 0, 10 and 30 % of them lost.

    python benchmarks/dropout.py [--on lenet_cifar10] [--data FOLDER]
    python benchmarks/dropout.py [--on lenet_cifar10] --render

Half of the lost have not begun to train, half have. On digits three seeds, 48 rounds, 10 of 20 clients a round; on
CIFAR-10 one seed of a brief setting. Accuracies are those of the server average on the pooled test set; the time of a
deployment is that of `time=links` (1 Mbit/s up, 10 down, 10 GFLOP/s). Every run is written as soon as it is done, and
one that is written is not played again. The table is written to docs/availability.md, between its marks; `--render`
does so and plays nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import LENET_BRIEF, ROOT, cifar10_folder, console, describe, load, played, write_result, write_table
from pffdst.metrics.units import format_bytes, format_seconds

METHODS, RATES = ("pffdst", "feddst", "fedavg"), (0.0, 0.1, 0.3)
SETTINGS = {
    "digits": ("experiment=digits", "rounds=48", "eval_every=8", "logger=csv", "engine.workers=0", "time=links"),
    "lenet_cifar10": (*LENET_BRIEF, "eval_every=20", "logger=csv", "engine.workers=0", "time=links"),
}
SEEDS = {"digits": (0, 1, 2), "lenet_cifar10": (0,)}
FIGURES = ("ema_acc_global", "bytes_up", "bytes_down", "lost", "deployment_seconds")
PAGE = ROOT / "docs" / "availability.md"


def losing(rate: float) -> tuple[str, str]:
    """Overrides with which a share `rate` of the clients is lost, as many before as after training."""
    before = rate / 2
    return f"participation.dropout_before={before}", f"participation.dropout_after={(rate - before) / (1 - before)}"


def row(method: str, rate: float, runs: list[dict[str, Any]]) -> list[str]:
    """A line of the table: means over the seeds."""
    means = {name: statistics.mean(one[name] for one in runs) for name in FIGURES}
    accuracies = [100 * one["ema_acc_global"] for one in runs]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(runs) > 1 else ""
    sizes = [format_bytes(means[name]) for name in ("bytes_up", "bytes_down")]
    told = [f"{statistics.mean(accuracies):.2f}{spread}", *sizes, f"{means['lost']:.0f}"]
    return [f"`{method}`", f"{100 * rate:g} %", *told, format_seconds(means["deployment_seconds"])]


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    head = ["method", "lost", "accuracy", "up", "down", "clients lost", "deployed"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(row(r["method"], r["rate"], r["runs"]) for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=list(SETTINGS), default="digits")
    parser.add_argument("--data", type=Path, help="a folder with CIFAR-10 in parquet shards")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--render", action="store_true", help="write the table of the runs that there are, play none")
    parser.add_argument("--quick", action="store_true", help="four rounds of one method and seed; the page stays")
    return parser.parse_args()


def command(on: str) -> str:
    """What all runs have in common."""
    return " ".join(["python train.py", *SETTINGS[on]])


def play(chosen: argparse.Namespace, name: str, rows: list[dict[str, Any]]) -> None:
    """Plays what is not among the `rows` yet, and writes them after each run."""
    settings, before = SETTINGS[chosen.on], load()
    short = ["rounds=4", "clients=6", "cohort=3"] if chosen.quick else []
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as scratch:
        if chosen.on != "digits":
            short += [f"dataset.path={cifar10_folder(chosen.data, Path(scratch), quick=chosen.quick)[0]}"]
        for method, rate in ((m, r) for m in METHODS[: 1 if chosen.quick else None] for r in RATES):
            found = next((r for r in rows if (r["method"], r["rate"]) == (method, rate)), None)
            if found is None:
                found = {"method": method, "rate": rate, "runs": []}
                rows.append(found)
            for seed in SEEDS[chosen.on][len(found["runs"]) : 1 if chosen.quick else None]:
                line = [*settings, f"method={method}", f"seed={seed}", *losing(rate), *short]
                found["runs"].append(played(line, FIGURES))
                told = {"load": {"before": before, "after": load()}, "run": command(chosen.on), "rows": rows}
                write_result(chosen.results, name, describe() | told)


def main() -> None:
    """Plays what is not written yet, prints the table and puts it into the page."""
    chosen = arguments()
    name = "dropout" if chosen.on == "digits" else f"dropout_{chosen.on}"
    kept = chosen.results / f"{name}.json"
    written = json.loads(kept.read_text()) if kept.exists() else {}
    rows: list[dict[str, Any]] = written["rows"] if written.get("run") == command(chosen.on) else []
    if chosen.render and not rows:
        sys.exit(f"{kept} has no runs of the present settings: play them, without --render")
    if not chosen.render:
        play(chosen, name, rows)
    if not chosen.quick:
        write_table(PAGE, f"dropout.py --on {chosen.on}", table(rows))
    console().print(table(rows), markup=False)
    assert all(math.isfinite(one["deployment_seconds"]) for r in rows for one in r["runs"])


if __name__ == "__main__":
    main()
