"""The loop over rounds: plan, encode, run, absorb, evaluate, log, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pffdst.core.messages import RoundPlan
from pffdst.experiment import Experiment
from pffdst.measure.memory import release_free_memory
from pffdst.measure.stopwatch import tracing
from pffdst.server.server import RoundRecord

__all__ = ["run"]

_log = logging.getLogger(__name__)


def run(experiment: Experiment, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plays all rounds, or those after the checkpoint `state`; gives the summary, which is also on disk."""
    folder = experiment.folder if experiment.profile == "trace" else None
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers, tracing(folder) as traced:
        if state is not None:
            experiment.restore(state)
        loggers.open(experiment.info, None if state is None else state["loggers"])
        for t in range(experiment.progress.t, experiment.rounds):
            play_round(experiment, t)
            traced()
        summary = experiment.finish()
        loggers.summary(summary)
    return summary


def play_round(experiment: Experiment, t: int) -> None:
    """Round t, from the plan to the checkpoint."""
    began = time.monotonic()
    server, progress, watch = experiment.server, experiment.progress, experiment.progress.watch
    with watch.part("plan"):
        plan = server.plan(t)
    exchange(experiment, plan)
    with watch.part("aggregate"):
        record = server.conclude(plan)
    report_rejected(plan, record)
    progress.rejected += len(record.rejected)
    progress.t = t + 1
    progress.row = experiment.row(plan, record, time.monotonic() - began)
    with watch.part("log"):
        experiment.loggers.log(progress.row)
    experiment.lap(began)
    experiment.save_if_due()
    release_free_memory()


def exchange(experiment: Experiment, plan: RoundPlan) -> None:
    """Bytes down, local training, bytes up; each update joins the mean as soon as it is its turn."""
    server, ledger, setup, watch = experiment.server, experiment.ledger, experiment.setup, experiment.progress.watch
    dense_gradient = setup.rule.wants_gradient(plan.stage, plan.t)
    ledger.begin(server.model, dense_gradient=dense_gradient, news=server.holdings.news)
    with watch.part("encode"):
        tasks = server.dispatch(plan)
    for task in tasks:
        ledger.down(task)
    for done, update in enumerate(watch.over("clients", experiment.engine.run(tasks)), start=1):
        experiment.loggers.step("clients", done, len(tasks))
        watch.client(update.timings)
        ledger.up(update, setup.samples(update.client))
        with watch.part("aggregate"):
            server.absorb(plan, update)
    ledger.end()


def report_rejected(plan: RoundPlan, record: RoundRecord) -> None:
    """Names the clients that were left out of the round, and why."""
    for client, problem in record.rejected.items():
        _log.warning("round %d: client %d is left out: %s", plan.t + 1, client, problem)
    if record.rejected and not record.reports:
        _log.warning("round %d: no update was usable, the model stays as it is; a lower lr may help", plan.t + 1)
