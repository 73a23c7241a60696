"""The figures in a run's rows, by the names they are logged under, known before there is a run."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from pffdst.config.constructors import did_you_mean
from pffdst.cost.ledger import Ledger
from pffdst.metrics.names import (
    ACC_GLOBAL,
    ACCURACIES,
    as_test,
    average_of,
    best_of,
    columns,
    evaluated_on,
    last5_of,
    metric,
    on,
)

__all__ = ["figures_of", "instead_of", "tells_of_tests"]

_SCORED = frozenset(name for accuracy in ACCURACIES for name in (best_of(accuracy), last5_of(accuracy)))


def figures_of(cfg: DictConfig) -> tuple[str, ...]:
    """The names of all figures in every row of a run of this configuration."""
    split = evaluated_on(float(cfg.validation_share))
    further = [metric(str(name)) for name, node in (cfg.get("metrics") or {}).items() if node is not None]
    scored = [on(split, name) for name in (*further, *map(average_of, further))]
    return tuple(dict.fromkeys((*columns(split=split), *scored, *Ledger.COLUMNS)))


def tells_of_tests(figure: str, known: Sequence[str]) -> bool:
    """Whether one of the `known` figures is of the test set: by its name, or because nothing was held out instead.

    The names of best values and of means of the last evaluations are the same either way.
    """
    return figure.startswith("test/") or (figure in _SCORED and ACC_GLOBAL in known)


def instead_of(figure: str, known: Sequence[str]) -> str:
    """What to write instead of a figure that is not among the `known` ones."""
    held_out = ACC_GLOBAL not in known
    named = on("validation" if held_out else "test", *as_test({figure: 0}))
    if named in known:
        return f"with {'validation_share above 0' if held_out else 'validation_share=0'} it is {named}"
    return did_you_mean(figure, known) or "metrics.csv of any run shows them"
