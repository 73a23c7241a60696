"""Runs whose values are rounded on the way: both ends speak of one model, and what rounding takes is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pffdst.core.messages import Residual, Update
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.experiment import Experiment
from pffdst.methods.aggregation import RunningMean
from pffdst.methods.rule import Absent, Cohort
from pffdst.runs import checkpoint
from pffdst.server.server import Server
from pffdst.wire.codecs import Codecs, ValueCodec
from pffdst.wire.codecs.floats import BFloat16, Float16, Float32
from pffdst.wire.codecs.integers import Int4, Int8
from pffdst.wire.downlink import Memory, decode_downlink, remember
from pffdst.wire.uplink import Report, UplinkForm, Upload, decode_uplink, encode_uplink, with_residual

LOSSY = ["bf16", "fp16", "int8", "int4"]
RUN = ("rounds=8", "readjust.schedule.interval=1", "sparsity=0.9")


@pytest.fixture(scope="module", params=LOSSY)
def run(request: pytest.FixtureRequest, make_experiment: Callable[..., Experiment], play: Callable[..., Any]) -> Any:
    experiment = make_experiment(*RUN, f"codec={request.param}")
    return experiment, play(experiment)


def test_clients_decode_what_the_server_takes_them_to_have_decoded(run: Any) -> None:
    experiment, rounds = run
    setup, memories = experiment.setup, dict[int, Memory]()
    for r in rounds:
        decoded = []
        for task in r.tasks:
            before = memories.get(task.client, Memory())
            memories[task.client] = remember(task.payload, before, setup.layout, setup.codecs)
            decoded.append(decode_downlink(task.payload, before, setup.layout, setup.codecs).model)
        for model in decoded:
            assert torch.equal(model.values, decoded[0].values), "a round has one model, whoever was away"
            assert torch.equal(model.alive, r.planned.alive)
        moved = (decoded[0].values != r.planned.values).nonzero().flatten()
        assert bool((moved < setup.layout.maskable).all()), "biases travel exactly"
        assert bool(r.planned.trainable[moved].all()), "and so do frozen weights, which were rounded when they froze"


def test_frozen_weights_are_the_same_everywhere_and_for_ever(run: Any) -> None:
    _, rounds = run
    first = rounds[4].planned
    assert int(first.frozen.sum()) > 0
    # that clients decode these very values, whenever they come, is the test above
    for r in rounds[4:]:
        for model in (r.planned, r.concluded):
            assert torch.equal(model.frozen, first.frozen)
            assert torch.equal(model.weights[first.frozen], first.weights[first.frozen])


def test_fewer_bits_are_fewer_bytes(run: Any) -> None:
    experiment, rounds = run
    bits = {BFloat16: 16, Float16: 16, Int8: 8, Int4: 4}[type(experiment.setup.codecs.values)]
    values = sum(int(r.planned.trainable.sum()) * len(r.tasks) for r in rounds)
    for way in ("up", "down"):
        assert experiment.ledger.total[f"{way}/values"] * 8 < values * (bits + 1)


# ---- what rounding takes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [BFloat16(), Int8(), Int4()])
def test_what_was_lost_on_the_way_down_stays_with_the_server(make_server: Callable[..., Server], codec: Any) -> None:
    """Clients that change nothing leave the model as it is, however coarse the messages."""
    server = make_server(codec=codec)
    for t in range(3):
        now = server.begin(t)
        now.tasks()
        assert not torch.equal(now.sent.values, now.planned.values)
        for client in now.plan.cohort:
            form = UplinkForm(server.rules.codecs)
            payload, _ = encode_uplink(now.sent, now.sent, client, t, Report(10, 0.5, 0.5), form)
            now.absorb(Update(client, payload))
        now.conclude()
        assert torch.allclose(server.model.values, now.planned.values, atol=1e-6)


def test_what_no_client_holds_keeps_its_exact_value(make_server: Callable[..., Server]) -> None:
    """The coarse value and what rounding took do not add up to it to the bit."""
    now = make_server(codec=Int4()).begin(0)
    exact = now.planned
    coarse = torch.randn(len(exact.trainable_at), generator=torch.Generator().manual_seed(0))  # of any codec there is
    now.sent = exact.with_trained(coarse, exact.rest)
    cohort = Cohort(now.sent, torch.zeros(len(now.sent.alive_at)), 10, 1, exact)
    assert torch.equal(now._whole(cohort).values, exact.values)
    assert not torch.equal(coarse + (exact.trained - coarse), exact.trained)


@pytest.mark.parametrize("absent", ["left_out", "zero", "unchanged"])
def test_the_mean_is_the_one_that_exact_messages_would_have_given(
    make_server: Callable[..., Server], absent: Absent
) -> None:
    """Clients hold some of the weights each, the first weight nobody: what rounding took is theirs by their share."""
    now = make_server(codec=Int4()).begin(0)
    exact, draw = now.planned, torch.Generator().manual_seed(0)
    now.sent = sent = exact.with_trained(exact.trained + torch.randn(len(exact.trained), generator=draw), exact.rest)
    now.server = SimpleNamespace(rules=SimpleNamespace(method=SimpleNamespace(absent=absent)))  # type: ignore[assignment]
    means = {model: RunningMean(model, absent) for model in (exact, sent)}
    for client in range(3):
        held = torch.rand(len(exact.trained), generator=draw) < 0.6
        held[0] = False
        change = torch.randn(int(held.sum()), generator=draw)
        at = Positions(exact.layout, index=exact.trainable_at.index[held])
        for model, mean in means.items():
            parameters, statistics, _ = exact.layout.parts_of(exact.rest)
            report = Report(10 * client + 5, 0.5, 0.5)
            mean.add(Upload(client, report, at, model.trained[held] + change, parameters, statistics))
    wanted, found = (mean.result() for mean in means.values())
    assert wanted is not None
    assert found is not None
    assert torch.allclose(now._whole(found).held, wanted.mean.held, atol=1e-6)
    assert not torch.allclose(found.mean.held, wanted.mean.held, atol=1e-2)


@pytest.mark.parametrize("codec", [Int8(block=8), Int4(block=8)])
def test_a_client_that_keeps_its_residual_loses_nothing_over_the_rounds(
    layout: Layout, make_model: Callable[..., GlobalModel], codec: ValueCodec
) -> None:
    """Ten times the same small change: what arrives adds up to it within one step; without feedback it wanders."""
    start = make_model(layout, alive=0.8)
    change = torch.where(start.alive, torch.randn(32, generator=torch.Generator().manual_seed(1)) * 0.01, 0.0)
    values = start.values.clone()
    values[:32] += change
    trained = start.with_values(values)
    arrived, residual, form = torch.zeros(32), None, UplinkForm(Codecs(codec, Float32()))
    for t in range(10):
        model = trained if residual is None else with_residual(trained, residual)
        payload, residual = encode_uplink(model, start, 3, t, Report(1, 0.1, 0.1), form, seed=t, keep_residual=True)
        upload = decode_uplink(payload, start, 3, t, form)
        arrived[start.trainable] += upload.weights - start.trained
    left = torch.zeros(32)
    left[start.trainable] = residual.values
    assert torch.allclose(arrived + left, 10 * change, atol=1e-5)


def test_a_residual_applies_to_what_is_still_trainable(layout: Layout, make_model: Callable[..., GlobalModel]) -> None:
    old, new = make_model(layout, seed=1), make_model(layout, seed=2)
    after = with_residual(new, Residual(old.trainable_at, torch.ones(len(old.trainable_at))))
    assert torch.equal(after.values - new.values > 0.5, torch.cat([old.alive & new.alive, torch.zeros(10) > 1]))


# ---- engines and checkpoints ------------------------------------------------------------------------------------

FEEDBACK = (
    "codec=int4",
    "codec.client_feedback=true",
    "clients=4",
    "cohort=3",
    "rounds=6",
    "readjust.schedule.interval=1",
)


def test_residuals_go_through_workers_and_checkpoints(
    make_experiment: Callable[..., Experiment], play: Any, tmp_path: Path
) -> None:
    """In this process, in workers, and stopped in the middle: the same final bytes; and feedback makes a difference."""
    whole = play(make_experiment(*FEEDBACK))[-1].concluded
    ends = [
        play(make_experiment(*FEEDBACK, f"engine.workers={n}", "engine.channels_last=false"))[-1].concluded
        for n in (0, 2)
    ]
    without = play(make_experiment(*FEEDBACK, "codec.client_feedback=false"))[-1].concluded
    assert torch.equal(ends[0].values, ends[1].values)
    assert not torch.equal(whole.values, without.values)

    halves = [make_experiment(*FEEDBACK) for _ in range(2)]
    for half, rounds in zip(halves, (range(3), range(3, 6)), strict=True):
        with half.engine.open(half.setup):
            if rounds.start:
                state = checkpoint.load(tmp_path / "last.ckpt")
                half.server.load_state_dict(state["server"])
                half.engine.load_state_dict(state["engine"])
            for t in rounds:
                now = half.server.begin(t)
                for update in half.engine.run(now.tasks()):
                    now.absorb(update)
                now.conclude()
            if not rounds.start:
                assert any(half.engine.memories.kept(k).residual is not None for k in range(4))
                checkpoint.save(tmp_path, {"server": half.server.state_dict(), "engine": half.engine.state_dict()})
    assert torch.equal(halves[1].server.model.values, whole.values)
