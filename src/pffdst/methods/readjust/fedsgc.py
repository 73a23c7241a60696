"""FedSGC: clients prune and grow mid-round, preferring moves that agree with the global model's last step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from pffdst.core.masks import first
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.shares import whole_share
from pffdst.core.signals import Signal, Signals
from pffdst.methods.readjust.client_gradient import pruned_back
from pffdst.methods.readjust.swap import checked_alpha, share_of, swap_counts
from pffdst.methods.rule import Answer, ClientTurn, Cohort, Rule
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["FedSgc", "agreeing_first"]


@final
@dataclass
class _Last:
    """The previous model: positions and values of its trainable weights."""

    at: Positions | None = None
    values: Tensor | None = None


@final
@dataclass(frozen=True)
class FedSgc(Rule):
    """On the schedule's rounds clients get d = sign(w_t - w_(t-1)) of the global model and move zeta_t k_l weights.

    After A = E // 2 + 1 epochs a client prunes and grows, and trains the remaining epochs with the new mask. Delta is
    sign(local change) of an alive weight and -sign(g) of a dead one. The first floor(lambda k) pruned are the smallest
    |w| with d Delta < 0, the rest the smallest of the others; the first floor(beta k) grown are the largest |g| with
    d Delta > 0, the rest the largest of the others. d = 0 never agrees. The server takes the mean over holders and
    prunes the union back to k_l per layer. `alpha` is a of zeta_t = a / 2 (1 + cos(pi t / T_end)); `prune_agree` is
    lambda, `grow_agree` is beta.
    """

    any_length: ClassVar[bool] = True
    alpha: float = 0.2
    prune_agree: float = 0.01
    grow_agree: float = 0.1
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=1, until=0.5))
    _last: _Last = field(default_factory=_Last, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked_alpha(self.alpha)
        for key in ("prune_agree", "grow_agree"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ValueError(f"Expected `readjust.{key}` to be in [0, 1], but got {getattr(self, key)}")

    def exploration_end(self, stage: Stage) -> int:
        """Half of the stage, by the schedule."""
        return self.schedule.fixed_from(stage)

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """On the schedule's rounds clients send the masks they end with."""
        return "layers" if self.schedule.due(stage, t) else None

    def probes(self, stage: Stage, t: int) -> int:
        """One dense batch mid-round."""
        return int(self.schedule.due(stage, t))

    def moving(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """k of each layer, at most the number of its dead weights."""
        return swap_counts(model, share_of(self.alpha, self.schedule, stage, t))

    # ---- what goes down ----------------------------------------------------------------------------------------------

    def down(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """d: which alive weights rose and which stayed (the others fell), and the same for dead ones that moved."""
        if not self.schedule.due(stage, t):
            return ()
        alive = (Signal("rose", "positions", among="alive"), Signal("stood", "positions", among="alive"))
        return *alive, Signal("dead_rose", "positions", among="dead"), Signal("dead_fell", "positions", among="dead")

    def broadcast(self, model: GlobalModel, stage: Stage, t: int) -> Signals:
        """The signs of the last step, from the previous model."""
        if not self.schedule.due(stage, t):
            return {}
        before, values = self._last.at, self._last.values
        if before is None or values is None:  # no step has been taken yet
            before, values = model.alive_at, model.held
        change = (model.held - before.carry(values, model.alive_at)).sign()
        gone = before.without(model.alive_at)
        lost = -before.carry(values, gone).sign()
        pick = {"rose": change > 0, "stood": change == 0}
        found = {name: Positions(model.layout, index=model.alive_at.index[mask]) for name, mask in pick.items()}
        dead = {"dead_rose": lost > 0, "dead_fell": lost < 0}
        return found | {name: Positions(model.layout, index=gone.index[mask]) for name, mask in dead.items()}

    # ---- client ------------------------------------------------------------------------------------------------------

    def epoch_end(self, turn: ClientTurn, epoch: int) -> None:
        """After epoch A the mask moves."""
        if epoch + 1 == _epochs_before(turn) and self.schedule.due(turn.stage, turn.t):
            self._move(turn)

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """With one or two epochs the mask moves here, at their end; with more, `epoch_end` has moved it."""
        if self.schedule.due(turn.stage, turn.t):
            if "moved" not in turn.scratch:
                self._move(turn)
                turn.scratch["late"] = True
            return {"trainable": turn.trainable, "late": "late" in turn.scratch}
        return {}

    def _move(self, turn: ClientTurn) -> None:
        """Prunes and grows k weights of each layer."""
        turn.scratch["moved"] = True
        start = turn.start
        counts, signs = self.moving(start, turn.stage, turn.t), signs_of(start, turn.received)
        values, gradient = turn.values().cpu().numpy(), turn.gradient().cpu().numpy()
        change = values - start.weights.numpy()
        left, joined = [], []
        for entry, span, count in zip(start.layout.layers, start.trainable_at.spans(), counts, strict=True):
            own = start.trainable_at.index[span].numpy()
            disagrees = signs[own] * np.sign(change[own]) < 0
            left.append(own[agreeing_first(np.abs(values[own]), disagrees, count, self.prune_agree)])
            taken = start.alive[entry.span].numpy()
            dead = np.flatnonzero(~taken) + entry.offset
            agrees = signs[dead] * -np.sign(gradient[dead]) > 0
            joined.append(dead[agreeing_first(-np.abs(gradient[dead]), agrees, count, self.grow_agree)])
        gone, new = (Positions(start.layout, index=torch.from_numpy(np.concatenate(x))) for x in (left, joined))
        turn.train_on(start.trainable_at.without(gone).plus(new))

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """What was trained, under the moved mask."""
        if "trainable" not in measured:
            return trained
        model = trained.model
        if measured["late"]:
            model = model.moved(model.frozen_at.plus(measured["trainable"]))
        return replace(trained, model=model, own_mask=True)

    # ---- server ------------------------------------------------------------------------------------------------------

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The union of the clients' masks pruned back; the sent model is remembered for the next d."""
        self._last.at, self._last.values = cohort.before.alive_at, cohort.before.held
        return pruned_back(cohort, stage)

    def state_dict(self) -> dict[str, Any]:
        """The previous model."""
        at = self._last.at
        return {"at": None if at is None else at.packed(), "values": self._last.values}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        self._last.at = None if state["at"] is None else Positions.unpacked(layout, state["at"])
        self._last.values = state["values"]


def _epochs_before(turn: ClientTurn) -> int:
    """A = E // 2 + 1."""
    return turn.epochs // 2 + 1


def signs_of(model: GlobalModel, received: Signals) -> Any:
    """d, int8 [W], from the signals that came with a model."""
    signs = np.zeros(model.layout.maskable, np.int8)
    signs[model.alive_at.index.numpy()] = -1
    for name, sign in (("rose", 1), ("stood", 0), ("dead_rose", 1), ("dead_fell", -1)):
        at = received[name]
        assert isinstance(at, Positions)
        signs[at.index.numpy()] = sign
    return signs


def agreeing_first(key: Any, agrees: Any, count: int, share: float) -> Any:
    """The indices of `count` of the smallest `key` [n]: the first floor(share count) of them among those that agree.

    The rest are the smallest of all others. If too few agree, others replace them: exactly `count` are returned.
    """
    preferred = np.flatnonzero(agrees)
    few = preferred[first(key[preferred], min(whole_share(share, count), len(preferred)))]
    others = np.ones(len(key), np.bool_)
    others[few] = False
    rest = np.flatnonzero(others)
    return np.sort(np.concatenate([few, rest[first(key[rest], count - len(few))]]))
