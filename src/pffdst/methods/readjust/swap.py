"""Masks whose weights the server swaps, according to what clients measure for dead weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from pffdst.core.masks import largest, largest_dead, smallest
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.aggregation import Places
from pffdst.methods.rule import Answer, Chosen, ClientTurn, Cohort, Rule, Signal, Signals
from pffdst.methods.schedule import UpdateSchedule

__all__ = [
    "TopGradients",
    "checked_alpha",
    "held_of",
    "masks_of",
    "share_of",
    "smallest_of_mean",
    "swap_counts",
    "swapped",
]


def share_of(alpha: float, schedule: UpdateSchedule, stage: Stage, t: int) -> float:
    """zeta(t) = alpha / 2 (1 + cos(pi t / T_end)), t counted from the stage's start; 0 from T_end on."""
    return alpha / 2 * schedule.decay(stage, t)


def swap_counts(model: GlobalModel, share: float) -> list[int]:
    """round(share k_l) weights of each layer, limited by its number of dead weights."""
    dead = [e.size - k for e, k in zip(model.layout.layers, model.alive_at.counts, strict=True)]
    return [min(round(share * k), d) for k, d in zip(model.trainable_at.counts, dead, strict=True)]


def swapped(model: GlobalModel, pruned: Positions, grown: Positions) -> GlobalModel:
    """The model without `pruned` (not frozen) and with `grown` (dead until now), which starts at 0."""
    return model.moved(model.alive_at.without(pruned).plus(grown))


def checked_alpha(alpha: float) -> None:
    """ValueError if `alpha` (a) is not in [0, 1]."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"Expected `readjust.alpha` (a) to be in [0, 1], but got {alpha}; write e.g. 0.4")


@dataclass
class TopGradients(Rule, ABC):
    """On adjust rounds clients send their largest gradients of dead weights, and the server swaps by their mean.

    Clients train with the mask they were sent, then take the gradient of one batch at the trained weights; the top
    zeta(t) k_l of each layer's dead weights are sent, signed, with their positions, and what a client does not send
    counts as 0. The server averages by samples, takes magnitudes after the mean, grows the top n_l = zeta(t) k_l and
    prunes as many. Both are chosen under the old mask: what was just pruned is not grown, and grown weights are 0.
    """

    any_length: ClassVar[bool] = True
    alpha: float
    schedule: UpdateSchedule
    _gradients: Places | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked_alpha(self.alpha)

    @abstractmethod
    def pruned(self, cohort: Cohort, counts: Sequence[int]) -> Positions:
        """The `counts[l]` positions of each layer that leave the mask."""

    def moving(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """n_l of an adjust round: how many weights of each layer are swapped."""
        return swap_counts(model, share_of(self.alpha, self.schedule, stage, t))

    def exploration_end(self, stage: Stage) -> int:
        """T_end."""
        return self.schedule.fixed_from(stage)

    # ---- client ----------------------------------------------------------------------------------------------------

    def probes(self, stage: Stage, t: int) -> int:
        """One dense batch on adjust rounds."""
        return int(self.due(stage, t))

    def due(self, stage: Stage, t: int) -> bool:
        """Whether round t adjusts the mask."""
        return t >= 0 and self.schedule.due(stage, t)

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """The largest gradients among dead weights."""
        if not self.due(turn.stage, turn.t):
            return {}
        gradient = turn.gradient()
        at = largest_dead(gradient, turn.start.alive_at, self.moving(turn.start, turn.stage, turn.t))
        return {"gradient": Chosen(at, gradient.index_select(0, at.index.to(gradient.device)).cpu())}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """The gradients are sent."""
        if "gradient" not in measured:
            return trained
        return replace(trained, signals=trained.signals | {"gradient": measured["gradient"]})

    # ---- server ----------------------------------------------------------------------------------------------------

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """Gradients of dead weights."""
        return (Signal("gradient", "chosen", among="dead"),) if self.due(stage, t) else ()

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds a client's gradients to the sum."""
        if not self.due(stage, t):
            return
        sent = signals["gradient"]
        assert isinstance(sent, Chosen)  # by its declaration
        if self._gradients is None:
            self._gradients = Places(model.layout.maskable)
        self._gradients.add(sent.at, sent.values.double() * samples, samples)

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The mean under the moved mask."""
        if self._gradients is None:
            return cohort.mean
        at, sums, _ = self._gradients.sums()
        self._gradients = None
        wanted = self.moving(cohort.before, stage, t)
        counts = [min(n, there) for n, there in zip(wanted, at.counts, strict=True)]  # clients may send anything
        return swapped(cohort.mean, self.pruned(cohort, counts), largest(at, sums, counts))


def smallest_of_mean(cohort: Cohort, counts: Sequence[int]) -> Positions:
    """The `counts[l]` trainable weights of smallest magnitude in each layer, after the mean."""
    return smallest(cohort.mean.trainable_at, cohort.mean.trained, counts)


def held_of(cohort: Cohort) -> GlobalModel:
    """The mean without weights that no client holds any more; all of it where no values came back."""
    mean, held = cohort.mean, cohort.support > 0
    if not bool(held.any()):
        return mean
    if len(mean.frozen_at):
        held |= mean.alive_at.inside(mean.frozen_at)
    if bool(held.all()):
        return mean
    return mean.moved(Positions(mean.layout, index=mean.alive_at.index[held]))


def masks_of(turn: ClientTurn, at: Positions) -> list[Tensor]:
    """Positions as 0/1 tensors, in the shapes of the turn's weights and on their device."""
    bits = at.bits
    return [
        weight.new_zeros(weight.shape).copy_(bits[entry.span].view(entry.shape))
        for entry, weight in zip(at.layout.layers, turn.weights, strict=True)
    ]
