"""The exchange between server and clients in a round: who is sent what, who answers, who is lost or late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pffdst.core.messages import ClientTask, Update
from pffdst.cost.clock import RoundClock
from pffdst.cost.ledger import unpacked
from pffdst.experiment import Experiment
from pffdst.server.round import Round
from pffdst.wire.frame import Message

__all__ = ["exchange"]


def exchange(experiment: Experiment, now: Round) -> None:
    """Bytes down, local training, bytes up; updates join the mean in order, each as early as possible.

    If more clients are asked than wanted, this happens once all updates exist, when it is known who is late.
    """
    ledger, setup, watch, plan = experiment.ledger, experiment.setup, experiment.progress.watch, now.plan
    method, moment = setup.method, (plan.stage, plan.t)
    ledger.begin(
        now.planned,
        epochs=setup.epochs(plan.t),
        probes=method.probes(*moment),
        forwards=method.forwards(setup.layout, *moment, plan.stage.first_seed(setup.seed)),
        dense=method.dense_steps(*moment),
        news=now.news,
    )
    with watch.part("encode"):
        tasks = now.tasks({**experiment.engine.away(plan.cohort, plan.t), **setup.untrainable(plan.cohort)})
    for task in tasks:
        ledger.down(task)
    closes = now.server.rules.participation.closes
    clock = RoundClock(experiment.time, setup.seed, len(tasks), plan.wanted, closes)
    kept = {task.client: experiment.engine.memories.kept(task.client) for task in tasks}
    answers = _answers(experiment, _not_lost(experiment, now, tasks, clock), clock)
    for update, message in list(answers) if clock.needs_all else answers:
        if clock.late(update.client):
            now.lose(update.client, late=True)
            ledger.missing("late")
            experiment.engine.memories.keep(update.client, kept[update.client])  # as a client that never answered
            continue
        with watch.part("aggregate"):
            now.absorb(update, message)
    ledger.end(clock.closed())


def _not_lost(experiment: Experiment, now: Round, tasks: Sequence[ClientTask], clock: RoundClock) -> list[ClientTask]:
    """The tasks of the clients that will answer; lost clients need not train."""
    ledger, left = experiment.ledger, list[ClientTask]()
    for task in tasks:
        loss, flops = now.loss(task.client), 0
        if loss is None:
            left.append(task)
            continue
        if loss == "after":
            samples = experiment.setup.samples(task.client)
            ledger.trained(samples)
            flops = ledger.flops(samples)["flops"]
        clock.breaks(task.client, down=len(task.payload), flops=flops)
        now.lose(task.client)
        ledger.missing("lost")
    return left


def _answers(
    experiment: Experiment, tasks: Sequence[ClientTask], clock: RoundClock
) -> Iterator[tuple[Update, Message | None]]:
    """The answers in the cohort's order, each with its message; records their cost and time."""
    ledger, watch, setup = experiment.ledger, experiment.progress.watch, experiment.setup
    updates = zip(tasks, watch.over("clients", experiment.engine.run(tasks)), strict=True)
    for done, (task, update) in enumerate(updates, start=1):
        experiment.loggers.step("clients", done, len(tasks))
        watch.client(update.timings)
        with watch.part("aggregate"):
            message, samples = unpacked(update.payload), setup.samples(update.client)
            ledger.up(update, message, samples)
        if clock.timed and update.payload is not None:
            flops = ledger.flops(samples)["flops"]
            clock.answers(update.client, down=len(task.payload), flops=flops, up=len(update.payload))
        yield update, message
