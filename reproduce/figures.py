"""The figures of a page, computed from the record alone: accuracies, paired differences, bytes at equal accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from pffdst.metrics.units import format_bytes, format_flops, format_seconds
from pffdst.report.exports import total_bytes
from pffdst.report.figures import Point, Spread, curve, deployment_seconds, first_at, spread_of
from pffdst.report.groups import Group
from pffdst.report.reading import Run
from reproduce.record import Record
from reproduce.study import Section, Study

__all__ = ["JUDGED", "LAST_5", "Table", "cost_ratio", "finals", "gains", "tables_of"]

JUDGED = "ema_acc_global"  # the accuracy that methods are compared by: the server average on the pooled test set
LAST_5 = "last5_acc_global"
_SHOWN = {
    JUDGED: "server average",
    LAST_5: "last 5",
    "ema_acc_client_mean": "server average, over clients",
    "last5_acc_client_mean": "last 5, over clients",
}


@final
@dataclass(frozen=True)
class Table:
    """A section's rows as groups of runs, and the one they are held against."""

    section: Section
    groups: dict[str, Group]

    @property
    def reference(self) -> Group | None:
        """The reference's runs, if any of them is done."""
        return self.groups.get(self.section.reference)

    def accuracies(self) -> list[list[str]]:
        """A line per row: mean and sd of each accuracy in percent, and the differences to the reference's."""
        own = self.section.reference
        head = ["run", "n", *_SHOWN.values(), "server average - reference", "last 5 - reference"]
        lines = []
        for name, group in self.groups.items():
            shares = [share(finals(group, key)) for key in _SHOWN]
            lines.append([group.label, str(len(group.runs)), *shares, *self._gains(group, name == own)])
        return [head, *lines]

    def costs(self) -> list[list[str]]:
        """A line per row: what was spent, and how many times the reference spends it at equal accuracy."""
        head = ["run", "bytes sent", "of paper_bytes", "paper_bytes", "frozen_bytes", "training", "deployed"]
        head += ["bytes at equal accuracy", "paper_bytes at equal accuracy", "bytes to the reference's final accuracy"]
        lines = []
        for name, group in self.groups.items():
            ratios = ["1", "1", "1"] if name == self.section.reference else self._ratios(group)
            lines.append([group.label, *_spent(group), *ratios])
        return [head, *lines]

    def seeds(self) -> list[list[str]]:
        """A line per row: the server average of each seed, and its difference to the reference's."""
        numbers = self.section.seeds
        head = ["run", *(f"seed {seed}" for seed in numbers), *(f"- reference, {seed}" for seed in numbers)]
        lines = []
        for name, group in self.groups.items():
            values, own = finals(group, JUDGED), self.gains(group, JUDGED)
            difference = [""] * len(numbers) if name == self.section.reference else [point(own.get(s)) for s in numbers]
            lines.append([group.label, *(percent(values.get(seed)) for seed in numbers), *difference])
        return [head, *lines]

    def gains(self, group: Group, key: str) -> dict[int, float]:
        """A figure less the reference's, by seed; empty where the reference is not done."""
        return {} if self.reference is None else gains(group, self.reference, key)

    def _gains(self, group: Group, is_reference: bool) -> list[str]:
        return ["" if is_reference else points(self.gains(group, key)) for key in (JUDGED, LAST_5)]

    def _ratios(self, group: Group) -> list[str]:
        if self.reference is None:
            return ["", "", ""]
        return [times(cost_ratio(group, self.reference, cost, "lower")) for cost in (sent, by_formula)] + [
            times(cost_ratio(group, self.reference, sent, "reference"))
        ]


def tables_of(study: Study, record: Record) -> list[Table]:
    """A table per section, of the rows of which at least one run is done."""
    found = []
    for section in study.sections:
        done = {name: record.of(name, section.seeds) for name in section.rows}
        groups = {
            name: Group(study.rows[name].label, {"row": name}, tuple(entry.run for entry in entries))
            for name, entries in done.items()
            if entries
        }
        found.append(Table(section, groups))
    return found


def finals(group: Group, key: str) -> dict[int, float]:
    """A figure of the end by seed."""
    return {int(str(run.seed)): run.final[key] for run in group.runs if key in run.final}


def gains(group: Group, reference: Group, key: str) -> dict[int, float]:
    """A figure of the end less the reference's, seed by seed over the seeds of both."""
    theirs = finals(reference, key)
    return {seed: value - theirs[seed] for seed, value in finals(group, key).items() if seed in theirs}


# ---- what it takes to reach an accuracy ----------------------------------------------------------------------------


def sent(at: Point) -> float:
    """Measured bytes."""
    return at.bytes


def by_formula(at: Point) -> float:
    """Bytes by the papers' formula, with the first downloads of frozen weights."""
    return at.paper_bytes


def cost_ratio(group: Group, reference: Group, cost: Callable[[Point], float], level: str) -> Spread:
    """How many times the reference spends what the group does until both have an accuracy, seed by seed.

    The accuracy is the server average's: `level` "lower" takes the lower one of both runs' last evaluations, which
    both reach; "reference" the reference's, which the group may never reach (then n of the spread is less than of).
    """
    theirs = {run.seed: run for run in reference.runs}
    return spread_of([_ratio(run, theirs[run.seed], cost, level) for run in group.runs if run.seed in theirs])


def _ratio(run: Run, other: Run, cost: Callable[[Point], float], level: str) -> float | None:
    ends = [curve(each, JUDGED)[-1].accuracy for each in (run, other)]
    wanted = min(ends) if level == "lower" else ends[1]
    own, theirs = first_at(run, JUDGED, wanted), first_at(other, JUDGED, wanted)
    return None if own is None or theirs is None else cost(theirs) / cost(own)


def _spent(group: Group) -> list[str]:
    means = {
        key: statistics.fmean(run.final[key] for run in group.runs) for key in ("paper_bytes", "frozen_bytes", "flops")
    }
    size = statistics.fmean(total_bytes(run) or math.nan for run in group.runs)
    share_of = size / (means["paper_bytes"] + means["frozen_bytes"])
    shown = [format_bytes(means[key]) if means[key] else "0" for key in ("paper_bytes", "frozen_bytes")]
    seconds = statistics.fmean(deployment_seconds(run) or math.nan for run in group.runs)
    time = "" if math.isnan(seconds) else format_seconds(seconds)
    return [format_bytes(size), f"{share_of:.3f}", *shown, format_flops(means["flops"]), time]


# ---- in words ------------------------------------------------------------------------------------------------------


def share(values: Mapping[int, float]) -> str:
    """Mean ± sd over the seeds in percent."""
    return _spread(spread_of(list(values.values())), 100)


def points(values: Mapping[int, float]) -> str:
    """Mean ± sd over the seeds of a difference in points."""
    return _spread(spread_of(list(values.values())), 100, "+")


def times(spread: Spread) -> str:
    """Mean ± sd of a ratio; of how many runs, where some never got there."""
    if spread.n == 0:
        return "not reached" if spread.of else ""
    some = f" ({spread.n} of {spread.of})" if spread.n < spread.of else ""
    return _spread(spread, 1) + some


def percent(value: float | None) -> str:
    """One accuracy."""
    return "" if value is None else f"{100 * value:.2f}"


def point(value: float | None) -> str:
    """One difference."""
    return "" if value is None else f"{100 * value:+.2f}"


def _spread(spread: Spread, factor: float, sign: str = "") -> str:
    if spread.n == 0:
        return ""
    mean = f"{factor * spread.mean:{sign}.2f}"
    return mean if spread.n == 1 else f"{mean} ± {factor * spread.sd:.2f}"
