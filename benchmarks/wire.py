"""Masks as bytes: how near their entropy, how fast, what a change and a seed save, and what share of a round it takes.

    python benchmarks/wire.py [--data FOLDER] [--repetitions N]

Four tables. Full masks of ResNet-18 (11.2 million weights, 21 layers) under two allocations, and changes to such a
mask: bytes over the entropy bound (the sum over layers of n H(k / n)), speed on one thread, the fastest of N.
Readjustments of a real PFFDST run of LeNet, for a client that holds the mask before: as it is sent, without the shared
seed, and as a full mask. The time in which a run codes and decodes, as a share of its rounds, all in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.table import Table

from common import ROOT, cifar10_folder, console, describe, load, timed, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.core.flat import layout_of
from pffdst.core.masks import Move, draw
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.methods.allocation import Erk, Uniform
from pffdst.models.resnet import ResNet18
from pffdst.run import play_round
from pffdst.wire.frame import Section
from pffdst.wire.positions import Coding, Known, decode_positions, encode_move, encode_positions
from pffdst.wire.sets import entropy_bytes

DENSITIES = (0.1, 0.05, 0.02, 0.01, 0.001)
MOVED = (0.01, 0.1, 0.5)
TARGETS = {"mask": 1.005, "mask_at_0.001": 1.03, "change": 1.02, "Mweights_per_s": 100.0, "share_of_round": 0.05}


# ---- masks and changes ---------------------------------------------------------------------------------------------


def fastest(work: Callable[[], object], repetitions: int) -> float:
    return min(timed(work) for _ in range(repetitions))


def coded(mask: Positions, known: Known, bound: float, repetitions: int) -> dict[str, Any]:
    """Size and speed of a mask under what the receiver knows."""
    section = encode_positions(mask, known)
    assert decode_positions(section, known, "mask") == mask
    weights = mask.layout.maskable / 1e6
    return {
        "coding": Coding(section.coding).name.lower(),
        "bytes": len(section.body),
        "bound": round(bound, 1),
        "over_bound": round(len(section.body) / bound, 5),
        "of_bitmap": round(len(section.body) / len(mask.bitmap), 4),
        "encode_Mweights_per_s": round(weights / fastest(lambda: encode_positions(mask, known), repetitions)),
        "decode_Mweights_per_s": round(weights / fastest(lambda: decode_positions(section, known, ""), repetitions)),
    }


def masks(layout: Layout, repetitions: int, densities: tuple[float, ...]) -> dict[str, Any]:
    """Full masks, by allocation and density."""
    nothing, sizes, rows = Positions.none(layout), [e.size for e in layout.layers], {}
    for name, allocation in (("erk", Erk()), ("uniform", Uniform())):
        for density in densities:
            counts = list(allocation.counts(layout, density))
            mask = draw(nothing, counts, 1)
            rows[f"{name} {density:g}"] = coded(mask, Known(nothing), entropy_bytes(counts, sizes), repetitions)
    return rows


def changes(layout: Layout, repetitions: int, densities: tuple[float, ...]) -> dict[str, Any]:
    """A share of the alive positions of an ERK mask dropped and as many others grown."""
    nothing, rows = Positions.none(layout), {}
    for density in densities:
        held = draw(nothing, list(Erk().counts(layout, density)), 1)
        free = held.complement()
        for share in MOVED:
            counts = [min(round(share * k), r) for k, r in zip(held.counts, free.counts, strict=True)]
            dropped, grown = draw(free, counts, 2), draw(held, counts, 3)
            mask, known = held.without(dropped).plus(grown), Known(nothing, held)
            bound = entropy_bytes(counts, held.counts) + entropy_bytes(counts, free.counts)
            row = coded(mask, known, bound, repetitions)
            row["of_full_mask"] = round(row["bytes"] / len(encode_positions(mask, Known(nothing)).body), 3)
            rows[f"{share:.0%} at {density:g}"] = row
    return rows


# ---- readjustments -------------------------------------------------------------------------------------------------


def readjustments(settings: list[str]) -> list[dict[str, Any]]:
    """What each change of a run's mask costs a client that holds the mask before."""
    with experiment_of([*settings, "readjust.schedule.interval=3", "cohort=4", "engine.workers=0"]) as experiment:
        server, rows = experiment.server, list[dict[str, Any]]()
        real, before = server._make, [Positions.none(server.model.layout)]

        def make(move: Any) -> None:
            held = server.model.trainable_at
            real(move)
            if not isinstance(move, Move):
                return
            trainable, frozen, fresh = server.model.trainable_at, server.model.frozen_at, move.dropped is None
            known, unknown = Known(frozen, before[0]), Known(frozen)
            sent = encode_positions(trainable, known, [encode_move(move, held)])
            full = encode_positions(trainable, unknown)
            rows.append(
                {
                    "round": experiment.progress.t,
                    "what": "begin" if fresh else "readjust" if any(move.counts) else "prune",
                    "alive": len(trainable),
                    "dropped": 0 if move.dropped is None else len(move.dropped),
                    "grown": sum(move.counts),
                    "coding": Coding(sent.coding).name.lower(),
                    "sent": _size(sent),
                    "without_seed": _size(encode_positions(trainable, unknown if fresh else known)),
                    "full_mask": _size(full),
                    "bitmap": len(trainable.bitmap),
                    "of_full_mask": round(_size(sent) / _size(full), 4),
                }
            )
            before[0] = trainable

        with patch.object(server, "_make", make):
            for t in range(experiment.rounds):
                play_round(experiment, t)
    return rows


