"""What a run logs in words, besides its rows."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

from pffdst.core.words import counted
from pffdst.metrics.units import format_bytes

if TYPE_CHECKING:
    from pffdst.cost.ledger import Ledger
    from pffdst.methods.faults import Faulty
    from pffdst.server.round import Round

__all__ = ["faulty", "rejected", "stopped", "warm_up"]

_DIVERGED = re.compile(r"not finite|a value of magnitude")  # what training with too high a rate ends in
_log = logging.getLogger("pffdst.run")


def warm_up(done: Round, ledger: Ledger) -> None:
    """Summarises a round before round 0."""
    bill: Counter[str] = ledger.round
    _log.info(
        "before the first round: %s, %s up, %s down",
        counted(len(done.plan.cohort), "client"),
        format_bytes(bill["bytes_up"]),
        format_bytes(bill["bytes_down"]),
    )


def rejected(done: Round) -> None:
    """Names the clients that were left out of the round, and why."""
    record, number = done.record, done.plan.t + 1
    # a round before round 0 sends a model of its own and makes no other
    unchanged = done.plan.t < 0 or done.server.model is done.planned
    after = "the model is unchanged" if unchanged else "only the private mean's noise was added"
    for client, problem in record.rejected.items():
        _log.warning("round %d: client %d is left out: %s", number, client, problem)
    if record.rejected and not record.reports:
        diverged = all(_DIVERGED.search(problem) for problem in record.rejected.values())
        advice = "; a lower lr may help" if diverged else ""
        _log.warning("round %d: no update was usable, %s%s", number, after, advice)
    elif not record.reports:
        _log.info("round %d: no update arrived, %s", number, after)
    if record.problem is not None:
        _log.warning(
            "round %d: %s, so it is unchanged; a lower lr or server_optimizer.eta may help", number, record.problem
        )


def faulty(done: Round, faulty: Faulty) -> None:
    """Names the clients with an injected fault whose updates were accepted."""
    absent = done.record.absent
    for client in done.plan.cohort:
        if client in faulty.clients and client not in absent:
            _log.warning("round %d: client %d is accepted with its fault: %s", done.plan.t + 1, client, faulty.fault)


def stopped(t: int, why: str) -> None:
    """Why round t is the last."""
    _log.info("round %d is the last: %s", t + 1, why)
