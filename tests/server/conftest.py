"""A server of a small hand-made model, and clients that answer what a test wants them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pffdst.core.masks import draw
from pffdst.core.messages import Update
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.method import Method
from pffdst.methods.participation import Population, Uniform
from pffdst.methods.readjust.static import Static
from pffdst.methods.server_optimizer import Mean
from pffdst.methods.updates.plain import Plain
from pffdst.server.round import Round
from pffdst.server.server import Server, ServerRules
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.uplink import Report, encode_uplink

COUNTS = (8, 6)
CLIENTS = 6


@pytest.fixture(scope="session")
def make_server(layout: Layout) -> Callable[..., Server]:
    """A server of 6 clients, 4 a round, 8 rounds, 14 of 32 weights alive at the end; `rules` are changed as asked."""

    def make(
        rounds: int = 8, freeze: Any = None, readjust: Any = None, updates: Any = None, codec: Any = None, **rules: Any
    ) -> Server:
        schedule = TwoStage() if freeze is None else freeze
        given: dict[str, Any] = {
            "method": Method(readjust or Static(), updates or Plain()),
            "stages": schedule.stages(rounds, COUNTS), "freeze": schedule,
            "aggregation": MaskedMean(), "optimizer": Mean(), "participation": Uniform(),
            "population": Population(CLIENTS, lambda client: 10 * (client + 1)),
            "codecs": Codecs(codec or Float32(), Float32()), "seed": 0, "cohort": 4, "ema": 0.9, "ema_warm_up": False,
        }  # fmt: skip
        values = torch.randn(layout.total, generator=generator_for(5, "init"))
        alive = torch.ones(layout.maskable, dtype=torch.bool)
        return Server(GlobalModel(layout, values, alive, ~alive), ServerRules(**given | rules))

    return make


def trained_by(now: Round, client: int, values: Tensor | None = None) -> GlobalModel:
    """What a client makes of what it was sent: random trainable weights, dense values and statistics.

    Where clients send masks of their own it has drawn half of its weights anew.
    """
    model, t = now.sent, now.plan.t
    if values is None:
        noise = torch.randn(model.layout.total, generator=generator_for(1, "answer", t, client))
        at = torch.cat([model.trainable, torch.ones(model.layout.total - model.alive.numel(), dtype=torch.bool)])
        values = torch.where(at, noise, model.values)
    trained = model.with_values(values)
    if now.server.rules.method.own_masks(now.plan.stage, t) is None:
        return trained
    halves = [n // 2 for n in model.trainable_at.counts]
    left = draw(model.trainable_at.complement(), halves, derive_seed(2, "answer", t, client))
    kept = trained.moved(model.alive_at.without(left))
    return kept.moved(kept.alive_at.plus(draw(kept.alive_at, halves, derive_seed(3, "answer", t, client))))


@pytest.fixture(scope="session")
def answer() -> Callable[..., Update]:
    """A client's update to what it was sent."""

    def made(now: Round, client: int, samples: int = 0, values: Tensor | None = None) -> Update:
        report, rules = Report(samples or 10 * (client + 1), 0.5, 0.5), now.server.rules
        form = rules.method.uplink(rules.codecs, now.plan.stage, now.plan.t, statistics=rules.statistics)
        payload, _ = encode_uplink(trained_by(now, client, values), now.sent, client, now.plan.t, report, form)
        return Update(client, payload)

    return made


@pytest.fixture(scope="session")
def play_rounds(answer: Callable[..., Update]) -> Callable[..., list[Round]]:
    """Plays these rounds with every client of the cohort answering."""

    def played(server: Server, rounds: Sequence[int]) -> list[Round]:
        done = []
        for t in rounds:
            now = server.begin(t)
            now.tasks()
            for client in now.plan.cohort:
                now.absorb(answer(now, client))
            now.conclude()
            done.append(now)
        return done

    return played
