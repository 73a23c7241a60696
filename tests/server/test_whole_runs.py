"""Runs on digits: what is special to a method, seen from the first round to the last."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from pffdst.core.messages import ClientTask
from pffdst.wire.downlink import Broadcast
from pffdst.wire.frame import Tag, unpack
from pffdst.wire.uplink import decode_uplink

MakeExperiment = Callable[..., Any]
Play = Callable[..., list[Any]]


def has(payload: bytes, tag: Tag) -> bool:
    return tag in unpack(payload).sections


# ---- PFFDST -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pffdst(make_experiment: MakeExperiment, play: Play) -> Any:
    """Stages of 9 and 10 rounds, readjusted every 2; a quarter is 2.25 and 2.5 rounds, so both end at their third."""
    experiment = make_experiment("rounds=19", "readjust.schedule.interval=2", "sparsity=0.9")
    return experiment, play(experiment)


def test_the_mask_moves_on_the_rounds_of_the_method(pffdst: Any) -> None:
    _, rounds = pffdst
    moved = [r.t for a, r in pairwise(rounds) if not torch.equal(a.concluded.alive, r.planned.alive)]
    assert moved == [2, 3, 9, 11, 12]


def test_trainable_counts_over_the_run(pffdst: Any) -> None:
    experiment, rounds = pffdst
    first, second = (s.counts for s in experiment.server.rules.stages)
    sizes = [e.size for e in experiment.server.model.layout.layers]
    for r in rounds:
        stage, since, frozen = (first, r.t, [0] * 4) if r.t < 9 else (second, r.t - 9, first)
        room = [size - z for size, z in zip(sizes, frozen, strict=True)]
        f = [max(0, min(round(0.5 * k), n - k, k - 1)) for k, n in zip(stage, room, strict=True)]
        expected = [k + more * (since < 3) for k, more in zip(stage, f, strict=True)]
        assert r.planned.layout.per_layer(r.planned.trainable) == expected
    assert tuple(rounds[-1].concluded.layout.per_layer(rounds[-1].concluded.alive)) == tuple(
        a + b for a, b in zip(first, second, strict=True)
    )


def test_clients_never_send_a_mask_nor_a_frozen_weight(pffdst: Any) -> None:
    _, rounds = pffdst
    for r in rounds:
        for update in r.updates:
            sections = unpack(update.payload).sections
            assert not {Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES} & set(sections)
            assert len(sections[Tag.TRAINABLE_VALUES].body) <= 4 * int(r.planned.trainable.sum())


def test_a_mask_is_sent_to_whoever_was_away_and_to_nobody_twice(pffdst: Any) -> None:
    _, rounds = pffdst
    version, held = -1, dict[int, int]()
    mask = None
    caught_up = 0
    for r in rounds:
        if mask is None or not torch.equal(mask, r.planned.trainable):
            version, mask = version + 1, r.planned.trainable
        for task in r.tasks:
            assert has(task.payload, Tag.TRAINABLE_POSITIONS) == (held.get(task.client) != version)
            caught_up += held.get(task.client, version) < version - 1
            held[task.client] = version
    assert caught_up > 0, "somebody must have missed a whole mask"


def test_frozen_weights_are_billed_once_for_each_client(pffdst: Any) -> None:
    experiment, rounds = pffdst
    served = [task.client for r in rounds for task in r.tasks if has(task.payload, Tag.FROZEN_VALUES)]
    came = {task.client for r in rounds if r.t >= 9 for task in r.tasks}
    assert sorted(served) == sorted(came)
    one = 4 * int(rounds[-1].planned.frozen.sum())
    assert experiment.ledger.total["frozen_bytes"] == one * len(came)
    total = experiment.ledger.total
    assert 0.5 * one * len(came) < total["down/frozen"] + total["down/catch_up"] < one * len(came) + 5000


def test_stage_two_begins_at_zero_and_learns(pffdst: Any) -> None:
    _, rounds = pffdst
    start, end = rounds[9].planned, rounds[9].concluded
    assert not bool(start.weights[start.trainable].any())
    assert float((end.weights[end.trainable] != 0).float().mean()) > 0.3
    assert torch.equal(start.values[start.layout.maskable :], rounds[8].concluded.values[start.layout.maskable :])


def test_clients_that_keep_nothing_get_the_same_model_for_more_bytes(
    make_experiment: MakeExperiment, play: Play
) -> None:
    overrides = ("rounds=8", "readjust.schedule.interval=1", "sparsity=0.9")
    kept, stateless = make_experiment(*overrides), make_experiment(*overrides, "clients_keep=false")
    ends = [play(e)[-1].concluded for e in (kept, stateless)]
    assert torch.equal(ends[0].values, ends[1].values)
    assert stateless.ledger.total["bytes_up"] == kept.ledger.total["bytes_up"]
    for part in ("mask", "frozen"):
        assert stateless.ledger.total[f"down/{part}"] > kept.ledger.total[f"down/{part}"]
    assert stateless.ledger.total["frozen_bytes"] == 4 * int(ends[1].frozen.sum()) * 3 * 4


@pytest.mark.parametrize("start_from", ["last", "ema", "best_test"])
def test_stage_two_starts_from_the_model_that_was_asked_for(
    make_experiment: MakeExperiment, play: Play, start_from: str
) -> None:
    experiment = make_experiment(
        "rounds=12",
        "readjust.schedule.interval=1",
        "eval_every=1",
        f"freeze.start_from={start_from}",
        "lr=0.3",
        "sparsity=0.9",
        "server_ema_warm_up=false",
    )
    stage_one = play(experiment)[:7]
    frozen = stage_one[6].planned
    scores = [experiment.evaluate(r.concluded).acc_global for r in stage_one[:6]]
    eligible = range(2, 6)  # a quarter of 6 rounds is 1.5: the mask is fixed from round 2 on
    best = max(eligible, key=lambda t: scores[t])
    average = stage_one[0].concluded.values
    for r in stage_one[1:6]:
        average = 0.9 * average + 0.1 * r.concluded.values
    average[: frozen.alive.numel()][~frozen.frozen] = 0
    chosen = {"last": stage_one[5].concluded.values, "ema": average, "best_test": stage_one[best].concluded.values}
    assert torch.allclose(frozen.values, chosen[start_from], atol=1e-6)
    assert max(scores) > min(scores[2:])


# ---- a client's round -------------------------------------------------------------------------------------------


def test_batches_are_drawn_anew_in_every_round(make_experiment: MakeExperiment) -> None:
    """From one model: another round's order of the same samples gives another result; the same names give the same."""
    experiment = make_experiment("cohort=5", "sparsity=0.5", "freeze=none", "readjust=static")
    server, setup = experiment.server, experiment.setup
    server.begin(0)

    def weights(t: int, client: int) -> bytes:
        payload = Broadcast(server.model, t, setup.codecs).payload()
        (update,) = experiment.engine.run([ClientTask(client, t, payload)])
        assert update.payload is not None
        return unpack(update.payload).section(Tag.TRAINABLE_VALUES).body

    with experiment.engine.open(setup):
        clients = [k for k in range(5) if setup.samples(k) > 2 * 32]
        assert clients
        for k in clients:
            assert weights(0, k) == weights(0, k)
            assert len({weights(t, k) for t in range(3)}) == 3


