"""The bill: the sum of what travelled, divided into parts without rest, and the papers' formula beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch

from pffdst.core.flat import layout_of
from pffdst.core.masks import draw
from pffdst.core.messages import ClientTask, Update
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed
from pffdst.cost.flops import Cost, FlopCounter
from pffdst.cost.ledger import Ledger, parts_of, unpacked
from pffdst.methods.allocation import Erk
from pffdst.methods.readjust.client_gradient import ClientGradient
from pffdst.models.resnet import ResNet18
from pffdst.wire.frame import Tag, unpack

RUNS = {
    "pffdst": ("rounds=8", "readjust.schedule.interval=1"),
    "nothing kept": ("rounds=6", "clients_keep=false"),
    "feddst": ("method=feddst", "rounds=6", "readjust.schedule.interval=1", "readjust.alpha=0.5"),
    "fedavg": ("method=fedavg", "rounds=2"),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, make_experiment: Callable[..., Any], play: Callable[..., Any]) -> Any:
    experiment = make_experiment(*RUNS[request.param])
    return experiment, play(experiment)


def total(rounds: Iterable[Any], name: str) -> int:
    return sum(r.bill[name] for r in rounds)


# ---- bytes ------------------------------------------------------------------------------------------------------


def test_bytes_are_the_lengths_of_all_payloads(run: Any) -> None:
    experiment, rounds = run
    for r in rounds:
        assert r.bill["bytes_down"] == sum(len(task.payload) for task in r.tasks)
        assert r.bill["bytes_up"] == sum(len(u.payload) for u in r.updates)
    bill = experiment.ledger.total
    assert bill["bytes_down"] == total(rounds, "bytes_down")
    assert bill["bytes_up"] == total(rounds, "bytes_up")


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_parts_make_up_the_whole(run: Any, way: str) -> None:
    experiment, rounds = run
    for bill in (experiment.ledger.total, *(r.bill for r in rounds)):
        assert sum(bill[f"{way}/{part}"] for part in Ledger.PARTS) == bill[f"bytes_{way}"] > 0


def test_each_part_is_the_bodies_of_its_sections(run: Any) -> None:
    _, rounds = run
    sections = {"mask": {Tag.TRAINABLE_POSITIONS}, "values": {Tag.TRAINABLE_VALUES},
                "frozen": {Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES},
                "dense": {Tag.PARAMETERS, Tag.STATISTICS}, "signals": set(range(64, 128))}  # fmt: skip
    for r in rounds:
        for way, payloads in (("down", [t.payload for t in r.tasks]), ("up", [u.payload for u in r.updates])):
            for part, tags in sections.items():
                bodies = [s.body for p in payloads for tag, s in unpack(p).sections.items() if tag in tags]
                billed_as_such = r.bill[f"{way}/{part}"]
                if part in ("values", "dense") or billed_as_such:
                    assert billed_as_such == sum(map(len, bodies))
                else:
                    assert r.bill[f"{way}/catch_up"] >= sum(map(len, bodies))


def test_what_was_new_before_is_catching_up(run: Any) -> None:
    """Masks and frozen weights: in the round that made them under their own name, later as catching up."""
    _, rounds = run
    tags = {"mask": Tag.TRAINABLE_POSITIONS, "frozen": Tag.FROZEN_VALUES}
    known: dict[str, Any] = dict.fromkeys(tags)
    for r in rounds:
        sent = [unpack(task.payload).sections for task in r.tasks]
        for part, mask in (("mask", r.planned.trainable), ("frozen", r.planned.frozen)):
            news = known[part] is None or not torch.equal(known[part], mask)
            known[part] = mask
            if any(s[tags[part]].body for s in sent if tags[part] in s):
                assert (r.bill[f"down/{part}"] > 0) == news
                assert news or r.bill["down/catch_up"] > 0
    assert all(r.bill["up/catch_up"] == 0 for r in rounds)


def test_values_are_at_most_four_bytes_a_trainable_weight_each_way(run: Any) -> None:
    _, rounds = run
    for r in rounds:
        size = 4 * int(r.planned.trainable.sum())
        for way in ("down", "up"):
            assert 0 < r.bill[f"{way}/values"] <= size * len(r.tasks)
    assert sum(r.bill["up/values"] for r in rounds) < 0.9 * sum(r.bill["paper_bytes"] for r in rounds) / 2


def test_what_cannot_be_read_is_billed_all_the_same() -> None:
    assert parts_of(b"garbage", unpacked(b"garbage")) == Counter({"header": 7})


# ---- the papers' formula ----------------------------------------------------------------------------------------


def test_paper_bytes_are_the_papers_formula(run: Any) -> None:
    _, rounds = run
    for r in rounds:
        biases = sum(e.size for e in r.planned.layout.entries if e.kind == "parameter")  # no normalisation in this one
        one_way = 4 * int(r.planned.trainable.sum()) + 4 * biases
        assert r.bill["paper_bytes"] == one_way * (len(r.tasks) + len(r.updates))


def test_frozen_bytes_are_four_a_weight_for_each_client_that_was_sent_them(run: Any) -> None:
    _, rounds = run
    for r in rounds:
        sent = sum(Tag.FROZEN_VALUES in unpack(task.payload).sections for task in r.tasks)
        assert r.bill["frozen_bytes"] == 4 * int(r.planned.frozen.sum()) * sent


@pytest.fixture(scope="module")
def resnet() -> GlobalModel:
    """ResNet-18 at s = .9."""
    with torch.device("meta"):
        layout = layout_of(ResNet18(3, 32, 10))
    nothing = Positions.none(layout)
    alive = draw(nothing, Erk().counts(layout, 1 - 0.9), derive_seed(0, "grow"))
    return GlobalModel(layout, torch.zeros(layout.total), alive.bits, nothing.bits)


def counter(layout: Layout, uses: Sequence[int]) -> FlopCounter:
    """Layers whose weights are used so often; the first sees the samples, so it has no input gradient."""
    dense = [2 * e.size * n for e, n in zip(layout.layers, uses, strict=True)]
    return FlopCounter(layout, tuple(Cost(f, f * (i > 0), f) for i, f in enumerate(dense)))


def billed(ledger: Ledger, clients: int, samples: int = 1) -> Counter[str]:
    for client in range(clients):
        ledger.down(ClientTask(client, 0, b"down"))
        ledger.up(Update(client, b"up"), unpacked(b"up"), samples)
    ledger.end()
    return ledger.total


def test_the_papers_formula_gives_the_published_figure(resnet: GlobalModel) -> None:
    ledger = Ledger(counter(resnet.layout, (1,) * len(resnet.layout.layers)), batch_size=32)
    ledger.begin(resnet, epochs=1, probes=0)
    a_round = billed(ledger, clients=20)["paper_bytes"]
    assert round(200 * a_round / 1e9, 2) == 35.73
    assert round(200 * a_round / 2**30, 1) == 33.3


# ---- FLOPs ------------------------------------------------------------------------------------------------------


def test_flops_are_epochs_times_samples_times_a_step_and_the_dense_batches(run: Any) -> None:
    experiment, rounds = run
    setup, flops = experiment.setup, FlopCounter.of(experiment.network.module, experiment.network.layout, (1, 8, 8))
    probes = 0
    for r in rounds:
        alive, trainable = (r.planned.layout.per_layer(m) for m in (r.planned.alive, r.planned.trainable))
        own = [setup.samples(u.client) for u in r.updates]
        expected = setup.training.epochs * sum(own) * flops.training(alive, trainable)
        if setup.method.probes(r.plan.stage, r.t):
            probes += 1
            expected += sum(min(n, 32) + (n == 33) for n in own) * sum(flops.dense_gradient(alive).values())
        assert r.bill["flops"] == expected == sum(r.bill[name] for name in Ledger.FLOPS)
    assert probes == (2 if type(setup.method.readjust) is ClientGradient else 0)


@pytest.mark.parametrize(("samples", "in_the_batch"), [(5, 5), (32, 32), (33, 33), (34, 32), (65, 32)])
def test_the_dense_batch_is_the_clients_first(layout: Layout, make_model: Any, samples: int, in_the_batch: int) -> None:
    flops = counter(layout, (3, 1))
    model = make_model(layout)
    plain, dense = (Ledger(flops, batch_size=32) for _ in range(2))
    plain.begin(model, epochs=2, probes=0)
    dense.begin(model, epochs=2, probes=1)
    more = billed(dense, 1, samples)["flops"] - billed(plain, 1, samples)["flops"]
    assert more == in_the_batch * sum(flops.dense_gradient(layout.per_layer(model.alive)).values())


def test_a_client_that_only_answers_trains_for_nothing(layout: Layout, make_model: Any) -> None:
    ledger = Ledger(counter(layout, (3, 1)), batch_size=32)
    ledger.begin(make_model(layout), epochs=0, probes=0)
    assert billed(ledger, 2)["flops"] == 0
    flops = counter(layout, (3, 1))
    model = make_model(layout)
    ledger.begin(model, epochs=0, probes=3)
    dense = sum(flops.dense_gradient(layout.per_layer(model.alive)).values())
    assert billed(ledger, 2, 32)["flops"] == 2 * 3 * 32 * dense
    ledger = Ledger(flops, batch_size=32)
    ledger.begin(model, epochs=0, probes=0, forwards=[(3, 1), (20, 12)])
    found, forward = billed(ledger, 2, 32), flops.forward((3, 1)) + flops.forward((20, 12))
    assert found["flops"] == found["flops_forward"] == 2 * 32 * forward


# ---- who is billed ----------------------------------------------------------------------------------------------


def test_a_client_that_did_not_answer_costs_the_way_down_alone(layout: Layout, make_model: Any) -> None:
    ledger = Ledger(counter(layout, (3, 1)), batch_size=32)
    model = make_model(layout)
    ledger.begin(model, epochs=2, probes=0)
    ledger.down(ClientTask(0, 0, b"down"))
    ledger.up(Update(0, None, "gone"), None, 10)
    ledger.end()
    assert +ledger.total == Counter(
        {"bytes_down": 4, "down/header": 4, "paper_bytes": 4 * int(model.trainable.sum()) + 4 * 4}
    )


def test_a_round_joins_the_totals_once(layout: Layout, make_model: Any) -> None:
    ledger = Ledger(counter(layout, (3, 1)), batch_size=32)
    for rounds in (1, 2, 3):
        ledger.begin(make_model(layout), epochs=2, probes=0)
        assert billed(ledger, 2)["bytes_up"] == rounds * 2 * len(b"up")
        assert ledger.round["bytes_up"] == 2 * len(b"up")


def test_the_totals_go_through_a_checkpoint(layout: Layout, make_model: Any) -> None:
    ledger, again = (Ledger(counter(layout, (3, 1)), batch_size=32) for _ in range(2))
    ledger.begin(make_model(layout), epochs=2, probes=0)
    billed(ledger, 2)
    state = ledger.state_dict()
    kept = dict(state)
    again.load_state_dict(state)
    assert again.total == ledger.total
    for one in (ledger, again):
        one.begin(make_model(layout), epochs=2, probes=0)
        billed(one, 1)
    assert again.total == ledger.total
    assert state == kept, "a state that was given out must not change"
