"""FLASH: clients find each layer's density before round 0; the mask drawn from it stays, or clients keep moving it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.core.masks import Move, draw, largest, room_left, smallest
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.signals import Signal, Signals
from pffdst.methods.allocation import divided, filled
from pffdst.methods.local import LocalTraining
from pffdst.methods.rule import Absent, Answer, ClientTurn, Cohort, Rule, Start

__all__ = ["Flash", "shared_out"]

_MOST = 0.99  # the most of a layer's free positions that one move fills


@final
@dataclass
class _Heard:
    """What clients sent, summed per layer (float64 [L]): densities before round 0, counts in this round."""

    densities: Tensor | None = None
    counts: Tensor | None = None


@final
@dataclass(frozen=True)
class Flash(Rule):
    """FLASH (Babakniya et al., TMLR 2023): a few clients find the layers' densities before round 0.

    In round -1 a share `init_share` of all clients gets one random mask, with the first stage's density d in every
    convolution (linear layers are dense, with `dense_linear`), and trains it for `init_epochs` epochs; the mask moves
    at the end of each epoch except the last. A move removes `rate` (1 - b / B) of each layer's weights, the smallest, b
    being the steps done of B, and grows as many at random free positions, divided among layers by their share of the
    sum of mean |w| over alive weights. Clients send their layers' densities; their unweighted mean, scaled to d and
    capped at 1, is the density of the mask that is drawn for round 0, on reinitialised weights.

    `mask=fixed` (SPDST) trains that mask. With `moving` (JMWST) clients move masks of their own in every round that is
    a multiple of `every` (r), at the end of each epoch except the last or, with a single epoch, once in its middle. The
    server takes the plain mean, with absent weights as 0, and keeps the largest of each layer: as many as the clients'
    mean count, scaled to the stage's sum.
    """

    any_length: ClassVar[bool] = True
    absent: ClassVar[Absent] = "zero"
    starts_anew: ClassVar[bool] = True
    warm_up = 1
    mask: Literal["fixed", "moving"] = "fixed"
    init_share: float = 0.1
    init_epochs: int = 10
    rate: float = 0.25
    dense_linear: bool = True
    every: int = 1
    _heard: _Heard = field(default_factory=_Heard, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mask not in ("fixed", "moving"):
            raise ValueError(f"Expected `readjust.mask` to be fixed or moving, but got {self.mask!r}")
        for key in ("init_share", "rate"):
            if not 0.0 < getattr(self, key) <= 1.0:
                raise ValueError(f"Expected `readjust.{key}`, a share, in (0, 1], but got {getattr(self, key)}")
        for key in ("init_epochs", "every"):
            if getattr(self, key) < 1:
                raise ValueError(f"Expected `readjust.{key}` to be at least 1, but got {getattr(self, key)}")

    def due(self, stage: Stage, t: int) -> bool:
        """Whether masks move in round t, counted from the stage's start."""
        return t < 0 or (self.mask == "moving" and (t + 1 - stage.start) % self.every == 0)

    # ---- stages ------------------------------------------------------------------------------------------------------

    def cohort_size(self, t: int, clients: int, cohort: int) -> int:
        """The share of all clients, but at least one."""
        return max(1, round(self.init_share * clients))

    def before_round(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | None:
        """Before round 0: one random mask for all clients."""
        return Move(None, self._first_counts(model.layout, stage), seed) if t < 0 else None

    def start(self, given: Start) -> None:
        """A random draw of `start_counts`. UserError if no client's densities are known."""
        if self._heard.densities is None:
            raise UserError("no client's densities could be used, so there is no mask to start from; see the log")

    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """The stage's weights, divided by the mean densities; the counts of round -1 until there are any."""
        if self._heard.densities is None:
            return self._first_counts(model.layout, stage)
        wanted = [d * e.size for d, e in zip(self._heard.densities.tolist(), model.layout.layers, strict=True)]
        return divided(wanted, room_left(model), sum(stage.counts))

    def _first_counts(self, layout: Layout, stage: Stage) -> tuple[int, ...]:
        density = sum(stage.counts) / layout.maskable
        stays = self._stays(layout, -1)
        layers = zip(layout.layers, stays, strict=True)
        return tuple(e.size if whole else max(1, round(density * e.size)) for e, whole in layers)

    def _stays(self, layout: Layout, t: int) -> list[bool]:
        """Which layers stay dense: the linear ones before round 0, if there are others."""
        linear = [not e.kernel for e in layout.layers]
        apart = t < 0 and self.dense_linear and not all(linear)
        return [apart and one for one in linear]

    def exploration_end(self, stage: Stage) -> int:
        """At once, or never."""
        return stage.stop if self.mask == "moving" and self.every <= stage.length else stage.start

    # ---- client ------------------------------------------------------------------------------------------------------

    def epochs(self, t: int, epochs: int) -> int:
        """The rule's own number before round 0."""
        return self.init_epochs if t < 0 else epochs

    def before_step(self, turn: ClientTurn) -> None:
        """Moves in the middle of a single epoch; a client with one batch has no middle."""
        if turn.epochs == 1 and turn.step == turn.steps // 2 > 0 and self.due(turn.stage, turn.t):
            self._move(turn)

    def epoch_end(self, turn: ClientTurn, epoch: int) -> None:
        """The mask moves."""
        if self.due(turn.stage, turn.t):
            self._move(turn)

    def _move(self, turn: ClientTurn) -> None:
        """Removes the smallest weights of each layer and grows as many in total."""
        rate, at, layout = self.rate * (1 - turn.step / turn.steps), turn.trainable, turn.layout
        stays = self._stays(layout, turn.t)
        values = at.gather(turn.values().cpu())
        counts = [0 if whole else round(rate * k) for k, whole in zip(at.counts, stays, strict=True)]
        kept = at.without(smallest(at, values, counts))
        taken = kept.plus(turn.start.frozen_at)
        layers = zip(layout.layers, taken.counts, stays, strict=True)
        room = [0 if whole else e.size - n for e, n, whole in layers]
        grown = grown_counts([values[span].abs() for span in at.spans()], room, sum(counts))
        turn.train_on(kept)  # weights removed and drawn again are 0 in between
        turn.train_on(kept.plus(draw(taken, grown, turn.generator_seed(f"flash {turn.step}"))))

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """Before round 0 the layers' densities; then what was trained, under the client's own mask if it moved."""
        if t >= 0:
            return replace(trained, own_mask=self.due(stage, t) or trained.own_mask)
        at = trained.model.trainable_at
        found = torch.tensor([k / e.size for k, e in zip(at.counts, at.layout.layers, strict=True)])
        return replace(trained, signals=trained.signals | {"densities": found})

    # ---- server ------------------------------------------------------------------------------------------------------

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """The densities."""
        return (Signal("densities", "values", length=len(stage.counts)),) if t < 0 else ()

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """Moved masks are sent with their weights."""
        return "any" if t >= 0 and self.due(stage, t) else None

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds a client's densities, or its mask's counts; clients are weighted equally."""
        heard = self._heard
        if t < 0:
            found = signals["densities"]
            assert isinstance(found, Tensor)  # by its declaration
            found = found.double().nan_to_num(0.0).clamp(0.0, 1.0)
            heard.densities = found if heard.densities is None else heard.densities + found
        elif self.due(stage, t):
            counts = torch.tensor(model.trainable_at.counts, dtype=torch.float64)
            heard.counts = counts if heard.counts is None else heard.counts + counts

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """On rounds in which masks moved, the largest of the mean, by the clients' counts."""
        counts, self._heard.counts = self._heard.counts, None
        if counts is None:
            return cohort.mean
        mean, at = cohort.mean, cohort.mean.trainable_at
        budgets = divided(counts.tolist(), at.counts, sum(stage.counts))
        return mean.moved(mean.frozen_at.plus(largest(at, mean.trained, budgets)))

    def state_dict(self) -> dict[str, Any]:
        """The densities."""
        return {"densities": self._heard.densities}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        self._heard.densities, self._heard.counts = state["densities"], None

    # ---- what can be checked in advance ------------------------------------------------------------------------------

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """Warns of a mask that should move but never does."""
        if self.mask == "fixed" or self.every <= max(stage_lengths):
            return []
        return [f"readjust.every={self.every} is longer than any stage: masks never move, as with readjust.mask=fixed"]

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """Clients send masks of their own, which the other rule must not change."""
        if self.mask == "fixed" or type(other).own_masks is Rule.own_masks:
            return []
        return ["readjust.mask=moving: clients already send masks of their own: write updates=plain"]


# ---- dividing weights over layers ------------------------------------------------------------------------------------


def shared_out(wanted: Sequence[float], room: Sequence[int], total: int) -> tuple[int, ...]:
    """Like `filled`, in whole weights: what rounding down leaves goes to the largest remainders, then lower indices."""
    shares = filled(wanted, room, total)
    counts = [math.floor(share) for share in shares]
    able = [i for i in range(len(room)) if counts[i] < room[i]]
    able.sort(key=lambda i: (counts[i] - shares[i], i))
    for i in able[: total - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


def grown_counts(magnitudes: Sequence[Tensor], room: Sequence[int], total: int) -> tuple[int, ...]:
    """How many of `total` grow in each layer, by the mean of its weights' `magnitudes`, in at most .99 of its `room`.

    If that is too little for all of them, the whole room is used.
    """
    means = [float(m.double().mean()) if len(m) else 0.0 for m in magnitudes]
    wanted = [mean if math.isfinite(mean) and free else 0.0 for mean, free in zip(means, room, strict=True)]
    most = [math.floor(_MOST * free) for free in room]
    return shared_out(wanted, most if sum(most) >= total else room, total)
