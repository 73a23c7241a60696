"""Networks that cannot be trained on one sample: what is refused, and who is left out."""

from __future__ import annotations

import logging

from pffdst.client.turn import ClientSetup
from pffdst.config.check import ConfigError

__all__ = ["check_batches", "tell_of_lone_samples"]

_LONE = "model cannot be trained on one sample (normalisation of a single value)"
_COUNTED = 10**5  # clients among whom those of one sample are counted

_log = logging.getLogger("pffdst.build")


def check_batches(setup: ClientSetup) -> None:
    """ConfigError where every batch has fewer samples than the network trains on."""
    if setup.least > setup.training.batch_size:
        raise ConfigError([f"batch_size=1: this {_LONE}; write batch_size=2 or more"])


def tell_of_lone_samples(setup: ClientSetup) -> None:
    """Says who is left out where the network cannot be trained on one sample. ConfigError where that is everybody."""
    if setup.least == 1:
        return
    clients = setup.clients
    few = sum(setup.samples(client) < setup.least for client in range(clients)) if clients <= _COUNTED else None
    if few == clients:
        raise ConfigError([f"clients={clients}: every client has one sample, and this {_LONE}; write fewer clients"])
    if few != 0:
        who = "clients that have one" if few is None else f"{few} of {clients} clients have one, which"
        _log.warning("this %s: %s are left out of their rounds", _LONE, who)
