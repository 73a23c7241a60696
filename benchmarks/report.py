"""How large the comparison page is and how fast it is made and opened, for 50 runs of 350 rounds, some of them damaged.

    python benchmarks/report.py [--runs 50] [--rounds 350] [--chromium PATH]

Opening is timed by headless Chromium itself, from the click to the tables and to the first plot.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from common import ROOT, describe, timed, write_result
from pffdst.report.html import page
from pffdst.report.library import Library
from pffdst.report.payload import payload
from synthetic_runs import DAMAGES, write_run

METHODS = ("pffdst", "feddst", "random_mask", "fedprox_like", "static")
SPARSITIES = (0.9, 0.95)


def write_runs(folder: Path, count: int, rounds: int, every: int) -> None:
    """Good runs and, on top of `count`, one of each damage and one stopped half way."""
    settings = [(m, s, seed) for seed, m, s in product(range(count), METHODS, SPARSITIES)][:count]
    for i, (method, sparsity, seed) in enumerate(settings):
        write_run(folder / str(i), method=method, sparsity=sparsity, seed=seed, rounds=rounds, every=every)
    for i, damage in enumerate(DAMAGES.values()):
        damage(write_run(folder / f"damaged{i}", seed=1000 + i, rounds=rounds, every=every))
    write_run(folder / "stopped", seed=2000, rounds=rounds, every=every, done=rounds // 2)


def measured(folder: Path, scratch: Path, chromium: str | None, repeats: int) -> dict[str, Any]:
    """Seconds and bytes."""
    library = Library([folder])
    first = timed(library.look)
    again = timed(library.look)
    (folder / "0" / "run.json").touch()
    after_one = timed(library.look)
    began = time.perf_counter()
    text = page(payload(library.look()))
    written = time.perf_counter() - began
    path = scratch / "report.html"
    path.write_text(text, encoding="utf-8")
    statuses = [run.status for run in library.look().runs]
    return {
        "folders": len(statuses),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "page_bytes": path.stat().st_size,
        "seconds": {"read": first, "read_again": again, "read_after_one_changed": after_one, "written": written},
        "opened": [opened(path, chromium) for _ in range(repeats)] if chromium is not None else None,
    }


def opened(path: Path, chromium: str) -> dict[str, Any]:
    """Seconds from the navigation to the tables and to the first plot, and what the console said."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1440, "height": 1600})
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(path.as_uri(), wait_until="commit")
        tab.wait_for_selector("#plot-curves .main-svg")
        marks = [f"performance.getEntriesByName('{name}')[0].startTime / 1000" for name in ("tables", "plot-curves")]
        tables, plots = (tab.evaluate(mark) for mark in marks)
        browser.close()
    return {"tables": tables, "plots": plots, "console": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=350)
    parser.add_argument("--every", type=int, default=5, help="rounds between evaluations")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser to time")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="four runs of twenty rounds, no browser")
    chosen = parser.parse_args()
    runs, rounds = (4, 20) if chosen.quick else (chosen.runs, chosen.rounds)
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        folder = Path(name) / "runs"
        write_runs(folder, runs, rounds, chosen.every)
        found = measured(folder, Path(name), None if chosen.quick else chosen.chromium, 3)
    result = describe() | {"runs": runs, "rounds": rounds, "every": chosen.every, **found}
    console = Console(highlight=False)
    console.print(f"{found['folders']} folders of {rounds} rounds: page {found['page_bytes'] / 1e6:.2f} MB")
    console.print(
        ", ".join(f"{words.replace('_', ' ')} {seconds:.2f} s" for words, seconds in found["seconds"].items())
    )
    for what in ("tables", "plots") if found["opened"] else ():
        console.print(f"{what} after {statistics.median(each[what] for each in found['opened']):.2f} s")
    console.print(f"written to {write_result(chosen.results, 'report', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
