"""What page/stats.js computes and no command prints, in Python."""

from collections.abc import Callable

from pffdst.report.figures import Spread, curve, spread_of
from pffdst.report.groups import Group
from pffdst.report.reading import Run


def accuracy_at(run: Run, accuracy: str, budget: float) -> float | None:
    """The last evaluation within `budget` bytes; None where the first one cost more."""
    within = [point.accuracy for point in curve(run, accuracy) if point.bytes <= budget]
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
