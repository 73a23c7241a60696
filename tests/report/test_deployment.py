"""The time of a deployment: a run's own where it has a model of time, else from its bytes and FLOPs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pffdst.core.device import USUAL
from pffdst.metrics import names
from pffdst.report.figures import curve, deployment_seconds
from pffdst.report.payload import _curves
from pffdst.report.reading import Run


def run_of(*rows: dict[str, Any], cohort: Any = 4, **summary: Any) -> Run:
    filled = [{names.EMA_ACC_GLOBAL: 0.5, names.COST_PAPER_BYTES: 1, names.COST_FLOPS: 8e9, **row} for row in rows]
    final = {"bytes_up": 3000, "bytes_down": 1000, "flops": 8e9, **summary}
    return Run("a", Path("a"), "done", config={"cohort": cohort}, summary=final, rows=filled)


ROW = {names.ROUND: 1, names.COST_BYTES: 4000, names.COST_BYTES_UP: 2000}


def test_without_a_model_it_follows_from_bytes_and_operations() -> None:
    run = run_of(ROW)
    assert deployment_seconds(run) == pytest.approx(USUAL.seconds(up=750, down=250, flops=2e9))
    assert curve(run, "ema_acc_global")[0].seconds == pytest.approx(USUAL.seconds(up=500, down=500, flops=2e9))


def test_a_record_without_the_uplink_of_its_rounds_has_that_of_the_run() -> None:
    row = {key: value for key, value in ROW.items() if key != names.COST_BYTES_UP}
    [point] = curve(run_of(row), "ema_acc_global")
    assert point.seconds == pytest.approx(USUAL.seconds(up=750, down=250, flops=2e9))


def test_a_model_of_its_own_goes_before() -> None:
    run = run_of({**ROW, names.COST_SECONDS: 77.5}, deployment_seconds=99.0)
    assert deployment_seconds(run) == 99.0
    assert curve(run, "ema_acc_global")[0].seconds == 77.5
    assert _curves(run)["seconds"] == [77.5]


@pytest.mark.parametrize("cohort", [None, "many", 0])
def test_where_the_cohort_is_not_known_there_is_none(cohort: Any) -> None:
    run = run_of(ROW, cohort=cohort)
    assert deployment_seconds(run) is None
    assert math.isnan(curve(run, "ema_acc_global")[0].seconds)
