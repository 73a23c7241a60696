"""Every option of every group is held to its group's laws: those that anybody can import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pffdst import testing
from pffdst.models.cnn import SmallCNN

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DENSE_ONLY = {"apf", "topk_ef"}  # they cut what a dense model sends, and say so of a sparse one
MADE_ANEW = {"readjust", "updates", "server_optimizer"}
LAWS: dict[str, Callable[[Any], None]] = {
    "aggregation": testing.check_aggregation,
    "allocation": testing.check_allocation,
    "augmentation": testing.check_augmentation,
    "codec": testing.check_codec,
    "faults": testing.check_fault,
    "freeze": testing.check_freeze,
    "lr_schedule": testing.check_lr_schedule,
    "objective": testing.check_objective,
    "optimizer": testing.check_optimizer,
    "participation": testing.check_participation,
    "readjust": testing.check_rule,
    "server_optimizer": testing.check_server_optimizer,
    "updates": lambda make: testing.check_rule(make, updates=True),
}
OPTIONS = [
    (group, path.stem)
    for group in sorted(LAWS)
    for path in sorted((CONFIGS / group).glob("*.yaml"))
    if OmegaConf.load(path)
]


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=[f"{group}={name}" for group, name in OPTIONS])
def test_an_option_keeps_the_laws_of_its_group(group: str, name: str) -> None:
    node = OmegaConf.create({"sparsity": 0.5, group: OmegaConf.load(CONFIGS / group / f"{name}.yaml")})[group]
    if name in DENSE_ONLY:
        testing.check_rule(lambda: instantiate(node), updates=True, dense=True)
        return
    LAWS[group]((lambda: instantiate(node)) if group in MADE_ANEW else instantiate(node))


def test_a_shipped_network_keeps_the_laws_of_models() -> None:
    testing.check_model(lambda: SmallCNN(1, 8, 4))
