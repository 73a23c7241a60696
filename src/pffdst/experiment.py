"""A run's parts put together, and what is written down of them: a row per round, the checkpoint, the results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pffdst.client.turn import ClientSetup
from pffdst.core.flat import FlatModule
from pffdst.core.messages import RoundPlan
from pffdst.core.model import GlobalModel
from pffdst.cost.ledger import Ledger
from pffdst.engines.base import Engine
from pffdst.loggers.base import Loggers
from pffdst.measure.memory import PeakMemory
from pffdst.measure.stopwatch import Stopwatch
from pffdst.metrics import names
from pffdst.metrics.clients import CLIENTS_FILE, ClientRecord
from pffdst.metrics.evaluate import Evaluation, Evaluator
from pffdst.metrics.history import History
from pffdst.metrics.names import Row
from pffdst.observers import Observer
from pffdst.runs import checkpoint
from pffdst.server.round import RoundRecord
from pffdst.server.server import Server

__all__ = ["STATE_FORMAT", "Experiment", "Progress"]

STATE_FORMAT = 4


@final
@dataclass
class Progress:
    """What grows over a run beside the model: the next round, the evaluations, the time, who was left out.

    `stop` says why the run ends before its last round, where an observer ends it.
    """

    t: int = 0
    history: History = field(default_factory=History)
    seconds: float = 0.0
    rejected: int = 0
    memory: PeakMemory = field(default_factory=PeakMemory)
    watch: Stopwatch = field(default_factory=Stopwatch)
    row: Row = field(default_factory=dict)
    stop: str | None = None
    scores: dict[str, Evaluation] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Experiment:
    """Everything `run` needs, built once. `labels` go into the summary as they are (method, dataset, model, seed).

    `profile` adds the seconds of a round's parts to its row; "trace" also traces single operations.
    """

    folder: Path
    config: Mapping[str, Any]
    fingerprint: str
    labels: Mapping[str, Any]
    rounds: int
    eval_every: int
    eval_every_bytes: int
    checkpoint_every: int
    device: str
    setup: ClientSetup
    server: Server
    engine: Engine
    ledger: Ledger
    evaluator: Evaluator
    network: FlatModule
    clients: ClientRecord
    loggers: Loggers
    observers: tuple[Observer, ...] = ()
    profile: bool | Literal["trace"] = False
    progress: Progress = field(default_factory=Progress)

    # ---- one round's row -----------------------------------------------------------------------------------------

    def due(self, t: int) -> bool:
        """Whether round t is evaluated: the last, and every `eval_every` rounds, or by what the rounds cost.

        With `eval_every_bytes` a round is evaluated in which paper_bytes passed another multiple of it: methods whose
        rounds differ in cost are measured at equal steps.
        """
        if t + 1 == self.rounds:
            return True
        if t < 0:
            return False
        if self.eval_every_bytes == 0:
            return (t + 1) % self.eval_every == 0
        after = self.ledger.total["paper_bytes"]
        before = after - self.ledger.round["paper_bytes"]
        return after // self.eval_every_bytes > before // self.eval_every_bytes

    def evaluate(self, model: GlobalModel) -> Evaluation:
        """Scores a model on the pooled test set and per client."""
        self.network.write_(model.values)
        return self.evaluator.evaluate(self.network.module, self.device, partial(self.loggers.step, "evaluating"))

    def row(self, plan: RoundPlan, record: RoundRecord, seconds: float) -> Row:
        """Everything round t is described by, for every logger alike."""
        row: Row = {names.ROUND: plan.t + 1, names.STAGE: plan.stage.index + 1}
        if self.due(plan.t):
            row |= self._accuracies(plan)
        row |= self._costs() | self._mask(plan, record)
        row |= {names.ROUND_REJECTED: len(record.rejected), names.ROUND_SECONDS: seconds}
        samples = sum(r.samples for r in record.reports)
        if samples > 0:
            row[names.TRAIN_LOSS] = sum(r.samples * r.loss for r in record.reports) / samples
            row[names.TRAIN_ACC] = sum(r.samples * r.accuracy for r in record.reports) / samples
        seconds_of = self.progress.watch.lap()
        if self.profile is not False:
            row |= {names.time_of(part): s for part, s in seconds_of.items()}
        return self.progress.history.extend(row)

    def _scores(self) -> dict[str, Evaluation]:
        return {"last": self.evaluate(self.server.model), "average": self.evaluate(self.server.averaged_model)}

    def _accuracies(self, plan: RoundPlan) -> Row:
        with self.progress.watch.part("evaluate"):
            self.progress.scores = self._scores()
        last, average = self.progress.scores["last"], self.progress.scores["average"]
        self.server.note_accuracy(plan, last.acc_global)
        self.progress.memory.sample()
        return {
            names.ACC_GLOBAL: last.acc_global,
            names.ACC_CLIENT_MEAN: last.acc_client_mean,
            names.LOSS_GLOBAL: last.loss_global,
            names.EMA_ACC_GLOBAL: average.acc_global,
            names.EMA_ACC_CLIENT_MEAN: average.acc_client_mean,
        }

    def _costs(self) -> Row:
        total, this = self.ledger.total, self.ledger.round
        row: Row = {names.COST_BYTES: total["bytes_up"] + total["bytes_down"]}
        for name in (*Ledger.NAMES, *Ledger.BY_PART):
            row |= {f"cost/{name}": total[name], f"round/{name}": this[name]}
        return row

    def _mask(self, plan: RoundPlan, record: RoundRecord) -> Row:
        model = self.server.model
        layers, alive = model.layout.layers, model.alive_at.counts
        frozen, total = len(model.frozen_at), sum(alive)
        row: Row = {
            names.SPARSITY: model.sparsity,
            names.ALIVE: total,
            names.FROZEN: frozen,
            names.TRAINABLE: total - frozen,
            names.PRUNED: plan.pruned,
            names.GROWN: plan.grown,
            names.CHANGED: record.mask_changed / total,
        }
        return row | {names.density_of(e.name): n / e.size for e, n in zip(layers, alive, strict=True)}

    # ---- checkpoint ------------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The first round: 0, or below it where a rule warms up."""
        return -self.setup.method.warm_up

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt and previous.ckpt."""
        return self.folder / "checkpoints"

    def save_if_due(self) -> None:
        """A checkpoint every `checkpoint_every` rounds and at the end."""
        with self.progress.watch.part("checkpoint"):
            if self.progress.t % self.checkpoint_every == 0 or self.progress.t >= self.rounds or self.progress.stop:
                self.save()

    def save(self) -> None:
        """Writes what the next round depends on."""
        progress = self.progress
        checkpoint.save(
            self.checkpoints,
            {
                "format": STATE_FORMAT,
                "fingerprint": self.fingerprint,
                "t": progress.t,
                "history": progress.history.state_dict(),
                "seconds": progress.seconds,
                "rejected": progress.rejected,
                "memory": progress.memory.mb,
                "times": dict(progress.watch.total),
                "row": dict(progress.row),
                "server": self.server.state_dict(),
                "engine": self.engine.state_dict(),
                "ledger": self.ledger.state_dict(),
                "loggers": self.loggers.state_dict(),
                "observers": [observer.state_dict() for observer in self.observers],
            },
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a checkpoint of this very configuration; `build` compared the fingerprints."""
        progress = self.progress
        progress.t, progress.seconds, progress.rejected = state["t"], state["seconds"], state["rejected"]
        progress.memory.mb, progress.row = state["memory"], dict(state["row"])
        progress.history.load_state_dict(state["history"])
        progress.watch.total.update(state.get("times", {}))
        self.server.load_state_dict(state["server"])
        self.engine.load_state_dict(state["engine"])
        self.ledger.load_state_dict(state["ledger"])
        for observer, own in zip(self.observers, state["observers"], strict=True):
            observer.load_state_dict(own)

    # ---- results -----------------------------------------------------------------------------------------------------

    def describe_clients(self, scores: Mapping[str, Evaluation] | None = None) -> None:
        """Writes clients.json: what the clients hold and, once the run is over, how the models do on each."""
        accuracies = None if scores is None else {k: v.client_accuracies.cpu().numpy() for k, v in scores.items()}
        checkpoint.write_atomically(self.folder / CLIENTS_FILE, self.clients.text(accuracies).encode())

    def finish(self) -> dict[str, Any]:
        """Writes the models, clients.json and summary.json; gives the summary."""
        # Stopped after its last checkpoint, a run has no scores in memory.
        self.describe_clients(self.progress.scores or self._scores())
        content = self._safetensors(self.server.model)
        checkpoint.write_atomically(self.folder / "model.safetensors", content)
        checkpoint.write_atomically(
            self.folder / "model_ema.safetensors", self._safetensors(self.server.averaged_model)
        )
        summary = self._summary(hashlib.sha256(content).hexdigest())
        checkpoint.write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")
        return summary

    def _safetensors(self, model: GlobalModel) -> bytes:
        """The model under its tensors' own names; `mask/NAME` and `frozen/NAME` (uint8) beside each weight."""
        tensors: dict[str, Tensor] = {e.name: v.clone() for e, v in model.layout.split(model.values)}
        for prefix, mask in (("mask", model.alive), ("frozen", model.frozen)):
            tensors |= {f"{prefix}/{e.name}": v.to(torch.uint8) for e, v in model.layout.split(mask)}
        return save_safetensors(tensors)

    def _summary(self, sha256: str) -> dict[str, Any]:
        progress, total, row = self.progress, self.ledger.total, self.progress.row
        figures: dict[str, Any] = dict(self.labels) | {"rounds": progress.t, "sparsity": self.server.model.sparsity}
        for name in names.ACCURACIES:
            key = name.removeprefix("test/")
            figures |= {key: row.get(name), f"last5_{key}": row.get(names.last5_of(name))}
            figures[f"best_{key}"] = row.get(names.best_of(name))
        figures |= {name: total[name] for name in Ledger.NAMES}
        figures |= {f"bytes_{key.replace('/', '_')}": total[key] for key in Ledger.BY_PART}
        if self.profile is not False:
            times = progress.watch.total
            figures |= {f"time_{name}": round(times[name], 3) for name in (*Stopwatch.PARTS, *Stopwatch.CLIENTS)}
        return figures | {
            "alive": row.get(names.ALIVE),
            "frozen": row.get(names.FROZEN),
            "rejected": progress.rejected,
            "model_sha256": sha256,
            "wall_s": round(progress.seconds, 3),
            "peak_rss_mb": round(progress.memory.mb, 1),
            "fingerprint": self.fingerprint,
            "folder": str(self.folder),
        }

    def lap(self, since: float) -> float:
        """Adds the seconds since `since` (of `time.monotonic`) to the run's time; gives them."""
        seconds = time.monotonic() - since
        self.progress.seconds += seconds
        return seconds
