"""The figures that methods are compared by: means over seeds, bytes to reach an accuracy, accuracy at so many bytes.

page/stats.js says the same in the page; the tests hold the two together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from pffdst.metrics import names
from pffdst.report.groups import Group
from pffdst.report.reading import Run, numbers

__all__ = [
    "ACCURACIES",
    "Spread",
    "accuracy_at",
    "bytes_to_reach",
    "curve",
    "drawn_runs",
    "mean_curve",
    "paired_ratio",
    "spread_of",
]

# What an accuracy is called in the summary, in metrics.csv and in words.
ACCURACIES = {
    "ema_acc_global": (names.EMA_ACC_GLOBAL, "server average, pooled test set"),
    "ema_acc_client_mean": (names.EMA_ACC_CLIENT_MEAN, "server average, mean over clients"),
    "last5_acc_global": (names.last5_of(names.ACC_GLOBAL), "mean of last 5, pooled test set"),
    "last5_acc_client_mean": (names.last5_of(names.ACC_CLIENT_MEAN), "mean of last 5, mean over clients"),
    "acc_global": (names.ACC_GLOBAL, "last round, pooled test set"),
    "acc_client_mean": (names.ACC_CLIENT_MEAN, "last round, mean over clients"),
}


@final
@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over `n` of the `of` runs, those with a value; sd is NaN for one."""

    mean: float
    sd: float
    n: int
    of: int


def spread_of(values: Sequence[float | None]) -> Spread:
    """Of the values there are; NaN where there is none."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else math.nan
    return Spread(mean, statistics.stdev(known) if len(known) > 1 else math.nan, len(known), len(values))


def curve(run: Run, accuracy: str) -> list[tuple[int, float, float, float]]:
    """(round, accuracy in [0, 1], cumulative bytes, cumulative FLOPs) of every evaluated round."""
    shown = (names.ROUND, ACCURACIES[accuracy][0], names.COST_BYTES, names.COST_FLOPS)
    columns = [numbers(run.rows, name) for name in shown]
    return [
        (int(t), y, size, flops)
        for t, y, size, flops in zip(*columns, strict=True)
        if t is not None and y is not None and size is not None and flops is not None
    ]


def drawn_runs(group: Group, accuracy: str) -> list[Run]:
    """The runs with at least one evaluation that can be read; of the others only the final figures are known."""
    return [run for run in group.runs if curve(run, accuracy)]


def mean_curve(group: Group, accuracy: str) -> list[tuple[int, Spread, float, float]]:
    """Round by round over the runs that have a curve, at the rounds that all of them evaluated; costs are means too."""
    curves = [{point[0]: point for point in curve(run, accuracy)} for run in drawn_runs(group, accuracy)]
    shared = sorted(set.intersection(*(set(points) for points in curves))) if curves else []
    found = []
    for t in shared:
        _, accuracies, sizes, flops = zip(*(points[t] for points in curves), strict=True)
        found.append((t, spread_of(accuracies), statistics.fmean(sizes), statistics.fmean(flops)))
    return found


def bytes_to_reach(run: Run, accuracy: str, level: float) -> float | None:
    """Cumulative bytes at the first evaluation of at least `level`, a share; None where it is not reached."""
    return next((size for _, y, size, _ in curve(run, accuracy) if y >= level), None)


def accuracy_at(run: Run, accuracy: str, budget: float) -> float | None:
    """The last evaluation within `budget` bytes; None where the first one cost more."""
    within = [y for _, y, size, _ in curve(run, accuracy) if size <= budget]
    return within[-1] if within else None


def paired_ratio(group: Group, reference: Group, figure: Callable[[Run], float | None]) -> Spread:
    """The figure over the reference's, seed by seed over the seeds of both; NaN where they share none."""
    theirs = {run.seed: figure(run) for run in reference.runs}
    ratios: list[float | None] = []
    for run in group.runs:
        own, other = figure(run), theirs.get(run.seed)
        if run.seed in theirs:
            ratios.append(own / other if own is not None and other else None)
    return spread_of(ratios)