# ---- FedDST -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def feddst(make_experiment: MakeExperiment, play: Play) -> Any:
    experiment = make_experiment(
        "method=feddst",
        "rounds=12",
        "readjust.schedule.interval=2",
        "readjust.alpha=0.5",
        "sparsity=0.9",
        "local_epochs=1",
    )
    return experiment, play(experiment)


def test_masks_really_move_on_the_rounds_of_feddst(feddst: Any) -> None:
    _, rounds = feddst
    changed = {r.t: r.record.mask_changed for r in rounds}
    # in round 5 alpha has fallen to .03 and what grows may lose the server's prune
    assert {1, 3} <= {t for t, n in changed.items() if n > 0} <= {1, 3, 5}
    alive = int(rounds[0].planned.alive.sum())
    assert changed[1] > 0.05 * alive


def test_masks_go_up_on_readjust_rounds_alone_and_down_when_they_changed(feddst: Any) -> None:
    _, rounds = feddst
    for r in rounds:
        up = [has(u.payload, Tag.TRAINABLE_POSITIONS) for u in r.updates]
        assert up == [r.t in (1, 3, 5)] * 3
        assert (r.bill["up/mask"] > 0) == (r.t in (1, 3, 5))
    assert all(has(task.payload, Tag.TRAINABLE_POSITIONS) for t in (2, 4) for task in rounds[t].tasks)
    held = {task.client for r in rounds[6:9] for task in r.tasks}
    assert not any(has(t.payload, Tag.TRAINABLE_POSITIONS) for r in rounds[9:] for t in r.tasks if t.client in held)