def _size(section: Section) -> int:
    return len(section.body)


# ---- share of a round ----------------------------------------------------------------------------------------------

CODING = {
    "pffdst.server.round": ("Broadcast", "decode_uplink"),
    "pffdst.client.inbox": ("decode_downlink",),
    "pffdst.client.turn": ("encode_uplink",),
    "pffdst.engines.memories": ("remember",),
    "pffdst.wire.downlink": ("Broadcast.payload",),
    "pffdst.cost.ledger": ("parts_of",),
}


def share_of_round(settings: list[str]) -> dict[str, Any]:
    """Seconds in coding and decoding, both ends', over the seconds of the rounds."""
    spent = defaultdict[str, float](float)

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    with contextlib.ExitStack() as stack:
        for module, names in CODING.items():
            for name in names:
                stack.enter_context(_patched(module, name, watched))
        experiment = stack.enter_context(experiment_of([*settings, "engine.workers=0", "eval_every=1000"]))
        seconds = sum(timed(partial(play_round, experiment, t)) for t in range(experiment.rounds))
    return {
        "rounds": experiment.rounds,
        "seconds": round(seconds, 2),
        "coding_s": round(sum(spent.values()), 3),
        "share": round(sum(spent.values()) / seconds, 4),
        "parts": {name: round(value, 3) for name, value in spent.items()},
    }


def _patched(module: str, name: str, watched: Callable[..., Any]) -> contextlib.AbstractContextManager[Any]:
    import importlib

    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    return patch.object(owner, last, watched(name, getattr(owner, last)))


@contextlib.contextmanager
def experiment_of(settings: list[str]) -> Iterator[Any]:
    """An experiment whose engine and loggers are open."""
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as folder:
        experiment = build(compose([*settings, "logger=csv"], ROOT / "configs"), Path(folder), "benchmark")
        with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
            loggers.open(experiment.info, None)
            yield experiment


# ---- tables --------------------------------------------------------------------------------------------------------


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    shown = Table(title=title)
    for column in rows[0]:
        shown.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        shown.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    return shown


def named(rows: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [{what: name} | row for name, row in rows.items()]


def missed(result: dict[str, Any]) -> list[str]:
    """Targets that were not reached."""
    found = []
    for name, row in result["masks"].items():
        most = TARGETS["mask_at_0.001"] if name.endswith(" 0.001") else TARGETS["mask"]
        if row["over_bound"] > most:
            found.append(f"mask {name}: {row['over_bound']} of the bound")
    for name, row in result["changes"].items():
        if row["over_bound"] > TARGETS["change"]:
            found.append(f"change {name}: {row['over_bound']} of the bound")
    for name, row in (*result["masks"].items(), *result["changes"].items()):
        slow = min(row["encode_Mweights_per_s"], row["decode_Mweights_per_s"])
        if slow < TARGETS["Mweights_per_s"]:
            found.append(f"{name}: {slow} Mweights/s")
    found += [f"{n}: {r['share']:.1%} of a round" for n, r in result["share"].items() if r["share"] > 0.05]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--repetitions", type=int, default=5, help="of each coding; the fastest counts (default: 5)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="a small network, few rounds, random images: does it run?")
    chosen = parser.parse_args()
    logging.getLogger("pffdst").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    before, screen = load(), console()
    layout = layout_of(ResNet18(3, 32, 10, width=8 if chosen.quick else 64))
    repetitions, densities = (1, (0.1,)) if chosen.quick else (chosen.repetitions, DENSITIES)
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        own = [f"dataset.path={folder}", *([] if data == "CIFAR-10" else [f"paths.cache={scratch}"])]
        lenet = ["experiment=lenet_cifar10", *own, "rounds=60"]
        resnet = ["experiment=resnet18_cifar10", *own, "sparsity=0.95", "rounds=4", "cohort=2"]
        if chosen.quick:
            lenet = ["experiment=lenet_cifar10", *own, "rounds=12", "clients=8", "local_epochs=1"]
            lenet.append("readjust.schedule.interval=1")
            resnet = [*resnet, "clients=8", "local_epochs=1", "model.width=4"]
        result = describe() | {
            "load": {"before": before},
            "data": data,
            "targets": TARGETS,
            "weights": layout.maskable,
            "masks": masks(layout, repetitions, densities),
            "changes": changes(layout, repetitions, densities),
            "readjustments": readjustments(lenet),
            "share": {
                "LeNet": share_of_round([*lenet, "cohort=4" if chosen.quick else "rounds=12"]),
                "ResNet-18": share_of_round(resnet),
            },
        }
    result["load"]["after"] = load()
    screen.print(table(f"full masks, {layout.maskable:,} weights", named(result["masks"], "mask")))
    screen.print(table("changes to an ERK mask", named(result["changes"], "moved")))
    screen.print(table("readjustments of a run, LeNet", result["readjustments"]))
    shares = {n: {k: v for k, v in row.items() if k != "parts"} for n, row in result["share"].items()}
    screen.print(table("coding and decoding in a run", named(shares, "network")))
    result["missed"] = missed(result)
    screen.print("targets missed: " + ("; ".join(result["missed"]) or "none"))
    screen.print(f"written to {write_result(chosen.results, 'wire', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
