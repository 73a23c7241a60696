"""The figures that methods are compared by: means over seeds, bytes to reach an accuracy, accuracy at so many bytes.

page/stats.js computes the same in the page; tests keep the two in agreement.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
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
    """An evaluated round, or a place between two: accuracy in [0, 1] and what had been spent by then.

    `bytes` are measured, `paper_bytes` follow the papers' formula plus the first downloads of frozen weights; `seconds`
    are those of a deployment.
    """

    round: float
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


def mean_curve(group: Group, accuracy: str, against: str = "round") -> list[tuple[Point, Spread]]:
    """Means over the runs with a curve, at equal amounts of `against`, a field of `Point`; and the accuracy's spread.

    A run is a straight line between its evaluations and has no value beyond them: the amounts are those of all runs'
    evaluations, from the largest first to the smallest last one. Empty where the runs share no range.
    """
    amount = attrgetter(against)
    every = [sorted(_known(curve(run, accuracy), amount), key=amount) for run in drawn_runs(group, accuracy)]
    curves = [(points, [amount(point) for point in points]) for points in every]
    return [
        _mean_point([_between(points, places, x) for points, places in curves], against, x)
        for x in _shared([places for _, places in curves])
    ]


def _known(points: Iterable[Point], amount: Callable[[Point], float]) -> list[Point]:
    return [point for point in points if math.isfinite(amount(point))]


def _shared(places: Sequence[Sequence[float]]) -> list[float]:
    """All places in the range that everybody covers. A single place is no range, unless nobody has another."""
    if not places or not all(places):
        return []
    low, high = max(own[0] for own in places), min(own[-1] for own in places)
    found = sorted({x for own in places for x in own if low <= x <= high})
    return found if low < high or all(own[0] == own[-1] for own in places) else []


def _between(points: Sequence[Point], places: Sequence[float], x: float) -> Point:
    """The last evaluation at `x`, or on the straight line over it."""
    i = bisect_right(places, x) - 1
    if places[i] == x:
        return points[i]
    share = (x - places[i]) / (places[i + 1] - places[i])
    return Point(*(a + share * (b - a) for a, b in zip(points[i], points[i + 1], strict=True)))


def _mean_point(points: Sequence[Point], against: str, x: float) -> tuple[Point, Spread]:
    means = Point(*map(statistics.fmean, zip(*points, strict=True)))
    return means._replace(**{against: x}), spread_of([point.accuracy for point in points])


def bytes_to_reach(run: Run, accuracy: str, level: float) -> float | None:
    """Cumulative bytes at the first evaluation of at least `level`, a share; None if it is not reached."""
    point = first_at(run, accuracy, level)
    return None if point is None else point.bytes


def first_at(run: Run, accuracy: str, level: float) -> Point | None:
    """The first evaluation of at least `level`, a share; None if it is not reached."""
    return next((point for point in curve(run, accuracy) if point.accuracy >= rounded(level)), None)
