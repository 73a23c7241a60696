"""The server: holds the one sparse model between rounds, and starts the next round from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pffdst.core.errors import UserError
from pffdst.core.inputs import Inputs
from pffdst.core.masks import Move
from pffdst.core.messages import RoundPlan
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed
from pffdst.methods.aggregation import Aggregation
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.method import Method, stage_of
from pffdst.methods.participation import Participation, Population
from pffdst.methods.rule import Rule, Start
from pffdst.methods.server_optimizer import ServerOptimizer
from pffdst.runs.checkpoint import check_vector
from pffdst.server.average import ServerAverage
from pffdst.server.downloads import Downloads
from pffdst.server.holdings import Holdings
from pffdst.server.round import Round
from pffdst.server.state import ServerState
from pffdst.wire.codecs import Codecs
from pffdst.wire.frame import Section, pack_section, unpack_section
from pffdst.wire.positions import encode_move

__all__ = ["Server", "ServerRules"]


@final
@dataclass(frozen=True)
class ServerRules:
    """The rules and numbers that the server works with.

    `cohort` is K of the population's clients C; `ema` is beta of the server average, which `ema_warm_up` lowers at
    first; clients that do not `keep` anything are sent everything every time. `density` is 1 - s; `network` makes a
    copy of the run's network and `inputs` describes its samples, for rules that score weights. `known` are the first
    stage's positions, if clients derive them themselves; `anew` returns values [N] of the network reinitialised from
    another draw, for rules that start over with so many weights per layer.
    """

    method: Method
    stages: tuple[Stage, ...]
    freeze: FreezeSchedule
    aggregation: Aggregation
    optimizer: ServerOptimizer
    participation: Participation
    population: Population
    codecs: Codecs
    seed: int
    cohort: int
    ema: float
    ema_warm_up: bool = True
    keep: bool = True
    density: float = 1.0
    network: Callable[[], nn.Module] | None = None
    inputs: Inputs | None = None
    known: Positions | None = None
    anew: Callable[[Sequence[int]], Tensor] | None = None

    @property
    def statistics(self) -> bool:
        """Whether statistics of normalisation layers are sent and averaged."""
        return self.aggregation.statistics == "average"

    @property
    def own_seed(self) -> int:
        """The seed of the draws that only the server makes: who is asked, and what the aggregation adds."""
        return self.aggregation.own_seed(self.seed)


@final
class Server:
    """Holds the one sparse model. `model` is the last aggregated one, `average` the server average.

    `state` holds its buffers, and which client has which of them.

    `begin` starts a round, which makes the next model when it is concluded.
    """

    def __init__(self, model: GlobalModel, rules: ServerRules, buffers: Sequence[Tensor] = ()) -> None:
        self.model, self.rules = model, rules
        self.average = ServerAverage(rules.ema, warm_up=rules.ema_warm_up)
        self.holdings = Holdings(rules.population.clients, rules.known)
        self.downloads = Downloads(rules.population.clients)
        self.state = ServerState(rules.population.clients, model.layout.constants, buffers)
        self.frozen_values: Section | None = None
        self._start_model = rules.freeze.start_model()

    @property
    def averaged_model(self) -> GlobalModel:
        """The server average as a model."""
        return self.average.model(self.model)

    def begin(self, t: int) -> Round:
        """Freezes, readjusts and draws the cohort of round t. The same state always gives the same round."""
        stage, before = stage_of(self.rules.stages, t), self.model.alive_at
        if t < 0:
            return self._warm_up(stage, t)
        froze = False
        if t == stage.start:
            froze = self._begin_stage(stage)
        else:
            self._move(tuple(self.rules.method), stage, t)
        now = self.model.alive_at
        moved = t > 0 and now is not before
        asked = self._asked(t)
        plan = RoundPlan(
            t,
            stage,
            asked,
            pruned=len(before.without(now)) if moved else 0,
            grown=len(now.without(before)) if moved else 0,
            froze=froze,
            wanted=self._enough(t, asked),
        )
        return Round(self, plan, self.model, before if t > 0 else now)

    def _wanted(self, t: int) -> int:
        """K of round t."""
        rules, clients, size = self.rules, self.rules.population.clients, self.rules.cohort
        if t >= 0:
            return size
        return max(rule.cohort_size(t, clients, size) for rule in rules.method if rule.warm_up >= -t)

    def _enough(self, t: int, asked: Sequence[int]) -> int:
        """How many updates end round t: K, or everyone asked if K is only the average number."""
        drawn = self.rules.participation
        return self._wanted(t) if drawn.fixed or drawn.extra > 0 else len(asked)

    def _asked(self, t: int) -> tuple[int, ...]:
        return self.rules.participation.asked(t, self.rules.population, self._wanted(t), self.rules.own_seed)

    # ---- masks and stages --------------------------------------------------------------------------------------------

    def _warm_up(self, stage: Stage, t: int) -> Round:
        """A round before round 0: the initial model is sent, whole or as the rules change it for this round only."""
        initial = self.model
        self._move([rule for rule in self.rules.method if rule.warm_up >= -t], stage, t)
        sent, self.model = self.model, initial
        if not self.holdings.newest_is(sent.trainable_at):
            self.holdings.new_mask(sent.trainable_at)
        asked = self._asked(t)
        return Round(self, RoundPlan(t, stage, asked, wanted=self._enough(t, asked)), sent, initial.alive_at)

    def _move(self, rules: Sequence[Rule], stage: Stage, t: int) -> None:
        """The rules' changes of the mask at the start of round t."""
        for rule in rules:
            self._make(rule.before_round(self.model, stage, t, derive_seed(self.rules.seed, "grow", t)))

    def _begin_stage(self, stage: Stage) -> bool:
        """Freezes (not at the run's start) and finds the stage's trainable positions.

        The first stage keeps the initial weights at its positions; later ones grow from 0.
        """
        rules, rule = self.rules, self.rules.method.readjust
        if stage.index > 0:
            self._freeze(stage)
        elif rules.known is not None:
            self.model = self.model.moved(rules.known)
            return False
        seed = stage.first_seed(rules.seed)
        network = None if rules.network is None else rules.network()
        chosen = rule.start(Start(self.model, stage, rules.density, seed, network, rules.inputs))
        if chosen is None:
            chosen = Move(None, rule.start_counts(self.model, stage), seed)
        if stage.index == 0 and rule.starts_anew:
            self.model = self._anew(rule.start_counts(self.model, stage))
        if isinstance(chosen, Positions):
            chosen = self.model.moved(self.model.frozen_at.plus(chosen))
        self._make(chosen)
        return stage.index > 0

    def _anew(self, counts: Sequence[int]) -> GlobalModel:
        """The model reinitialised, except for what never trains: clients may already hold it."""
        assert self.rules.anew is not None
        constants = self.model.layout.span("constant")
        values = self.rules.anew(counts)[: constants.start]
        return self.model.with_values(torch.cat([values, self.model.values[constants]]))

    def _freeze(self, stage: Stage) -> None:
        """Freezes weights with the values that clients will decode: they are coded once, here.

        A lossy codec must not round weights again that are already frozen: later freezes are sent exactly.
        """
        rules, again = self.rules, len(self.model.frozen_at) > 0
        model = self._start_model.model(self.model, self.averaged_model)
        frozen = rules.freeze.freezes(model, stage)
        codec = rules.codecs.exact if again else rules.codecs.values
        values = model.alive_at.carry(model.held, frozen)
        coded = codec.encode(values, seed=derive_seed(rules.seed, "freeze", stage.start))
        decoded = codec.decode(coded, len(frozen), "FROZEN_VALUES")
        self.model = GlobalModel.of(frozen, frozen, decoded, model.rest)
        self.frozen_values = coded
        self.average.begin_anew()
        self.holdings.new_frozen()

    def _make(self, change: Move | GlobalModel | None) -> None:
        """Moves the trainable mask, if there is a change."""
        if isinstance(change, Move):
            coded = encode_move(change, self.model.trainable_at)
            self.model = change.on(self.model)
            self.holdings.new_mask(self.model.trainable_at, coded, afresh=change.dropped is None)
        elif change is not None:
            self.take(change)

    def take(self, model: GlobalModel) -> None:
        """Takes a model whose mask may have moved; if it did, clients lack the new mask."""
        if model.trainable_at != self.model.trainable_at or self.holdings.empty:
            self.holdings.new_mask(model.trainable_at)
        self.model = model

    # ---- evaluation and checkpoint -----------------------------------------------------------------------------------

    def note_accuracy(self, plan: RoundPlan, accuracy: float) -> None:
        """Tells the start model of later stages how accurate this round's model is."""
        explored = plan.t >= self.rules.method.readjust.exploration_end(plan.stage)
        self._start_model.note(explored, accuracy, self.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next round depends on; no random state, since every draw is named."""
        model = self.model
        return {
            "tensors": model.layout.described,
            "alive": model.alive_at.packed(),
            "frozen": model.frozen_at.packed(),
            "held": model.held,
            "rest": model.rest,
            "average": self.average.state_dict(),
            "start_model": self._start_model.state_dict(),
            "frozen_values": pack_section(self.frozen_values),
            "holdings": self.holdings.state_dict(),
            "downloads": self.downloads.state_dict(),
            "state": self.state.state_dict(),
            "rules": [rule.state_dict() for rule in self.rules.method],
            "optimizer": self.rules.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned. UserError if that was for another network."""
        layout = self.model.layout
        changed = layout.differences(state["tensors"])
        if changed:
            what = "\n".join(f"  - {line}" for line in changed)
            raise UserError(f"the model's code has changed since the checkpoint; resume with the code it had:\n{what}")
        alive, frozen = (Positions.unpacked(layout, state[name]) for name in ("alive", "frozen"))
        check_vector("held", state["held"], len(alive))
        check_vector("rest", state["rest"], layout.total - layout.maskable)
        self.model = GlobalModel.of(alive, frozen, state["held"], state["rest"])
        self.average.load_state_dict(state["average"], layout)
        self._start_model.load_state_dict(state["start_model"], layout)
        self.frozen_values = unpack_section(state["frozen_values"])
        self.holdings.load_state_dict(state["holdings"])
        self.downloads.load_state_dict(state["downloads"])
        self.state.load_state_dict(state["state"])
        for rule, own in zip(self.rules.method, state["rules"], strict=True):
            rule.load_state_dict(own, layout)
        self.rules.optimizer.load_state_dict(state["optimizer"], layout)
