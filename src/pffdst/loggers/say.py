"""What a run says in words beside its rows."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from pffdst.metrics.units import format_bytes

if TYPE_CHECKING:
    from pffdst.cost.ledger import Ledger
    from pffdst.methods.faults import Faulty
    from pffdst.server.round import Round

__all__ = ["faulty", "rejected", "stopped", "warm_up"]

_log = logging.getLogger("pffdst.run")


def warm_up(done: Round, ledger: Ledger) -> None:
    """What a round before round 0 was."""
    bill: Counter[str] = ledger.round
    _log.info(
        "before the first round: %d clients, %s up, %s down",
        len(done.plan.cohort),
        format_bytes(bill["bytes_up"]),
        format_bytes(bill["bytes_down"]),
    )


def rejected(done: Round) -> None:
    """Names the clients that were left out of the round, and why."""
    record, number = done.record, done.plan.t + 1
    for client, problem in record.rejected.items():
        _log.warning("round %d: client %d is left out: %s", number, client, problem)
    if record.rejected and not record.reports:
        _log.warning("round %d: no update was usable, the model stays as it is; a lower lr may help", number)
    elif not record.reports:
        _log.info("round %d: no update came, the model stays as it is", number)
    if record.problem is not None:
        _log.warning(
            "round %d: %s: it stays as it is; a lower lr or server_optimizer.eta may help", number, record.problem
        )


def faulty(done: Round, faulty: Faulty) -> None:
    """Names the clients that did wrong on purpose and were taken in all the same."""
    absent = done.record.absent
    for client in done.plan.cohort:
        if client in faulty.clients and client not in absent:
            _log.warning("round %d: client %d is taken in with its fault: %s", done.plan.t + 1, client, faulty.fault)


def stopped(t: int, why: str) -> None:
    """Why round t is the last."""
    _log.info("round %d is the last: %s", t + 1, why)
