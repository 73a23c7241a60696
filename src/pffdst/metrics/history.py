"""A run's evaluations so far: best values and means of the last evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import final

from pffdst.metrics.names import ACCURACIES, Row, best_of, last5_of

__all__ = ["History"]


@final
class History:
    """The evaluated accuracies of a run, one list of values per name, oldest first."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def extended(self, row: Row, *, keep: bool = True) -> Row:
        """The row with `best/*` and `last5/*` for each of its accuracies, which are recorded unless `keep` is false.

        A row without accuracies is returned unchanged.
        """
        extended = dict(row)
        for name in ACCURACIES:
            if name not in row:
                continue
            values = self._values.setdefault(name, [])
            values.append(float(row[name]))
            extended |= {best_of(name): self.best(name), last5_of(name): self.last(name, 5)}
            if not keep:
                values.pop()
        return extended

    def best(self, name: str) -> float:
        """The largest value so far of a `test/*` accuracy. KeyError if it was never evaluated."""
        return max(self._of(name))

    def last(self, name: str, count: int) -> float:
        """The mean of the last `count` evaluations, or of all if there are fewer. KeyError if there are none."""
        return fmean(self._of(name)[-count:])

    def state_dict(self) -> dict[str, list[float]]:
        """Plain lists, for a checkpoint."""
        return {name: list(values) for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Restores the evaluations of a `state_dict`; what was recorded since is forgotten."""
        self._values = {name: list(values) for name, values in state.items()}

    def _of(self, name: str) -> list[float]:
        if name not in self._values:
            known = ", ".join(self._values) or "none yet"
            raise KeyError(f"Expected the name of an evaluated accuracy ({known}), but got {name!r}")
        return self._values[name]
