"""Every method on one setting: accuracy, measured bytes by part, FLOPs and seconds.

    python benchmarks/methods.py [OVERRIDE ...] [--methods NAME ...]

Plays `method=NAME rounds=60 eval_every=5` on digits, one after the other in this process, with the overrides given on
the command line. The average is the server's. Accuracy is in %, bytes are those of all messages, up and down, and their
parts; FLOPs are those of all clients. One seed says nothing of a rank between neighbours.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from common import ROOT, console, describe, load, write_result
from pffdst.build import build
from pffdst.config.compose import Session, session
from pffdst.core.errors import UserError
from pffdst.run import run

PARTS = ("values", "dense", "mask", "frozen", "signals", "header", "catch_up")
SETTING = ("rounds=60", "eval_every=5", "logger=csv", "checkpoint_every=1000")
QUICK = ("rounds=4", "eval_every=2", "clients=4", "cohort=2", "local_epochs=1")


def play(opened: Session, name: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    """One run, and what it came to; what stands against it, where it cannot be run."""
    folder.mkdir()
    try:
        cfg = opened.compose([*SETTING, f"method={name}", *overrides, "engine.workers=0"]).cfg
        found = run(build(cfg, folder, "benchmark"))
    except UserError as error:
        return {"method": name, "problem": str(error)}
    return {
        "method": name,
        "acc": round(100 * found["acc_global"], 2),
        "average": round(100 * found["ema_acc_global"], 2),
        "alive": found["alive"],
        "sparsity": found["sparsity"],
        "rounds": found["rounds"],
        "up_mb": round(found["bytes_up"] / 1e6, 3),
        "down_mb": round(found["bytes_down"] / 1e6, 3),
        "parts_mb": {p: round((found[f"bytes_up_{p}"] + found[f"bytes_down_{p}"]) / 1e6, 3) for p in PARTS},
        "gflop": round(found["flops"] / 1e9, 1),
        "rejected": found["rejected"],
        "seconds": round(found["wall_s"], 1),
        "model_sha256": found["model_sha256"],
    }


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(title="every method on one setting")
    for column in ("method", "acc %", "average %", "alive", "up MB", "down MB", *PARTS, "GFLOP", "s"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        if "problem" in row:
            shown.add_row(row["method"], row["problem"])
            continue
        parts = (f"{row['parts_mb'][part]:.2f}" for part in PARTS)
        numbers = (row["acc"], row["average"], f"{row['alive']:,}", row["up_mb"], row["down_mb"])
        shown.add_row(row["method"], *map(str, numbers), *parts, str(row["gflop"]), str(row["seconds"]))
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of every run, such as sparsity=0.9 seed=1")
    parser.add_argument("--methods", nargs="+", help="these alone (default: all of configs/method)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="four rounds: does it run?")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    logging.getLogger("pffdst").setLevel(logging.ERROR)
    before, screen, rows = load(), console(), list[dict[str, Any]]()
    overrides = [*(QUICK if chosen.quick else ()), *chosen.overrides]
    with session(ROOT / "configs") as opened, tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as scratch:
        for name in chosen.methods or opened.options("method"):
            rows.append(play(opened, name, overrides, Path(scratch) / name))
    screen.print(table(rows))
    result = describe() | {"load": {"before": before, "after": load()}, "overrides": overrides, "rows": rows}
    screen.print(f"written to {write_result(chosen.results, 'methods', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
