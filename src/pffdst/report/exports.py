"""The tables for other programs: every run as CSV, the methods as LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pffdst.metrics.units import format_bytes, format_flops
from pffdst.report.figures import Spread, accuracy_words, bytes_to_reach, chance_of, curve, drawn_runs, spread_of
from pffdst.report.groups import Group
from pffdst.report.reading import FINALS, Run

__all__ = ["common_level", "latex_text", "runs_csv", "total_bytes", "write_text"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_COLUMNS = (*FINALS, "sparsity_overall", "wall_s", "peak_rss_mb", "rejected")
_HEADS = {"sparsity": "sparsity_reached"}  # the target is a key of the configuration
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "·": r"$\cdot$"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}


def runs_csv(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """A line per run: name, status, configuration keys, seed, final figures; an unknown value is an empty field."""
    keys, stream = [key for key in keys if key != "rounds"], io.StringIO(newline="")  # a run says how many it ran
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "run",
            "status",
            *map(_cell, keys),
            "seed",
            "rounds",
            *(_HEADS.get(name, name) for name in _COLUMNS),
            "remarks",
        ]
    )
    for run in runs:
        settings = [run.config.get(key) for key in keys]
        finals = [run.final.get(name) for name in _COLUMNS]
        told = [run.id, "duplicate" if run.twin else run.status, *settings, run.seed, run.rounds, *finals]
        writer.writerow([_cell(value) for value in [*told, "; ".join(run.remarks)]])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is prefixed with an apostrophe; numbers stay numbers."""
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def total_bytes(run: Run) -> float | None:
    """Measured bytes in both directions."""
    up, down = run.final.get("bytes_up"), run.final.get("bytes_down")
    return None if up is None or down is None else up + down


def common_level(groups: Sequence[Group], accuracy: str) -> float | None:
    """The highest whole percent, as a share, above chance that every run of at least half of the groups reaches."""
    drawn = [runs for group in groups if (runs := drawn_runs(group, accuracy))]
    best = sorted((min(_best(run, accuracy) for run in runs) for runs in drawn), reverse=True)
    level = math.floor(100 * best[math.ceil(len(best) / 2) - 1] + 1e-9) if best else 0
    chance = chance_of(run for group in groups for run in group.runs)
    return level / 100 if level > max(100 * chance, 0) else None


def _best(run: Run, accuracy: str) -> float:
    return max(point.accuracy for point in curve(run, accuracy))


def latex_text(groups: Sequence[Group], accuracy: str, level: float | None) -> str:
    """A table of the methods, for `\\input`: mean and standard deviation over n runs; needs LaTeX's booktabs."""
    reached = "bytes" if level is None else f"to {100 * level:g}\\,\\%"
    lines = [
        f"% accuracy: {accuracy_words(groups, accuracy)}; mean and sd over n runs; bytes measured, both directions",
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        f"method & accuracy (\\%) & bytes & {reached} & training & $n$ \\\\",
        r"\midrule",
        *(_latex_row(group, accuracy, level) for group in groups),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(group: Group, accuracy: str, level: float | None) -> str:
    shares, flops = (spread_of([run.final.get(name) for run in group.runs]) for name in (accuracy, "flops"))
    sizes = spread_of([total_bytes(run) for run in group.runs])
    drawn = drawn_runs(group, accuracy) if level is not None else []
    reach = spread_of([bytes_to_reach(run, accuracy, level or 0.0) for run in drawn])
    percent = f"${100 * shares.mean:.1f}" + (f" \\pm {100 * shares.sd:.1f}$" if shares.n > 1 else "$")
    costs = [_size(sizes), _size(reach), format_flops(flops.mean) if flops.n else "--"]
    cells = [percent if shares.n else "--", *(cost.replace(" ", "\\,") for cost in costs)]
    return " & ".join([_escaped(group.label), *cells, str(len(group.runs))]) + r" \\"


def _size(spread: Spread) -> str:
    if spread.n == 0:
        return "--"
    return format_bytes(spread.mean) + (f" ({spread.n} of {spread.of})" if spread.n < spread.of else "")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def write_text(path: Path, text: str) -> None:
    """Writes a file, creating its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
