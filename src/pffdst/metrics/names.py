"""The name of everything a run logs, written down once: a column of metrics.csv, a key in W&B, a word in the report.

A row is one round. `round` counts the rounds done (t + 1), `stage` counts from 1. Accuracies are shares in
[0, 1], costs are plain bytes and operations; `cost/*` is cumulative, `round/*` the round's own. A round that was not
evaluated has no accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = [
    "ACCURACIES",
    "ACC_CLIENT_MEAN",
    "ACC_GLOBAL",
    "ALIVE",
    "CHANGED",
    "COST_BYTES",
    "COST_BYTES_DOWN",
    "COST_BYTES_UP",
    "COST_FLOPS",
    "COST_FROZEN_BYTES",
    "COST_PAPER_BYTES",
    "EMA_ACC_CLIENT_MEAN",
    "EMA_ACC_GLOBAL",
    "FROZEN",
    "GROWN",
    "LOSS_GLOBAL",
    "PRUNED",
    "ROUND",
    "ROUND_BYTES_DOWN",
    "ROUND_BYTES_UP",
    "ROUND_FLOPS",
    "ROUND_FROZEN_BYTES",
    "ROUND_PAPER_BYTES",
    "ROUND_REJECTED",
    "ROUND_SECONDS",
    "SPARSITY",
    "STAGE",
    "TRAINABLE",
    "TRAIN_ACC",
    "TRAIN_LOSS",
    "Row",
    "best_of",
    "by_bytes",
    "columns",
    "density_of",
    "last5_of",
    "time_of",
]

Row = dict[str, float | int | str]

ROUND: Final = "round"
STAGE: Final = "stage"

ACC_GLOBAL: Final = "test/acc_global"
ACC_CLIENT_MEAN: Final = "test/acc_client_mean"
EMA_ACC_GLOBAL: Final = "test/ema_acc_global"
EMA_ACC_CLIENT_MEAN: Final = "test/ema_acc_client_mean"
LOSS_GLOBAL: Final = "test/loss_global"
ACCURACIES: Final = (ACC_GLOBAL, ACC_CLIENT_MEAN, EMA_ACC_GLOBAL, EMA_ACC_CLIENT_MEAN)

TRAIN_LOSS: Final = "train/loss"
TRAIN_ACC: Final = "train/acc"

COST_BYTES: Final = "cost/bytes"
COST_BYTES_UP: Final = "cost/bytes_up"
COST_BYTES_DOWN: Final = "cost/bytes_down"
COST_PAPER_BYTES: Final = "cost/paper_bytes"
COST_FROZEN_BYTES: Final = "cost/frozen_bytes"
COST_FLOPS: Final = "cost/flops"

ROUND_BYTES_UP: Final = "round/bytes_up"
ROUND_BYTES_DOWN: Final = "round/bytes_down"
ROUND_PAPER_BYTES: Final = "round/paper_bytes"
ROUND_FROZEN_BYTES: Final = "round/frozen_bytes"
ROUND_FLOPS: Final = "round/flops"
ROUND_REJECTED: Final = "round/rejected"
ROUND_SECONDS: Final = "round/seconds"

SPARSITY: Final = "model/sparsity"
ALIVE: Final = "model/alive"
FROZEN: Final = "model/frozen"
TRAINABLE: Final = "model/trainable"

PRUNED: Final = "mask/pruned"
GROWN: Final = "mask/grown"
CHANGED: Final = "mask/changed"


def best_of(accuracy: str) -> str:
    """The name of an accuracy's best value so far: `test/acc_global` gives `best/acc_global`."""
    return f"best/{_bare(accuracy)}"


def last5_of(accuracy: str) -> str:
    """The name of the mean of an accuracy's last 5 evaluations: `test/acc_global` gives `last5/acc_global`."""
    return f"last5/{_bare(accuracy)}"


def by_bytes(accuracy: str) -> str:
    """The name under which an accuracy is drawn over cumulative bytes in W&B: `by_bytes/acc_global`."""
    return f"by_bytes/{_bare(accuracy)}"


def time_of(part: str) -> str:
    """The name of the seconds that a part of the round took, with `profile=true`."""
    return f"time/{part}"


def density_of(layer: str) -> str:
    """The name of one layer's share of alive weights."""
    return f"density/{layer}"


def columns(layers: Sequence[str] = ()) -> tuple[str, ...]:
    """Every name a row can hold, in the order of metrics.csv, for a model with these maskable `layers`."""
    return (
        *(ROUND, STAGE, *ACCURACIES, LOSS_GLOBAL),
        *(best_of(name) for name in ACCURACIES),
        *(last5_of(name) for name in ACCURACIES),
        *(TRAIN_LOSS, TRAIN_ACC),
        *(COST_BYTES, COST_BYTES_UP, COST_BYTES_DOWN, COST_PAPER_BYTES, COST_FROZEN_BYTES, COST_FLOPS),
        *(ROUND_BYTES_UP, ROUND_BYTES_DOWN, ROUND_PAPER_BYTES, ROUND_FROZEN_BYTES, ROUND_FLOPS),
        *(ROUND_REJECTED, ROUND_SECONDS),
        *(SPARSITY, ALIVE, FROZEN, TRAINABLE, PRUNED, GROWN, CHANGED),
        *(density_of(layer) for layer in layers),
    )


def _bare(accuracy: str) -> str:
    return accuracy.removeprefix("test/")
