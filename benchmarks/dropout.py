"""What clients that drop out cost: pffdst, feddst and fedavg on digits with 0, 10 and 30 % of them lost.

    python benchmarks/dropout.py

Half of the lost have not begun to train, half have. Three seeds, 48 rounds, 10 of 20 clients a round. Accuracies are
those of the server average on the pooled test set; the time of a deployment is that of `time=links` (1 Mbit/s up, 10
down, 10 GFLOP/s). The table is written to docs/availability.md, between its marks.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, console, describe, load, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.metrics.units import format_bytes, format_seconds
from pffdst.run import run

METHODS, RATES, SEEDS = ("pffdst", "feddst", "fedavg"), (0.0, 0.1, 0.3), (0, 1, 2)
SETTINGS = ("experiment=digits", "rounds=48", "eval_every=8", "logger=csv", "engine.workers=0", "time=links")
FIGURES = ("ema_acc_global", "bytes_up", "bytes_down", "lost", "deployment_seconds")
PAGE, BEGIN, END = ROOT / "docs" / "availability.md", "<!-- dropout.py -->\n", "<!-- end -->"


def losing(rate: float) -> tuple[str, str]:
    """Overrides with which a share `rate` of the clients is lost, as many before as after training."""
    before = rate / 2
    return f"participation.dropout_before={before}", f"participation.dropout_after={(rate - before) / (1 - before)}"


def played(overrides: list[str], folder: Path) -> dict[str, Any]:
    """The summary's figures."""
    summary = run(build(compose(overrides, ROOT / "configs"), folder, "dropout"))
    return {name: summary[name] for name in FIGURES}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="four rounds of one method and seed; the page stays")
    chosen = parser.parse_args()
    before, rows = load(), []
    cells = [(m, r) for m in METHODS[: 1 if chosen.quick else None] for r in RATES]
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        for method, rate in cells:
            runs = []
            for seed in SEEDS[: 1 if chosen.quick else None]:
                folder = Path(name) / f"{method}_{rate}_{seed}"
                folder.mkdir()
                quick = ["rounds=4", "clients=6", "cohort=3"] if chosen.quick else []
                runs.append(played([*SETTINGS, f"method={method}", f"seed={seed}", *losing(rate), *quick], folder))
            rows.append({"method": method, "rate": rate, "runs": runs})
    told = {"load": {"before": before, "after": load()}, "run": " ".join(["python train.py", *SETTINGS]), "rows": rows}
    path = write_result(chosen.results, "dropout", describe() | told)
    if not chosen.quick:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(head + BEGIN + table(rows) + END + rest.partition(END)[2])
    console().print(table(rows), markup=False)
    console().print(f"written to {path}", soft_wrap=True)
    assert all(math.isfinite(one["deployment_seconds"]) for r in rows for one in r["runs"])


if __name__ == "__main__":
    main()
