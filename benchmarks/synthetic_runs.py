"""Runs that nobody trained, in the form of those that were, and ways to damage them: for benchmark and tests."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pffdst.loggers.base import RunInfo
from pffdst.loggers.csv import CsvLogger
from pffdst.metrics import names
from pffdst.metrics.clients import ClientRecord
from pffdst.metrics.history import History
from pffdst.runs import files
from pffdst.runs import jobs as sweeps

__all__ = ["DAMAGES", "write_run"]

_PARTS = ("header", "mask", "values", "frozen", "dense", "catch_up", "state")
_CLIENTS, _CLASSES = 200, 10


def write_run(
    folder: Path,
    *,
    method: str = "pffdst",
    sparsity: float = 0.9,
    seed: int = 0,
    rounds: int = 350,
    every: int = 5,
    layers: int = 21,
    done: int | None = None,
    **settings: Any,
) -> Path:
    """A run's folder; stopped on the way where fewer than all rounds are `done`. `settings` join config.yaml."""
    folder.mkdir(parents=True)
    config = _config(method, sparsity, seed, rounds, settings)
    (folder / files.CONFIG).write_text(yaml.safe_dump(config))
    played = rounds if done is None else done
    row = _rows(folder, config, played, every, layers)
    identity = f"{zlib.crc32(repr((method, sparsity, seed, rounds, settings)).encode()):016x}"
    accuracies = np.sort(np.random.default_rng(seed).beta(6, 3, _CLIENTS))
    record = _clients(seed)
    finished = {"last": accuracies, "average": accuracies**0.9}
    (folder / files.CLIENTS).write_text(record.text(finished if played == rounds else None))
    if played == rounds:
        (folder / files.SUMMARY).write_text(json.dumps(_summary(config, row, identity)))
    sweeps.mark(folder, identity, "done" if played == rounds else "running")
    return folder


