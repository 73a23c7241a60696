"""FedDST (Bibikar et al., AAAI-22): clients prune by magnitude and grow by gradient, the server prunes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

from pffdst.core.masks import largest, largest_dead, smallest
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.readjust.swap import checked_alpha, held_of, share_of
from pffdst.methods.rule import Answer, ClientTurn, Cohort, Rule
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["ClientGradient", "pruned_back"]


@final
@dataclass(frozen=True)
class ClientGradient(Rule):
    """On the schedule's rounds a share alpha_t of each layer moves, in the first half of a stage.

    alpha_t = alpha / 2 (1 + cos(pi t / (L / 2))), t counted from the stage's start.
    """

    any_length: ClassVar[bool] = True
    alpha: float = 0.01
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=1, until=0.5))

    def __post_init__(self) -> None:
        checked_alpha(self.alpha)

    def exploration_end(self, stage: Stage) -> int:
        """Half of the stage."""
        return self.schedule.fixed_from(stage)

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """On readjust rounds clients move their masks and send them."""
        return "layers" if self.schedule.due(stage, t) else None

    def probes(self, stage: Stage, t: int) -> int:
        """One dense batch on readjust rounds."""
        return int(self.schedule.due(stage, t))

    def share(self, stage: Stage, t: int) -> float:
        """alpha_t of round t."""
        return share_of(self.alpha, self.schedule, stage, t)

    def moving(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """How many weights of each layer move in round t; a dense layer has no dead weight to grow."""
        share, sizes = self.share(stage, t), [e.size for e in model.layout.layers]
        dead = [size - alive for size, alive in zip(sizes, model.alive_at.counts, strict=True)]
        return [0 if d == 0 else round(share * k) for k, d in zip(model.trainable_at.counts, dead, strict=True)]

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """The largest gradients of dead weights, and of the weights that are about to die."""
        if not self.schedule.due(turn.stage, turn.t):
            return {}
        counts = self.moving(turn.start, turn.stage, turn.t)
        start = turn.start
        # Pruned weights may grow back: they compete with the dead ones, by gradient.
        trained = start.trainable_at.gather(turn.values()).cpu()
        pruned = smallest(start.trainable_at, trained, counts)
        return {"pruned": pruned, "grown": largest_dead(turn.gradient(), start.alive_at.without(pruned), counts)}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """The trained model under the moved mask; grown weights are 0."""
        if "pruned" not in measured:
            return trained
        pruned: Positions = measured["pruned"]
        model = trained.model.moved(trained.model.alive_at.without(pruned).plus(measured["grown"]))
        regrown = model.held.masked_fill(model.alive_at.marked(pruned), 0.0)  # what was pruned may have grown again
        return replace(trained, model=model.with_held(regrown, model.rest), own_mask=True)

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """Prunes the union of the clients' masks back to the stage's counts, per layer, by magnitude."""
        return pruned_back(cohort, stage)


def pruned_back(cohort: Cohort, stage: Stage) -> GlobalModel:
    """The mean with the stage's counts of trainable weights: per layer the largest |w| of those that clients hold stay.

    A weight that every client dropped goes, however large it was on the server. Exact ties, such as grown zeros, go to
    the weight that more samples hold, then to the lower index.
    """
    model = held_of(cohort)
    trainable = model.trainable_at
    if trainable.counts == stage.counts:
        return model
    support = cohort.mean.alive_at.carry(cohort.support, trainable)
    return model.moved(largest(trainable, model.trained, stage.counts, support).plus(model.frozen_at))
