"""The clients' local training, from the root's numbers and the chosen groups."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from pffdst.methods.local import LocalTraining

__all__ = ["local_training"]


def local_training(cfg: DictConfig) -> LocalTraining:
    """The local training that a configuration describes."""
    return LocalTraining(
        epochs=cfg.local_epochs,
        batch_size=cfg.batch_size,
        lr=cfg.lr,
        momentum=cfg.momentum,
        weight_decay=cfg.weight_decay,
        prox_mu=cfg.prox_mu,
        clip_norm=cfg.clip_norm,
        rounds=cfg.rounds,
        objective=instantiate(cfg.objective),
        optimizer=instantiate(cfg.optimizer),
        lr_schedule=instantiate(cfg.lr_schedule),
        augmentation=instantiate(cfg.augmentation),
    )
