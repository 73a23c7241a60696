"""Values at the end of their range and beyond: what the server sends, takes in, and makes of it, never ends a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pffdst.core.messages import Update
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.server_optimizer import Momentum
from pffdst.server.server import Server
from pffdst.wire.codecs.floats import BFloat16, Float16
from pffdst.wire.codecs.integers import Int4, Int8
from pffdst.wire.downlink import Memory, decode_downlink
from pffdst.wire.uplink import Report, encode_uplink

MakeServer = Callable[..., Server]
Answer = Callable[..., Update]


def test_a_next_model_that_would_not_be_finite_is_not_taken(make_server: MakeServer, answer: Answer) -> None:
    """A server's step that overflows leaves the model as it was, says so, and does not end the run."""
    server = make_server(optimizer=Momentum(beta=0.0, eta=1e39), codec=Int4())
    for t in range(4):
        now = server.begin(t)
        now.tasks()
        for client in now.plan.cohort:
            now.absorb(answer(now, client))
        record = now.conclude()
        assert record.problem == "the next model would not be finite"
        assert server.model.same_as(now.planned)
        assert bool(torch.isfinite(server.averaged_model.values).all())


@pytest.mark.parametrize("codec", [Int4(), Float16(), BFloat16(), Int8(client_feedback=True)])
def test_a_model_at_the_end_of_the_range_is_sent_and_read(make_server: MakeServer, codec: Any) -> None:
    """The server's own downlink never ends a run."""
    server = make_server(codec=codec, keep=False)
    most = torch.finfo(torch.float32).max
    server.model = server.model.with_values(torch.full((42,), most) * torch.tensor([1.0, -1.0]).repeat(21))
    for t in range(6):  # frozen half way, and coded then
        now = server.begin(t)
        assert bool(torch.isfinite(now.sent.values).all())
        [task, *_] = now.tasks()
        decode_downlink(task.payload, Memory(), now.sent.layout, server.rules.codecs, ())
        now.conclude()


def test_a_client_whose_update_is_not_finite_keeps_no_residual(make_server: MakeServer) -> None:
    """Error feedback at the client: a NaN is the server's to refuse, not the end of the client's turn."""
    server = make_server(codec=Int8(client_feedback=True))
    now = server.begin(0)
    [client, *_] = now.plan.cohort
    form = server.rules.method.uplink(server.rules.codecs, now.plan.stage, 0, statistics=True)
    nan = now.sent.with_trained(torch.full_like(now.sent.trained, torch.nan), now.sent.rest)
    payload, residual = encode_uplink(nan, now.sent, client, 0, Report(3, 0.1, 0.1), form, keep_residual=True)
    assert residual is None
    now.absorb(Update(client, payload))
    assert "not finite" in now.record.rejected[client]


def test_a_bound_on_values_can_be_set(make_server: MakeServer, answer: Answer) -> None:
    server = make_server(aggregation=MaskedMean(max_value=2.0))
    now = server.begin(0)
    now.tasks()
    one, two, *_ = now.plan.cohort
    now.absorb(answer(now, one, values=now.sent.values.clamp(-1.9, 1.9)))
    now.absorb(answer(now, two, values=now.sent.values.clamp(-1.9, 1.9) + 2.5 * (now.sent.values == 0)))
    now.absorb(answer(now, now.plan.cohort[2], values=torch.full((42,), 2.1)))
    assert {*now.record.rejected} == {now.plan.cohort[2]}
    assert "aggregation.max_value=2" in now.record.rejected[now.plan.cohort[2]]
