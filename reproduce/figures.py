"""The figures of a page, computed from the record alone: accuracies, paired differences, costs of equal accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from pffdst.metrics.units import format_bytes, format_flops, format_seconds
from pffdst.report.exports import total_bytes
from pffdst.report.figures import Point, curve, deployment_seconds, first_at
from pffdst.report.groups import Group
from pffdst.report.reading import Run
from reproduce.intervals import UNKNOWN, Noise, pooled
from reproduce.record import Record
from reproduce.study import Section, Study

__all__ = ["COSTS", "JUDGED", "LAST_5", "Rows", "Table", "cost_ratio", "finals", "gains", "level_gains", "tables_of"]

JUDGED = "ema_acc_global"  # the accuracy that methods are compared by: the server average on the pooled test set
LAST_5 = "last5_acc_global"
_NEAR = 0.8  # of a run's own end, from which on it is as noisy as there
_OVER_CLIENTS = {
    "ema_acc_client_mean": "server average, over clients",
    "last5_acc_client_mean": "last 5, over clients",
}


# ---- costs, in the order of pages ----------------------------------------------------------------------------------


def sent(at: Point) -> float:
    """Measured bytes."""
    return at.bytes


def by_formula(at: Point) -> float:
    """Bytes by the papers' formula, with the first downloads of frozen weights."""
    return at.paper_bytes


def training(at: Point) -> float:
    """Operations of the clients' training."""
    return at.flops


Cost = Callable[[Point], float]
COSTS: Mapping[str, Cost] = {"bytes sent": sent, "paper_bytes": by_formula, "training": training}
"""What runs are compared at equal amounts of, by name; what is measured comes first."""


# ---- rows and tables -----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Rows:
    """A study's rows as groups of runs, and by figure what chance does to a difference of two of them in one seed.

    `noise` is pooled over the rows with several seeds but those `apart`, whose differences go by their own spread.
    """

    groups: Mapping[str, Group]
    noise: Mapping[str, Noise]
    apart: frozenset[str] = frozenset()

    @classmethod
    def of(cls, study: Study, record: Record) -> Rows:
        """Every row of which a run is done."""
        groups = {
            name: Group(row.label, {"row": name}, tuple(e.run for e in entries))
            for name, row in study.rows.items()
            if (entries := record.of(name))
        }
        together = {name: group for name, group in groups.items() if name not in study.apart}
        noise = {key: pooled({n: finals(g, key) for n, g in together.items()}) for key in (JUDGED, LAST_5)}
        return cls(groups, noise, frozenset(study.apart))

    def noise_between(self, group: Group, other: Group, key: str) -> Noise:
        """Of a difference of these two rows: the pooled one, or their own where one of them stands apart."""
        if not self.apart & {str(group.values["row"]), str(other.values["row"])}:
            return self.noise[key]
        shared = finals(group, key).keys() & finals(other, key).keys()
        return pooled({str(i): _only(finals(each, key), shared) for i, each in enumerate((group, other))})

    def gain(self, group: Group, other: Group, cost: Cost) -> str:
        """In words: the difference of the server averages in points at equal amounts of `cost`, ± of its 95 %.

        Without ± where one of the two is read before `_NEAR` of its own end: the noise is that of ends.
        """
        near = _nearness(group, other, cost) >= _NEAR
        noise = self.noise_between(group, other, JUDGED) if near else UNKNOWN
        return points(level_gains(group, other, cost), noise)

    def end_gain(self, group: Group, other: Group, key: str = JUDGED) -> str:
        """In words: the difference of a figure of the ends in points, whatever was spent, ± of its 95 %."""
        return points(gains(group, other, key), self.noise_between(group, other, key))


