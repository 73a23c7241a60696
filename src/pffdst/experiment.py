"""A run's assembled parts: when it is evaluated, its checkpoint, its results. records.py defines what is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, final

from pffdst import records
from pffdst.client.turn import ClientSetup
from pffdst.core.attributes import Attributes
from pffdst.core.errors import UserError
from pffdst.core.flat import FlatModule
from pffdst.core.messages import RoundPlan
from pffdst.core.model import GlobalModel
from pffdst.core.seeding import seeded_global_state
from pffdst.core.words import one_line
from pffdst.cost.ledger import Ledger
from pffdst.engines.base import Engine
from pffdst.loggers import say
from pffdst.loggers.base import Loggers, RunInfo
from pffdst.measure.memory import PeakMemory
from pffdst.measure.stopwatch import Stopwatch
from pffdst.methods.time import TimeModel
from pffdst.metrics import names
from pffdst.metrics.clients import ClientRecord
from pffdst.metrics.evaluate import Evaluation, Evaluator
from pffdst.metrics.history import History
from pffdst.metrics.names import Row
from pffdst.models.saved import ModelCard
from pffdst.observers import Observer
from pffdst.runs import checkpoint, files
from pffdst.server.round import Round, RoundRecord
from pffdst.server.server import Server

__all__ = ["STATE", "STATE_FORMAT", "Experiment", "Progress"]

STATE_FORMAT = 7
STATE: Final[Mapping[str, type]] = {
    "format": int,
    "fingerprint": str,
    "content": dict,
    "t": int,
    "history": dict,
    "seconds": float,
    "rejected": int,
    "memory": float,
    "times": dict,
    "row": dict,
    "stop": str,
    "server": dict,
    "engine": dict,
    "ledger": dict,
    "loggers": dict,
    "observers": list,
}
"""What a checkpoint contains, by name; the parts define their own contents."""
_SLOW: Final = 1.0  # after a round this long (s), its end is kept in memory: a signal does not wait for the next


@final
@dataclass
class Progress:
    """A run's progress besides the model: the next round, the evaluations, the time, the rejected updates.

    `stop` says why the run ends before its last round, if an observer ends it. `unsaved` is the checkpoint after the
    last round if it is not yet on disk, `place` identifies the folder in the file system. `readable`: a checkpoint of
    this run was read back.
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
    unsaved: memoryview | None = None
    place: tuple[int, int] | None = None
    readable: bool = False


