"""A federation on this machine from nothing, one run on it, and the same run in simulation beside it."""

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

from pffdst.cli.train import configs
from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.deploy.local import Federation
from pffdst.deploy.samples import write_samples
from pffdst.runs.files import METRICS, SUMMARY

__all__ = ["demo"]

_NODES: Final = 4
_DEFAULT: Final = ("method=pffdst", "rounds=20", "eval_every=5", "checkpoint_every=5", "logger=csv", "profile=true")


def demo(folder: Path, overrides: Sequence[str], nodes: int = _NODES) -> int:
    """Certificates, a SuperLink, nodes with samples of their own, a run; gives the exit code.

    Whatever ends it, Ctrl-C and SIGTERM too, what was started is stopped.
    """
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = [*_DEFAULT, f"clients={nodes}", f"cohort={nodes}", *overrides]
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "run").exists():
        raise UserError(f"{folder} holds a run already: name another folder")
    files = write_samples(compose(asked, configs()), folder / "samples")
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
    print(
        f"everything is stopped again: {time.monotonic() - began:.0f} s in all; now the same in simulation", flush=True
    )
    simulate([*asked, "engine.workers=0"], folder / "simulated")
    return compare(folder / "run", deployed, _summary(folder / "simulated"))


def show(lines: Iterable[str]) -> None:
    """What a run prints, without Flower's own words."""
    for line in lines:
        if "[flwr]" not in line and "[0m" not in line:
            print(line, end="", flush=True)


def simulate(overrides: Sequence[str], folder: Path) -> None:
    """The run of `python train.py OVERRIDES`. UserError where it fails."""
    command = [sys.executable, "-m", "pffdst", "train", *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        raise UserError(f"the simulation failed: {done.stderr.strip()[-2000:]}")


def compare(run: Path, deployed: Any, simulated: Any) -> int:
    """Prints both runs side by side; 0 where model and bytes are the same."""
    keys = ("model_sha256", "bytes_up", "bytes_down", "acc_global", "ema_acc_global")
    print(f"{'':16} {'deployed':>18} {'simulated':>18}")
    for key in keys:
        print(f"{key:16} {deployed[key]!s:>18.16} {simulated[key]!s:>18.16}")
    with (run / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(f"{'seconds a round':16} {deployed['wall_s'] / len(rows):>18.2f} {simulated['wall_s'] / len(rows):>18.2f}")
    same = all(deployed[key] == simulated[key] for key in keys)
    print("the same model and the same bytes" if same else "NOT THE SAME")
    return 0 if same else 1


def _summary(folder: Path) -> Any:
    path = folder / SUMMARY
    if not path.exists():
        raise UserError(f"the run did not end well; its logs lie in {folder.parent}")
    return json.loads(path.read_text())
