"""The figures that methods are compared by: means over seeds, bytes to reach an accuracy, accuracy at so many bytes.

page/stats.js computes the same in the page; tests keep the two in agreement.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from pffdst.core.device import USUAL
from pffdst.metrics import names
from pffdst.report.groups import Group
from pffdst.report.reading import EVALUATED_ON, Run, numbers

__all__ = [
    "ACCURACIES",
    "Point",
    "Spread",
    "accuracy_words",
    "bytes_to_reach",
    "chance_of",
    "curve",
    "deployment_seconds",
    "drawn_runs",
    "first_at",
    "mean_curve",
    "rounded",
    "sample_words",
    "spread_of",
]

# An accuracy's name in the summary, in metrics.csv and in words.
ACCURACIES = {
    "ema_acc_global": (names.EMA_ACC_GLOBAL, "server average, pooled test set"),
    "ema_acc_client_mean": (names.EMA_ACC_CLIENT_MEAN, "server average, mean over clients"),
    "last5_acc_global": (names.last5_of(names.ACC_GLOBAL), "mean of last 5, pooled test set"),
    "last5_acc_client_mean": (names.last5_of(names.ACC_CLIENT_MEAN), "mean of last 5, mean over clients"),
    "acc_global": (names.ACC_GLOBAL, "last round, pooled test set"),
    "acc_client_mean": (names.ACC_CLIENT_MEAN, "last round, mean over clients"),
}


def sample_words(runs: Iterable[Run]) -> str:
    """The samples that the runs' accuracies were measured on: `test set`, `validation set`, or both."""
    found = {str(run.config.get(EVALUATED_ON, "test")) for run in runs}
    return f"{' or '.join(sorted(found)) or 'test'} set"


def accuracy_words(groups: Sequence[Group], accuracy: str) -> str:
    """An accuracy in words, with the samples it was measured on."""
    return ACCURACIES[accuracy][1].replace("test set", sample_words(run for group in groups for run in group.runs))


def rounded(share: float) -> float:
    """A share to nine digits: page and files compare these, and a mean of 0.39999999999999997 reaches 40 %."""
    return float(f"{share:.9g}")


def chance_of(runs: Iterable[Run]) -> float:
    """The accuracy of guessing, 1 / classes, for runs whose classes are known; the highest if they differ."""
    told = [run.clients.get("classes") or run.config.get("dataset.classes") for run in runs]
    return max((1 / count for count in told if isinstance(count, int | float) and count >= 2), default=0.0)


@final
@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the `n` of `of` runs that have a value; sd is NaN for n = 1."""

    mean: float
    sd: float
    n: int
    of: int


def spread_of(values: Sequence[float | None]) -> Spread:
    """The spread of the known values; NaN if there are none."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else math.nan
    return Spread(mean, statistics.stdev(known) if len(known) > 1 else math.nan, len(known), len(values))


class Point(NamedTuple):
    """An evaluated round: accuracy in [0, 1] and what had been spent by then.

    `bytes` are measured, `paper_bytes` follow the papers' formula plus the first downloads of frozen weights; `seconds`
    are those of a deployment.
    """

    round: int
    accuracy: float
    bytes: float
    flops: float
    paper_bytes: float
    seconds: float = math.nan


def deployment_seconds(run: Run) -> float | None:
    """The time of a deployment: by the run's own model of time, else with `USUAL` devices."""
    own, up, down, flops = (run.final.get(key) for key in ("deployment_seconds", "bytes_up", "bytes_down", "flops"))
    return _usual(run, up, down, flops) if own is None else own


def _usual(run: Run, up: float | None, down: float | None, flops: float | None) -> float | None:
    """The time for so many bytes and operations, with a cohort's clients in parallel."""
    cohort = run.config.get("cohort")
    if up is None or down is None or flops is None or not isinstance(cohort, int | float) or cohort < 1:
        return None
    return USUAL.seconds(down=down / cohort, flops=flops / cohort, up=up / cohort)


def _seconds(run: Run) -> list[float]:
    """The same up to each row; rows without their own uplink get a share of the whole run's."""
    up, down = run.final.get("bytes_up", 0.0), run.final.get("bytes_down", 0.0)
    share = up / (up + down) if up + down > 0 else 0.5
    shown = (names.COST_SECONDS, names.COST_BYTES, names.COST_BYTES_UP, names.COST_FLOPS)
    found = []
    for own, size, sent, flops in zip(*(numbers(run.rows, name) for name in shown), strict=True):
        told = None if size is None else size * share if sent is None else sent
        rest = None if size is None or told is None else size - told
        seconds = _usual(run, told, rest, flops) if own is None else own
        found.append(math.nan if seconds is None else seconds)
    return found


def curve(run: Run, accuracy: str) -> list[Point]:
    """Every evaluated round with readable figures."""
    shown = (names.ROUND, ACCURACIES[accuracy][0], names.COST_BYTES, names.COST_FLOPS, names.COST_PAPER_BYTES)
    columns = [numbers(run.rows, name) for name in shown]
    frozen = numbers(run.rows, names.COST_FROZEN_BYTES)
    return [
        Point(int(t), rounded(y), size, flops, (paper or 0.0) + (extra or 0.0), seconds)
        for (t, y, size, flops, paper), extra, seconds in zip(
            zip(*columns, strict=True), frozen, _seconds(run), strict=True
        )
        if t is not None and y is not None and size is not None and flops is not None
    ]


def drawn_runs(group: Group, accuracy: str) -> list[Run]:
    """The runs with at least one readable evaluation; for the others only the final figures are known."""
    return [run for run in group.runs if curve(run, accuracy)]


def mean_curve(group: Group, accuracy: str) -> list[tuple[Point, Spread]]:
    """Means over the runs that have a curve, at the rounds that all of them evaluated, and the accuracy's spread."""
    curves = [{point.round: point for point in curve(run, accuracy)} for run in drawn_runs(group, accuracy)]
    shared = sorted(set.intersection(*(set(points) for points in curves))) if curves else []
    found = []
    for t in shared:
        points = [points[t] for points in curves]
        _, accuracies, *costs = zip(*points, strict=True)
        spread = spread_of(accuracies)
        found.append((Point(t, spread.mean, *map(statistics.fmean, costs)), spread))
    return found


def bytes_to_reach(run: Run, accuracy: str, level: float) -> float | None:
    """Cumulative bytes at the first evaluation of at least `level`, a share; None if it is not reached."""
    point = first_at(run, accuracy, level)
    return None if point is None else point.bytes


def first_at(run: Run, accuracy: str, level: float) -> Point | None:
    """The first evaluation of at least `level`, a share; None if it is not reached."""
    return next((point for point in curve(run, accuracy) if point.accuracy >= rounded(level)), None)
