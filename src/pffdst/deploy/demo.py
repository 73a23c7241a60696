"""A complete federation on this machine: one run on it, and the same run in simulation for comparison."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pffdst.core.errors import UserError
from pffdst.deploy.local import Federation
from pffdst.deploy.samples import checked, write_samples
from pffdst.runs.files import METRICS, SUMMARY

__all__ = ["demo"]

_NODES: Final = 4
_DEFAULT: Final = ("method=pffdst", "rounds=20", "eval_every=5", "checkpoint_every=5", "logger=csv", "profile=true")


def demo(folder: Path, overrides: Sequence[str], nodes: int = _NODES) -> int:
    """Creates certificates, starts a SuperLink and nodes with their own samples, and runs; returns the exit code.

    However it ends, also on Ctrl-C and SIGTERM, everything it started is stopped.
    """
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = [*_DEFAULT, f"clients={nodes}", f"cohort={nodes}", *overrides]
    folder = folder.absolute()
    if (folder / "run").exists():
        raise UserError(f"{folder} already contains a run: name another folder")
    files = write_samples(checked(asked), folder / "samples")
    with Federation(folder) as federation:
        for client, file in enumerate(files):
            name = f"client-{client}"
            settings = {"data": str(file), "state": str(folder / f"state-{client}")}
            federation.start_node(name, federation.register(name), settings)
        print(f"SuperLink at {federation.address}, {nodes} nodes: {time.monotonic() - began:.0f} s", flush=True)
        own = [f"hydra.run.dir={folder / 'run'}", f"engine.min_clients={nodes}"]
        with federation.run([*asked, *own]) as run:
            show(run.stdout or ())
    deployed = _summary(folder / "run")
    print(f"everything has stopped after {time.monotonic() - began:.0f} s; now the same run in simulation", flush=True)
    simulate([*asked, "engine.workers=0"], folder / "simulated")
    return compare(folder / "run", deployed, _summary(folder / "simulated"))


def show(lines: Iterable[str]) -> None:
    """Prints a run's output without Flower's own lines."""
    for line in lines:
        if "[flwr]" not in line and "[0m" not in line:
            print(line, end="", flush=True)


def simulate(overrides: Sequence[str], folder: Path) -> None:
    """Runs `python train.py OVERRIDES`. UserError if it fails."""
    command = [sys.executable, "-m", "pffdst", "train", *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        raise UserError(f"the simulation failed: {done.stderr.strip()[-2000:]}")


def compare(run: Path, deployed: Any, simulated: Any) -> int:
    """Prints both runs side by side; returns 0 if model and bytes are the same."""
    keys = ("model_sha256", "bytes_up", "bytes_down", "acc_global", "ema_acc_global")
    print(f"{'':16} {'deployed':>18} {'simulated':>18}")
    for key in keys:
        print(f"{key:16} {deployed[key]!s:>18.16} {simulated[key]!s:>18.16}")
    with (run / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(f"{'seconds/round':16} {deployed['wall_s'] / len(rows):>18.2f} {simulated['wall_s'] / len(rows):>18.2f}")
    same = all(deployed[key] == simulated[key] for key in keys)
    print("the same model and the same bytes" if same else "NOT THE SAME")
    return 0 if same else 1


def _summary(folder: Path) -> Any:
    path = folder / SUMMARY
    if not path.exists():
        raise UserError(f"the run failed; its logs are in {folder.parent}")
    return json.loads(path.read_text())
