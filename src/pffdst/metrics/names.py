"""The name of everything a run logs, defined once: a column of metrics.csv, a key in W&B, a word in the report.

A row is one round. `round` counts the rounds done (t + 1), `stage` counts from 1. Accuracies are shares in
[0, 1], costs are plain bytes and operations; `cost/*` is cumulative, `round/*` the round's own. `round/seconds` is
how long a round took here, `*/deployment_seconds` how long it would take by the run's model of time, if it has one. A
round that was not evaluated has no accuracies.

Figures on the test set are `test/*`; with `validation_share` a share of the training set is evaluated instead, and the
same figures are `val/*`. Inside the program they are always `test/*`; `as_evaluated` gives a row its true names before
it is logged, and `as_test` converts a row that was read back to the names of this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

__all__ = [
    "ACCURACIES",
    "ACC_CLIENT_MEAN",
    "ACC_GLOBAL",
    "ALIVE",
    "CAPPED",
    "CHANGED",
    "CLIPPED",
    "COST_BYTES",
    "COST_BYTES_DOWN",
    "COST_BYTES_UP",
    "COST_FLOPS",
    "COST_FROZEN_BYTES",
    "COST_LATE",
    "COST_LOST",
    "COST_PAPER_BYTES",
    "COST_SECONDS",
    "EMA_ACC_CLIENT_MEAN",
    "EMA_ACC_GLOBAL",
    "FAULTS_ACCEPTED",
    "FAULTS_SENT",
    "FROZEN",
    "GROWN",
    "LOSS_GLOBAL",
    "PART_WORDS",
    "PRUNED",
    "ROUND",
    "ROUND_BYTES_DOWN",
    "ROUND_BYTES_UP",
    "ROUND_DEPLOYMENT",
    "ROUND_FLOPS",
    "ROUND_FROZEN_BYTES",
    "ROUND_LATE",
    "ROUND_LOST",
    "ROUND_PAPER_BYTES",
    "ROUND_REJECTED",
    "ROUND_SECONDS",
    "SPARSITY",
    "STAGE",
    "TRAINABLE",
    "TRAIN_ACC",
    "TRAIN_LOSS",
    "EvaluatedOn",
    "Row",
    "as_evaluated",
    "as_test",
    "average_of",
    "bare",
    "best_of",
    "by_bytes",
    "columns",
    "density_of",
    "evaluated_on",
    "is_further",
    "is_of_an_option",
    "last5_of",
    "metric",
    "on",
    "only_in",
    "time_of",
]

Row = dict[str, float | int | str]
EvaluatedOn = Literal["test", "validation"]

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
COST_LOST: Final = "cost/lost"
COST_LATE: Final = "cost/late"
COST_SECONDS: Final = "cost/deployment_seconds"

ROUND_BYTES_UP: Final = "round/bytes_up"
ROUND_BYTES_DOWN: Final = "round/bytes_down"
ROUND_PAPER_BYTES: Final = "round/paper_bytes"
ROUND_FROZEN_BYTES: Final = "round/frozen_bytes"
ROUND_FLOPS: Final = "round/flops"
ROUND_LOST: Final = "round/lost"
ROUND_LATE: Final = "round/late"
ROUND_DEPLOYMENT: Final = "round/deployment_seconds"
ROUND_REJECTED: Final = "round/rejected"
ROUND_SECONDS: Final = "round/seconds"

PART_WORDS: Final = {
    "values": "values",
    "mask": "masks",
    "frozen": "frozen weights",
    "catch_up": "catching up",
    "dense": "biases, statistics",
    "signals": "signals",
    "state": "constants, buffers",
    "header": "headers",
}
"""What the parts of a message are called where they are shown, in this order; `bytes_up_*` in a summary."""

SPARSITY: Final = "model/sparsity"
ALIVE: Final = "model/alive"
FROZEN: Final = "model/frozen"
TRAINABLE: Final = "model/trainable"

FAULTS_SENT: Final = "faults/sent"
FAULTS_ACCEPTED: Final = "faults/accepted"
"""With `faults`: updates so far from clients with an injected fault, and how many were accepted."""

CLIPPED: Final = "defence/clipped"
CAPPED: Final = "defence/capped"
"""With such bounds: updates so far whose norm was clipped, and whose sample count was capped."""

PRUNED: Final = "mask/pruned"
GROWN: Final = "mask/grown"
CHANGED: Final = "mask/changed"


_TEST, _VALIDATION = "test/", "val/"


def evaluated_on(validation_share: float) -> EvaluatedOn:
    """What a run with this `validation_share` is evaluated on: the only place where this is decided."""
    return "validation" if validation_share > 0 else "test"


def on(split: EvaluatedOn, name: str) -> str:
    """The name under which a `test/*` figure is logged: itself, or `val/*`; other names are unchanged."""
    return _VALIDATION + name.removeprefix(_TEST) if split == "validation" and name.startswith(_TEST) else name


def as_evaluated(row: Row, split: EvaluatedOn) -> Row:
    """The row as it is logged: `test/*` becomes `val/*` if a validation set was evaluated."""
    return {on(split, name): value for name, value in row.items()}


def as_test(row: Mapping[str, Any]) -> dict[str, Any]:
    """A logged row under the names of this file, for code that does not care which set was evaluated."""
    return {_TEST + n.removeprefix(_VALIDATION) if n.startswith(_VALIDATION) else n: v for n, v in row.items()}


def metric(name: str) -> str:
    """The name of a further metric of the last model: `f1` gives `test/f1`."""
    return _TEST + name


def average_of(name: str) -> str:
    """The name of the same figure of the server average: `test/f1` gives `test/ema_f1`."""
    return f"{_TEST}ema_{bare(name)}"


def best_of(accuracy: str) -> str:
    """The name of an accuracy's best value so far: `test/acc_global` gives `best/acc_global`."""
    return f"best/{bare(accuracy)}"


