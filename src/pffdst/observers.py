"""Observers: called after every round, and able to end the run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, final

from pffdst.config.figures import instead_of, tells_of_tests
from pffdst.core.facts import Facts
from pffdst.metrics.names import ACC_GLOBAL, is_of_an_option

if TYPE_CHECKING:
    from pffdst.experiment import Experiment
    from pffdst.server.round import Round

__all__ = ["Budget", "EarlyStopping", "Observer"]


class Observer(ABC):
    """Called after every round, before its row is logged and before its checkpoint."""

    @abstractmethod
    def on_round(self, experiment: Experiment, done: Round) -> str | None:
        """Inspects a finished round: its plan, its record, the model `experiment.server.model` and the row
        `experiment.progress.row`. The result, if not None, is the reason why the run ends here."""

    def state_dict(self) -> dict[str, Any]:
        """The state between rounds, for the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


@final
class EarlyStopping(Observer):
    """Ends the run when a figure has not improved by more than `least` for `patience` evaluations.

    `figure` is a column of metrics.csv, and `mode` says whether higher is better. A `test/` figure lets the test set
    decide where the run ends; `val/` figures exist if `validation_share` is above 0.
    """

    def __init__(
        self,
        figure: str = "val/ema_acc_global",
        mode: Literal["max", "min"] = "max",
        patience: int = 10,
        least: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError(f"Expected `patience` to be at least 1 evaluation, but got {patience}")
        self.figure, self.mode, self.patience, self.least = figure, mode, patience, least
        self._best: float | None = None
        self._since = 0

    def on_round(self, experiment: Experiment, done: Round) -> str | None:
        """Counts evaluations without improvement."""
        value = experiment.progress.row.get(self.figure)
        if not isinstance(value, int | float) or not experiment.scheduled(done.plan.t):
            return None
        better = value if self.mode == "max" else -value
        if not math.isnan(better) and (self._best is None or better > self._best + self.least):
            self._best, self._since = better, 0
            return None
        self._since += 1
        if self._since < self.patience:
            return None
        return f"{self.figure} has not improved for {self._since} evaluations"

    def problems(self, facts: Facts) -> list[str]:
        """A figure that no row has, or a test-set figure whose name does not start with test/."""
        known, figure = facts.figures, self.figure
        if known is None or is_of_an_option(figure):
            return []
        told = f"observers: the run would end based on {figure}"
        if figure.startswith("val/") and ACC_GLOBAL in known:
            return [f"{told}, which needs a validation set: write validation_share=0.1"]
        if figure not in known:
            return [f"{told}, which its rows do not have: {instead_of(figure, known)}"]
        if tells_of_tests(figure, known) and not figure.startswith("test/"):
            return [f"{told}, which is of the test set here: write validation_share=0.1 or name a test/ figure"]
        return []

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and the number of evaluations since."""
        return {"best": self._best, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._best, self._since = state["best"], state["since"]


@final
class Budget(Observer):
    """Ends the run with the round in which a share of a budget of measured bytes, up and down, is spent.

    `bytes` counts all messages as encoded, including those of warm-up rounds; the round that reaches it is finished, so
    a run may spend up to a round more. Schedules follow `rounds`, which should be about what the bytes pay for. With a
    `share` below 1, only the beginning of such a run is done: that share of its bytes, or of its rounds if they cost
    less.
    """

    def __init__(self, bytes: int, share: float = 1.0) -> None:
        write = "write e.g. observers.budget"
        if bytes < 1:
            raise ValueError(f"Expected `bytes` to be at least 1, but got {bytes}; {write}.bytes=1000000000")
        if not 0.0 < share <= 1.0:
            raise ValueError(f"Expected `share` of the bytes in (0, 1], but got {share}; {write}.share=0.25")
        self.bytes, self.share = bytes, share

    def on_round(self, experiment: Experiment, done: Round) -> str | None:
        """Checks the bytes spent so far; warm-up rounds (t < 0) never end the run."""
        spent = experiment.ledger.total["bytes_up"] + experiment.ledger.total["bytes_down"]
        if done.plan.t < 0:
            return None
        if spent >= self.share * self.bytes:
            return f"its budget is spent: {spent:,} of {round(self.share * self.bytes):,} bytes"
        if self.share * experiment.rounds <= done.plan.t + 1 < experiment.rounds:
            return f"its share of the rounds is done: {done.plan.t + 1} of {experiment.rounds}"
        return None
