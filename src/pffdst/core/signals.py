"""What is sent in addition to a model's trained values because a method's rule asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions

__all__ = ["Chosen", "Signal", "Signals"]


@final
@dataclass(frozen=True)
class Signal:
    """One item sent in addition to the trained values, declared by a rule so that both ends expect it.

    `form`:
        values      float [`length`]
        dense       a value at every position that may be chosen, in order: float [n]
        parameters  a value for each parameter that is not maskable: float [p]
        statistics  a value for each statistic, such as a running mean: float [s]
        positions   a set of maskable positions (`Positions`)
        chosen      such a set with a value at each (`Chosen`)

    `among` says which positions may be chosen: the `dead` ones of the model that was sent, the `alive`, the
    `trainable`, those that are not frozen (`free`), or `all`.
    `lossy`: the values use the run's codec; otherwise they are exact.
    """

    name: str
    form: Literal["values", "dense", "parameters", "statistics", "positions", "chosen"]
    length: int = 0
    among: Literal["dead", "alive", "trainable", "free", "all"] = "dead"
    lossy: bool = False

    def barred(self, sent: GlobalModel) -> Positions:
        """The positions of the sent model that may not be chosen."""
        if self.among == "all":
            return Positions.none(sent.layout)
        if self.among == "free":
            return sent.frozen_at
        if self.among == "trainable":
            return sent.trainable_at.complement()
        return sent.alive_at if self.among == "dead" else sent.alive_at.complement()


@final
@dataclass(frozen=True, eq=False)
class Chosen:
    """Positions and the values [k] there."""

    at: Positions
    values: Tensor


Signals = Mapping[str, Tensor | Positions | Chosen]
