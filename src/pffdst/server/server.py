"""The server: plans a round, writes its messages, takes the answers in, makes the next model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from pffdst.freezing.base import StartFrom
from pffdst.seeding import generator_for
from pffdst.server.aggregate import Aggregation, RunningMean
from pffdst.server.cohort import Participation
from pffdst.server.holdings import Holdings
from pffdst.sparsity.masks import random_positions
from pffdst.sparsity.readjust.base import ReadjustRule
from pffdst.state import ClientTask, GlobalModel, RoundPlan, Stage, Update
from pffdst.wire.downlink import encode_downlink
from pffdst.wire.messages import WireError
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
    """Holds the one sparse model. `model` is the last aggregated one, `average` the server average [N] or None."""

    def __init__(self, model: GlobalModel, rules: ServerRules) -> None:
        self.model = model
        self.rules = rules
        self.average: Tensor | None = None
        self.holdings = Holdings(rules.clients)
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
            generator = generator_for(rules.seed, "grow", t)
            self._change_mask(rules.rule.on_server(self.model, stage, t, generator))
        cohort = rules.participation.cohort(rules.clients, rules.cohort, generator_for(rules.seed, "cohort", t))
        pruned = int((before & ~self.model.alive).sum())
        grown = int((self.model.alive & ~before).sum())
        self._mean, self._record = RunningMean(self.model), RoundRecord()
        return RoundPlan(t, stage, cohort, pruned if t > 0 else 0, grown if t > 0 else 0, froze)

    def _begin_stage(self, stage: Stage) -> None:
        """Freezes what is alive (not at the run's start) and draws the stage's trainable positions.

        The first stage keeps the initial weights at its positions; later ones grow from 0.
        """
        model = self.model
        if stage.index == 0:
            nothing = torch.zeros_like(model.alive)
            model = replace(model, frozen=nothing)
            free = torch.ones_like(model.alive)
        else:
            values = self._stage_model()
            model = replace(model.with_values(values), frozen=model.alive)
            self.average, self._best = None, None
            self.holdings.new_frozen()
            free = ~model.frozen
        counts = self.rules.rule.start_counts(model, stage)
        drawn = random_positions(model.layout, free, counts, generator_for(self.rules.seed, "grow", stage.start))
        self.model = model.with_masks(model.frozen | drawn)
        self.holdings.new_mask()

    def _stage_model(self) -> Tensor:
        """The values [N] that freeze: of the last model, the server average, or the best evaluated one."""
        if self.rules.start_from == "ema" and self.average is not None:
            return self.average
        if self.rules.start_from == "best_test" and self._best is not None:
            return self._best[1]
        return self.model.values

    def _change_mask(self, model: GlobalModel) -> None:
        """Takes a model whose mask may have moved; clients lack a mask that did."""
        if model is not self.model and not torch.equal(model.trainable, self.model.trainable):
            self.holdings.new_mask()
        self.model = model

    # ---- dispatch -----------------------------------------------------------------------------------------------

    def dispatch(self, plan: RoundPlan) -> list[ClientTask]:
        """The bytes for each client of the cohort. Clients that lack the same share one payload object."""
        payloads: dict[tuple[bool, bool], bytes] = {}
        tasks = []
        for client in plan.cohort:
            lacks = (True, True) if self.rules.participation.stateless else self.holdings.lacks(client)
            if lacks not in payloads:
                mask, frozen = lacks
                payloads[lacks] = encode_downlink(self.model, plan.t, self.rules.codec, mask=mask, frozen=frozen)
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
                self.model,
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
            values = rules.aggregation.step(model, mean.mean())
            held = replace(model.with_values(values), alive=model.alive | (mean.support > 0))
            self._change_mask(rules.rule.after_aggregate(held, mean.support, plan.stage))
        self._update_average()
        self._record.mask_changed = int((self.model.alive & ~self._alive_before).sum())
        return self._record

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
            "holdings": self.holdings.state_dict(),
            "aggregation": self.rules.aggregation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.model = GlobalModel(self.model.layout, state["values"], state["alive"], state["frozen"])
        self.average, self._best = state["average"], state["best"]
        self.holdings.load_state_dict(state["holdings"])
        self.rules.aggregation.load_state_dict(state["aggregation"])
