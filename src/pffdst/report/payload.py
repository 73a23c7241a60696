"""What the page knows about the runs, as JSON: rounded to visible precision; accuracies as Python compares them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from pffdst.metrics import names
from pffdst.metrics.clients import evenly_spaced
from pffdst.report.figures import ACCURACIES, chance_of, rounded, sample_words
from pffdst.report.groups import is_counted, keys_of
from pffdst.report.library import Shelf
from pffdst.report.looks import PART_HUES, hues_of
from pffdst.report.reading import Run, encodable, numbers
from pffdst.report.rows import DENSITY, SHOWN_ROUNDS, Rows

__all__ = ["payload"]


def payload(shelf: Shelf, since: int = 0, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """The runs that changed after version `since`, the names of all runs, and what applies to all of them."""
    usable = [run for run in shelf.runs if run.has_figures and not run.twin]
    keys = keys_of(usable, wanted)
    samples = sample_words(usable)
    return {
        "version": shelf.version,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "base": encodable(shelf.base.name or shelf.base),
        "accuracies": {key: words.replace("test set", samples) for key, (_, words) in ACCURACIES.items()},
        "hues": hues_of(str(run.config.get("method_name", "")) for run in usable),
        "keys": {"differing": keys.differing, "chosen": keys.chosen, "words": keys.words},
        "all": [run.id for run in shelf.runs],
        "chance": chance_of(usable),
        "parts": {part: {"words": words, "hues": PART_HUES[part]} for part, words in names.PART_WORDS.items()},
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
        "clients": run.clients,
    }
    return shared | {"curves": _curves(run), "model": _model(run)}


def _curves(run: Run) -> dict[str, list[float | None]]:
    """Columns over all evaluated rounds: the page's figures are computed from these."""
    average, last = numbers(run.rows, names.EMA_ACC_GLOBAL), numbers(run.rows, names.ACC_GLOBAL)
    kept = [i for i, pair in enumerate(zip(average, last, strict=True)) if pair != (None, None)]

    def column(name: str, digits: int | None = None) -> list[float | None]:
        whole = numbers(run.rows, name)
        values = [whole[i] for i in kept]
        return values if digits is None else _rounded(values, digits)

    costs = {"round": column(names.ROUND), "bytes": column(names.COST_BYTES), "up": column(names.COST_BYTES_UP)}
    accuracies = {key: _compared(column(name)) for key, (name, _) in ACCURACIES.items()}
    costs |= {"flops": column(names.COST_FLOPS, 6), "seconds": column(names.COST_SECONDS, 6)}
    return costs | accuracies


def _model(run: Run) -> dict[str, Any]:
    """Columns over evenly spaced rounds; the changed share of the mask is summed since the previous one."""
    if not run.rows:
        return {}
    picked = evenly_spaced(len(run.rows), SHOWN_ROUNDS)
    frozen, alive = numbers(run.rows, names.FROZEN), numbers(run.rows, names.ALIVE)
    shares = [z / m if z is not None and m else None for z, m in ((frozen[i], alive[i]) for i in picked)]
    rounds = numbers(run.rows, names.ROUND)
    return {
        "round": [rounds[i] for i in picked],
        "changed": _rounded(_sums(numbers(run.rows, names.CHANGED), picked), 4),
        "frozen": _rounded(shares, 4),
        "density": _densities(run),
    }


def _densities(run: Run) -> dict[str, Any]:
    """By layer, over the rounds whose densities were kept."""
    found = run.rows.densities if isinstance(run.rows, Rows) else {}
    layers = list(dict.fromkeys(name for dense in found.values() for name in dense))
    columns = {name.removeprefix(DENSITY): _rounded([d.get(name) for d in found.values()], 4) for name in layers}
    rounds = numbers(run.rows, names.ROUND)
    return {"round": [rounds[i] for i in found], "layers": columns}


def _sums(values: Sequence[float | None], picked: Sequence[int]) -> list[float | None]:
    """Sums over the rounds after each picked one, up to the next."""
    spans = zip([-1, *picked], picked, strict=False)
    return [sum(value for value in values[a + 1 : b + 1] if value is not None) for a, b in spans]


def _rounded(values: Sequence[float | None], digits: int) -> list[float | None]:
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def _compared(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else rounded(value) for value in values]


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.7g}")
