"""The server: plans a round, writes its messages, takes the answers in, makes the next model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from pffdst.core.masks import Move
from pffdst.core.messages import ClientTask, RoundPlan, Update
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.methods.aggregation import Aggregation, RunningMean
from pffdst.methods.freeze.base import StartFrom
from pffdst.methods.participation import Participation
from pffdst.methods.readjust.base import ReadjustRule
from pffdst.server.holdings import Holdings, Lacks
from pffdst.wire.downlink import Broadcast
from pffdst.wire.frame import Section, WireError, pack_section, unpack_section
from pffdst.wire.positions import encode_move, put_at_, values_at
from pffdst.wire.uplink import Report, decode_uplink
from pffdst.wire.values import ValueCodec

__all__ = ["Server", "ServerRules"]


@final
@dataclass(frozen=True)
class ServerRules:
    """What the server goes by. `ema` is beta of the server average; `cohort` is K of `clients` C."""

    stages: tuple[Stage, ...]
    rule: ReadjustRule
    start_from: StartFrom
    aggregation: Aggregation
    participation: Participation
    codec: ValueCodec
    seed: int
    clients: int
    cohort: int
    ema: float


@final
@dataclass
class RoundRecord:
    """What a round brought: reports of the accepted, problems of the rejected, alive weights that changed."""

    reports: list[Report] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    mask_changed: int = 0


@final
class Server:
    """Holds the one sparse model. `model` is the last aggregated one, `average` the server average [N] or None.

    `sent` is what clients decode of the model in a round: the same, but for a lossy codec.
    """

    def __init__(self, model: GlobalModel, rules: ServerRules) -> None:
        self.model = model
        self.rules = rules
        self.average: Tensor | None = None
        self.holdings = Holdings(rules.clients)
        self.sent = model
        self._frozen_values: Section | None = None
        self._best: tuple[float, Tensor] | None = None
        self._mean: RunningMean | None = None
        self._record = RoundRecord()
        self._alive_before = model.alive

    # ---- plan -------------------------------------------------------------------------------------------------

    def plan(self, t: int) -> RoundPlan:
        """Freezes, readjusts and draws the cohort of round t. The same state gives the same plan."""
        rules = self.rules
        stage = next(s for s in rules.stages if s.start <= t < s.stop)
        before = self._alive_before = self.model.alive
        froze = t == stage.start and stage.index > 0
        if t == stage.start:
            self._begin_stage(stage)
        else:
            self._make(rules.rule.on_server(self.model, stage, t, derive_seed(rules.seed, "grow", t)))
        cohort = rules.participation.cohort(rules.clients, rules.cohort, generator_for(rules.seed, "cohort", t))
        pruned = int((before & ~self.model.alive).sum())
        grown = int((self.model.alive & ~before).sum())
        self._mean, self._record, self.sent = RunningMean(self.model), RoundRecord(), self.model
        return RoundPlan(t, stage, cohort, pruned if t > 0 else 0, grown if t > 0 else 0, froze)

    def _begin_stage(self, stage: Stage) -> None:
        """Freezes what is alive (not at the run's start) and draws the stage's trainable positions.

        The first stage keeps the initial weights at its positions; later ones grow from 0.
        """
        if stage.index == 0:
            self.model = replace(self.model, frozen=torch.zeros_like(self.model.alive))
        else:
            self._freeze(stage)
        counts = self.rules.rule.start_counts(self.model, stage)
        self._make(Move(None, counts, derive_seed(self.rules.seed, "grow", stage.start)))

    def _freeze(self, stage: Stage) -> None:
        """What is alive freezes, with the values that clients will decode: they are coded once, here.

        A lossy codec must not round again what is frozen already: later freezes are sent exactly.
        """
        rules, again = self.rules, bool(self.model.frozen.any())
        model = self.model.with_values(self._stage_model())
        codec = rules.codec.leftovers if again else rules.codec
        coded = codec.encode(values_at(model.weights, model.alive), seed=derive_seed(rules.seed, "freeze", stage.start))
        values = model.values.clone()
        decoded = codec.decode(coded, int(model.alive.sum()), "FROZEN_VALUES")
        put_at_(values[: model.layout.maskable], model.alive, decoded)
        self.model = replace(model.with_values(values), frozen=model.alive)
        self.average, self._best, self._frozen_values = None, None, coded
        self.holdings.new_frozen()

    def _stage_model(self) -> Tensor:
        """The values [N] that freeze: of the last model, the server average, or the best evaluated one."""
        if self.rules.start_from == "ema" and self.average is not None:
            return self.average
        if self.rules.start_from == "best_test" and self._best is not None:
            return self._best[1]
        return self.model.values

    def _make(self, move: Move | None) -> None:
        """Moves the trainable mask, if there is a move."""
        if move is not None:
            self._take(move.on(self.model), move)

    def _take(self, model: GlobalModel, move: Move | None) -> None:
        """Takes a model whose mask may have moved; clients lack a mask that did."""
        if move is not None or not torch.equal(model.trainable, self.model.trainable):
            coded = None if move is None else encode_move(move, model.layout, self.model.trainable)
            self.holdings.new_mask(model.trainable, coded, afresh=move is not None and move.dropped is None)
        self.model = model

    # ---- dispatch -----------------------------------------------------------------------------------------------

    def dispatch(self, plan: RoundPlan) -> list[ClientTask]:
        """The bytes for each client of the cohort. Clients that lack the same share one payload object."""
        rules, model = self.rules, self.model
        broadcast = Broadcast(
            model,
            plan.t,
            rules.codec,
            seed=derive_seed(rules.seed, "downlink", plan.t),
            frozen_values=self._frozen_values,
        )
        self.sent = broadcast.sent
        payloads: dict[Lacks, bytes] = {}
        tasks = []
        for client in plan.cohort:
            lacks = Lacks(True, True, 0) if rules.participation.stateless else self.holdings.lacks(client)
            if lacks not in payloads:
                payloads[lacks] = broadcast.payload(
                    held=self.holdings.mask(lacks.held, model.layout.maskable),
                    mask=lacks.mask,
                    frozen=lacks.frozen,
                    moves=self.holdings.moves(lacks.held),
                )
            self.holdings.sent(client)
            tasks.append(ClientTask(client, plan.t, payloads[lacks]))
        return tasks

    # ---- absorb -------------------------------------------------------------------------------------------------

    def absorb(self, plan: RoundPlan, update: Update) -> None:
        """Takes an update into the round's mean, or leaves it out and says why in the record."""
        if update.payload is None:
            self._record.rejected[update.client] = update.problem or "no answer"
            self.holdings.forget(update.client)
            return
        try:
            upload = decode_uplink(
                update.payload,
                self.sent,
                update.client,
                plan.t,
                self.rules.codec,
                moved=self.rules.rule.wants_gradient(plan.stage, plan.t),
                statistics=self.rules.aggregation.statistics == "average",
            )
        except WireError as error:
            self._record.rejected[update.client] = str(error)
            return
        assert self._mean is not None  # plan() made it
        self._mean.add(upload)
        self._record.reports.append(upload.report)

    def conclude(self, plan: RoundPlan) -> RoundRecord:
        """Makes the next model from the round's mean; without a single update it stays as it is."""
        mean, model, rules = self._mean, self.model, self.rules
        assert mean is not None  # plan() made it
        if mean.samples > 0:
            values = rules.aggregation.step(model, self._whole(mean.mean()))
            held = replace(model.with_values(values), alive=model.alive | (mean.support > 0))
            self._take(rules.rule.after_aggregate(held, mean.support, plan.stage), None)
        self._update_average()
        self._record.mask_changed = int((self.model.alive & ~self._alive_before).sum())
        return self._record

    def _whole(self, mean: Tensor) -> Tensor:
        """The mean [N] with what a lossy codec took away on the way down: error feedback at the server.

        Clients moved on from `sent`, so the server adds their mean change to the exact values that it kept.
        """
        if self.rules.codec.exact:
            return mean
        assert self._mean is not None
        weights = self.model.weights
        lost = torch.where(self._mean.support > 0, weights - self.sent.weights, 0.0)
        return torch.cat([mean[: len(weights)] + lost, mean[len(weights) :]])

    def _update_average(self) -> None:
        """The server average under the current masks; frozen weights are what they are."""
        model = self.model
        if self.average is None:
            self.average = model.values.clone()
            return
        average = torch.lerp(model.values, self.average, self.rules.ema)
        weights = average[: model.alive.numel()]
        weights.masked_fill_(~model.alive, 0.0)
        self.average = average
        weights[model.frozen] = model.weights[model.frozen]

    def averaged_model(self) -> GlobalModel:
        """The server average as a model."""
        return self.model if self.average is None else self.model.with_values(self.average)

    def note_accuracy(self, plan: RoundPlan, accuracy: float) -> None:
        """Keeps the best evaluated model of the stage after exploration, where the schedule starts from it."""
        if self.rules.start_from != "best_test" or plan.t < self.rules.rule.exploration_end(plan.stage):
            return
        if self._best is None or accuracy > self._best[0]:
            self._best = (accuracy, self.model.values.clone())

    # ---- checkpoint -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next round depends on; no random state, since every draw is named."""
        return {
            "values": self.model.values,
            "alive": self.model.alive,
            "frozen": self.model.frozen,
            "average": self.average,
            "best": self._best,
            "frozen_values": pack_section(self._frozen_values),
            "holdings": self.holdings.state_dict(),
            "aggregation": self.rules.aggregation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.model = GlobalModel(self.model.layout, state["values"], state["alive"], state["frozen"])
        self.average, self._best = state["average"], state["best"]
        self._frozen_values = unpack_section(state["frozen_values"])
        self.holdings.load_state_dict(state["holdings"])
        self.rules.aggregation.load_state_dict(state["aggregation"])
