"""Where the time of a tiny client goes, and what a dense message costs by part.

    python benchmarks/tiny_client.py [--data FOLDER]      about a minute, one thread, no workers

FedAvg on LeNet, cohorts of 100 clients of 8 samples, two steps each. CPU milliseconds a client, the median of the
rounds, by part: what it costs beside its steps is set against one step of 8 samples. Then the parts of one dense
message: the least of many repetitions, at s=0 and s=0.9.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.table import Table

from common import ROOT, cifar10_folder, console, describe, load, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment
from pffdst.run import play_round
from pffdst.wire.codecs import base
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.frame import Kind, Message, pack, unpack

# what is watched: where it lies, and what it is called in the table; a part's time is its own, without those inside it
PARTS = {
    "pffdst.client.turn:ClientSetup.indices": "samples drawn",
    "pffdst.client.turn:ClientWork._batches": "batches",
    "pffdst.client.inbox:Inbox.receive": "message read",
    "pffdst.client.turn:seeded_global_state": "draws seeded",
    "pffdst.client.turn:Turn.__init__": "turn",
    "pffdst.client.module:ClientModule.begin": "model loaded",
    "pffdst.client.module:ClientModule.configure_optimizers": "optimizer",
    "pffdst.engines.fabric_loop:local_step": "steps",
    "pffdst.engines.fabric_loop:epochs": "loop",
    "pffdst.client.module:ClientModule.trained": "model read",
    "pffdst.client.turn:answer": "update coded",
    "pffdst.engines.base:Engine.run": "engine",
    "pffdst.engines.memories:ClientMemories.receive": "memory kept",
    "pffdst.cost.ledger:unpack": "update unpacked",
    "pffdst.cost.ledger:Ledger.up": "bill",
    "pffdst.server.round:decode_uplink": "update decoded",
    "pffdst.methods.aggregation:RunningMean.add": "update summed",
    "pffdst.server.round:Round.conclude": "mean",
    "pffdst.server.server:Server.begin": "plan",
    "pffdst.run:release_free_memory": "memory given back",
}
TINY = ["partition=drawn", "partition.samples=8", "partition.spread=0", "partition.panel=10", "local_epochs=2"]


class Watch:
    """CPU seconds of each part without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stack: list[float] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.process_time()
        self._stack.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - began
            self.seconds[name] += spent - self._stack.pop()  # type: ignore[assignment]
            if self._stack:
                self._stack[-1] += spent

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return real(*args, **kwargs)

        return call


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Every part reports to the watch."""
    with contextlib.ExitStack() as stack:
        for where, name in PARTS.items():
            module, _, path = where.partition(":")
            owner: Any = importlib.import_module(module)
            *outer, last = path.split(".")
            for step in outer:
                owner = getattr(owner, step)
            if name not in ("draws seeded", "engine"):  # a context and a generator: what they take is the rest
                stack.enter_context(patch.object(owner, last, watch.around(name, getattr(owner, last))))
        yield


def clients(settings: list[str], rounds: int) -> dict[str, float]:
    """CPU milliseconds a client by part: medians over the rounds after the first."""
    cfg = compose([*settings, f"rounds={rounds + 2}", "engine.workers=0", "logger=csv"], ROOT / "configs")
    found: list[Counter[str]] = []
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as folder:
        experiment: Experiment = build(cfg, Path(folder), "benchmark")
        with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
            loggers.open(experiment.info, None)
            play_round(experiment, 0)
            for t in range(1, rounds + 1):
                watch = Watch()
                with watched(watch), watch.part("the rest"):
                    play_round(experiment, t)
                found.append(watch.seconds)
    names = sorted({name for one in found for name in one}, key=lambda n: -median(one[n] for one in found))
    return {name: 1e3 * median(one[name] for one in found) / cfg.cohort for name in names}


def least(work: Callable[[], Any], repetitions: int) -> float:
    """CPU milliseconds of the fastest repetition."""
    times = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def message(count: int, repetitions: int) -> dict[str, float]:
    """CPU milliseconds by part of an update of `count` weights that changed a little, there and back."""
    draw = torch.Generator().manual_seed(0)
    held = 0.05 * torch.randn(count, generator=draw)
    values = held + 1e-4 * torch.randn(count, generator=draw)
    codec = Float32()
    form, _, planes = codec.write(values, held, 0)
    section = codec.encode(values, base=held)
    payload = pack(Message(Kind.UPLINK, 0, 0, 0, {2: section}))
    sums = torch.zeros(count, dtype=torch.float64)
    read = base.split_planes(section.body, 0, [count] * 4, packed=True)

    def unpacked() -> None:
        base.split_planes(section.body, 0, [count] * 4, packed=True)

    parts = {
        "values to planes": lambda: codec.write(values, held, 0),
        "planes compressed, joined": lambda: base.pack_planes(b"", planes, 1, repeats=False),
        "framed and hashed": lambda: pack(Message(Kind.UPLINK, 0, 0, 0, {2: section})),
        "frame read and hashed": lambda: unpack(payload),
        "planes unpacked": unpacked,
        "planes to values": lambda: codec.read(form, b"", read, count, held),
        "finite": lambda: np.isfinite(values.numpy()).all(),
        "summed": lambda: sums.add_(values, alpha=8),
    }
    times = {name: least(work, repetitions) for name, work in parts.items()}
    return times | {"all": sum(times.values()), "bytes": float(len(payload))}


def table(title: str, rows: dict[str, float]) -> Table:
    shown = Table(title=title)
    shown.add_column("part")
    shown.add_column("CPU ms", justify="right")
    for name, value in rows.items():
        shown.add_row(name, f"{value:,.0f}" if name == "bytes" else f"{value:.3f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="few clients and repetitions: does it run?")
    chosen = parser.parse_args()
    logging.getLogger("pffdst").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    before, screen = load(), console()
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        folder, data = cifar10_folder(chosen.data, Path(name), quick=chosen.quick)
        own = [f"dataset.path={folder}", *([] if data == "CIFAR-10" else [f"paths.cache={name}"])]
        size = ["clients=20", "cohort=4"] if chosen.quick else ["clients=4000", "cohort=100"]
        settings = ["experiment=lenet_cifar10", "method=fedavg", *TINY, *own, *size, "eval_every=1000"]
        parts = clients(settings, 1 if chosen.quick else chosen.rounds)
    step, whole = parts["steps"] / 2, sum(parts.values())
    ratio = (whole - parts["steps"]) / step
    repetitions = 2 if chosen.quick else 50
    messages = {name: message(count, repetitions) for name, count in (("dense", 781_770), ("s=0.9", 78_177))}
    screen.print(table(f"a client of 8 samples: {whole:.2f} ms, beside its steps {ratio:.2f} of a step", parts))
    for name, rows in messages.items():
        screen.print(table(f"a message, {name}", rows))
    result = describe() | {"load": {"before": before, "after": load()}, "data": data}
    result |= {"client_ms": parts, "beside_over_a_step": round(ratio, 3), "message_ms": messages}
    screen.print(f"written to {write_result(chosen.results, 'tiny_client', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
