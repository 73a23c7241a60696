"""A trace of availability: a CSV of the rounds in which each client is available."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.data.csv_table import number_columns

__all__ = ["Windows"]

_KEY = "participation.trace"
_COLUMNS = ("client", "from", "to")


@final
@dataclass(frozen=True, eq=False)
class Windows:
    """Each line is a window: a client is available `from` one round `to` another, both counted from 1 and inclusive.

    Each column is held as int64 [n]. A client may have many windows; one without any is never asked. Rounds before the
    first are treated like the first.
    """

    client: NDArray[np.int64]
    first: NDArray[np.int64]
    last_round: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path) -> Windows:
        """Reads a file. UserError if it is not such a table."""
        found = number_columns(_KEY, path, _COLUMNS)
        with np.errstate(invalid="ignore"):  # numbers beyond int64's range come out as others
            whole = {name: values.astype(np.int64) for name, values in found.items()}
        for name in _COLUMNS:
            _check(path, whole[name] == found[name], f"{name} is not a whole number")
        _check(path, whole["client"] >= 0, "client is below 0; clients are numbered from 0")
        _check(path, whole["from"] <= whole["to"], "`from` is after `to`")
        return cls(*(whole[name] for name in _COLUMNS))

    @property
    def last(self) -> int:
        """The largest client number."""
        return int(self.client.max())

    def open_in(self, t: int, clients: int) -> Tensor:
        """Which of `clients` are available in round t (from 0), ascending, int64 [c]. One pass over the windows."""
        there = (self.first <= t + 1) & (t + 1 <= self.last_round) & (self.client < clients)
        return torch.from_numpy(np.unique(self.client[there]))


def _check(path: Path, holds: NDArray[np.bool_], what: str) -> None:
    wrong = np.flatnonzero(~holds)
    if len(wrong) > 0:
        raise UserError(f"{_KEY}: {path}, line {int(wrong[0]) + 2}: {what}")
