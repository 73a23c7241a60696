"""The laws of every group of options, for your own options as well as the package's: import them into your tests.

    from pffdst import testing

    def test_my_rule():
        testing.check_rule(MyRule())

Each function raises AssertionError naming the law that is broken. They all run in seconds and need no data.
"""

from __future__ import annotations

from pffdst.testing.laws import (
    check_aggregation,
    check_allocation,
    check_augmentation,
    check_codec,
    check_fault,
    check_freeze,
    check_lr_schedule,
    check_model,
    check_objective,
    check_optimizer,
    check_participation,
    check_server_optimizer,
    check_time,
)
from pffdst.testing.runs import SmallRun, check_rule
from pffdst.testing.scripted import ScriptedEngine

__all__ = [
    "ScriptedEngine",
    "SmallRun",
    "check_aggregation",
    "check_allocation",
    "check_augmentation",
    "check_codec",
    "check_fault",
    "check_freeze",
    "check_lr_schedule",
    "check_model",
    "check_objective",
    "check_optimizer",
    "check_participation",
    "check_rule",
    "check_server_optimizer",
    "check_time",
]
