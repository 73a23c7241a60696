"""The host's work of a round with the training left out: what the server and the clients do around their steps.

    python benchmarks/host.py [--rounds N] [--sparsity S]

FedDST on ResNet-18, sparsity 0.98, 20 of 200 clients, on one thread. Seconds of an ordinary round and of a gradient
round by part: planning and masks (plan), messages down (encode), decoding at the clients (client_decode), choosing what
moves (client_move), updates (client_encode), decoding and summing (absorb), the mean and the server average (conclude),
a row's mask figures (row), and the checkpoint: its seconds and its bytes. What a client trains is made up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table

from common import ROOT, console, describe, load, write_result
from pffdst.build import build
from pffdst.client.inbox import Inbox
from pffdst.client.turn import Trained, answer
from pffdst.config.compose import compose
from pffdst.core.messages import ClientTask, Kept, Update
from pffdst.core.model import GlobalModel
from pffdst.cost.ledger import unpacked
from pffdst.engines.memories import ClientMemories
from pffdst.experiment import Experiment
from pffdst.records import mask_row

TARGETS = {"ordinary_s": 0.08, "gradient_s": 1.0, "checkpoint_mb": 6.0, "checkpoint_s": 0.1}
CHILD = ("client_decode", "client_move", "client_encode")


class Clock(Counter[str]):
    """Adds up the seconds of parts."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self[name] += time.perf_counter() - began  # type: ignore[assignment]


class MadeUp:
    """A client's turn as a rule sees it: weights and gradient are given, nothing is trained."""

    def __init__(self, start: GlobalModel, stage: Any, t: int, weights: torch.Tensor, gradient: torch.Tensor) -> None:
        self.start, self.stage, self.t = start, stage, t
        self._weights, self._gradient = weights, gradient

    def values(self) -> torch.Tensor:
        return self._weights

    def gradient(self, stream: str = "probe") -> torch.Tensor:
        return self._gradient


class Clients:
    """Clients whose training costs nothing: what they trained is what they were sent, and some noise."""

    def __init__(self, experiment: Experiment) -> None:
        self.setup = experiment.setup
        self.memories = ClientMemories(self.setup.clients, self.setup.layout, self.setup.codecs)
        self.inbox = Inbox(self.setup)
        self.draw = torch.Generator().manual_seed(0)
        self.gradient = torch.randn(self.setup.layout.maskable, generator=self.draw)

    def turn(self, task: ClientTask, clock: Clock) -> Update:
        setup = self.setup
        with clock.part("client_decode"):
            received = self.inbox.receive(task, self.memories.of(task.client))
            self.memories.receive(task.client, task.payload)
        start = received.model
        noise = 0.01 * torch.randn(len(start.trained), generator=self.draw)
        model = start.with_trained(start.trained + noise, start.rest + 0.01 * torch.rand(1, generator=self.draw))
        turn = MadeUp(start, setup.stage_of(task.t), task.t, model.weights, self.gradient)
        with clock.part("client_move"):
            measured = [rule.measure(turn) for rule in setup.method]  # type: ignore[arg-type]
        trained = Trained(model, 1.0, 0.5, measured)
        with clock.part("client_encode"):
            payload, _ = answer(setup, task, start, trained, Kept())
        return Update(task.client, payload)


def one_round(experiment: Experiment, clients: Clients, t: int) -> Clock:
    """Plays round t and times its parts."""
    clock, server = Clock(), experiment.server
    with clock.part("plan"):
        now = server.begin(t)
    method, plan = clients.setup.method, now.plan
    epochs, probes = experiment.setup.epochs(t), method.probes(plan.stage, t)
    experiment.ledger.begin(now.planned, epochs=epochs, probes=probes, news=now.news)
    with clock.part("encode"):
        tasks = now.tasks()
    for task in tasks:
        experiment.ledger.down(task)
        update = clients.turn(task, clock)
        with clock.part("absorb"):
            message = unpacked(update.payload)
            experiment.ledger.up(update, message, 7)
            now.absorb(update, message)
    experiment.ledger.end()
    with clock.part("conclude"):
        now.conclude()
    with clock.part("row"):
        mask_row(experiment.server.model, plan, now.record)
    experiment.progress.t = t + 1
    return clock


def checkpoint(experiment: Experiment) -> dict[str, float]:
    """Seconds and megabytes of a checkpoint."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        experiment.save()
        times.append(time.perf_counter() - began)
    size = (experiment.checkpoints / "last.ckpt").stat().st_size
    return {"checkpoint_s": round(median(times), 4), "checkpoint_mb": round(size / 1e6, 2)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=22, help="rounds to play (default: 22, two of them with gradients)"
    )
    parser.add_argument("--sparsity", type=float, default=0.98)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="a small network: does it run?")
    return parser.parse_args()


def settings(chosen: argparse.Namespace) -> list[str]:
    """The run's command line: any images will do, since nothing is trained."""
    width = ["model.width=8", "clients=20", "cohort=4"] if chosen.quick else ["clients=200", "cohort=20"]
    options = ["method=feddst", "model=resnet18", "partition=iid", "engine.exact=true", "logger=csv", "rounds=200"]
    return [*options, *width, f"sparsity={chosen.sparsity}"]


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    before, rounds = load(), 12 if chosen.quick else chosen.rounds
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        experiment = build(compose(settings(chosen), ROOT / "configs"), Path(name), "benchmark")
        experiment.engine.memories = clients_of = ClientMemories(
            experiment.setup.clients, experiment.setup.layout, experiment.setup.codecs
        )
        clients = Clients(experiment)
        clients.memories = clients_of
        found = [one_round(experiment, clients, t) for t in range(rounds)]
        saved = checkpoint(experiment)
    kinds = {"ordinary": found[2:11], "gradient": [found[t] for t in range(1, rounds, 10)]}
    parts = {kind: _medians(rows) for kind, rows in kinds.items()}
    totals = {f"{kind}_s": round(sum(own.values()), 4) for kind, own in parts.items()}
    result = (
        describe() | {"load": {"before": before, "after": load()}, "parts": parts, "targets": TARGETS} | totals | saved
    )
    screen = console()
    screen.print(_table(parts, totals))
    for key, target in TARGETS.items():
        screen.print(f"{key}: {result[key]} (target: at most {target})")
    screen.print(f"written to {write_result(chosen.results, 'host', result)}", soft_wrap=True)


def _medians(rows: list[Clock]) -> dict[str, float]:
    names = ("plan", "encode", *CHILD, "absorb", "conclude", "row")
    return {name: round(median([row[name] for row in rows]), 5) for name in names}


def _table(parts: dict[str, dict[str, float]], totals: dict[str, float]) -> Table:
    table = Table(title="the host's work of a round, FedDST on ResNet-18, one thread, milliseconds")
    table.add_column("part")
    for kind in parts:
        table.add_column(f"{kind} round", justify="right")
    for name in next(iter(parts.values())):
        table.add_row(name, *(f"{1e3 * own[name]:.1f}" for own in parts.values()))
    table.add_row("all", *(f"{1e3 * totals[f'{kind}_s']:.1f}" for kind in parts))
    return table


if __name__ == "__main__":
    main()
