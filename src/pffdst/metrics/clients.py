"""clients.json: which classes a run's clients hold, and the last model's accuracy on each; small for any number.

    {"format": 1, "clients": C, "classes": n,
     "shown": [client, ...],                the clients described individually, evenly spaced, at most SHOWN
     "train": [[samples per class], ...],   training samples of each shown client
     "accuracy": {"last": {"counted": clients with test samples, "sorted": [...]}, "average": {...}}}

`accuracy` is added when the run ends: `last` is the last round's model, `average` the server average. `sorted` holds
the accuracies of all clients in ascending order or, if there are more than SORTED, that many evenly spaced quantiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHOWN", "SORTED", "ClientRecord", "distribution", "evenly_spaced"]

SHOWN: Final = 200
SORTED: Final = 201

_FORMAT = 1


@final
@dataclass(frozen=True)
class ClientRecord:
    """What is known about the clients before the first round: the classes of those in `shown`, in the same order."""

    clients: int
    classes: int
    shown: Sequence[int]
    train: Sequence[Sequence[int]]

    @classmethod
    def of(cls, clients: int, classes: int, labels_of: Callable[[int], NDArray[np.int64]]) -> ClientRecord:
        """Only reads the labels [n_k] of the shown clients: the work does not grow with the number of clients."""
        shown = evenly_spaced(clients, SHOWN)
        counts = [np.bincount(labels_of(client), minlength=classes).tolist() for client in shown]
        return cls(clients, classes, shown, counts)

    def text(self, accuracies: Mapping[str, NDArray[np.float64]] | None = None) -> str:
        """The file's text; `accuracies` are float64 [clients] by model, NaN for a client without test samples."""
        content: dict[str, Any] = {
            "format": _FORMAT,
            "clients": self.clients,
            "classes": self.classes,
            "shown": list(self.shown),
            "train": [list(row) for row in self.train],
        }
        if accuracies is not None:
            content["accuracy"] = {name: distribution(values) for name, values in accuracies.items()}
        return json.dumps(content, separators=(",", ":")) + "\n"


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..count-1: all of them, or evenly spaced ones including the first and last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most)).tolist()})


def distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    """How many values are not NaN, and these in ascending order: all, or SORTED quantiles if there are more."""
    known = np.sort(values[~np.isnan(values)])
    if len(known) > SORTED:
        counted, known = len(known), np.quantile(known, np.linspace(0, 1, SORTED))
    else:
        counted = len(known)
    return {"counted": counted, "sorted": [round(value, 5) for value in known.tolist()]}
