"""What faults cost and what defends against what: accuracy, bytes and refused updates of methods under each fault.

    python benchmarks/robustness.py [--on lenet_cifar10] [--rounds R] [--data FOLDER]
    python benchmarks/robustness.py [--on lenet_cifar10] --render

A tenth of the clients has the fault. Every run is written as soon as it is done, and a run that is written is not
played again: started anew, the table goes on. On digits a run takes ten seconds; `--on lenet_cifar10` takes CIFAR-10
and half a minute a run. The table is printed and written to docs/robustness.md; `--render` does so and plays nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import LENET_BRIEF, ROOT, cifar10_folder, describe, played, write_result, write_table

METHODS = ("pffdst", "feddst", "fedavg")
FAULTS = {
    "none": (),
    "not_finite": ("faults=not_finite",),
    "huge": ("faults=huge",),
    "huge, within max_value": ("faults=huge", "faults.value=1e6"),
    "scaled": ("faults=scaled",),
    "sign_flip": ("faults=sign_flip",),
    "shuffled_labels": ("faults=shuffled_labels",),
    "stale": ("faults=stale", "faults.what=update"),
    "truncated": ("faults=truncated",),
    "wrong_samples": ("faults=wrong_samples",),
}
REFUSED = ("not_finite", "huge", "truncated")
DEFENCES = {
    "none": (),
    "bounds": ("aggregation.times_median=1", "aggregation.max_share=0.2"),
    "trimmed mean": ("aggregation=trimmed_mean", "aggregation.trim=0.2"),
    "median": ("aggregation=median",),
}
SETTINGS = {
    "digits": ("rounds=30", "local_epochs=1", "readjust.schedule.interval=2", "partition.alpha=1"),
    "lenet_cifar10": LENET_BRIEF,
}
FIGURES = ("acc_global", "ema_acc_global", "bytes_up", "bytes_down", "rejected", "faults_sent", "faults_accepted")
QUIET = ("logger=csv", "engine.workers=0", "eval_every=1000000", "checkpoint_every=1000000")
PAGE = ROOT / "docs" / "robustness.md"


def keys(methods: Sequence[str], seeds: int) -> Iterator[tuple[str, str, str, int]]:
    """Every run, the plain ones first, and last those under a defence of what is refused without one."""
    every = [(d, f) for d in DEFENCES for f in FAULTS]
    every.sort(key=lambda pair: pair[0] != "none" and pair[1] in REFUSED)
    for seed in range(seeds):
        for defence, fault in every:
            yield from ((method, fault, defence, seed) for method in methods)


def overrides(on: str, method: str, fault: str, defence: str, seed: int, more: Sequence[str]) -> list[str]:
    """The command line of a run, after `python train.py`."""
    setting = [line for line in SETTINGS[on] if not (method == "fedavg" and line.startswith("readjust."))]
    return [f"method={method}", *setting, *FAULTS[fault], *DEFENCES[defence], f"seed={seed}", *more]


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line for each method and fault, accuracy and refused updates under each defence."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows.values():
        found.setdefault((row["method"], row["fault"]), {}).setdefault(row["defence"], []).append(row)
    lines = [f"| method | fault | {' | '.join(DEFENCES)} | faulty updates | refused | MB up |"]
    lines.append("|---" * (5 + len(DEFENCES)) + "|")
    for (method, fault), by in sorted(found.items(), key=lambda item: (METHODS.index(item[0][0]), order(item[0][1]))):
        first = [run["figures"] for run in by.get("none", next(iter(by.values())))]
        sent, refused, up = (mean([f.get(name, 0) for f in first]) for name in ("faults_sent", "rejected", "bytes_up"))
        cells = [accuracy(by[name]) if name in by else "" for name in DEFENCES]
        lines.append(f"| {method} | {fault} | {' | '.join(cells)} | {sent:.0f} | {refused:.0f} | {up / 1e6:.2f} |")
    return "\n".join(lines) + "\n"


def order(fault: str) -> int:
    """Where a fault stands in the table."""
    return list(FAULTS).index(fault)


def accuracy(runs: Sequence[Mapping[str, Any]]) -> str:
    """The mean accuracy of the last models in percent, and the range over seeds where there are some."""
    found = [100 * run["figures"]["acc_global"] for run in runs]
    return f"{mean(found):.1f}" + (f" ({min(found):.1f} - {max(found):.1f})" if len(found) > 1 else "")


def mean(values: Sequence[float]) -> float:
    """Of some."""
    return sum(values) / len(values)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=list(SETTINGS), default="digits")
    parser.add_argument("--rounds", type=int, help="in place of the setting's")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--data", type=Path, help="a folder with CIFAR-10 in parquet shards")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--render", action="store_true", help="write the table of the runs that there are, play none")
    parser.add_argument("--quick", action="store_true", help="two rounds of one method: whether it runs")
    return parser.parse_args()


def play(chosen: argparse.Namespace, name: str, rows: dict[str, Any]) -> None:
    """Plays what is not among the `rows` yet, and writes them after each run."""
    more = [] if chosen.rounds is None else [f"rounds={chosen.rounds}"]
    methods, only = (("fedavg",), 6) if chosen.quick else (chosen.methods, None)
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.on != "digits":
            folder, _ = cifar10_folder(chosen.data, Path(scratch), quick=chosen.quick)
            more += [f"dataset.path={folder}"]
        for method, fault, defence, seed in list(keys(methods, chosen.seeds))[:only]:
            line = overrides(chosen.on, method, fault, defence, seed, [*more, *(("rounds=2",) if chosen.quick else ())])
            key = " ".join(word for word in line if not word.startswith("dataset.path="))
            if key not in rows:
                figures = played([*line, *QUIET], FIGURES)
                rows[key] = {"method": method, "fault": fault, "defence": defence, "seed": seed, "figures": figures}
                write_result(chosen.results, name, {**describe(), "rows": rows})
                print(f"{method}, {fault}, {defence}: {json.dumps(figures)}", flush=True)


def main() -> None:
    """Plays what is not written yet, prints the table and puts it into the page."""
    chosen = arguments()
    logging.disable(logging.WARNING)
    name = "robustness" if chosen.on == "digits" else f"robustness_{chosen.on}"
    kept = chosen.results / f"{name}.json"
    rows: dict[str, Any] = json.loads(kept.read_text())["rows"] if kept.exists() else {}
    if not chosen.render:
        play(chosen, name, rows)
    if not chosen.quick:
        write_table(PAGE, f"robustness.py --on {chosen.on}", table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
