"""A run's rules as one: what the server and the clients ask of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.signals import Signal
from pffdst.methods.rule import Absent, Rule, touches_steps
from pffdst.wire.codecs import Codecs
from pffdst.wire.uplink import UplinkForm

__all__ = ["Method", "stage_of"]


@final
@dataclass(frozen=True)
class Method:
    """The rule that moves masks (group `readjust`) and the one that changes updates (group `updates`)."""

    readjust: Rule
    updates: Rule

    def __iter__(self) -> Iterator[Rule]:
        return iter((self.readjust, self.updates))

    @property
    def warm_up(self) -> int:
        """Rounds before round 0."""
        return max(rule.warm_up for rule in self)

    @property
    def absent(self) -> Absent:
        """How the mean treats a position that a client does not hold."""
        return next((rule.absent for rule in self if rule.absent != "left_out"), "left_out")

    def lacking(self, stages: tuple[Stage, ...], rounds: int) -> Absent:
        """The same in a run of so many rounds: `left_out` if no client ever has a mask of its own."""
        if self.absent == "left_out" or all(self.own_masks(stage_of(stages, t), t) is None for t in range(rounds)):
            return "left_out"
        return self.absent

    @property
    def sends_changes(self) -> bool:
        """Whether clients keep the weights and are only sent what changed."""
        return any(rule.sends_changes for rule in self)

    @property
    def touches_steps(self) -> bool:
        """Whether a rule acts within steps."""
        return any(map(touches_steps, self))

    def epochs(self, t: int, epochs: int) -> int:
        """Local epochs of round t in a run with `epochs` (E); 0 if clients only send what the rules ask for."""
        return max(rule.epochs(t, epochs) for rule in self)

    def down(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """What is sent to clients with the model."""
        return tuple(signal for rule in self for signal in rule.down(stage, t))

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """What clients send besides their update."""
        return tuple(signal for rule in self for signal in rule.up(stage, t))

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """Whether clients send masks of their own."""
        return next((own for rule in self if (own := rule.own_masks(stage, t)) is not None), None)

    def effective(self, model: GlobalModel) -> GlobalModel:
        """The model as it is used."""
        return self.updates.effective(self.readjust.effective(model))

    def probes(self, stage: Stage, t: int) -> int:
        """Dense gradient batches that a client computes besides its steps."""
        return sum(rule.probes(stage, t) for rule in self)

    def forwards(self, layout: Layout, stage: Stage, t: int, seed: int) -> list[Sequence[int]]:
        """The alive weights per layer of each batch that a client only passes forward."""
        return [alive for rule in self for alive in rule.forwards(layout, stage, t, seed)]

    def dense_steps(self, stage: Stage, t: int) -> bool:
        """Whether local steps also compute the gradients of dead weights."""
        return any(rule.dense_steps(stage, t) for rule in self)

    def asks(self, stages: tuple[Stage, ...], rounds: int) -> list[str]:
        """A line for each rule that tells the server more about individual clients than the mean of their updates."""
        private = {"readjust": "readjust=server_differential, readjust=static", "updates": "updates=plain"}
        return [
            f"`{name}` ({type(rule).__name__}) asks individual clients for signals or masks of their own, which a "
            f"private mean does not cover: write {private[name]} or aggregation=masked_mean"
            for name, rule in (("readjust", self.readjust), ("updates", self.updates))
            if any(rule.asks(stage_of(stages, t), t) for t in range(-self.warm_up, rounds))
        ]

    def uplink(self, codecs: Codecs, stage: Stage, t: int, *, statistics: bool) -> UplinkForm:
        """What the updates of round t contain."""
        return UplinkForm(
            codecs,
            values=t >= 0,
            own_masks=self.own_masks(stage, t),
            statistics=statistics,
            signals=self.up(stage, t),
        )


def stage_of(stages: tuple[Stage, ...], t: int) -> Stage:
    """The stage that holds round t; rounds before round 0 belong to the first."""
    return next(s for s in stages if t < s.stop)
