"""The records of a run: the row of a round, the summary, the files of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from torch import Tensor

from pffdst.core.flat import FlatModule, coverage
from pffdst.core.messages import RoundPlan
from pffdst.core.model import GlobalModel
from pffdst.cost.ledger import Ledger
from pffdst.data.dataset import Dataset
from pffdst.measure.stopwatch import Stopwatch
from pffdst.methods.bounds import Bounds
from pffdst.metrics import names
from pffdst.metrics.clients import ClientRecord
from pffdst.metrics.evaluate import Evaluation
from pffdst.metrics.names import Row
from pffdst.models.saved import ModelCard, SavedModel
from pffdst.runs import files
from pffdst.server.round import RoundRecord
from pffdst.wire.uplink import Report

__all__ = [
    "Scores",
    "card",
    "cost_row",
    "defence_row",
    "fault_row",
    "finals",
    "labels",
    "mask_row",
    "score_row",
    "sizes",
    "training_row",
    "write_clients",
    "write_models",
    "write_summary",
]

Scores = Mapping[str, Evaluation]
"""The scores of the `last` model and the server `average`."""


def score_row(scores: Scores) -> Row:
    """The accuracies of both models, under their `test/*` names, and further metrics if configured."""
    last, average = scores["last"], scores["average"]
    row: Row = {
        names.ACC_GLOBAL: last.acc_global,
        names.ACC_CLIENT_MEAN: last.acc_client_mean,
        names.LOSS_GLOBAL: last.loss_global,
        names.EMA_ACC_GLOBAL: average.acc_global,
        names.EMA_ACC_CLIENT_MEAN: average.acc_client_mean,
    }
    row |= {names.metric(name): value for name, value in last.metrics.items()}
    return row | {names.average_of(names.metric(name)): value for name, value in average.metrics.items()}


def cost_row(ledger: Ledger, t: int) -> Row:
    """Bytes and FLOPs, of round t and in total. Warm-up rounds (t < 0) have no rows: round 0's row includes them."""
    total = ledger.total
    this = ledger.round if t > 0 else total
    row: Row = {names.COST_BYTES: total["bytes_up"] + total["bytes_down"]}
    timed = (Ledger.SECONDS,) if Ledger.SECONDS in total else ()
    for name in (*Ledger.NAMES, *timed, *Ledger.BY_PART):
        row |= {f"cost/{name}": total[name], f"round/{name}": this[name]}
    return row


def mask_row(model: GlobalModel, plan: RoundPlan, record: RoundRecord) -> Row:
    """The masks after the round, and the weights that changed in it."""
    layers, alive = model.layout.layers, model.alive_at.counts
    frozen, total = len(model.frozen_at), sum(alive)
    row: Row = {
        names.SPARSITY: model.sparsity,
        names.ALIVE: total,
        names.FROZEN: frozen,
        names.TRAINABLE: total - frozen,
        names.PRUNED: plan.pruned,
        names.GROWN: plan.grown,
        names.CHANGED: record.mask_changed / max(total, 1),
    }
    return row | {names.density_of(e.name): n / e.size for e, n in zip(layers, alive, strict=True)}


def training_row(reports: Sequence[Report]) -> Row:
    """Loss and accuracy of the round's local training, weighted by samples; empty without reports."""
    samples = sum(r.samples for r in reports)
    if samples == 0:
        return {}
    return {
        names.TRAIN_LOSS: sum(r.samples * r.loss for r in reports) / samples,
        names.TRAIN_ACC: sum(r.samples * r.accuracy for r in reports) / samples,
    }


def fault_row(before: Row, plan: RoundPlan, record: RoundRecord, faulty: Set[int]) -> Row:
    """Number of updates from deliberately faulty clients so far; `before` is the previous round's row."""
    if not faulty:
        return {}
    here = [client for client in plan.cohort if client in faulty and client not in record.lost]
    taken = [client for client in here if client not in record.absent]
    counted = ((names.FAULTS_SENT, here), (names.FAULTS_ACCEPTED, taken))
    return {name: int(before.get(name, 0)) + len(clients) for name, clients in counted}


