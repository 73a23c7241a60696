"""Problems of a configuration that show only once its parts are built: its samples, network and rules are known."""

from __future__ import annotations

import logging

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from pffdst.client.turn import ClientSetup
from pffdst.config.check import ConfigError
from pffdst.config.choices import Choices
from pffdst.config.constructors import located
from pffdst.core.inputs import ImageInputs
from pffdst.core.probe import written_in_forward
from pffdst.core.seeding import seeded_global_state
from pffdst.methods.allocation import Dense

__all__ = ["check_built", "tell_of_built"]

_LONE = "model cannot be trained on one sample (normalisation of a single value)"
_COUNTED = 10**5  # clients among whom those of one sample are counted

_log = logging.getLogger("pffdst.build")


def check_built(cfg: DictConfig, setup: ClientSetup) -> None:
    """Raises ConfigError with what to write instead."""
    _check_augmentation(cfg, setup)
    _check_batches(setup)
    _check_disclosed(cfg, setup)
    _check_written(setup)


def _check_augmentation(cfg: DictConfig, setup: ClientSetup) -> None:
    """An image augmentation for samples that are not images: it is tried once."""
    raw = setup.inputs.raw(2)
    try:
        with seeded_global_state(cfg.seed, "augmentation"):
            setup.training.augmentation(raw)
    except Exception as error:
        if isinstance(setup.inputs, ImageInputs):
            raise
        noun, named = setup.inputs.noun, type(setup.training.augmentation).__name__
        raise ConfigError([f"augmentation: {named} cannot augment {noun}; write augmentation=none"]) from error


def _check_disclosed(cfg: DictConfig, setup: ClientSetup) -> None:
    """A rule that asks clients for something that a private mean does not cover."""
    if not instantiate(cfg.aggregation).discloses and (asks := setup.method.asks(setup.stages, cfg.rounds)):
        raise ConfigError(asks)


def _check_written(setup: ClientSetup) -> None:
    """A network that writes to its weights would change frozen ones, or those that clients receive once and keep."""
    names = written_in_forward(setup.network, setup.inputs)
    kept = {entry.name for entry in setup.layout.entries if entry.kind == "constant"}
    if constants := [name for name in names if name in kept]:
        raise ConfigError(
            [
                f"model: its forward pass writes to parameters that do not train ({', '.join(constants)}), and "
                "clients do not send those back: make them buffers with register_buffer(...)"
            ]
        )
    maskable = {entry.name for entry in setup.layout.layers}
    if len(setup.stages) > 1 and (names := [name for name in names if name in maskable]):
        raise ConfigError(
            [
                f"model: its forward pass writes to {', '.join(names)}, but frozen weights must keep their values: "
                "compute with a modified copy, e.g. F.linear(x, weight.clamp(-1, 1)), or write freeze=none"
            ]
        )


def _check_batches(setup: ClientSetup) -> None:
    """Every batch would have fewer samples than the network needs to train."""
    if setup.least > setup.training.batch_size:
        raise ConfigError([f"batch_size=1: this {_LONE}; write batch_size=2 or more"])


def tell_of_built(cfg: DictConfig, setup: ClientSetup) -> None:
    """Warns about settings that are allowed but rarely intended. ConfigError if no client can train."""
    _tell_of_lone_samples(setup)
    _tell_of_unused_sparsity(cfg)
    _tell_of_still_statistics(setup)
    for remark in instantiate(cfg.aggregation).remarks(setup.method.lacking(setup.stages, cfg.rounds)):
        _log.warning("%s", remark)


def _tell_of_unused_sparsity(cfg: DictConfig) -> None:
    """Warns if the command line sets a sparsity, but all weights are trained and no other key uses it."""
    typed = "sparsity" in Choices.current().typed
    if not typed or cfg.sparsity == 0 or located(cfg.allocation) is not Dense:
        return
    if "${sparsity}" not in OmegaConf.to_yaml(cfg):
        _log.warning("sparsity=%s is not used: allocation=dense trains all weights", cfg.sparsity)


def _tell_of_still_statistics(setup: ClientSetup) -> None:
    """Warns if normalisation statistics stay as they were initialised: the model is evaluated with them."""
    if not setup.send_statistics and setup.layout.rest[1] > 0:
        _log.warning(
            "clients send no normalisation statistics (aggregation.statistics=keep_server), so the model is evaluated "
            "with those it began with: use a model without running statistics, with GroupNorm for example"
        )


def _tell_of_lone_samples(setup: ClientSetup) -> None:
    """Reports clients left out because the network cannot train on one sample. ConfigError if that is all of them."""
    if setup.least == 1:
        return
    clients = setup.clients
    few = sum(setup.samples(client) < setup.least for client in range(clients)) if clients <= _COUNTED else None
    if few == clients:
        raise ConfigError([f"clients={clients}: every client has one sample, and this {_LONE}; write fewer clients"])
    if few != 0:
        who = "clients that have one" if few is None else f"{few} of {clients} clients have one, which"
        _log.warning("this %s: %s are left out of their rounds", _LONE, who)