@final
@dataclass(frozen=True)
class Table:
    """A section's rows as groups of runs, and the one they are held against."""

    section: Section
    groups: dict[str, Group]
    rows: Rows

    @property
    def reference(self) -> Group | None:
        """The reference's runs, if any of them is done."""
        return self.groups.get(self.section.reference)

    def accuracies(self) -> list[list[str]]:
        """A line per row: accuracies in percent, and the differences to the reference's at equal costs."""
        ahead = [f"- reference, at equal {cost}" for cost in COSTS]
        head = ["run", "n", "server average", *ahead, "- reference, at the ends", "last 5", "last 5 - reference"]
        head += _OVER_CLIENTS.values()
        return [head, *(self._accuracies(name, group) for name, group in self.groups.items())]

    def _accuracies(self, name: str, group: Group) -> list[str]:
        mine, other = [mean_share(finals(group, key)) for key in (JUDGED, LAST_5, *_OVER_CLIENTS)], self.reference
        if other is None or name == self.section.reference:
            ahead = [""] * (len(COSTS) + 2)
        else:
            ahead = [self.rows.gain(group, other, cost) for cost in COSTS.values()]
            ahead += [self.rows.end_gain(group, other, key) for key in (JUDGED, LAST_5)]
        return [group.label, str(len(group.runs)), mine[0], *ahead[:-1], mine[1], ahead[-1], *mine[2:]]

    def costs(self) -> list[list[str]]:
        """A line per row: what was spent, and how many times the reference spends it at equal accuracy."""
        head = ["run", "bytes sent", "bytes at equal accuracy", "bytes to the reference's final accuracy"]
        head += ["paper_bytes", "frozen_bytes", "bytes sent of them", "paper_bytes at equal accuracy"]
        head += ["training", "training at equal accuracy", "deployed"]
        return [head, *(self._costs(name, group) for name, group in self.groups.items())]

    def _costs(self, name: str, group: Group) -> list[str]:
        size, *formula, flops, time = _spent(group)
        if name == self.section.reference:
            ratios = ["1"] * 4
        elif self.reference is None:
            ratios = [""] * 4
        else:
            asked = [(sent, "lower"), (sent, "reference"), (by_formula, "lower"), (training, "lower")]
            ratios = [times(cost_ratio(group, self.reference, cost, level)) for cost, level in asked]
        return [group.label, size, *ratios[:2], *formula, ratios[2], flops, ratios[3], time]

    def seeds(self) -> list[list[str]]:
        """A line per row: each seed's server average, and its difference to the reference's at equal bytes sent."""
        numbers = self.section.seeds
        head = ["run", *(f"seed {seed}" for seed in numbers), *(f"- reference, {seed}" for seed in numbers)]
        lines = []
        for name, group in self.groups.items():
            own = {} if self.reference is None else level_gains(group, self.reference, sent)
            difference = [""] * len(numbers) if name == self.section.reference else [point(own.get(s)) for s in numbers]
            values = finals(group, JUDGED)
            lines.append([group.label, *(percent(values.get(seed)) for seed in numbers), *difference])
        return [head, *lines]


def tables_of(study: Study, record: Record) -> list[Table]:
    """A table per section, of the rows of which at least one run is done."""
    rows = Rows.of(study, record)
    return [Table(section, _section_groups(rows, section), rows) for section in study.sections]


def _section_groups(rows: Rows, section: Section) -> dict[str, Group]:
    found = {name: _seeds_of(rows.groups[name], section.seeds) for name in section.rows if name in rows.groups}
    return {name: group for name, group in found.items() if group.runs}


def _seeds_of(group: Group, seeds: Sequence[object]) -> Group:
    return Group(group.label, group.values, tuple(run for run in group.runs if run.seed in seeds))


def finals(group: Group, key: str) -> dict[int, float]:
    """A figure of the end by seed."""
    return {int(str(run.seed)): run.final[key] for run in group.runs if key in run.final}


def _only(values: Mapping[int, float], seeds: Iterable[int]) -> dict[int, float]:
    return {seed: values[seed] for seed in sorted(seeds)}


def gains(group: Group, reference: Group, key: str) -> dict[int, float]:
    """A figure of the end less the reference's, by seed."""
    return paired(finals(group, key), finals(reference, key))