@final
@dataclass(frozen=True)
class Experiment:
    """Everything `run` needs, built once. `labels` go into the summary as they are (method, dataset, model, seed).

    `content` describes the data's contents and the tensors, `time` what is known about the clients' devices.

    `profile` adds the seconds of a round's parts to its row; "trace" also traces single operations.
    """

    info: RunInfo
    fingerprint: str
    content: Mapping[str, str]
    labels: Mapping[str, Any]
    rounds: int
    eval_every: int
    eval_every_bytes: int
    checkpoint_every: int
    device: str
    setup: ClientSetup
    server: Server
    time: TimeModel
    engine: Engine
    ledger: Ledger
    evaluator: Evaluator
    network: FlatModule
    clients: ClientRecord
    card: ModelCard
    loggers: Loggers
    observers: tuple[Observer, ...] = ()
    evaluated_on: names.EvaluatedOn = "test"
    profile: bool | Literal["trace"] = False
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def attributes(self) -> Attributes:
        """The network's initial plain attributes."""
        return Attributes(self.network.module)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.info.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        return self.info.config

    # ---- one round's row -----------------------------------------------------------------------------------------

    def due(self, t: int) -> bool:
        """Whether round t is evaluated: the last round and every scheduled one."""
        return t + 1 == self.rounds or self.scheduled(t)

    def scheduled(self, t: int) -> bool:
        """Whether round t would also be evaluated in a longer run: every `eval_every` rounds, or by the rounds' cost.

        With `eval_every_bytes`, a round is evaluated if paper_bytes passed another multiple of it, so that methods
        whose rounds differ in cost are measured at equal steps.
        """
        if t < 0:
            return False
        if self.eval_every_bytes == 0:
            return (t + 1) % self.eval_every == 0
        after = self.ledger.total["paper_bytes"]
        before = after - self.ledger.round["paper_bytes"]
        return after // self.eval_every_bytes > before // self.eval_every_bytes

    def evaluate(self, model: GlobalModel) -> Evaluation:
        """Scores a model on the pooled test set and per client."""
        self.attributes.restore_()
        self.network.write_(self.setup.method.effective(model).values)
        self.network.write_buffers_(self.server.state.buffers)
        step = partial(self.loggers.step, "evaluating")
        with seeded_global_state(self.setup.seed, "evaluate", self.progress.t):  # for networks that still draw
            return self.evaluator.evaluate(self.network.module, self.device, step)

    def row(self, plan: RoundPlan, record: RoundRecord, seconds: float) -> Row:
        """All figures of round t, the same for every logger, under the names of what was scored."""
        row: Row = {names.ROUND: plan.t + 1, names.STAGE: plan.stage.index + 1}
        if self.due(plan.t):
            row |= self._scored(plan)
        row |= records.cost_row(self.ledger, plan.t) | records.mask_row(self.server.model, plan, record)
        row |= {names.ROUND_REJECTED: len(record.rejected), names.ROUND_SECONDS: seconds}
        row |= records.training_row(record.reports) if self.server.rules.aggregation.discloses else {}
        before, rules = self.progress.row, self.server.rules
        row |= records.fault_row(before, plan, record, self.setup.faulty.clients)
        row |= records.defence_row(before, rules.aggregation.bounds, record)
        row |= rules.aggregation.figures(plan.t + 1, rules.population.clients, rules.cohort)
        seconds_of = self.progress.watch.lap()
        if self.profile is not False:
            row |= {names.time_of(part): s for part, s in seconds_of.items()}
        return self._extended(row, plan)

    def score_last(self, row: Row, plan: RoundPlan) -> Row:
        """The row of a round that turned out to be the last, with accuracies like every last row."""
        if self.due(plan.t):
            return row
        return row | self._extended(self._scored(plan), plan)

    def _extended(self, row: Row, plan: RoundPlan) -> Row:
        """Adds the best and the last evaluations; one made only because the run ends does not count for later.

        The run may be given more rounds, and must then equal a run started with that many.
        """
        extended = self.progress.history.extended(row, keep=self.scheduled(plan.t))
        return names.as_evaluated(extended, self.evaluated_on)

    def _scores(self) -> dict[str, Evaluation]:
        return {"last": self.evaluate(self.server.model), "average": self.evaluate(self.server.averaged_model)}

    def _scored(self, plan: RoundPlan) -> Row:
        with self.progress.watch.part("evaluate"):
            self.progress.scores = self._scores()
        if self.scheduled(plan.t):
            self.server.note_accuracy(plan, self.progress.scores["last"].acc_global)
        self.progress.memory.sample()
        return records.score_row(self.progress.scores)

    # ---- checkpoint ------------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The first round: 0, or negative if a rule warms up."""
        return -self.setup.method.warm_up

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt and previous.ckpt."""
        return self.folder / files.CHECKPOINTS

    def save_if_due(self, seconds: float = 0.0) -> None:
        """Saves every `checkpoint_every` rounds and at the end; after a long round, keeps a checkpoint in memory."""
        progress = self.progress
        with progress.watch.part("checkpoint"):
            if progress.t % self.checkpoint_every == 0 or progress.t >= self.rounds or progress.stop:
                self.save()
            else:
                progress.unsaved = self._packed() if seconds > _SLOW else None

    def save(self) -> None:
        """Saves everything the next round depends on."""
        self.progress.unsaved = self._packed()
        self.save_unsaved()

    def _packed(self) -> memoryview:
        """A checkpoint's body. UserError if it is the run's first one and could not be read back."""
        state = self._state()
        if not self.progress.readable:
            checkpoint.check_readable(state)
            self.progress.readable = True
        return checkpoint.packed(state)

    def save_unsaved(self) -> None:
        """Writes the last round's checkpoint if it is not on disk yet. UserError if the run's folder is gone."""
        if self.progress.unsaved is not None:
            self.look_for_folder()
            checkpoint.save_packed(self.checkpoints, self.progress.unsaved)
            self.progress.unsaved = None
            self.engine.saved()

    def look_for_folder(self) -> None:
        """UserError if the run's folder is gone or was replaced, so that nothing is recreated in its place."""
        place = files.place_of(self.folder)
        self.progress.place = self.progress.place or place
        if place is None or place != self.progress.place:
            raise UserError(
                f"{self.folder}: the run's folder was {'removed' if place is None else 'replaced'} while it ran, with "
                f"its files: the run ends in round {self.progress.t}. Restore the folder and resume it, or "
                "start the run again"
            )

    def _state(self) -> dict[str, Any]:
        progress = self.progress
        return {
            "format": STATE_FORMAT,
            "fingerprint": self.fingerprint,
            "content": dict(self.content),
            "t": progress.t,
            "history": progress.history.state_dict(),
            "seconds": float(progress.seconds),
            "rejected": progress.rejected,
            "memory": float(progress.memory.mb),
            "times": dict(progress.watch.total),
            "row": dict(progress.row),
            "stop": progress.stop or "",
            "server": self.server.state_dict(),
            "engine": self.engine.state_dict(),
            "ledger": self.ledger.state_dict(),
            "loggers": self.loggers.state_dict(),
            "observers": [observer.state_dict() for observer in self.observers],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint of the same configuration; the fingerprints were compared before.

        CheckpointError if a part of it is not what such a run saves.
        """
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError, OverflowError) as error:
            raise checkpoint.CheckpointError(
                f"the checkpoint in {self.checkpoints} was not written by a run of this configuration "
                f"({type(error).__name__}: {one_line(error, 200)}): start a new run"
            ) from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        progress = self.progress
        if state["t"] < self.first:
            raise ValueError(f"t={state['t']} is before the first round")
        progress.t, progress.seconds, progress.rejected = state["t"], state["seconds"], state["rejected"]
        progress.memory.mb, progress.row = state["memory"], dict(state["row"])
        progress.stop = state["stop"] or None
        progress.history.load_state_dict(state["history"])
        progress.watch.total.update(state["times"])
        self.server.load_state_dict(state["server"])
        self.engine.load_state_dict(state["engine"])
        self.ledger.load_state_dict(state["ledger"])
        for observer, own in zip(self.observers, state["observers"], strict=True):
            observer.load_state_dict(own)

    # ---- results -----------------------------------------------------------------------------------------------------

    def describe_clients(self, scores: records.Scores | None = None) -> None:
        """Writes clients.json: the clients' data and, once the run is over, the models' scores on each."""
        records.write_clients(self.folder, self.clients, scores)

    def finish(self) -> dict[str, Any]:
        """Writes the models, clients.json and summary.json; returns the summary."""
        # A run resumed from its last checkpoint has no scores in memory.
        self.describe_clients(self.progress.scores or self._scores())
        used = self.setup.method.effective
        last, average = (used(model) for model in (self.server.model, self.server.averaged_model))
        digest = records.write_models(self.folder, self.card, last, average, self.server.state.buffers)
        progress = self.progress
        times = None if self.profile is False else progress.watch.total
        summary = {
            **self.labels,
            "evaluated_on": self.evaluated_on,
            "rounds": progress.t,
            **records.sizes(self.server.model),
            **records.finals(progress.row, self.ledger.total, times),
            "rejected": progress.rejected,
            "model_sha256": digest,
            "wall_s": round(progress.seconds, 3),
            "peak_rss_mb": round(progress.memory.mb, 1),
            "fingerprint": self.fingerprint,
            "folder": str(self.folder),
        }
        records.write_summary(self.folder, summary)
        return summary

    def passed(self, done: Round) -> None:
        """Records that the round is over and logs rejected updates. UserError if the run's folder is gone."""
        self.look_for_folder()
        say.rejected(done)
        say.faulty(done, self.setup.faulty)
        self.progress.rejected += len(done.record.rejected)
        self.progress.t = done.plan.t + 1

    def show(self, done: Round) -> None:
        """Shows the round to the observers; if one of them ends the run, the round is scored."""
        for observer in self.observers:
            self.progress.stop = observer.on_round(self, done) or self.progress.stop
        if self.progress.stop is not None:
            self.progress.row = self.score_last(self.progress.row, done.plan)

    def log(self, done: Round) -> None:
        """Logs the round's row; a warm-up round (t < 0) has none and is logged as text."""
        if done.plan.t < 0:
            say.warm_up(done, self.ledger)
        else:
            self.loggers.log(self.progress.row)

    def lap(self, since: float) -> float:
        """Adds the seconds since `since` (from `time.monotonic`) to the run's time and returns them."""
        seconds = time.monotonic() - since
        self.progress.seconds += seconds
        return seconds
