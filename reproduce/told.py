"""Figures by name in the text of a page's conclusions: `{gain pffdst feddst}` is filled in from the record."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import final

from pffdst.core.errors import UserError
from reproduce.figures import JUDGED, LAST_5, Rows, by_formula, cost_ratio, finals, mean_share, sent, times, training
from reproduce.record import Record
from reproduce.study import Study

__all__ = ["Told"]

_PLACE = re.compile(r"\{(\w+)((?:\s+\w+)*)\}")  # a line may end within one


@final
class Told:
    """Fills in figures of rows.

    average, last5: mean in percent of a row; gain, formula_gain, flops_gain: difference of two rows' server averages in
    points, at equal bytes sent, paper_bytes or training, ± half of its 95 % interval; end_gain, last5_gain: of the
    ends, of the server averages and of the last five evaluations; cheaper, formula_cheaper: how many times the second
    row spends, in bytes or by the formula, what the first does until both reach the lower of their final accuracies;
    reach: the same at the second row's final accuracy; n: runs of a row; interval N: ± of a difference over N seeds.
    """

    def __init__(self, study: Study, record: Record) -> None:
        self._study, self._rows = study, Rows.of(study, record)
        rows = self._rows
        self._known: dict[str, Callable[..., str]] = {
            "n": lambda row: str(len(row.runs)),
            "average": lambda row: mean_share(finals(row, JUDGED)),
            "last5": lambda row: mean_share(finals(row, LAST_5)),
            "gain": lambda row, other: rows.gain(row, other, sent),
            "formula_gain": lambda row, other: rows.gain(row, other, by_formula),
            "flops_gain": lambda row, other: rows.gain(row, other, training),
            "end_gain": rows.end_gain,
            "last5_gain": lambda row, other: rows.end_gain(row, other, LAST_5),
            "cheaper": lambda row, other: times(cost_ratio(row, other, sent, "lower")),
            "formula_cheaper": lambda row, other: times(cost_ratio(row, other, by_formula, "lower")),
            "reach": lambda row, other: times(cost_ratio(row, other, sent, "reference")),
        }

    def fill(self, text: str) -> str:
        """The text with every `{figure row row}` replaced. UserError for one that there is not."""
        return _PLACE.sub(self._figure, text)

    def _figure(self, found: re.Match[str]) -> str:
        figure, rows = found[1], found[2].split()
        if figure == "interval" and len(rows) == 1 and rows[0].isdigit() and int(rows[0]) > 0:
            return f"± {100 * self._rows.noise[JUDGED].half(int(rows[0])):.2f}"
        try:
            known, _ = self._known[figure], [self._study.rows[row] for row in rows]
            groups = [self._rows.groups[row] for row in rows if row in self._rows.groups]
            shown = known(*groups) if len(groups) == len(rows) else ""
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{found[0]}: no such figure; there are {', '.join(self._known)} of {', '.join(self._study.rows)}"
            ) from error
        return shown or "(not played yet)"
