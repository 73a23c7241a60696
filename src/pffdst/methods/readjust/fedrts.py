"""FedRTS (NeurIPS 25): masks are drawn by Thompson sampling from the aggregate's and clients' votes on each weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.blobs import bytes_of, tensor_of
from pffdst.core.masks import largest, largest_dead
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.signals import Signal, Signals
from pffdst.methods.readjust.swap import checked_alpha, share_of, swap_counts
from pffdst.methods.rule import Answer, ClientTurn, Cohort, Rule
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["FedRts"]


@final
@dataclass
class _Beliefs:
    """Beta(a, b) of every maskable weight, and the votes of the current round."""

    a: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    b: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    votes: Tensor = field(default_factory=lambda: torch.empty(0))
    samples: int = 0


@final
@dataclass(frozen=True)
class FedRts(Rule):
    """On the schedule's rounds clients send the positions of their largest dead gradients, and masks are drawn.

    Per weight Beta(a, b), at first Beta(1, 1), never reset. Every round, for alive i, X_i = gamma 1[i in top-kappa_l
    of |mean w|] + (1 - gamma) sum_k p_k 1[i in top-kappa_l of |w_k|], p_k by samples, kappa_l = k_l - zeta_t k_l; on
    adjusting rounds, for dead i, X_i = gamma / 2 + (1 - gamma) sum_k p_k 1[i among the positions of k]. Then
    a += lambda X, b += lambda (1 - X); on adjusting rounds xi ~ Beta(a, b) is drawn over the whole layer and the top
    k_l stay. `alpha` is a of zeta_t = a / 2 (1 + cos(pi t / T_end)); `gamma` weights the aggregate; `step` is lambda.
    With `sampling` false the means of the Betas are used instead of draws.
    """

    any_length: ClassVar[bool] = True
    alpha: float = 0.4
    gamma: float = 0.5
    step: float = 10.0
    sampling: bool = True
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=0, until=0.6))
    _beliefs: _Beliefs = field(default_factory=_Beliefs, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked_alpha(self.alpha)
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"Expected `readjust.gamma` to be in [0, 1], but got {self.gamma}")
        if self.step <= 0.0:
            raise ValueError(f"Expected `readjust.step` (lambda) to be above 0, but got {self.step}")

    def exploration_end(self, stage: Stage) -> int:
        """The round after the last adjusting round."""
        return self.schedule.fixed_from(stage)

    def moving(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """zeta_t k_l, at most the number of dead weights in a layer."""
        return swap_counts(model, share_of(self.alpha, self.schedule, stage, t))

    def _kept(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """kappa_l."""
        moving = self.moving(model, stage, t)
        return [k - n for k, n in zip(model.trainable_at.counts, moving, strict=True)]

    # ---- client ------------------------------------------------------------------------------------------------------

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """The positions, on adjusting rounds."""
        return (Signal("places", "positions", among="dead"),) if self.schedule.due(stage, t) else ()

    def probes(self, stage: Stage, t: int) -> int:
        """One dense batch on adjusting rounds."""
        return int(self.schedule.due(stage, t))

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """The positions of the zeta_t k_l largest gradients of dead weights, at the trained weights."""
        if not self.schedule.due(turn.stage, turn.t):
            return {}
        start = turn.start
        counts = self.moving(start, turn.stage, turn.t)
        return {"places": largest_dead(turn.gradient(), start.alive_at, counts)}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """What was trained, plus the positions."""
        return replace(trained, signals=trained.signals | dict(measured))

    # ---- server ------------------------------------------------------------------------------------------------------

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds the client's votes: its own largest weights, and the positions it sends."""
        beliefs = self._begun(model.layout)
        top = largest(model.trainable_at, model.trained, self._kept(model, stage, t))
        beliefs.votes[top.index] += samples
        beliefs.samples += samples
        places = signals.get("places")
        if isinstance(places, Positions):
            beliefs.votes[places.index] += samples

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """Updates the beliefs; on adjusting rounds a mask is drawn from them."""
        mean, beliefs = cohort.mean, self._begun(cohort.mean.layout)
        clients = (beliefs.votes / max(beliefs.samples, 1)).numpy()
        alive = mean.trainable_at.index.numpy()
        aggregate = np.zeros(mean.layout.maskable, np.float32)
        aggregate[largest(mean.trainable_at, mean.trained, self._kept(mean, stage, t)).index.numpy()] = 1.0
        due = self.schedule.due(stage, t)
        outcome = self.gamma * aggregate + (1 - self.gamma) * clients
        if due:  # the server has no vote on dead weights
            outcome[~mean.alive] += self.gamma / 2
        seen = slice(None) if due else alive
        beliefs.a[seen] += self.step * outcome[seen]
        beliefs.b[seen] += self.step * (1 - outcome[seen])
        beliefs.votes.zero_()
        beliefs.samples = 0
        return self._drawn(mean, stage, seed) if due else mean

    def _drawn(self, model: GlobalModel, stage: Stage, seed: int) -> GlobalModel:
        """The model under a drawn mask: per layer the k_l weights with the largest xi; new weights are 0."""
        a, b = (x.astype(np.float64) for x in (self._beliefs.a, self._beliefs.b))
        xi = np.random.default_rng(seed).beta(a, b) if self.sampling else a / (a + b)
        free = model.frozen_at.complement()
        chosen = largest(free, free.gather(torch.from_numpy(xi)), stage.counts)
        return model.moved(model.frozen_at.plus(chosen))

    def _begun(self, layout: Layout) -> _Beliefs:
        beliefs = self._beliefs
        if len(beliefs.a) == 0:
            beliefs.a, beliefs.b = (np.ones(layout.maskable, np.float32) for _ in range(2))
        if len(beliefs.votes) == 0:
            beliefs.votes = torch.zeros(layout.maskable)
        return beliefs

    def state_dict(self) -> dict[str, Any]:
        """a and b, compressed: most values are equal."""
        return {name: _packed(getattr(self._beliefs, name)) for name in ("a", "b")}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        for name in ("a", "b"):
            setattr(self._beliefs, name, _unpacked(state[name]))


def _packed(values: NDArray[np.float32]) -> tuple[int, Tensor]:
    small = zstandard.ZstdCompressor(level=3).compress(values.tobytes())
    return len(values), tensor_of(small)


def _unpacked(packed: tuple[int, Tensor]) -> NDArray[np.float32]:
    count, small = packed
    content = zstandard.ZstdDecompressor().decompress(bytes_of(small), max_output_size=4 * count)
    return np.frombuffer(content, np.float32).copy()
