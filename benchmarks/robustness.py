"""What faults cost and what defends against what: accuracy, bytes and refused updates of methods under each fault.

    python benchmarks/robustness.py [--on lenet_cifar10] [--rounds R] [--data FOLDER]

A tenth of the clients has the fault. Every run is written as soon as it is done, and a run that is written is not
played again: started anew, the table goes on. On digits a run takes ten seconds; `--on lenet_cifar10` is the paper's
setting and takes CIFAR-10 and hours. The table is printed as markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, cifar10_folder, describe, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.config.overrides import preflight
from pffdst.run import run

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
    "lenet_cifar10": ("experiment=lenet_cifar10",),
}
FIGURES = ("acc_global", "ema_acc_global", "bytes_up", "bytes_down", "rejected", "faults_sent", "faults_accepted")
QUIET = ("logger=csv", "engine.workers=0", "eval_every=1000000", "checkpoint_every=1000000")


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


def played(line: Sequence[str]) -> dict[str, Any]:
    """The figures of a run, which is played here."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg = compose(preflight([*line, *QUIET], ROOT / "configs"), ROOT / "configs")
        summary = run(build(cfg, Path(folder), "robustness"))
    return {name: summary[name] for name in FIGURES if name in summary}


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
    return "\n".join(lines)


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


def main() -> None:
    """Plays what is not written yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=list(SETTINGS), default="digits")
    parser.add_argument("--rounds", type=int, help="in place of the setting's")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--data", type=Path, help="a folder with CIFAR-10 in parquet shards")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="two rounds of one method: whether it runs")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    name = "robustness" if args.on == "digits" else f"robustness_{args.on}"
    more = [] if args.rounds is None else [f"rounds={args.rounds}"]
    kept = args.results / f"{name}.json"
    rows: dict[str, Any] = json.loads(kept.read_text())["rows"] if kept.exists() else {}
    methods, only = (("fedavg",), 6) if args.quick else (args.methods, None)
    with tempfile.TemporaryDirectory() as scratch:
        if args.on != "digits":
            folder, _ = cifar10_folder(args.data, Path(scratch), quick=args.quick)
            more += [f"dataset.path={folder}"]
        for method, fault, defence, seed in list(keys(methods, args.seeds))[:only]:
            line = overrides(args.on, method, fault, defence, seed, [*more, *(("rounds=2",) if args.quick else ())])
            told = [word for word in line if not word.startswith("dataset.path=")]
            key = " ".join(told)
            if key not in rows:
                figures = played(line)
                rows[key] = {"method": method, "fault": fault, "defence": defence, "seed": seed, "figures": figures}
                write_result(args.results, name, {**describe(), "rows": rows})
                print(f"{method}, {fault}, {defence}: {json.dumps(figures)}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
