"""Top-k sparsification with error feedback (Stich et al., NeurIPS-18; Sattler et al., TNNLS-20) of a dense model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.masks import first
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.methods.local import LocalTraining
from pffdst.methods.readjust.static import Static
from pffdst.methods.rule import Absent, Answer, ClientTurn, Cohort, Rule

__all__ = ["TopK"]

_RESIDUAL, _ROUND = "topk_residual", "topk_round"


@final
@dataclass(eq=False)
class TopK(Rule):
    """A client sends the largest of its changes and remembers the others.

    u = (w_k - w) + residual; sent are the k = round((1 - `left`) T) largest |u| of the T trainable weights, regardless
    of layer; residual = u - sent. The server adds sum_k (n_k / n) sent_k: what a client does not send counts as
    unchanged. Parameters that are not maskable are sent whole. A residual is multiplied by `decay` for each round that
    its client missed. With `both_ways` the server's step is treated likewise, with its own residual, and clients are
    only sent the weights that changed since their last download.
    """

    any_length: ClassVar[bool] = True
    absent: ClassVar[Absent] = "unchanged"
    left: float = 0.9
    decay: float = 1.0
    both_ways: bool = False
    _residual: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.left < 1.0:
            raise ValueError(f"Expected `updates.left`, a share of changes, in [0, 1), but got {self.left}")
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"Expected `updates.decay` to be in [0, 1], but got {self.decay}; write 1 for none")
        self.sends_changes = self.both_ways

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """Each client has its own positions."""
        return "any" if t >= 0 else None

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """What the client started from, and what it remembers: tensors on the host."""
        if turn.t < 0:
            return {}
        residual = turn.memory.get(_RESIDUAL, torch.zeros(len(turn.start.trainable_at), dtype=turn.start.dtype))
        missed = turn.t - 1 - int(turn.memory.get(_ROUND, torch.tensor(turn.t - 1)))
        return {"start": turn.start, "residual": residual * self.decay**missed}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """The largest changes, as the values that they result in."""
        if not measured:
            return trained
        start: GlobalModel = measured["start"]
        at, change = start.trainable_at, trained.model.trained - start.trained + measured["residual"]
        taken = self.largest(change)
        reached = start.trained[taken] + change[taken]
        residual = change.clone()
        residual[taken] -= reached - start.trained[taken]  # what single precision cannot represent stays
        places = Positions(at.layout, index=at.index[taken])
        model = start.moved(start.frozen_at.plus(places)).with_trained(reached, trained.model.rest)
        kept = {_RESIDUAL: residual, _ROUND: torch.tensor(t)}
        return replace(trained, model=model, own_mask=True, memory={**trained.memory, **kept})

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The mean or, with `both_ways`, the largest of the server's changes."""
        if t < 0 or not self.both_ways:
            return cohort.mean
        before, after = cohort.before.trained, cohort.before.trained.clone()
        change = cohort.mean.trained - before + (0.0 if self._residual is None else self._residual)
        taken = self.largest(change)
        after[taken] += change[taken]
        self._residual = change - (after - before)
        return cohort.before.with_trained(after, cohort.mean.rest)

    def state_dict(self) -> dict[str, Any]:
        """The server's residual."""
        return {"residual": self._residual}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        self._residual = state["residual"]

    def largest(self, change: Tensor) -> Tensor:
        """The indices of the k largest |u| of u [T], int64 [k], increasing; among equals the lower index."""
        count = max(1, round((1 - self.left) * len(change)))
        return torch.from_numpy(first(-change.abs().numpy(), count))

    def problems(self, facts: Facts) -> list[str]:
        """Residuals belong to one set of trainable weights."""
        if not facts.has_stages:
            return []
        return ["updates=topk_ef needs weights that stay trainable: write freeze=none"]

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """The same for a mask that moves."""
        if isinstance(other, Static):
            return []
        return ["updates=topk_ef needs weights that stay alive: write readjust=static"]