def paired(own: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """One less the other, seed by seed over the seeds of both."""
    return {seed: value - theirs[seed] for seed, value in own.items() if seed in theirs}


# ---- equal costs ---------------------------------------------------------------------------------------------------


def accuracy_at(run: Run, cost: Cost, amount: float, key: str = JUDGED) -> float | None:
    """An accuracy when so much was spent, a straight line between evaluations; None outside of all of them."""
    return _read_at(curve(run, key), cost, amount, lambda point: point.accuracy)


def spent_at(run: Run, cost: Cost, amount: float, other: Cost) -> float | None:
    """What was spent of the `other` cost by then."""
    return _read_at(curve(run, JUDGED), cost, amount, other)


def _read_at(points: Sequence[Point], cost: Cost, amount: float, figure: Cost) -> float | None:
    spent = [cost(point) for point in points]
    if not points or not spent[0] <= amount <= spent[-1]:
        return None
    return float(np.interp(amount, spent, [figure(point) for point in points]))


def level_gains(group: Group, reference: Group, cost: Cost) -> dict[int, float]:
    """The server average less the reference's by seed, both where the one that spent less in all has ended."""
    theirs = {run.seed: run for run in reference.runs}
    found = {int(str(run.seed)): _level_gain(run, theirs[run.seed], cost) for run in group.runs if run.seed in theirs}
    return {seed: gain for seed, gain in found.items() if gain is not None}


def _nearness(group: Group, other: Group, cost: Cost) -> float:
    """How far each of two rows has come where they are compared, as the least share of a run's own end."""
    shared = {run.seed for run in group.runs} & {run.seed for run in other.runs}
    ends = [[cost(curve(run, JUDGED)[-1]) for run in each.runs if run.seed in shared] for each in (group, other)]
    return min((min(pair) / max(pair) for pair in zip(*ends, strict=True)), default=0.0)


def _level_gain(run: Run, other: Run, cost: Cost) -> float | None:
    ends = [curve(each, JUDGED)[-1:] for each in (run, other)]
    if not all(ends):
        return None
    amount = min(cost(end[0]) for end in ends)
    own, theirs = accuracy_at(run, cost, amount), accuracy_at(other, cost, amount)
    return None if own is None or theirs is None else own - theirs


# ---- equal accuracy ------------------------------------------------------------------------------------------------


def cost_ratio(group: Group, reference: Group, cost: Cost, level: str) -> list[float | None]:
    """How many times the reference spends what the group does until both have an accuracy, seed by seed.

    The accuracy is the server average's: `level` "lower" takes the lower one of both runs' last evaluations, which
    both reach; "reference" the reference's, which the group may never reach: None.
    """
    theirs = {run.seed: run for run in reference.runs}
    return [_ratio(run, theirs[run.seed], cost, level) for run in group.runs if run.seed in theirs]


def _ratio(run: Run, other: Run, cost: Cost, level: str) -> float | None:
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
    return [format_bytes(size), *shown, f"{share_of:.3f}", format_flops(means["flops"]), time]


# ---- in words ------------------------------------------------------------------------------------------------------


def mean_share(values: Mapping[int, float]) -> str:
    """The mean over the seeds in percent."""
    return percent(statistics.fmean(values.values())) if values else ""


def points(values: Mapping[int, float], noise: Noise) -> str:
    """The mean over the seeds of a difference in points, ± half of its 95 % interval where chance is known."""
    if not values:
        return ""
    mean, half = point(statistics.fmean(values.values())), 100 * noise.half(len(values))
    return mean if math.isnan(half) else f"{mean} ± {half:.2f}"


def times(ratios: Iterable[float | None]) -> str:
    """The geometric mean of ratios and their range; of how many runs, where some never got there."""
    asked = list(ratios)
    known = [ratio for ratio in asked if ratio is not None]
    if not known:
        return "not reached" if asked else ""
    told = [f"{min(known):.2f} to {max(known):.2f}"] if len(known) > 1 else []
    told += [f"{len(known)} of {len(asked)}"] if len(known) < len(asked) else []
    return f"{statistics.geometric_mean(known):.2f}" + (f" ({', '.join(told)})" if told else "")


def percent(value: float | None) -> str:
    """One accuracy."""
    return "" if value is None else f"{100 * value:.2f}"


def point(value: float | None) -> str:
    """One difference."""
    return "" if value is None else f"{100 * value:+.2f}"
