"""What the page knows of the runs, as json: rounded to what can be seen, costs as they were counted."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from pffdst.metrics import names
from pffdst.metrics.clients import evenly_spaced
from pffdst.report.figures import ACCURACIES
from pffdst.report.groups import is_counted, keys_of
from pffdst.report.library import Shelf
from pffdst.report.reading import Run, numbers

__all__ = ["payload"]

_DENSITY = names.density_of("")
# Rounds of the pictures of the model: more than this are not told apart on a screen.
_POINTS = 240


def payload(shelf: Shelf, since: int = 0, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """The runs that changed after version `since`, the names of all, and what holds for all of them together."""
    keys = keys_of([run for run in shelf.runs if run.has_figures and not run.twin], wanted)
    return {
        "version": shelf.version,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "base": shelf.base.name or str(shelf.base),
        "accuracies": {key: words for key, (_, words) in ACCURACIES.items()},
        "keys": {"differing": keys.differing, "chosen": keys.chosen, "words": keys.words},
        "all": [run.id for run in shelf.runs],
        "runs": [_run(run) for run in shelf.runs if shelf.changed[run.id] > since],
    }


def _run(run: Run) -> dict[str, Any]:
    shared = {
        "id": run.id,
        "status": run.status,
        "remarks": run.remarks,
        "twin": run.twin,
        "figures": run.has_figures,
        "counted": is_counted(run),
        "config": run.config,
        "rounds": run.rounds,
        "final": {key: _short(value) for key, value in run.final.items()},
        "clients": _clients(run),
    }
    return shared | {"curves": _curves(run), "model": _model(run)}


def _curves(run: Run) -> dict[str, list[float | None]]:
    """Columns over the evaluated rounds."""
    rows = [row for row in run.rows if names.EMA_ACC_GLOBAL in row or names.ACC_GLOBAL in row]
    found: dict[str, list[float | None]] = {
        "round": numbers(rows, names.ROUND),
        "bytes": numbers(rows, names.COST_BYTES),
        "flops": _rounded(numbers(rows, names.COST_FLOPS), 6),
    }
    return found | {key: _rounded(numbers(rows, name), 5) for key, (name, _) in ACCURACIES.items()}


def _model(run: Run) -> dict[str, Any]:
    """Columns over evenly spaced rounds; the share of the mask that changed is the sum since the one before."""
    if not run.rows:
        return {}
    picked = evenly_spaced(len(run.rows), _POINTS)
    rows = [run.rows[i] for i in picked]
    layers = [name for name in run.rows[-1] if name.startswith(_DENSITY)]
    frozen, alive = numbers(rows, names.FROZEN), numbers(rows, names.ALIVE)
    return {
        "round": numbers(rows, names.ROUND),
        "density": {name.removeprefix(_DENSITY): _rounded(numbers(rows, name), 4) for name in layers},
        "changed": _rounded(_sums(numbers(run.rows, names.CHANGED), picked), 4),
        "frozen": _rounded([z / m if z is not None and m else None for z, m in zip(frozen, alive, strict=True)], 4),
    }


def _sums(values: Sequence[float | None], picked: Sequence[int]) -> list[float | None]:
    """What happened after one picked round up to the next."""
    spans = zip([-1, *picked], picked, strict=False)
    return [sum(value for value in values[a + 1 : b + 1] if value is not None) for a, b in spans]


def _clients(run: Run) -> dict[str, Any]:
    """clients.json's parts that have the form they should have; a hand-made file may hold anything."""
    told, found = run.clients, {}
    if isinstance(told.get("train"), list) and isinstance(told.get("shown"), list):
        found = {key: told.get(key) for key in ("clients", "classes", "shown", "train")}
    accuracy = told.get("accuracy")
    if isinstance(accuracy, dict) and all(isinstance(part, dict) and "sorted" in part for part in accuracy.values()):
        found["accuracy"] = accuracy
    return found


def _rounded(values: Sequence[float | None], digits: int) -> list[float | None]:
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.7g}")