def defence_row(before: Row, bounds: Bounds, record: RoundRecord) -> Row:
    """Number of updates bounded so far, if there are bounds; `before` is the previous round's row."""
    counted = ((bounds.clips, names.CLIPPED, record.clipped), (bounds.caps, names.CAPPED, record.capped))
    return {name: int(before.get(name, 0)) + count for there, name, count in counted if there}


def finals(row: Row, total: Mapping[str, Any], times: Mapping[str, float] | None) -> dict[str, Any]:
    """The summary's figures: scores from the last row, costs in `total`, the seconds of a profiled run's parts."""
    last = names.as_test(row)
    figures: dict[str, Any] = {}
    for name in names.ACCURACIES:
        key = names.bare(name)
        figures |= {key: last.get(name), f"last5_{key}": last.get(names.last5_of(name))}
        figures[f"best_{key}"] = last.get(names.best_of(name))
    further = {names.bare(name): value for name, value in last.items() if names.is_further(name)}
    figures |= {"metrics": further} if further else {}
    figures |= {name: total[name] for name in (*Ledger.NAMES, Ledger.SECONDS) if name in total or name in Ledger.NAMES}
    figures |= {f"bytes_{key.replace('/', '_')}": total[key] for key in Ledger.BY_PART}
    figures |= {name.replace("/", "_"): value for name, value in last.items() if names.is_of_an_option(name)}
    if times is not None:
        figures |= {f"time_{name}": round(times[name], 3) for name in (*Stopwatch.PARTS, *Stopwatch.CLIENTS)}
    return figures | {"alive": last.get(names.ALIVE), "frozen": last.get(names.FROZEN)}


def sizes(model: GlobalModel) -> dict[str, Any]:
    """The share of dead weights among maskable weights and among all parameters, and the numbers of both."""
    maskable, parameters, _ = coverage(model.layout)
    overall = (maskable - len(model.alive_at)) / parameters
    return {"sparsity": model.sparsity, "sparsity_overall": overall, "maskable": maskable, "parameters": parameters}


def write_clients(folder: Path, clients: ClientRecord, scores: Scores | None) -> None:
    """Writes clients.json: the clients' data and, once there are scores, the models' scores on each."""
    accuracies = None if scores is None else {k: v.client_accuracies.cpu().numpy() for k, v in scores.items()}
    files.write_whole(folder / files.CLIENTS, clients.text(accuracies).encode())


def write_models(
    folder: Path, card: ModelCard, last: GlobalModel, average: GlobalModel, buffers: Sequence[Tensor]
) -> str:
    """Writes both models, with their shared `buffers` and further files; returns the last model's digest."""
    saved = {
        files.MODEL: SavedModel.of(last, card, buffers),
        files.MODEL_AVERAGE: SavedModel.of(average, card, buffers),
    }
    for name, model in saved.items():
        files.write_whole(folder / name, model.packed())
    for name, text in card.inputs.files().items():
        files.write_whole(folder / name, text.encode("utf-8"))
    return saved[files.MODEL].digest()


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """summary.json."""
    files.write_whole(folder / files.SUMMARY, json.dumps(summary, indent=2).encode() + b"\n")


# ---- labels of a run -------------------------------------------------------------------------------------------------


def card(model: Mapping[str, Any], dataset: Dataset, identity: str, seed: int) -> ModelCard:
    """The saved model's description of itself; `model` is its configuration node, in plain values."""
    told = {**dataset.inputs.arguments(), "classes": dataset.classes}
    return ModelCard(
        target=str(model["_target_"]),
        arguments={key: value for key, value in model.items() if key not in ("_target_", "dense")} | told,
        classes=dataset.classes,
        inputs=dataset.inputs,
        class_names=dataset.class_names,
        fingerprint=identity,
        seed=seed,
    )


def labels(config: Mapping[str, Any], dataset: Dataset, network: FlatModule) -> dict[str, Any]:
    """The labels that distinguish runs."""
    return {
        "method": config["label"],
        "dataset": dataset.name,
        "model": type(network.module).__name__,
        "seed": config["seed"],
        "sparsity_target": config["sparsity"],
    }
