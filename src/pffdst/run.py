"""The loop over rounds: begin, exchange, conclude, evaluate, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pffdst.core import ending
from pffdst.exchange import exchange
from pffdst.experiment import Experiment
from pffdst.loggers import say
from pffdst.measure.memory import release_free_memory
from pffdst.measure.stopwatch import tracing
from pffdst.server.round import Round

__all__ = ["play_round", "run"]


def run(experiment: Experiment, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs all rounds, or those after the checkpoint `state`; returns the summary, which is also on disk."""
    folder, progress = experiment.folder if experiment.profile == "trace" else None, experiment.progress
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers, tracing(folder) as traced:
        progress.t = experiment.first
        if state is not None:
            experiment.restore(state)
        loggers.open(experiment.info, None if state is None else state["loggers"])
        with ending.ending_well(experiment.save_unsaved):
            ends = progress.t if progress.stop is not None else experiment.rounds
            for t in range(progress.t, ends):
                play_round(experiment, t)
                traced()
                if progress.stop is not None:
                    say.stopped(t, progress.stop)
                    break
                ending.stop_if_told(experiment.save)
            summary = experiment.finish()
        loggers.summary(summary)
    return summary


def play_round(experiment: Experiment, t: int) -> Round:
    """Runs round t, from the plan to the checkpoint."""
    began = time.monotonic()
    progress, watch = experiment.progress, experiment.progress.watch
    with watch.part("plan"):
        done = experiment.server.begin(t)
    exchange(experiment, done)
    with watch.part("aggregate"):
        done.conclude()
    experiment.passed(done)
    progress.row = experiment.row(done.plan, done.record, time.monotonic() - began)
    experiment.show(done)
    with watch.part("log"):
        experiment.log(done)
    experiment.save_if_due(experiment.lap(began))
    release_free_memory()
    return done
