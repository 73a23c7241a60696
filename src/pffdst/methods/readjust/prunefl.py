"""PruneFL (Jiang et al., TNNLS 2022): the squared gradients of all weights determine the mask and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.masks import largest
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.core.shares import whole_share
from pffdst.methods.readjust.swap import checked_alpha, share_of, smallest_of_mean, swap_counts, swapped
from pffdst.methods.rule import Answer, ClientTurn, Cohort, Rule, Signal, Signals
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["PruneFl"]

_KEPT = "prunefl."  # prefix of its keys in a client's memory, which other parts use too


@final
@dataclass
class PruneFl(Rule):
    """On adjust rounds clients send the mean g^2 of every weight over their local steps, and the server decides by it.

    In each layer the (1 - dec) k_l largest |w| stay, dec = `decrement` / 2^(t / `halved_in`). All other weights, of all
    layers, compete: largest g_j^2 first, each is added while g_j^2 > sum g^2 / (c + n), where the sum is over what has
    been added so far and all parameters that have no mask, n counts the weights added, and c = `fixed_time` W is the
    fixed cost of a round (a weight's own cost tau_j is 1); never beyond `max_density`. The density is free: `sparsity`
    is where it starts.

    `accumulate`: clients measure in every round and keep the sum until they are asked, as the authors' code does;
    otherwise only in adjust rounds. `exact`: the mask keeps its size; the smallest |w|, a share zeta(t) of each layer,
    are swapped for the largest mean g^2 among dead weights, as in FedTiny.
    """

    any_length: ClassVar[bool] = True
    exact: bool = False
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=50, first=50, until=1.0))
    decrement: float = 0.3
    halved_in: float = 10000.0
    fixed_time: float = 0.7
    max_density: float = 1.0
    accumulate: bool = False
    alpha: float = 0.4
    _squares: Tensor | None = field(default=None, init=False, repr=False, compare=False)  # float64 [W - frozen]
    _rest: float = field(default=0.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.keeps_density = self.exact
        checked_alpha(self.alpha)
        for key, value in (("decrement", self.decrement), ("max_density", self.max_density)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Expected `readjust.{key}`, a share, to be in [0, 1], but got {value}")
        for key, value in (("halved_in", self.halved_in), ("fixed_time", self.fixed_time)):
            if not value > 0.0:
                raise ValueError(f"Expected `readjust.{key}` to be above 0, but got {value}")

    def due(self, stage: Stage, t: int) -> bool:
        """Whether round t adjusts the mask."""
        return t >= 0 and self.schedule.due(stage, t)

    def exploration_end(self, stage: Stage) -> int:
        """The round from which nothing is due."""
        return self.schedule.fixed_from(stage)

    # ---- client ----------------------------------------------------------------------------------------------------

    def measures(self, stage: Stage, t: int) -> bool:
        """Whether clients measure their gradients in round t."""
        return self.due(stage, t) or (self.accumulate and 0 <= t < self.exploration_end(stage))

    def dense_steps(self, stage: Stage, t: int) -> bool:
        """In rounds that measure."""
        return self.measures(stage, t)

    def begin(self, turn: ClientTurn) -> None:
        """Starts the sums of squares at 0: one per weight, and one for all other parameters."""
        if self.measures(turn.stage, turn.t):
            rest = torch.zeros((), dtype=torch.float64, device=turn.weights[0].device)
            turn.scratch.update(squares=[torch.zeros_like(w) for w in turn.weights], rest=rest)

    @torch.no_grad()
    def after_backward(self, turn: ClientTurn) -> None:
        """Adds a step's squared gradients."""
        if "squares" not in turn.scratch:
            return
        for total, weight in zip(turn.scratch["squares"], turn.weights, strict=True):
            if weight.grad is not None:
                total.addcmul_(weight.grad, weight.grad)
        for parameter in turn.parameters[len(turn.weights) :]:
            if parameter.grad is not None:
                turn.scratch["rest"] += parameter.grad.square().sum()

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """The sums over the steps of this turn and of remembered ones, and how many steps they cover."""
        if "squares" not in turn.scratch:
            return {}
        squares = torch.cat([s.reshape(-1) for s in turn.scratch["squares"]]).cpu()
        rest, steps = turn.scratch["rest"].cpu(), torch.tensor(float(turn.steps))
        own = {"squares": squares, "rest": rest, "steps": steps}
        return {key: value + turn.memory.get(_KEPT + key, 0.0) for key, value in own.items()}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """The means are sent in an adjust round; otherwise the client keeps the sums."""
        if not measured:
            return trained
        if not self.due(stage, t):
            kept = {_KEPT + key: value for key, value in measured.items()}
            return replace(trained, memory={**trained.memory, **kept})
        free = trained.model.frozen_at.complement()
        steps = measured["steps"]
        means = {"squares": free.gather(measured["squares"]) / steps, "rest_squares": (measured["rest"] / steps)[None]}
        return replace(trained, signals=trained.signals | means)

    # ---- server ----------------------------------------------------------------------------------------------------

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """Mean g^2 of every weight that is not frozen, and of all other parameters together."""
        if not self.due(stage, t):
            return ()
        return Signal("squares", "dense", among="free"), Signal("rest_squares", "values", length=1)

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds a client's means."""
        if not self.due(stage, t):
            return
        squares, rest = signals["squares"], signals["rest_squares"]
        assert isinstance(squares, Tensor)  # by their declarations
        assert isinstance(rest, Tensor)
        weighted = squares.double() * samples
        self._squares = weighted if self._squares is None else self._squares.add_(weighted)
        self._rest += rest.item() * samples

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The mean under the moved mask."""
        if self._squares is None:
            return cohort.mean
        squares, rest = self._squares / cohort.samples, self._rest / cohort.samples
        self._squares, self._rest = None, 0.0
        free = cohort.mean.frozen_at.complement()
        if self.exact:
            counts = swap_counts(cohort.mean, share_of(self.alpha, self.schedule, stage, t))
            dead = cohort.mean.alive_at.complement()
            grown = largest(dead, free.carry(squares, dead), counts)
            return swapped(cohort.mean, smallest_of_mean(cohort, counts), grown)
        stay = self.staying(cohort.mean, t)
        return cohort.mean.moved(stay.plus(self.joining(free, squares, stay, rest)).plus(cohort.mean.frozen_at))

    def staying(self, model: GlobalModel, t: int) -> Positions:
        """The (1 - dec) k_l largest |w| of each layer, whatever their gradients."""
        dec = self.decrement * 0.5 ** (t / self.halved_in)
        return largest(model.trainable_at, model.trained, [k - round(dec * k) for k in model.trainable_at.counts])

    def joining(self, free: Positions, squares: Tensor, stay: Positions, rest: float) -> Positions:
        """The positions in `free` but not in `stay` that are worth their time; `squares` float64 [free]."""
        W = free.layout.maskable
        others = free.without(stay)
        value = free.carry(squares, others).numpy()
        order = np.argsort(-value, kind="stable")
        ordered = value[order]
        inside = rest + float(free.carry(squares, stay).sum())
        before = inside + np.concatenate([[0.0], np.cumsum(ordered)[:-1]])[: len(ordered)]
        time = self.fixed_time * W + len(stay) + np.arange(len(ordered))
        worth = ordered > before / time
        number = len(worth) if worth.all() else int(worth.argmin())
        number = max(0, min(number, whole_share(self.max_density, W) - len(stay)))
        return Positions(free.layout, index=others.index[torch.from_numpy(np.sort(order[:number]))])

    # ---- what can be checked in advance ----------------------------------------------------------------------------

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """The density is not the requested one."""
        if self.exact:
            return []
        return ["readjust=prunefl chooses its own density: sparsity is where it starts, readjust.exact=true keeps it"]

    def problems(self, facts: Facts) -> list[str]:
        """A mask of free size cannot be divided between stages."""
        if self.exact or not facts.has_stages:
            return []
        return ["readjust=prunefl chooses its own density, which two stages cannot share: write readjust.exact=true"]
