"""SCAFFOLD (Karimireddy et al., ICML-20): control variates correct every local step for the clients' drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals
from pffdst.methods.local import LocalTraining
from pffdst.methods.local.optimizer import Sgd
from pffdst.methods.rule import Answer, ClientTurn, Cohort, Rule

__all__ = ["Scaffold"]

_WEIGHTS, _PARAMETERS = "scaffold_weights", "scaffold_parameters"
_AT, _OWN = "scaffold_at", "scaffold_own"


@final
class Scaffold(Rule):
    """y - eta (g(y) - c_k + c); the c_k of a client and the server's c start at 0 (Algorithm 1, option II).

    After S steps a client has c_k' = c_k - c + (x - y) / (S eta), S eta being the sum of its steps' learning rates, and
    sends y and c_k' - c_k; the server's step is the mean (its learning rate is 1), and c grows by the sum of the
    c_k' - c_k over C. Variates cover what is trained: the trainable weights and the parameters; they follow the mask,
    and start at 0 where it grows. They are sent in the run's codec; a client's own c_k is exact.
    """

    any_length: ClassVar[bool] = True

    def __init__(self) -> None:
        self._at: Positions | None = None
        self._c = self._sum = torch.empty(0)

    # ---- server ----------------------------------------------------------------------------------------------------

    def down(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """c."""
        return _signals() if t >= 0 else ()

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """c_k' - c_k."""
        return _signals() if t >= 0 else ()

    def broadcast(self, model: GlobalModel, stage: Stage, t: int) -> Signals:
        """c at the positions that are trainable now."""
        if t < 0:
            return {}
        at = model.trainable_at
        self._c = _variate(self._at, self._c, model)
        self._at, self._sum = at, torch.zeros(len(self._c), dtype=torch.float64)
        return _as_signals(self._c, len(at))

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds the change of a client's variate."""
        if t >= 0:
            self._sum += _from_signals(signals).double()

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """c + (K / C) mean(c_k' - c_k), which is their sum over C."""
        if t >= 0:
            self._c = (self._c.double() + self._sum / cohort.population).to(self._c.dtype)
        return cohort.mean

    def state_dict(self) -> dict[str, Any]:
        """c and its positions."""
        return {"at": None if self._at is None else self._at.packed(), "c": self._c}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        self._at = None if state["at"] is None else Positions.unpacked(layout, state["at"])
        self._c = state["c"]

    # ---- client ----------------------------------------------------------------------------------------------------

    def begin(self, turn: ClientTurn) -> None:
        """c - c_k, in the shapes of the network."""
        if turn.t < 0:
            return
        before = Positions.unpacked(turn.layout, turn.memory[_AT]) if _AT in turn.memory else None
        own = _variate(before, turn.memory.get(_OWN, torch.empty(0)), turn.start)
        shared = _from_signals(turn.received)
        count = len(turn.start.trainable_at)
        flat = torch.cat([turn.start.trainable_at.spread((shared - own)[:count]), (shared - own)[count:]])
        parts = turn.layout.split(flat)
        corrections = [torch.empty_like(p).copy_(v) for p, (_, v) in zip(turn.parameters, parts, strict=True)]
        turn.scratch.update(scaffold=corrections, scaffold_own=own, scaffold_shared=shared, scaffold_rates=Counter())

    def shape_gradient_(self, turn: ClientTurn) -> None:
        """g - c_k + c; the step's learning rate is noted, since another rule may change it."""
        turn.scratch["scaffold_rates"][turn.lr] += 1
        pairs = [(p.grad, c) for p, c in zip(turn.parameters, turn.scratch["scaffold"], strict=True)]
        with torch.no_grad():
            for gradient, correction in pairs:
                if gradient is not None:
                    gradient.add_(correction)

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """What c_k' is computed from: tensors on the host."""
        if turn.t < 0:
            return {}
        own, shared = turn.scratch["scaffold_own"], turn.scratch["scaffold_shared"]
        path = sum(steps * lr for lr, steps in turn.scratch["scaffold_rates"].items())
        return {"start": turn.start, "own": own, "shared": shared, "path": path}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """The trained model, with c_k' - c_k; weights that left the mask in this turn keep their c_k."""
        if not measured:
            return trained
        start, own, model = measured["start"], measured["own"], trained.model
        at, parameters = start.trainable_at, start.layout.parameters - start.layout.maskable
        now = model.trainable_at.carry(model.trained, at)
        moved = torch.cat([start.trained - now, (start.rest - model.rest)[:parameters]])
        change = moved / measured["path"] - measured["shared"]
        if model.trainable_at != at:
            change[: len(at)] *= at.inside(model.trainable_at)
        kept = {_AT: at.packed(), _OWN: own + change}
        return replace(
            trained,
            signals={**trained.signals, **_as_signals(change, len(at))},
            memory={**trained.memory, **kept},
        )

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """(x - y) / (S eta) is only the mean gradient under plain SGD."""
        lines = []
        if training.momentum != 0.0:
            lines.append(f"updates=scaffold needs plain SGD, but momentum={training.momentum}: write momentum=0")
        if not isinstance(training.optimizer, Sgd):
            lines.append("updates=scaffold needs plain SGD: write optimizer=sgd momentum=0")
        return lines


def _signals() -> tuple[Signal, ...]:
    return (
        Signal(_WEIGHTS, "dense", among="trainable", lossy=True),
        Signal(_PARAMETERS, "parameters"),
    )


def _as_signals(variate: Tensor, trainable: int) -> dict[str, Tensor]:
    """A variate [T + p] as it is sent."""
    return {_WEIGHTS: variate[:trainable], _PARAMETERS: variate[trainable:]}


def _from_signals(signals: Mapping[str, Tensor | Positions | Chosen]) -> Tensor:
    weights, parameters = signals[_WEIGHTS], signals[_PARAMETERS]
    assert isinstance(weights, Tensor)
    assert isinstance(parameters, Tensor)
    return torch.cat([weights, parameters])


def _variate(before: Positions | None, variate: Tensor, model: GlobalModel) -> Tensor:
    """A variate [T + p] at the positions that are trainable in `model`; 0 at new ones, and everywhere at first."""
    at, parameters = model.trainable_at, model.layout.parameters - model.layout.maskable
    if before is None:
        return torch.zeros(len(at) + parameters, dtype=model.dtype)
    k = len(before)
    return torch.cat([before.carry(variate[:k], at), variate[k:]])
