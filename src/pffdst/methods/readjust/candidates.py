"""FedTiny's first stage: clients find the one of several random masks with the lowest loss, in two exchanges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from pffdst.core.errors import UserError
from pffdst.core.masks import Move, draw
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.core.signals import Signal, Signals
from pffdst.methods.allocation import divided
from pffdst.methods.rule import ClientTurn, Start

__all__ = ["MOST", "Candidates"]

MOST = 64
"""The most candidates that one message can hold: each has a section of statistics."""
_LOSSES = "losses"
_WORST = 1e9  # what a larger loss, or one that is no number, is sent as: a message with such a value is refused


@final
@dataclass(eq=False)
class Candidates:
    """`count` random masks of equal size and random layer ratios, which both ends draw from the stage's seed.

    In round -2 clients re-estimate the statistics of the normalisation layers for each masked model, on one batch; in
    round -1 they get the means, weighted by samples, and answer with the loss of each on one batch, in inference mode.
    The server takes the mask with the lowest mean loss. Networks without such statistics run both rounds all the same.
    """

    count: int
    _statistics: list[Tensor] = field(default_factory=list, init=False, repr=False)  # sums over samples, float64 [s]
    _losses: Tensor | None = field(default=None, init=False, repr=False)  # the same, float64 [count]
    _samples: int = field(default=0, init=False, repr=False)

    def moves(self, layout: Layout, total: int, seed: int) -> list[Move]:
        """How each candidate is drawn: `total` weights, divided among the layers by uniformly drawn densities."""
        sizes, found = [e.size for e in layout.layers], []
        for i in range(self.count):
            densities = torch.rand(len(sizes), generator=generator_for(seed, "candidate", i)).tolist()
            counts = divided([d * n for d, n in zip(densities, sizes, strict=True)], sizes, total)
            found.append(Move(None, counts, derive_seed(seed, "candidate's places", i)))
        return found

    # ---- client ------------------------------------------------------------------------------------------------------

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """The statistics or the losses, on the host. The network is left unchanged."""
        batch, nothing = turn.batch("candidates"), Positions.none(turn.layout)
        masks = [draw(nothing, m.counts, m.seed) for m in self.moves(turn.layout, _total(turn), turn.stage_seed)]
        if turn.t == -2:
            return {_name(i): _estimated(turn, mask, batch) for i, mask in enumerate(masks)}
        losses = [_loss(turn, mask, turn.received[_name(i)], batch) for i, mask in enumerate(masks)]
        return {_LOSSES: torch.stack(losses).nan_to_num(_WORST).clamp_max(_WORST).cpu()}

    # ---- server ------------------------------------------------------------------------------------------------------

    def statistics(self) -> tuple[Signal, ...]:
        """A signal for each candidate's statistics; they go up in round -2 and down in round -1."""
        return tuple(Signal(_name(i), "statistics") for i in range(self.count))

    def up(self, t: int) -> tuple[Signal, ...]:
        """What clients answer in round t."""
        return self.statistics() if t == -2 else (Signal(_LOSSES, "values", length=self.count),)

    def broadcast(self) -> Signals:
        """The mean statistics. UserError if no client sent any."""
        if not self._statistics:
            raise UserError("no client's statistics could be used to choose a candidate; see the log")
        return {_name(i): total / self._samples for i, total in enumerate(self._statistics)}

    def observe(self, samples: int, signals: Signals, t: int) -> None:
        """Adds a client's answer."""
        if t == -2:
            found = [signals[_name(i)] for i in range(self.count)]
            sums = self._statistics or [torch.tensor(0.0, dtype=torch.float64)] * self.count
            self._statistics = [total + one.double() * samples for total, one in zip(sums, found, strict=True)]  # type: ignore[union-attr]
            self._samples += samples
            return
        losses = signals[_LOSSES]
        assert isinstance(losses, Tensor)  # by its declaration
        self._losses = (0 if self._losses is None else self._losses) + losses.double() * samples

    def chosen(self, given: Start) -> Move:
        """The candidate with the lowest loss; among equals the first. UserError if no client answered."""
        if self._losses is None:
            raise UserError("no client's losses could be used to choose a candidate; see the log")
        best = int(self._losses.argmin())
        return self.moves(given.model.layout, sum(given.stage.counts), given.seed)[best]

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"statistics": list(self._statistics), "losses": self._losses, "samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._statistics, self._losses, self._samples = list(state["statistics"]), state["losses"], state["samples"]


def _name(candidate: int) -> str:
    return f"statistics {candidate}"


def _total(turn: ClientTurn) -> int:
    return sum(turn.stage.counts)


# ---- the masked network ----------------------------------------------------------------------------------------------


@contextmanager
def _masked(turn: ClientTurn, mask: Positions) -> Iterator[None]:
    """Inside, the weights that are not in the mask are 0."""
    kept = [weight.detach().clone() for weight in turn.weights]
    try:
        for entry, weight in zip(turn.layout.layers, turn.weights, strict=True):
            weight.mul_(mask.bits[entry.span].view(entry.shape).to(weight.device))
        yield
    finally:
        for weight, value in zip(turn.weights, kept, strict=True):
            weight.copy_(value)


@torch.no_grad()
def _estimated(turn: ClientTurn, mask: Positions, batch: Any) -> Tensor:
    """The statistics [s] of the masked network on one batch, without the previous ones."""
    with turn.undisturbed(training=True), _masked(turn, mask), _forgetting(turn.network):
        turn.loss(batch)
        return torch.cat([*(s.detach().reshape(-1).cpu() for s in _statistics(turn)), torch.empty(0)])


@torch.no_grad()
def _loss(turn: ClientTurn, mask: Positions, statistics: Any, batch: Any) -> Tensor:
    """The masked network's mean loss in inference mode, with these statistics [s]."""
    with turn.undisturbed(training=False), _masked(turn, mask):
        own = _statistics(turn)
        for tensor, value in zip(own, statistics.split([s.numel() for s in own]), strict=True):
            tensor.copy_(value.view(tensor.shape))
        return turn.loss(batch).float()


def _statistics(turn: ClientTurn) -> Sequence[Tensor]:
    tensors = {**dict(turn.network.named_parameters()), **dict(turn.network.named_buffers())}
    return [tensors[entry.name] for entry in turn.layout.entries if entry.kind == "statistic"]


@contextmanager
def _forgetting(network: nn.Module) -> Iterator[None]:
    """Inside, running statistics only cover the batches seen inside."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    try:
        for layer in layers:
            layer.num_batches_tracked = torch.tensor(0)
            layer.momentum = None  # the mean of all batches since
        yield
    finally:
        for layer, (momentum, seen) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, seen