def last5_of(accuracy: str) -> str:
    """The name of the mean of an accuracy's last 5 evaluations: `test/acc_global` gives `last5/acc_global`."""
    return f"last5/{bare(accuracy)}"


def by_bytes(accuracy: str) -> str:
    """The name under which an accuracy is plotted over cumulative bytes in W&B: `by_bytes/acc_global`."""
    return f"by_bytes/{bare(accuracy)}"


def only_in(summary: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's summary adds to its last `row`: for loggers that keep the row's figures themselves."""
    known = as_test(row)
    again = {"metrics", *(key for name in known for key in _in_summary(name))}
    return {key: value for key, value in summary.items() if key not in again}


def _in_summary(name: str) -> tuple[str, ...]:
    """The summary's keys for a row's figure: `cost/up/values` is `bytes_up_values` there, `last5/x` is `last5_x`."""
    kind, _, rest = name.partition("/")
    flat = rest.replace("/", "_")
    return {
        "test": (rest,),
        "cost": (flat, f"bytes_{flat}"),
        "model": (rest,),
        "round": ("rounds",) if not rest else (),
        "time": (),  # of one round in the row, of all rounds in the summary
    }.get(kind, (f"{kind}_{flat}",))


def time_of(part: str) -> str:
    """The name of the seconds that a part of the round took, with `profile=true`."""
    return f"time/{part}"


def density_of(layer: str) -> str:
    """The name of one layer's share of alive weights."""
    return f"density/{layer}"


def columns(layers: Sequence[str] = (), split: EvaluatedOn = "test") -> tuple[str, ...]:
    """Every name of a row without further metrics, in the order of metrics.csv; `layers` are the maskable ones."""
    names = (
        *(ROUND, STAGE, *ACCURACIES, LOSS_GLOBAL),
        *(best_of(name) for name in ACCURACIES),
        *(last5_of(name) for name in ACCURACIES),
        *(TRAIN_LOSS, TRAIN_ACC),
        *(COST_BYTES, COST_BYTES_UP, COST_BYTES_DOWN, COST_PAPER_BYTES, COST_FROZEN_BYTES, COST_FLOPS),
        *(ROUND_BYTES_UP, ROUND_BYTES_DOWN, ROUND_PAPER_BYTES, ROUND_FROZEN_BYTES, ROUND_FLOPS),
        *(ROUND_REJECTED, ROUND_SECONDS),
        *(COST_LOST, COST_LATE, COST_SECONDS, ROUND_LOST, ROUND_LATE, ROUND_DEPLOYMENT),
        *(SPARSITY, ALIVE, FROZEN, TRAINABLE, PRUNED, GROWN, CHANGED),
        *(density_of(layer) for layer in layers),
    )
    return tuple(on(split, name) for name in names)


def bare(name: str) -> str:
    """A `test/*` name as in the summary: `test/acc_global` gives `acc_global`."""
    return name.removeprefix(_TEST)


def is_of_an_option(name: str) -> bool:
    """Whether only runs with faults, a defence or privacy have a figure; the summary holds its last value."""
    return name.startswith(("faults/", "defence/", "privacy/"))


def is_further(name: str) -> bool:
    """Whether a `test/*` name is a metric other than the accuracies and the loss."""
    return name.startswith(_TEST) and name not in (*ACCURACIES, LOSS_GLOBAL)
