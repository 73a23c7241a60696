"""The server's own work, next to a round: evaluating a model, decoding and averaging a cohort's updates.

    python benchmarks/server.py [--data FOLDER] [--pairs N]

LeNet, 400 clients, cohorts of 20, sparsity 0.8, default engine. Evaluation: the pooled test set in one pass, giving
every client's accuracy too, against a pass over each client's share in turn with a plain loop; both give the same
accuracies. Averaging: of the updates of a round, decoded, against that whole round without evaluation.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table

from common import ROOT, cifar10_folder, console, describe, load, paired, quartiles, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment
from pffdst.methods.aggregation import RunningMean
from pffdst.wire.uplink import Upload, decode_uplink

TARGETS = {"evaluation": 0.45, "averaging": 0.01}
BATCH = 32


@torch.inference_mode()
def per_client(experiment: Experiment) -> list[float]:
    """The accuracy of every client that has test images, each on its own pass."""
    evaluator, network, inputs = experiment.evaluator, experiment.network.module.eval(), experiment.setup.inputs
    normalise = inputs.front(torch.float32, torch.contiguous_format, "cpu")
    accuracies = []
    for client in range(experiment.setup.clients):
        own = (evaluator._owner == client).nonzero().flatten()
        if own.numel() == 0:
            continue
        correct = 0
        for batch in own.split(BATCH):  # type: ignore[no-untyped-call]
            samples, labels = evaluator._test.batch(batch)
            correct += int((network(normalise(samples)).argmax(1) == labels).sum())
        accuracies.append(correct / own.numel())
    network.train()
    return accuracies


def evaluation(experiment: Experiment, pairs: int) -> dict[str, Any]:
    """Pairs of a pass per client and of one pooled pass, after one of each that is not timed."""
    one = experiment.evaluate(experiment.server.model)
    apart = per_client(experiment)
    difference = abs(sum(apart) / len(apart) - one.acc_client_mean)
    if difference > 1e-3:  # a near tie of two classes may fall either way in another memory format
        raise RuntimeError(f"the two ways to evaluate differ by {difference}")
    found = [
        paired(lambda: per_client(experiment), lambda: experiment.evaluate(experiment.server.model))
        for _ in track(range(pairs), "evaluating", transient=True)
    ]
    return summary([{"base_s": base, "s": s} for base, s in found])


def averaging(experiment: Experiment, rounds: int) -> dict[str, dict[str, Any]]:
    """Decoding and averaging of whole rounds, as shares of them, after one round that is not timed."""
    found = [one_round(experiment, t) for t in track(range(rounds + 1), "averaging", transient=True)][1:]
    return {name: summary([{"base_s": f["round"], "s": f[name]} for f in found]) for name in ("decoding", "averaging")}


def one_round(experiment: Experiment, t: int) -> dict[str, float]:
    """Plays round t, then decodes and averages its updates once more; seconds of each."""
    server, payloads = experiment.server, list[tuple[int, bytes]]()
    began = time.perf_counter()
    now = server.begin(t)
    for update in experiment.engine.run(now.tasks()):
        now.absorb(update)
        if update.payload is None:
            raise RuntimeError(f"a client did not train: {update.problem}")
        payloads.append((update.client, update.payload))
    now.conclude()
    played = time.perf_counter()
    uploads = _decoded(experiment, now.sent, t, payloads)
    decoded = time.perf_counter()
    _averaged(now.sent, uploads)
    return {"round": played - began, "decoding": decoded - played, "averaging": time.perf_counter() - decoded}


def _decoded(experiment: Experiment, model: Any, t: int, payloads: list[tuple[int, bytes]]) -> list[Upload]:
    form = experiment.setup.uplink(t)
    return [decode_uplink(body, model, client, t, form) for client, body in payloads]


def _averaged(model: Any, uploads: list[Upload]) -> None:
    mean = RunningMean(model)
    for upload in uploads:
        mean.add(upload)
    mean.result()


def summary(found: list[dict[str, float]]) -> dict[str, Any]:
    first, median, third = quartiles([p["s"] / p["base_s"] for p in found])
    _, seconds, _ = quartiles([p["s"] for p in found])
    return {
        "ratio": round(median, 5),
        "quartiles": [round(first, 5), round(third, 5)],
        "ms": round(1e3 * seconds, 2),
        "pairs": found,
    }


def table(parts: dict[str, Any]) -> Table:
    shown = Table(title="the server's work, LeNet on CIFAR-10, 20 of 400 clients")
    for name in ("what", "against", "ratio", "quartiles", "ms"):
        shown.add_column(name, justify="left" if name in ("what", "against") else "right")
    against = {"evaluation": "a pass per client", "decoding": "the round", "averaging": "the round"}
    for name, part in parts.items():
        low, high = part["quartiles"]
        shown.add_row(name, against[name], f"{part['ratio']:.4f}", f"{low:.4f} - {high:.4f}", f"{part['ms']:.1f}")
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--pairs", type=int, default=7, help="pairs, and rounds (default: 7)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="one pair on a few random images: does it run?")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    before, pairs = load(), 1 if chosen.quick else chosen.pairs
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        settings = ["experiment=lenet_cifar10", "logger=csv", f"dataset.path={folder}"]
        settings += ["clients=8", "cohort=2", "rounds=8", "local_epochs=1"] if chosen.quick else []
        settings += [] if data == "CIFAR-10" else [f"paths.cache={scratch}"]
        experiment = build(compose(settings, ROOT / "configs"), scratch, "benchmark")
        with experiment.engine.open(experiment.setup):
            parts = averaging(experiment, pairs)
        parts = {"evaluation": evaluation(experiment, pairs)} | parts
    result = describe() | {"load": {"before": before, "after": load()}, "data": data, "targets": TARGETS} | parts
    screen = console()
    screen.print(table(parts))
    for part, target in TARGETS.items():
        screen.print(f"{part}: {parts[part]['ratio']:.4f} (target: at most {target})")
    screen.print(f"written to {write_result(chosen.results, 'server', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