def _config(method: str, sparsity: float, seed: int, rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    two_stage = method == "pffdst"
    return {
        "method_name": method,
        "sparsity": sparsity,
        "rounds": rounds,
        "seed": seed,
        "clients": _CLIENTS,
        "cohort": 20,
        "local_epochs": 2 if two_stage else 3,
        "dataset": {"_target_": "pffdst.data.sources.vision.VisionSource", "name": "cifar10"},
        "model": {"_target_": "pffdst.models.resnet.ResNet18"},
        "freeze": {"_target_": f"pffdst.methods.freeze.{'two_stage.TwoStage' if two_stage else 'none.NoFreezing'}"},
        **settings,
    }


def _rows(folder: Path, config: dict[str, Any], played: int, every: int, layers: int) -> names.Row:
    """Writes metrics.csv; gives the last row with the accuracies of the last evaluation."""
    shown = [f"layer{i}.conv.weight" for i in range(layers)]
    by_part = [f"{kind}/{way}/{part}" for kind, way, part in product(("cost", "round"), ("up", "down"), _PARTS)]
    logger, history, total = CsvLogger([*names.columns(shown), *by_part]), History(), dict.fromkeys(_PARTS, 0)
    last: names.Row = {}
    dice = random.Random(f"{config['method_name']} {config['sparsity']} {config['seed']}")
    logger.open(RunInfo(config, folder), None)
    for t in range(1, played + 1):
        row: names.Row = {names.ROUND: t, names.STAGE: 1 + (2 * t > config["rounds"])}
        if t % every == 0 or t == config["rounds"]:
            row |= _accuracies(config, t, dice)
        row |= _costs(config, total, dice) | _mask(config, t, shown)
        row = history.extended(row)
        logger.log(row)
        last |= row
    logger.close("finished")
    return last


def _accuracies(config: dict[str, Any], t: int, dice: random.Random) -> names.Row:
    height = {"pffdst": 0.56, "feddst": 0.52, "random_mask": 0.45}.get(config["method_name"], 0.5) + (
        0.99 - config["sparsity"]
    )
    mean = height * (1 - math.exp(-4 * t / config["rounds"])) + 0.05
    return {name: mean + dice.gauss(0, 0.02 if "ema" not in name else 0.005) for name in names.ACCURACIES} | {
        names.LOSS_GLOBAL: 2 - mean
    }


def _costs(config: dict[str, Any], total: dict[str, int], dice: random.Random) -> names.Row:
    density = (1 - config["sparsity"]) * (0.5 if config["method_name"] == "pffdst" else 1)
    this = {part: int(dice.uniform(0.9, 1.1) * density * 4e7 * (0.9 if part == "values" else 0.02)) for part in _PARTS}
    for part, size in this.items():
        total[part] += size
    up, flops = sum(total.values()), density * 3e11
    row: names.Row = {f"round/{way}/{part}": size for way in ("up", "down") for part, size in this.items()}
    row |= {f"cost/{way}/{part}": size for way in ("up", "down") for part, size in total.items()}
    costs = {
        names.COST_BYTES: 2 * up,
        names.COST_BYTES_UP: up,
        names.COST_BYTES_DOWN: up,
        names.COST_PAPER_BYTES: 2 * up,
    }
    return row | costs | {names.COST_FROZEN_BYTES: 0, names.COST_FLOPS: int(flops * up / max(sum(this.values()), 1))}


def _mask(config: dict[str, Any], t: int, layers: list[str]) -> names.Row:
    alive, late = int(11e6 * (1 - config["sparsity"])), 2 * t > config["rounds"] and config["method_name"] == "pffdst"
    model = {names.SPARSITY: config["sparsity"], names.ALIVE: alive, names.FROZEN: alive // 2 if late else 0}
    density = {names.density_of(layer): (1 - config["sparsity"]) * (1 + i % 3) / 2 for i, layer in enumerate(layers)}
    return {**model, names.CHANGED: 0.25 if t % 10 == 0 else 0.0, names.ROUND_SECONDS: 1.5, **density}


def _clients(seed: int) -> ClientRecord:
    dice = np.random.default_rng(seed)
    return ClientRecord.of(_CLIENTS, _CLASSES, lambda _: dice.choice(_CLASSES, 250, p=dice.dirichlet([0.1] * _CLASSES)))


def _summary(config: dict[str, Any], row: names.Row, identity: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"method": config["method_name"], "seed": config["seed"], "rounds": config["rounds"]}
    for name in names.ACCURACIES:
        key = name.removeprefix("test/")
        figures |= {key: row[name], f"last5_{key}": row[names.last5_of(name)], f"best_{key}": row[names.best_of(name)]}
    figures |= {key: row[f"cost/{key}"] for key in ("bytes_up", "bytes_down", "paper_bytes", "frozen_bytes", "flops")}
    figures |= {f"bytes_{way}_{part}": row[f"cost/{way}/{part}"] for way in ("up", "down") for part in _PARTS}
    return figures | {
        "sparsity": config["sparsity"],
        "wall_s": 525.0,
        "peak_rss_mb": 1200.0,
        "rejected": 0,
        "fingerprint": identity,
    }


# ---- damage ----------------------------------------------------------------------------------------------------------


def _truncated_row(folder: Path) -> None:
    path = folder / files.METRICS
    lines = path.read_text().splitlines(keepends=True)
    lines[len(lines) // 2] = lines[len(lines) // 2][:40] + "\n"
    path.write_text("".join(lines) + "351,2,0.")


def _bad_json(folder: Path) -> None:
    path = folder / files.SUMMARY
    path.write_text(path.read_text()[:100])


def _no_summary(folder: Path) -> None:
    (folder / files.SUMMARY).unlink()


def _no_metrics(folder: Path) -> None:
    (folder / files.METRICS).unlink()


def _bad_config(folder: Path) -> None:
    (folder / files.CONFIG).write_text("a: [1, 2\nb: }")


def _binary(folder: Path) -> None:
    (folder / files.METRICS).write_bytes(bytes(range(256)) * 20)


def _failed(folder: Path) -> None:
    (folder / files.SUMMARY).unlink()
    (folder / files.RUN).unlink()
    sweeps.mark_failed(folder, "", "dataset.path=/nowhere holds no cifar10_train*.parquet")


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _skipped(folder: Path) -> None:
    _emptied(folder)
    sweeps.mark_skipped(folder, folder.parent / "0")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated row": _truncated_row,
    "bad json": _bad_json,
    "no summary": _no_summary,
    "no metrics": _no_metrics,
    "bad config": _bad_config,
    "binary metrics": _binary,
    "failed": _failed,
    "empty": _emptied,
    "skipped": _skipped,
}
