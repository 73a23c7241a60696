"""The typed root of a configuration: every scalar of the command line, and one node per group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

__all__ = ["RootConfig", "register"]


@dataclass
class RootConfig:
    """What `train.yaml` may hold. Scalars have no default here: `train.yaml`, a method or an experiment gives them.

    Rates are per step (`lr`, `momentum`, `weight_decay`), counts are whole numbers; `sparsity` is s, `rounds` is R,
    `clients` is C, `cohort` is K, `local_epochs` is E, `prox_mu` is mu. A group's node is the chosen option's mapping.
    """

    name: str = MISSING
    method_name: str = MISSING
    tags: list[str] = field(default_factory=list)

    sparsity: float = MISSING
    rounds: int = MISSING
    seed: int = MISSING
    clients: int = MISSING
    cohort: int = MISSING
    local_epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    prox_mu: float = MISSING
    clip_norm: float = MISSING
    sparse_init: bool = MISSING
    server_ema: float = MISSING
    server_ema_warm_up: bool = MISSING
    clients_keep: bool = MISSING
    validation_share: float = MISSING
    eval_every: int = MISSING
    eval_every_bytes: int = MISSING
    checkpoint_every: int = MISSING
    resume: Any = False
    profile: Any = False
    print_config: bool = False

    dataset: Any = MISSING
    partition: Any = MISSING
    model: Any = MISSING
    allocation: Any = MISSING
    readjust: Any = MISSING
    freeze: Any = MISSING
    updates: Any = MISSING
    aggregation: Any = MISSING
    server_optimizer: Any = MISSING
    objective: Any = MISSING
    optimizer: Any = MISSING
    lr_schedule: Any = MISSING
    augmentation: Any = MISSING
    codec: Any = MISSING
    engine: Any = MISSING
    participation: Any = MISSING
    callbacks: Any = field(default_factory=dict)
    observers: Any = field(default_factory=dict)
    metrics: Any = field(default_factory=dict)
    logger: Any = MISSING
    paths: Any = MISSING
    search: Any = None


def register() -> None:
    """Makes the schema known to Hydra under the name `schema`; calling it again changes nothing."""
    ConfigStore.instance().store(name="schema", node=RootConfig)