def test_every_clients_mask_has_the_servers_counts(feddst: Any) -> None:
    experiment, rounds = feddst
    form, counts = experiment.setup.uplink(1), rounds[1].plan.stage.counts
    masks = []
    for update in rounds[1].updates:
        upload = decode_uplink(update.payload, rounds[1].sent, update.client, 1, form)
        assert upload.at.counts == counts
        masks.append(upload.at)
    assert masks[0] != masks[1]
    assert rounds[1].concluded.alive_at.counts == counts


def test_at_a_hundredth_the_mask_hardly_moves(make_experiment: MakeExperiment, play: Play) -> None:
    """Grown zeros lose the server's prune by magnitude: only what every client pruned makes room for them."""
    rounds = play(make_experiment("method=feddst", "rounds=6", "readjust.schedule.interval=1", "readjust.alpha=0.01"))
    alive = int(rounds[0].planned.alive.sum())
    assert sum(r.record.mask_changed for r in rounds) < 0.02 * alive


# ---- a model with normalisation statistics ----------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["average", "keep_server"])
def test_statistics_are_averaged_by_samples_and_billed_or_stay_at_the_server(
    make_experiment: MakeExperiment, play: Play, statistics: str
) -> None:
    experiment = make_experiment(
        "model=resnet18",
        "model.width=4",
        "rounds=4",
        "readjust.schedule.interval=1",
        f"aggregation.statistics={statistics}",
        "codec.level=0",
    )
    setup, layout = experiment.setup, experiment.setup.layout
    assert layout.total > layout.parameters
    for r in play(experiment):
        total, weight = torch.zeros(layout.total - layout.parameters, dtype=torch.float64), 0
        for update in r.updates:
            own = unpack(update.payload).sections
            assert (Tag.STATISTICS in own) == (statistics == "average")
            if statistics == "average":
                n = setup.samples(update.client)
                base = r.planned.values[layout.parameters :]
                total += n * setup.codecs.exact.decode(own[Tag.STATISTICS], len(base), "statistics", base=base).double()
                weight += n
        before, after = (m.values[layout.parameters :] for m in (r.planned, r.concluded))
        assert torch.allclose(after.double(), total / weight) if weight else torch.equal(after, before)
        assert torch.equal(after, before) == (statistics == "keep_server")
        assert r.bill["up/dense"] == 3 * 4 * (
            layout.total - layout.maskable if weight else layout.parameters - layout.maskable
        )
        assert bool((r.concluded.weights[~r.concluded.alive] == 0).all())


# ---- a client that diverges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pffdst", "feddst", "fedavg"])
@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_clients_that_diverge_are_left_out_and_the_run_goes_on(
    make_experiment: MakeExperiment, play: Play, method: str, lr: float
) -> None:
    lively = [] if method == "fedavg" else ["readjust.schedule.interval=1"]
    experiment = make_experiment(f"method={method}", "rounds=6", f"lr={lr}", *lively)
    rounds = play(experiment)
    assert experiment.progress.rejected >= 15  # a client of a single step ends with huge, yet finite weights
    reasons = ("not finite", "is beyond aggregation.max_value=1e+15")
    assert all(why.endswith(reasons) for r in rounds for why in r.record.rejected.values())
    assert bool(torch.isfinite(rounds[-1].concluded.values).all())
