"""Memory: a run's peak over the samples taken."""

from __future__ import annotations

import numpy as np

from pffdst.measure.memory import PeakMemory, memory_mb


def test_memory_that_is_used_is_seen() -> None:
    before = memory_mb()
    held = np.ones(25_000_000)  # 200 MB, touched
    assert memory_mb() - before > 100
    assert held[0] == 1


def test_the_peak_does_not_fall() -> None:
    peak = PeakMemory()
    peak.mb = 10.0**9
    peak.sample()
    assert peak.mb == 10.0**9
    peak.mb = 0.0
    peak.sample()
    assert peak.mb > 1
