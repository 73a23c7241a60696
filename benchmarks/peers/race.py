"""FedAvg beside its peers, the same work for all, interleaved: one table for cohorts of 20 and one for tiny clients.

    python benchmarks/peers/race.py HOME [--repetitions 3] [--only "ours;bare loop"] [--rounds 13] [--before FOLDER]

HOME is the folder that setup.py filled. LeNet, CIFAR-10, batch 32, 2 epochs: 20 of 400 clients (Dirichlet .1), then
100 of 4,000 clients of 8 samples. Every program is watched from outside: each appends a line to a file when a round is
over, ours to its metrics.csv. Seconds a round are the median of the rounds after the first three, CPU seconds the mean;
the last round, which ours ends with an evaluation, does not count. Start-up is what comes before the end of the
third, less three rounds. Memory is the peak over all processes, shared pages counted once. Ratios are to the fastest
peer of the same repetition, the table has their medians. Leave the machine quiet: two-threaded loops wait for each
other. About half a minute a contender, setting and repetition.
`--before` names another checkout of this repository, which then runs beside this one as "ours, before".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
from common import console, describe, load, rounds_done, write_result  # noqa: E402
from pffdst.runs.files import METRICS  # noqa: E402

TINY = ["partition=drawn", "partition.samples=8", "partition.spread=0", "partition.panel=10"]
SCRIPTS = {
    "BlazeFL": ("v_blazefl", ["run_blazefl.py"]),
    "pfl, one process": ("v_pfl", ["run_pfl.py"]),
    "pfl, two": ("v_pfl", ["-m", "torch.distributed.run", "--nproc-per-node=2", "run_pfl.py"]),
    "Flower": ("v_flwr", ["run_flwr.py"]),
    "bare loop": ("", ["run_bare.py"]),
}
OURS = {"ours": ROOT}  # checkouts of this repository
FIRST = 3  # rounds that do not count: programs warm up


def memory(process: psutil.Process) -> float:
    """Bytes of a process, pages that several share divided among them; 0 where it is gone."""
    try:
        return float(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):
        return 0.0


class Watch:
    """A command's process tree: when its rounds ended, the CPU seconds so far at each look, the peak memory."""

    def __init__(self, marks: Path, head: int) -> None:
        self.marks, self._head = marks, head
        self.ends, self.looks, self.peak = list[float](), list[tuple[float, float]](), 0.0
        self._cpu = dict[tuple[int, float], float]()

    def rounds(self) -> None:
        """Notes the rounds that are over since it was last asked."""
        self.ends += [time.time()] * (rounds_done(self.marks, self._head) - len(self.ends))

    def tree(self, root: psutil.Process, *, memory_too: bool) -> None:
        """A look at all processes; one that ended keeps the CPU seconds of the last."""
        with contextlib.suppress(psutil.Error):
            found = [root, *root.children(recursive=True)]
            for process in found:
                times = process.cpu_times()
                self._cpu[process.pid, process.create_time()] = times.user + times.system
            self.looks.append((time.time(), sum(self._cpu.values())))
            if memory_too:
                self.peak = max(self.peak, sum(map(memory, found)))

    def cpu_at(self, when: float) -> float:
        """CPU seconds up to then, on a straight line between two looks."""
        times, seconds = zip(*self.looks, strict=True)
        return float(np.interp(when, times, seconds))


