"""What another rank makes of the text it is sent is what rank 0 has, whatever the settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from pffdst.build import follow, parts
from pffdst.client.turn import ClientSetup
from pffdst.config.compose import Session, session
from pffdst.config.schema import RootConfig, groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ("logger=csv", "rounds=6", "clients=6", "cohort=4")
# A value for each setting that is not the one above or the default's.
SETTINGS = {
    "sparsity": "0.6",
    "rounds": "8",
    "clients": "8",
    "cohort": "3",
    "local_epochs": "1",
    "batch_size": "8",
    "lr": "0.05",
    "momentum": "0.5",
    "weight_decay": "0.01",
    "prox_mu": "0.5",
    "sparse_init": "true",
    "clip_norm": "0.5",
    "server_ema": "0.5",
    "server_ema_warm_up": "false",
    "clients_keep": "false",
    "validation_share": "0.2",
    "eval_every": "2",
    "eval_every_bytes": "100000",
    "checkpoint_every": "2",
    "seed": "3",
    "profile": "true",
    "print_config": "true",
    "resume": "false",
    "name": "other",
    "tags": "[a,b]",
    "label": "other",
}
# The command line's own, and what names the preset.
NO_SETTINGS = {"method_name", "paths", "search"}
# An option of each group that clients have a part in, other than the default's.
OPTIONS = (
    "dataset.test_share=0.5",
    "partition=iid",
    "model=resnet18 model.width=4",
    "aggregation.statistics=keep_server",
    "allocation=uniform",
    "method=feddst",
    "method=scaffold momentum=0.0",
    "method=synflow",
    "method=flash",
    "freeze=none",
    "server_optimizer=adam",
    "objective.label_smoothing=0.1",
    "optimizer=adamw",
    "lr_schedule=cosine",
    "augmentation=crop_flip",
    "codec=int8",
    "engine=trainer",
)


@pytest.fixture(scope="module")
def configs() -> Any:
    with session(CONFIGS) as opened:
        yield opened


def test_every_setting_is_among_them() -> None:
    assert {f.name for f in dataclasses.fields(RootConfig)} - set(groups()) - NO_SETTINGS == set(SETTINGS)


@pytest.mark.parametrize("line", [*(f"{key}={value}" for key, value in SETTINGS.items()), *OPTIONS])
def test_a_follower_makes_what_rank_0_has(configs: Session, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configs.compose([*SMALL, *line.split()]).cfg
    assert told(followed(cfg, monkeypatch)) == told(parts(cfg).setup)


@pytest.mark.parametrize("line", ["sparsity=0.6", "lr=0.05", "seed=3", "optimizer=adamw", "codec=int8", "freeze=none"])
def test_another_setting_is_another_setup(configs: Session, line: str) -> None:
    mine, other = (told(parts(configs.compose([*SMALL, *own]).cfg).setup) for own in ([], [line]))
    assert mine != other


def followed(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> ClientSetup:
    made: list[ClientSetup] = []
    text = OmegaConf.to_yaml(cfg, resolve=True)
    monkeypatch.setattr("pffdst.build.logging.disable", lambda: None)
    monkeypatch.setattr("pffdst.build.follow_with", lambda _ranks, make: made.append(make(text)[1]))
    follow(SimpleNamespace())  # type: ignore[arg-type]
    return made[0]


def told(setup: ClientSetup) -> dict[str, Any]:
    """All that a setup holds, in values that can be compared."""
    said = {field.name: getattr(setup, field.name) for field in dataclasses.fields(setup)}
    said["network"] = {name: tensor.tolist() for name, tensor in setup.network.state_dict().items()}
    said["data"] = setup.data.open().digest if hasattr(setup.data, "open") else setup.data.digest
    said["shares"] = [setup.shares.train(client).tolist() for client in range(setup.clients)]
    for name in ("training", "method", "codecs", "callbacks"):
        said[name] = inside(said[name])
    return said


def inside(part: Any) -> Any:
    """A component's class and its attributes, theirs too."""
    if isinstance(part, torch.Tensor):
        return part.tolist()
    if isinstance(part, list | tuple):
        return [inside(one) for one in part]
    if isinstance(part, dict):
        return {key: inside(one) for key, one in part.items()}
    if hasattr(part, "__dict__"):
        return type(part), inside(vars(part))
    return part
