"""One round at the server: tasks out, updates in, the next model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import torch

from pffdst.core.messages import ClientTask, RoundPlan, Update
from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed
from pffdst.methods.bounds import Screen
from pffdst.methods.participation import Loss
from pffdst.methods.rule import Cohort, Rule
from pffdst.server.holdings import Lacks
from pffdst.wire.downlink import Broadcast, Changes
from pffdst.wire.frame import Message, WireError
from pffdst.wire.uplink import Report, Upload, decode_uplink

if TYPE_CHECKING:
    from pffdst.server.server import Server

__all__ = ["Round", "RoundRecord"]


@final
@dataclass
class RoundRecord:
    """The outcome of a round: reports of accepted updates, problems of rejected ones, alive weights that changed.

    `lost` clients were sent a message and never answered, `late` ones answered after the round closed. `clipped` and
    `capped` count updates whose norm was clipped and whose sample count was capped. `problem` says why the model stayed
    unchanged although there were updates.
    """

    reports: list[Report] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    mask_changed: int = 0
    clipped: int = 0
    capped: int = 0
    problem: str | None = None

    @property
    def absent(self) -> frozenset[int]:
        """The clients of the cohort whose updates are not in the round."""
        return frozenset((*self.rejected, *self.lost, *self.late))


@final
class Round:
    """Round `plan.t` of a server, from its plan to the next model.

    `planned` is the model after the plan, `sent` what clients decode: the same, unless the codec is lossy. The calls
    are `tasks`, then `absorb` for every update, then `conclude`.
    """

    def __init__(self, server: Server, plan: RoundPlan, planned: GlobalModel, alive_before: Positions) -> None:
        rules = server.rules
        self.server, self.plan, self.planned = server, plan, planned
        self.record = RoundRecord()
        self.news = server.holdings.news
        self._alive_before = alive_before
        self._form = rules.method.uplink(rules.codecs, plan.stage, plan.t, statistics=rules.statistics)
        signals: dict[str, Any] = {}
        for rule in rules.method:
            signals |= rule.broadcast(planned, plan.stage, plan.t)
        downloads, changes = server.downloads, None
        if rules.method.sends_changes:
            changes = Changes(downloads.begin(planned), downloads.values)
        self._broadcast = Broadcast(
            planned,
            plan.t,
            rules.codecs,
            seed=derive_seed(rules.seed, "downlink", plan.t),
            frozen_values=server.frozen_values,
            declared=rules.method.down(plan.stage, plan.t),
            signals=signals,
            changes=changes,
            buffers=server.state.buffers,
        )
        self.sent = self._broadcast.sent
        if changes is not None:
            downloads.values = self.sent.weights
        self._sum = rules.aggregation.begin(self.sent, rules.method.absent)
        self._screen = Screen(rules.aggregation.bounds, self.sent)
        self._buffers = rules.aggregation.buffers(self.sent, server.state.buffers)
        self._observers = [rule for rule in rules.method if type(rule).observe is not Rule.observe]

    def tasks(self, away: Mapping[int, str] = MappingProxyType({})) -> list[ClientTask]:
        """The bytes for each client of the cohort. Clients that lack the same share one payload object.

        Clients in `away` (with the reason) are sent nothing and left out; they still hold what they held.
        """
        server, plan, payloads = self.server, self.plan, dict[tuple[Lacks, int, tuple[int, ...] | None], bytes]()
        tasks = []
        for client in plan.cohort:
            if client in away:
                self.record.rejected[client] = away[client]
                continue
            lacks = server.holdings.lacks(client) if server.rules.keep else Lacks(True, True, 0)
            since = server.downloads.took(client) if server.rules.keep else 0
            state = server.state.lacks(client) if server.rules.keep else None
            if (lacks, since, state) not in payloads:
                payloads[lacks, since, state] = self._payload(lacks, since, state)
            server.holdings.sent(client)
            server.state.sent(client)
            if server.rules.method.sends_changes:
                server.downloads.sent(client)
            tasks.append(ClientTask(client, plan.t, payloads[lacks, since, state]))
        return tasks

    def _payload(self, lacks: Lacks, since: int, state: tuple[int, ...] | None) -> bytes:
        server, holdings, layout = self.server, self.server.holdings, self.sent.layout
        missed = server.downloads.missed(since, layout) if server.rules.method.sends_changes else None
        held = holdings.mask(lacks.held, layout) if lacks.mask or lacks.frozen else None
        return self._broadcast.payload(
            held=held,
            mask=lacks.mask,
            frozen=lacks.frozen,
            moves=holdings.moves(lacks.held),
            missed=missed,
            state=state,
        )

    def absorb(self, update: Update, message: Message | None = None) -> None:
        """Adds an update to the round's mean, or leaves it out and records why.

        `message` is the update's payload if it has already been unpacked.
        """
        if update.payload is None:
            self.record.rejected[update.client] = update.problem or "no answer"
            self._forget(update.client)
            return
        try:
            upload = decode_uplink(message or update.payload, self.sent, update.client, self.plan.t, self._form)
            admitted = self._screen.admit(upload)
        except WireError as error:
            self.record.rejected[update.client] = str(error)
            return
        for one in admitted:
            self._join(one)

    def _join(self, upload: Upload) -> None:
        """Adds an update to the round's mean, within its bounds."""
        self._sum.add(upload)
        if upload.weights is not None:
            self._buffers.add(upload.buffers, self.server.rules.aggregation.weight(upload.report.samples))
        self.record.reports.append(upload.report)
        for rule in self._observers:
            model, samples = self._trained(upload), upload.report.samples
            rule.observe(upload.client, model, samples, upload.signals, self.plan.stage, self.plan.t)

    def lose(self, client: int, *, late: bool = False) -> None:
        """Notes a client that was sent its message but did not answer while the round was open."""
        (self.record.late if late else self.record.lost).append(client)
        self._forget(client)

    def loss(self, client: int) -> Loss | None:
        """Whether a client of the cohort is lost, and when."""
        rules = self.server.rules
        return rules.participation.loss(self.plan.t, client, rules.seed)

    def _forget(self, client: int) -> None:
        """What a client that did not answer holds is unknown: it is sent everything next time."""
        self.server.holdings.forget(client)
        self.server.downloads.forget(client)
        self.server.state.forget(client)

    def _trained(self, upload: Upload) -> GlobalModel:
        """What a client trained, under its own mask; what was sent, if it only answered with signals."""
        sent = self.sent
        if upload.weights is None or upload.parameters is None:
            return sent
        _, statistics, constants = sent.layout.parts_of(sent.rest)
        own = statistics if upload.statistics is None else upload.statistics
        rest = torch.cat([upload.parameters, own, constants])
        return sent.moved(sent.frozen_at.plus(upload.at)).with_trained(upload.weights, rest)

    def conclude(self) -> RoundRecord:
        """Makes the next model from the round's mean; without any update it stays unchanged."""
        for upload in self._screen.release():
            self._join(upload)
        self.record.clipped, self.record.capped = self._screen.clipped, self._screen.capped
        server, plan, rules = self.server, self.plan, self.server.rules
        seed, cohort = derive_seed(rules.own_seed, "aggregate", plan.t), self._sum.result()
        if plan.t >= 0:
            cohort = rules.aggregation.finish(cohort, self.sent, rules.cohort, seed)
        if cohort is not None:
            self._next(cohort)
        if plan.t >= 0:
            server.average.update(server.model)
        now = server.model.alive_at
        self.record.mask_changed = 0 if now is self._alive_before else len(now.without(self._alive_before))
        return self.record

    def _next(self, cohort: Cohort) -> None:
        """The server's step on the mean, then the rules'."""
        plan, rules = self.plan, self.server.rules
        cohort = replace(cohort, before=self.planned, sent=None if self.sent is self.planned else self.sent)
        cohort = replace(cohort, population=rules.population.clients)
        if plan.t >= 0:
            cohort = replace(cohort, mean=rules.optimizer.step(self.planned, self._whole(cohort)))
        for rule in rules.method:
            seed = derive_seed(rules.seed, "after", plan.t)
            cohort = replace(cohort, mean=rule.after_round(cohort, plan.stage, plan.t, seed))
        if plan.t >= 0:
            self._take(cohort.mean)

    def _take(self, model: GlobalModel) -> None:
        """Takes the next model unless it is not finite: then the sent model is kept, and the run continues."""
        if not (bool(torch.isfinite(model.held).all()) and bool(torch.isfinite(model.rest).all())):
            self.record.problem = "the next model would not be finite"
            return
        self.server.take(model)
        self.server.state.take(self._buffers.result())

    def _whole(self, cohort: Cohort) -> GlobalModel:
        """The mean plus what a lossy codec rounded off on the way down: error feedback at the server.

        Clients started from `sent`, so the server adds their mean change to the exact values that it kept. Where absent
        clients count as 0, only the holders' share of the mean started from what was sent.
        """
        mean, exact, sent = cohort.mean, self.planned, self.sent
        if exact is sent:
            return mean
        lost = exact.trainable_at.carry(exact.trained - sent.trained, mean.alive_at)
        absent = self.server.rules.method.absent
        if absent == "zero":
            lost = lost * (cohort.support / max(cohort.total, 1)).to(lost.dtype)
        whole = mean.held + lost
        if absent == "left_out":  # what nobody held stays exactly as it was
            whole = torch.where(cohort.support > 0, whole, exact.alive_at.carry(exact.held, mean.alive_at))
        return mean.with_held(whole, mean.rest)
