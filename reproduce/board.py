"""A section with a budget as a leaderboard: ranks at so many measured bytes, the price of accuracies, the best line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pffdst.metrics.units import format_bytes, format_flops
from pffdst.report.figures import bytes_to_reach, curve, mean_curve
from pffdst.report.groups import Group
from pffdst.report.looks import HUES
from pffdst.report.pictures import STYLE, curve_label
from pffdst.report.reading import Run
from reproduce.figures import (
    JUDGED,
    LAST_5,
    Table,
    accuracy_at,
    by_formula,
    mean_share,
    paired,
    percent,
    point,
    points,
    sent,
    spent_at,
    training,
)
from reproduce.intervals import adjusted, ranks

__all__ = ["at_budget", "board", "by_seed", "front", "left_out", "write_front"]


def at_budget(group: Group, budget: int, key: str = JUDGED) -> dict[int, float]:
    """An accuracy by seed when the budget is spent; of a run that spends less in all, its last one."""
    found = {int(str(run.seed)): accuracy_at(run, sent, _end(run, budget), key) for run in group.runs}
    return {seed: value for seed, value in found.items() if value is not None}


def _end(run: Run, budget: int) -> float:
    return min([float(budget), *map(sent, curve(run, JUDGED)[-1:])])


def board(table: Table) -> list[list[str]]:
    """A line per row, the best first: ranks, the accuracy at the budget, what accuracies cost, what was spent.

    Only rows of the pooled spread have ranks at 95 %, among themselves; see `left_out` for rows without a line.
    """
    section = table.section
    head = ["rank", "at 95 %", "run", "n", "server average", "- reference"]
    head += [f"bytes to {100 * level:g} %" for level in section.levels]
    head += ["bytes sent", "paper_bytes", "training", "last 5"]
    values = _read(table)
    together = {name: own for name, own in values.items() if name not in table.rows.apart}
    possible, height = ranks(together, table.rows.noise[JUDGED]), adjusted(values)
    order = sorted(values, key=lambda name: -height[name])
    return [head, *(_line(table, name, values, i, possible.get(name)) for i, name in enumerate(order, start=1))]


def left_out(table: Table) -> list[str]:
    """The labels of rows with a run that cannot be read at the budget: its first evaluation comes after it."""
    values = _read(table)
    return [g.label for name, g in table.groups.items() if len(values.get(name, ())) < len(g.runs)]


def _read(table: Table) -> dict[str, dict[int, float]]:
    """The accuracies at the budget by row and seed."""
    return {name: own for name, group in table.groups.items() if (own := at_budget(group, table.section.budget))}


def by_seed(table: Table) -> list[list[str]]:
    """A line per row: each seed's server average at the budget, and its difference to the reference's."""
    section = table.section
    values = _read(table)
    theirs = values.get(section.reference, {})
    lines = []
    for name, own in values.items():
        ahead = {} if name == section.reference else paired(own, theirs)
        shown = [*(percent(own.get(seed)) for seed in section.seeds), *(point(ahead.get(s)) for s in section.seeds)]
        lines.append([table.groups[name].label, *shown])
    return [["run", *(f"seed {s}" for s in section.seeds), *(f"- reference, {s}" for s in section.seeds)], *lines]


def _line(
    table: Table, name: str, values: Mapping[str, Mapping[int, float]], place: int, possible: tuple[int, int] | None
) -> list[str]:
    group, budget = table.groups[name], table.section.budget
    prices = [_price(group, level, budget) for level in table.section.levels]
    where = "" if possible is None else " to ".join(map(str, dict.fromkeys(possible)))
    reached = [group.label, str(len(values[name])), mean_share(values[name]), _ahead(table, name, values)]
    return [str(place), where, *reached, *prices, *_spent(group, budget), mean_share(at_budget(group, budget, LAST_5))]


def _ahead(table: Table, name: str, values: Mapping[str, Mapping[int, float]]) -> str:
    own, theirs, other = values[name], values.get(table.section.reference, {}), table.reference
    if other is None or name == table.section.reference:
        return ""
    return points(paired(own, theirs), table.rows.noise_between(table.groups[name], other, JUDGED))


def _price(group: Group, level: float, budget: int) -> str:
    """Mean bytes to the first evaluation of at least `level` within the budget; of how many runs, if not all."""
    asked = [bytes_to_reach(run, JUDGED, level) for run in group.runs]
    known = [size for size in asked if size is not None and size <= budget]
    if not known:
        return "not reached"
    some = f" ({len(known)} of {len(asked)})" if len(known) < len(asked) else ""
    return format_bytes(statistics.fmean(known)) + some


def _spent(group: Group, budget: int) -> list[str]:
    """Bytes sent, paper_bytes and training until the budget, means over the seeds that can be read there."""
    ends = [(run, _end(run, budget)) for run in group.runs]
    shown = ((sent, format_bytes), (by_formula, format_bytes), (training, format_flops))
    spent = {cost: [spent_at(run, sent, end, cost) for run, end in ends] for cost, _ in shown}
    return [words(statistics.fmean(x for x in spent[cost] if x is not None)) for cost, words in shown]


# ---- the best line -------------------------------------------------------------------------------------------------


def front(groups: Mapping[str, Group], budget: float = math.inf) -> list[tuple[float, float, str]]:
    """Pareto's front: (bytes, accuracy, row) that no row beats with as few bytes, by ascending bytes.

    Of the rows' mean curves over bytes, within the budget.
    """
    found: list[tuple[float, float, str]] = []
    best = -math.inf
    curves = {name: mean_curve(group, JUDGED, "bytes") for name, group in groups.items()}
    every = [(point.bytes, -point.accuracy, name) for name, curve in curves.items() for point, _ in curve]
    for size, negative, name in sorted(every):
        if -negative > best and size <= budget:
            best = -negative
            found.append((size, best, name))
    return found


def write_front(table: Table, path: Path) -> None:
    """Accuracy against measured bytes: every row in grey, those with a part of the front in colour and by name."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4))
        _draw(figure.add_subplot(), table, front(table.groups, table.section.budget))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)


def _draw(ax: Axes, table: Table, best: Sequence[tuple[float, float, str]]) -> None:
    named = list(dict.fromkeys([name for _, _, name in best] + [table.section.reference]))
    hues = {name: HUES[i % len(HUES)] for i, name in enumerate(named)}
    for name, group in table.groups.items():
        means = [point for point, _ in mean_curve(group, JUDGED, "bytes")]
        look: dict[str, Any] = {"color": "#c9cdd3", "lw": 0.8, "zorder": 1}
        if name in hues:
            look = {"color": hues[name], "lw": 1.6, "zorder": 3}
        if name in hues or not means:
            look["label"] = curve_label(group, JUDGED, is_drawn=bool(means))
        ax.plot([p.bytes for p in means], [100 * p.accuracy for p in means], marker=".", ms=3, **look)
    line = [(size, 100 * share) for size, share, _ in best]
    line += [(float(table.section.budget), share) for _, share in line[-1:]]
    ax.step([x for x, _ in line], [y for _, y in line], where="post", color="#30343b", lw=1.0, ls=":", zorder=4)
    ax.axvline(table.section.budget, color="#8d8d86", lw=0.8, ls="--")
    ax.set_xscale("log")
    ax.set_xlim(right=1.3 * table.section.budget)
    ax.xaxis.set_major_formatter(EngFormatter(unit="B"))
    ax.set_xlabel("bytes sent, both directions (dashed: the budget)")
    ax.set_ylabel("accuracy (%)\nserver average, pooled test set")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