def watched(command: list[str], env: dict[str, str], cwd: Path, watch: Watch) -> tuple[int, str]:
    """Runs a command to its end; its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=cwd)
        root, looks = psutil.Process(started.pid), 0
        while started.poll() is None:
            watch.rounds()
            if looks % 20 == 0:  # what is looked at runs no faster for it
                watch.tree(root, memory_too=looks % 100 == 0)
            looks += 1
            time.sleep(0.02)
        watch.rounds()
        log.seek(0)
        return started.returncode, log.read()


def command(name: str, home: Path, rounds: int, folder: Path, *, tiny: bool) -> list[str] | None:
    """What runs a contender; None where it is not installed."""
    if name in OURS:
        size = [*TINY, "clients=4000", "cohort=100"] if tiny else ["clients=400", "cohort=20"]
        fixed = [f"rounds={rounds}", f"eval_every={rounds}", "checkpoint_every=1000", "local_epochs=2", "logger=csv"]
        where = [f"dataset.path={os.environ['CIFAR10']}", f"hydra.run.dir={folder}"]
        return [
            sys.executable,
            str(OURS[name] / "train.py"),
            "experiment=lenet_cifar10",
            "method=fedavg",
            *fixed,
            *where,
            *size,
        ]
    venv, script = SCRIPTS[name]
    python = python_of(home / venv) if venv else sys.executable
    return None if python is None else [python, *script[:-1], str(HERE / script[-1]), str(rounds)]


def python_of(venv: Path) -> str | None:
    """The interpreter of an environment that setup.py has finished."""
    return str(venv / "bin" / "python") if (venv / "ready").exists() else None


def versions(home: Path) -> dict[str, dict[str, str]]:
    """What is installed of each peer."""
    found = {}
    for venv, package in (("v_blazefl", "blazefl"), ("v_pfl", "pfl"), ("v_flwr", "flwr")):
        if (python := python_of(home / venv)) is not None:
            asked = f"from importlib.metadata import version as v; print(v('{package}'), v('torch'))"
            said = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout
            found[package] = dict(zip((package, "torch"), said.split(), strict=True))
    return found


def played(name: str, home: Path, rounds: int, *, tiny: bool) -> dict[str, Any] | None:
    """Seconds a round of one contender, start-up, memory and accuracy; None where it is not installed or fails."""
    env = {**os.environ, "PEERS": str(home), "PYTHONWARNINGS": "ignore"} | ({"TINY": "1"} if tiny else {})
    with tempfile.TemporaryDirectory(prefix="pffdst-race-") as scratch:
        folder = Path(scratch) / "run"
        line = command(name, home, rounds, folder, tiny=tiny)
        if line is None:
            return None
        watch = Watch(folder / METRICS, 1) if name in OURS else Watch(Path(scratch) / "marks", 0)
        own = {"PYTHONPATH": str(OURS[name] / "src")} if name in OURS else {"MARKS": str(watch.marks)}
        began = time.time()
        code, log = watched(line, env | own, OURS.get(name, home), watch)
        if code or len(watch.ends) != rounds:
            print(f"{name}: exit code {code}, {len(watch.ends)} of {rounds} rounds\n{log[-800:]}", flush=True)
            return None
        found = re.findall(r'"acc": ([\d.]+)', log)
        accuracy = json.loads((folder / "summary.json").read_text())["acc_global"] if name in OURS else found[-1]
    counted = watch.ends[FIRST - 1 : -1]
    first, last = counted[0], counted[-1]
    seconds = [b - a for a, b in pairwise(counted)]
    wall, cpu = median(seconds), (watch.cpu_at(last) - watch.cpu_at(first)) / len(seconds)
    figures = {"wall_s": wall, "wall_all": [round(each, 3) for each in seconds], "cpu_s": cpu}
    return figures | {
        "start_s": first - began - FIRST * wall,
        "peak_gb": watch.peak / 1e9,
        "accuracy": float(accuracy),
    }


def with_ratios(rows: dict[str, dict[str, Any]]) -> None:
    """Each contender's wall and CPU seconds over those of the fastest peer of this repetition."""
    for key in ("wall_s", "cpu_s"):
        peers = [row[key] for name, row in rows.items() if name not in (*OURS, "bare loop")]
        for row in rows.values():
            row[f"{key[:-2]}_ratio"] = row[key] / min(peers) if peers else float("nan")


def table(title: str, repetitions: list[dict[str, dict[str, Any]]]) -> Table:
    """Medians over the repetitions."""
    shown = Table(title=title)
    columns = ("wall_s", "wall_ratio", "cpu_s", "cpu_ratio", "start_s", "peak_gb", "accuracy")
    for column in ("contender", *columns):
        shown.add_column(column.replace("_", " "))
    for name in dict.fromkeys(name for rows in repetitions for name in rows):
        rows = [each[name] for each in repetitions if name in each]
        shown.add_row(name, *(f"{median(row[column] for row in rows):.3f}" for column in columns))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="CIFAR-10 as parquet")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--only", default="", help="contenders, separated by semicolons: ours;" + ";".join(SCRIPTS))
    parser.add_argument("--before", type=Path, help="another checkout of this repository, to run beside this one")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    chosen = parser.parse_args()
    if chosen.before is not None:
        OURS["ours, before"] = chosen.before.resolve()
    home, names = chosen.home.resolve(), chosen.only.split(";") if chosen.only else [*OURS, *SCRIPTS]
    os.environ["CIFAR10"] = str(chosen.data.resolve())
    result: dict[str, Any] = describe() | {"load": {"before": load()}, "rounds": chosen.rounds}
    result["peers"] = versions(home)
    for tiny, setting in ((False, "20 of 400 clients"), (True, "100 of 4,000 clients of 8 samples")):
        repetitions: list[dict[str, dict[str, Any]]] = []
        for repetition in range(chosen.repetitions):
            rows: dict[str, dict[str, Any]] = {}
            for name in names:
                row = played(name, home, chosen.rounds, tiny=tiny)
                if row is not None:
                    rows[name] = row
                    print(json.dumps({"setting": setting, "repetition": repetition, "name": name} | row), flush=True)
            with_ratios(rows)
            repetitions.append(rows)
            result[setting] = repetitions
            write_result(chosen.results, "peers", result | {"load_after": load()})
        console().print(table(setting, repetitions))


if __name__ == "__main__":
    main()
