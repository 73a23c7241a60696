"""What page/stats.js computes and no command prints, in Python."""

import statistics
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pffdst.report.figures import curve, spread_of
from pffdst.report.groups import Group
from pffdst.report.reading import Run, Scalar


def accuracy_at(run: Run, accuracy: str, budget: float) -> float | None:
    """The last evaluation within `budget` bytes; None where the first one cost more."""
    within = [point.accuracy for point in curve(run, accuracy) if point.bytes <= budget]
    return within[-1] if within else None


class Ratio(NamedTuple):
    """The geometric mean, the lowest and the highest over the `n` of `of` seeds that have one."""

    mean: float
    low: float
    high: float
    n: int
    of: int


def paired_ratio(group: Group, reference: Group, figure: Callable[[Run], float | None]) -> Ratio:
    """The figure over the reference's, seed by seed over the seeds of both, at least one of which has a ratio."""
    own, theirs = by_seed(group.runs, figure), by_seed(reference.runs, figure)
    ratios = [_over(own[seed], theirs[seed]) for seed in own if seed in theirs]
    known = [ratio for ratio in ratios if ratio is not None]
    return Ratio(statistics.geometric_mean(known), min(known), max(known), len(known), len(ratios))


def by_seed(runs: Iterable[Run], figure: Callable[[Run], float | None]) -> dict[Scalar, float | None]:
    """A figure by seed: of several runs of one seed the mean, None if one of them has none."""
    found: dict[Scalar, list[float | None]] = {}
    for run in runs:
        found.setdefault(run.seed, []).append(figure(run))
    spreads = {seed: spread_of(values) for seed, values in found.items()}
    return {seed: spread.mean if spread.n == spread.of else None for seed, spread in spreads.items()}


def _over(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None
