"""The loop over rounds: begin, exchange, conclude, evaluate, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pffdst.core import ending
from pffdst.core.errors import UserError
from pffdst.cost.ledger import unpacked
from pffdst.experiment import Experiment
from pffdst.loggers import say
from pffdst.measure.memory import release_free_memory
from pffdst.measure.stopwatch import tracing
from pffdst.server.round import Round

__all__ = ["play_round", "run"]


def run(experiment: Experiment, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plays all rounds, or those after the checkpoint `state`; gives the summary, which is also on disk."""
    folder, progress = experiment.folder if experiment.profile == "trace" else None, experiment.progress
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers, tracing(folder) as traced:
        progress.t = experiment.first
        if state is not None:
            experiment.restore(state)
        loggers.open(experiment.info, None if state is None else state["loggers"])
        with _ending_well(experiment):
            for t in range(progress.t, experiment.rounds):
                play_round(experiment, t)
                traced()
                if progress.stop is not None:
                    say.stopped(t, progress.stop)
                    break
                if ending.told():
                    experiment.save()
                ending.stop_if_told()
            summary = experiment.finish()
        loggers.summary(summary)
    return summary


@contextmanager
def _ending_well(experiment: Experiment) -> Iterator[None]:
    """Whatever ends the rounds, those that are done are not lost; and a signal keeps its name."""
    with ending.may_finish():
        try:
            yield
        except BaseException:
            with suppress(OSError, UserError):
                experiment.save_unsaved()
            ending.stop_if_told()  # libraries make exceptions of their own of it
            raise


def play_round(experiment: Experiment, t: int) -> Round:
    """Round t, from the plan to the checkpoint."""
    began = time.monotonic()
    progress, watch = experiment.progress, experiment.progress.watch
    with watch.part("plan"):
        done = experiment.server.begin(t)
    exchange(experiment, done)
    with watch.part("aggregate"):
        done.conclude()
    experiment.passed(done)
    experiment.look_for_folder()
    progress.row = experiment.row(done.plan, done.record, time.monotonic() - began)
    for observer in experiment.observers:
        progress.stop = observer.on_round(experiment, done) or progress.stop
    if progress.stop is not None:
        progress.row = experiment.score_last(progress.row, done.plan)
    with watch.part("log"):
        experiment.log(done)
    experiment.lap(began)
    experiment.save_if_due(time.monotonic() - began)
    release_free_memory()
    return done


def exchange(experiment: Experiment, now: Round) -> None:
    """Bytes down, local training, bytes up; each update joins the mean as soon as it is its turn."""
    ledger, setup, watch, plan = experiment.ledger, experiment.setup, experiment.progress.watch, now.plan
    method = setup.method
    probes, epochs = method.probes(plan.stage, plan.t), setup.epochs(plan.t)
    ledger.begin(now.planned, epochs=epochs, probes=probes, dense=method.dense_steps(plan.stage, plan.t), news=now.news)
    away = experiment.engine.away(plan.cohort, plan.t)
    with watch.part("encode"):
        tasks = now.tasks(away)
    for task in tasks:
        ledger.down(task)
    for done, update in enumerate(watch.over("clients", experiment.engine.run(tasks)), start=1):
        experiment.loggers.step("clients", done, len(tasks))
        watch.client(update.timings)
        with watch.part("aggregate"):
            message = unpacked(update.payload)
            ledger.up(update, message, setup.samples(update.client))
            now.absorb(update, message)
    ledger.end()
