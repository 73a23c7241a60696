"""The jobs of a grid, told without running any."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pffdst.config.sweeps import grid_of, jobs_in


def test_every_combination_in_the_order_of_the_jobs() -> None:
    jobs = jobs_in(["rounds=4", "sparsity=0.5,0.8", "seed=range(2)", "name='a b'"])
    assert jobs == [
        ("rounds=4", f"sparsity={s}", f"seed={seed}", "name='a b'") for s in ("0.5", "0.8") for seed in (0, 1)
    ]
    assert jobs_in(["seed=1,2", "seed=3"]) == [("seed=3",)]
    with pytest.raises(HydraException):
        jobs_in(["seed"])


def test_a_saved_sweep_has_its_preset_too(tmp_path: Path) -> None:
    hydra = {"sweeper": {"params": {"seed": "0,1"}}, "overrides": {"task": ["lr=0.1", "sweep=x"]}}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    assert grid_of(tmp_path) == [("seed=0", "lr=0.1", "sweep=x"), ("seed=1", "lr=0.1", "sweep=x")]
    assert grid_of(tmp_path / "nowhere") == []
    hydra["sweeper"]["params"] = {"method": "glob(*)"}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    assert grid_of(tmp_path) == []
