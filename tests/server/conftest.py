"""A server of a small hand-made model, and clients that answer what a test wants them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pffdst.core.messages import RoundPlan, Update
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.participation import Uniform
from pffdst.methods.readjust.static import Static
from pffdst.server.server import Server, ServerRules
from pffdst.wire.uplink import Report, encode_uplink
from pffdst.wire.values import Float32

COUNTS = (8, 6)


@pytest.fixture(scope="session")
def make_server(layout: Layout) -> Callable[..., Server]:
    """A server of 6 clients, 4 a round, 8 rounds, 14 of 32 weights alive at the end; `rules` are changed as asked."""

    def make(rounds: int = 8, schedule: Any = None, start_from: str = "last", **rules: Any) -> Server:
        plan = TwoStage() if schedule is None else schedule
        given: dict[str, Any] = {
            "stages": plan.stages(rounds, COUNTS), "rule": Static(), "start_from": start_from,
            "aggregation": MaskedMean(), "participation": Uniform(), "codec": Float32(),
            "seed": 0, "clients": 6, "cohort": 4, "ema": 0.9,
        }  # fmt: skip
        values = torch.randn(layout.total, generator=generator_for(5, "init"))
        alive = torch.ones(layout.maskable, dtype=torch.bool)
        return Server(GlobalModel(layout, values, alive, ~alive), ServerRules(**given | rules))

    return make


@pytest.fixture(scope="session")
def answer() -> Callable[..., Update]:
    """A client's update to the server's model: random trainable weights, dense values and statistics."""

    def made(server: Server, plan: RoundPlan, client: int, samples: int = 0, values: Tensor | None = None) -> Update:
        model = server.model
        if values is None:
            noise = torch.randn(model.layout.total, generator=generator_for(1, "answer", plan.t, client))
            at = torch.cat([model.trainable, torch.ones(model.layout.total - model.alive.numel(), dtype=torch.bool)])
            values = torch.where(at, noise, model.values)
        trained = replace(model, values=values)
        moved = server.rules.rule.wants_gradient(plan.stage, plan.t)
        if moved:
            gradient = torch.randn(model.alive.numel(), generator=generator_for(2, "answer", plan.t, client))
            trained = server.rules.rule.on_client(trained, gradient, plan.stage, plan.t)
        report = Report(samples or 10 * (client + 1), 0.5, 0.5)
        statistics = server.rules.aggregation.statistics == "average"
        payload = encode_uplink(
            trained, server.sent, client, plan.t, report, server.rules.codec, moved=moved, statistics=statistics
        )
        return Update(client, payload)

    return made


@pytest.fixture(scope="session")
def play_rounds(answer: Callable[..., Update]) -> Callable[..., list[RoundPlan]]:
    """Plays these rounds with every client of the cohort answering."""

    def played(server: Server, rounds: Sequence[int]) -> list[RoundPlan]:
        plans = []
        for t in rounds:
            plan = server.plan(t)
            server.dispatch(plan)
            for client in plan.cohort:
                server.absorb(plan, answer(server, plan, client))
            server.conclude(plan)
            plans.append(plan)
        return plans

    return played
