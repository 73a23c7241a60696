"""A deployed run with faults, beside a simulated one whose rounds had the same clients.

One node is killed in round 5 and comes back in round 9; SuperLink and ServerApp are killed in round 12 and the run is
resumed. Then the same rounds are simulated, with the clients left out that were left out, and both are compared.

    python benchmarks/deployed.py FOLDER
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import rounds_done
from pffdst.build import build
from pffdst.cli.train import configs
from pffdst.config.compose import compose
from pffdst.deploy.demo import show
from pffdst.deploy.local import Federation
from pffdst.deploy.samples import write_samples
from pffdst.run import run
from pffdst.runs.files import METRICS
from pffdst.testing import ScriptedEngine

ROUNDS, NODES, GOES, RETURNS, BREAK = 14, 4, 5, 9, 12
_LEFT_OUT = re.compile(r"round (\d+): client (\d+) is left out: (.*)")

Absences = Mapping[int, Sequence[int]]


def overrides() -> list[str]:
    own = ["method=pffdst", f"rounds={ROUNDS}", f"clients={NODES}", f"cohort={NODES}", "logger=csv", "eval_every=1"]
    return [*own, "checkpoint_every=1"]


def wait_for(folder: Path, done: int) -> None:
    """Returns some way into the round after `done` rounds."""
    while rounds_done(folder / METRICS) < done:
        time.sleep(0.1)
    time.sleep(2.0)


def deployed(folder: Path) -> list[str]:
    """The run with its faults; gives what it said."""
    said: list[str] = []

    def listen(lines: Any) -> None:
        def kept() -> Iterator[str]:
            for line in lines:
                said.append(line)
                yield line

        show(kept())

    files = write_samples(compose(overrides(), configs()), folder / "samples")
    settings = [{"data": str(file), "state": str(folder / f"state-{k}")} for k, file in enumerate(files)]
    own = [f"hydra.run.dir={folder / 'run'}", "engine.min_clients=2", "engine.deadline=45", "engine.patience=120"]
    with Federation(folder) as federation:
        keys = [federation.register(f"client-{k}") for k in range(NODES)]
        for k, key in enumerate(keys):
            federation.start_node(f"client-{k}", key, settings[k])
        with federation.run([*overrides(), *own]) as process:
            thread = threading.Thread(target=listen, args=(process.stdout,), daemon=True)
            thread.start()
            wait_for(folder / "run", GOES - 1)
            federation.kill("client-3")
            print(f"# client-3 killed in round {GOES}", flush=True)
            wait_for(folder / "run", RETURNS - 1)
            federation.start_node("client-3", keys[3], settings[3])
            print(f"# client-3 started in round {RETURNS}", flush=True)
            wait_for(folder / "run", BREAK - 1)
            federation.kill("superlink")
            print(f"# SuperLink and ServerApp killed -9 in round {BREAK}", flush=True)
        thread.join(10)
        federation.start_link()
        with federation.run([*overrides(), *own, "resume=true"]) as process:
            listen(process.stdout)
    return said


def absences(said: Sequence[str]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Who was away, and who was lost, by round."""
    away, lost = dict[int, list[int]](), dict[int, list[int]]()
    for line in said:
        if match := _LEFT_OUT.search(line):
            where = away if "nothing is sent" in match[3] else lost
            clients = where.setdefault(int(match[1]) - 1, [])
            if int(match[2]) not in clients:
                clients.append(int(match[2]))
    return away, lost


def main(folder: Path) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = folder.absolute()
    folder.mkdir(parents=True)
    away, lost = absences(deployed(folder))
    print(f"away, by t: {away}\nlost, by t: {lost}")
    (folder / "simulated").mkdir()
    experiment = build(compose(overrides(), configs()), folder / "simulated", "scripted")
    theirs = run(replace(experiment, engine=ScriptedEngine(away, lost)))
    ours = json.loads((folder / "run" / "summary.json").read_text())
    for key in ("model_sha256", "bytes_up", "bytes_down", "rejected", "acc_global"):
        print(f"{key:14} deployed {ours[key]!s:.16}  simulated {theirs[key]!s:.16}")
    return int(ours["model_sha256"] != theirs["model_sha256"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
