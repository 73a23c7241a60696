"""Every method under a defence: what it keeps without one it keeps with bounds and a trimmed mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.config.compose import compose
from pffdst.config.overrides import preflight
from tests.contracts.test_method_runs import METHODS, overrides

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BOUNDS = ("+aggregation.times_median=0.7", "+aggregation.max_share=0.4", "+aggregation.max_samples=100")
DEFENCES = {
    "bounds": BOUNDS,
    "trimmed": ("aggregation=trimmed_mean", "aggregation.trim=0.2", *BOUNDS),
    "median": ("aggregation=median",),
}


@pytest.mark.parametrize("defence", DEFENCES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_its_laws_under_a_defence(
    make_experiment: Callable[..., Any], play: Callable[..., Any], method: str, defence: str
) -> None:
    """Nothing honest is refused; dead weights are 0, what is frozen rests, what is alive is as many as it was."""
    small = [o for o in overrides(method) if not o.startswith(("rounds=", "local_epochs="))]
    experiment = make_experiment(*small, "rounds=8", "local_epochs=1", "codec=bf16", *DEFENCES[defence])
    for r in play(experiment):
        model = r.concluded
        assert r.record.rejected == {}
        assert r.record.problem is None
        assert bool(torch.isfinite(model.values).all())
        assert bool((model.weights[~model.alive] == 0).all())
        held = r.planned.frozen & model.frozen
        assert torch.equal(model.weights[held], r.planned.weights[held])
        if defence != "median" and r.t >= 0 and len(r.record.reports) > 1:
            assert r.record.clipped > 0, "a bound below the median is beyond some"


def test_the_bounds_are_keys_of_the_command_line_though_no_yaml_has_them() -> None:
    line = ["aggregation.times_median=1", "aggregation.max_share=0.2", "aggregation.max_norm=3.5"]
    cfg = compose(preflight([*line, "logger=csv"], CONFIGS), CONFIGS)
    assert (cfg.aggregation.times_median, cfg.aggregation.max_share, cfg.aggregation.max_norm) == (1, 0.2, 3.5)
