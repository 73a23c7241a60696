"""Masks from scores that clients give the weights before round 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.core.facts import Facts
from pffdst.core.masks import greatest_overall
from pffdst.core.model import Layout, Stage
from pffdst.core.positions import Positions
from pffdst.methods.rule import Answer, Chosen, ClientTurn, Rule, Signal, Signals, Start

__all__ = ["Scored"]


@dataclass
class Scored(Rule, ABC):
    """In round -1 a share `init_share` of all clients scores every weight of the initial model on one batch.

    The server takes the mean, weighted by samples, and keeps the k weights with the largest mean score over all layers,
    with at least `least` in each. k is the stage's number of trainable weights; the allocation's division among layers
    is not used. A later stage keeps the next best of what is not frozen.

    `sent`: clients send `all` their scores, or the `top` k with their positions, the others counting as 0. With
    `normalise=sum` a client's scores are first divided by the sum of their magnitudes, so that a client with a large
    loss does not outvote the rest.
    """

    any_length: ClassVar[bool] = True
    init_share: float = 1.0
    sent: Literal["all", "top"] = "all"
    normalise: Literal["sum", "none"] = "sum"
    least: int = 1
    _sum: Tensor | None = field(default=None, init=False, repr=False, compare=False)  # float64 [W]

    begins_dense: ClassVar[bool] = True
    warm_up = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.init_share <= 1.0:
            raise ValueError(
                f"Expected `readjust.init_share`, a share of clients, in (0, 1], but got {self.init_share}"
            )
        for key, value, known in (("sent", self.sent, ("all", "top")), ("normalise", self.normalise, ("sum", "none"))):
            if value not in known:
                raise ValueError(f"Expected `readjust.{key}` to be {' or '.join(known)}, but got {value!r}")
        if self.least < 0:
            raise ValueError(f"Expected `readjust.least`, weights per layer, to be at least 0, but got {self.least}")

    @abstractmethod
    def score(self, turn: ClientTurn) -> Tensor:
        """A client's scores, flat [W], on the network's device; the largest are kept."""

    # ---- client ----------------------------------------------------------------------------------------------------

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """The scores, moved to the host."""
        if turn.t != -1:
            return {}
        score = self.score(turn).detach().float()
        if self.normalise == "sum":
            score = score / score.abs().sum().clamp_min(torch.finfo(score.dtype).tiny)
        return {"score": score.cpu()}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """All scores, or the top k."""
        if "score" not in measured:
            return trained
        score: Tensor = measured["score"]
        if self.sent == "all":
            return replace(trained, signals=trained.signals | {"score": score})
        at = greatest_overall(Positions.all(trained.model.layout), score, sum(stage.counts))
        return replace(trained, signals=trained.signals | {"score": Chosen(at, at.gather(score))})

    # ---- server ----------------------------------------------------------------------------------------------------

    def cohort_size(self, t: int, clients: int, cohort: int) -> int:
        """The share of all clients, but at least one."""
        return max(1, round(self.init_share * clients))

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """The scores."""
        if t != -1:
            return ()
        return (Signal("score", "dense" if self.sent == "all" else "chosen", among="all"),)

    def observe(self, client: int, model: Any, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds a client's scores to the sum."""
        if "score" not in signals:
            return
        score = signals["score"]
        dense = score.at.spread(score.values) if isinstance(score, Chosen) else score
        assert isinstance(dense, Tensor)  # by its declaration
        self._sum = dense.double() * samples if self._sum is None else self._sum.add_(dense, alpha=samples)

    def start(self, given: Start) -> Positions:
        """The k positions with the largest mean scores that are not frozen."""
        if self._sum is None:
            raise UserError("no client's scores could be used, so there is no mask to start from; see the log")
        free, count = given.model.frozen_at.complement(), sum(given.stage.counts)
        chosen = greatest_overall(free, free.gather(self._sum), count, self.least)
        final = round(given.density * given.model.layout.maskable)
        if len(given.model.frozen_at) + count >= final:  # no later stage will need it
            self._sum = None
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The sum of the scores, as long as a later stage may need it."""
        return {"sum": self._sum}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        self._sum = None if state["sum"] is None else state["sum"].clone()

    def problems(self, facts: Facts) -> list[str]:
        """The top k only cover the first stage."""
        if self.sent == "top" and facts.has_stages:
            return ["readjust.sent=top sends no more scores than the first stage has weights: write readjust.sent=all"]
        return []
