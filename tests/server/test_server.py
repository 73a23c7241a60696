"""The server over rounds: what it plans, sends, takes in and leaves out, and what a checkpoint brings back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pffdst.core.messages import Update
from pffdst.core.positions import Positions
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.freeze.none import NoFreezing
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.readjust.client_gradient import ClientGradient
from pffdst.methods.readjust.server_differential import ServerDifferential
from pffdst.methods.schedule import Every
from pffdst.methods.server_optimizer import Momentum
from pffdst.runs import checkpoint
from pffdst.server.average import ServerAverage
from pffdst.server.round import Round
from pffdst.server.server import Server
from pffdst.wire.frame import Section, Tag, pack, unpack

MakeServer = Callable[..., Server]
Answer = Callable[..., Update]
PlayRounds = Callable[..., list[Round]]


def smr() -> ServerDifferential:
    return ServerDifferential(schedule=Every(1, until=0.25))


def client_gradient(interval: int = 1, alpha: float = 0.5) -> ClientGradient:
    return ClientGradient(alpha, Every(interval, first=1, until=0.5))


def tags(payload: bytes) -> set[int]:
    return set(unpack(payload).sections)


def spoiled(update: Update, tag: Tag, section: Section) -> Update:
    assert update.payload is not None
    message = unpack(update.payload)
    return replace(update, payload=pack(replace(message, sections=dict(message.sections) | {tag: section})))


# ---- plan -------------------------------------------------------------------------------------------------------


def test_the_first_round_keeps_initial_weights_at_random_positions(make_server: MakeServer) -> None:
    server = make_server()
    initial = server.model
    plan = server.begin(0).plan
    model = server.model
    assert model.layout.per_layer(model.alive) == [4, 3]
    assert torch.equal(model.weights[model.alive], initial.weights[model.alive])
    assert torch.equal(model.values[32:], initial.values[32:])
    assert not bool(model.frozen.any())
    assert (plan.t, plan.pruned, plan.grown, plan.froze) == (0, 0, 0, False)


def test_the_same_state_gives_the_same_plan(make_server: MakeServer) -> None:
    one, two = make_server(seed=0), make_server(seed=0)
    assert one.begin(0).plan == two.begin(0).plan
    assert torch.equal(one.model.alive, two.model.alive)


def test_the_seed_draws_mask_and_cohort(make_server: MakeServer) -> None:
    servers = [make_server(seed=seed, rounds=40) for seed in range(4)]
    cohorts = {tuple(s.begin(t).plan.cohort for t in range(3)) for s in servers}
    masks = {tuple(s.model.alive.tolist()) for s in servers}
    assert len(cohorts) == len(masks) == 4


def test_what_is_alive_freezes_at_half_time(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server()
    play_rounds(server, range(4))
    before = server.model
    plan = server.begin(4).plan
    after = server.model
    assert plan.froze
    assert torch.equal(after.frozen, before.alive)
    assert torch.equal(after.values, before.values)
    assert after.layout.per_layer(after.trainable) == [4, 3]
    assert bool((after.weights[after.trainable] == 0).all())


def test_a_weight_of_value_zero_freezes_like_any_other(make_server: MakeServer, answer: Answer) -> None:
    server = make_server()
    for t in range(4):
        now = server.begin(t)
        for client in now.plan.cohort:
            now.absorb(answer(now, client, values=torch.zeros(42)))
        now.conclude()
    alive = server.model.alive
    assert not bool(server.model.weights.any())
    server.begin(4)
    assert torch.equal(server.model.frozen, alive)


def test_it_freezes_at_the_start_of_the_second_stage_alone(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    assert [r.plan.froze for r in play_rounds(make_server(), range(8))] == [t == 4 for t in range(8)]
    assert not any(r.plan.froze for r in play_rounds(make_server(freeze=NoFreezing()), range(8)))


@pytest.mark.parametrize("start_from", ["ema", "best_test"])
def test_what_freezes_is_the_model_that_was_asked_for(
    make_server: MakeServer, play_rounds: PlayRounds, start_from: str
) -> None:
    server = make_server(freeze=TwoStage(start_from))  # type: ignore[arg-type]
    for t, accuracy in enumerate((0.3, 0.9, 0.5, 0.9)):
        (done,) = play_rounds(server, [t])
        server.note_accuracy(done.plan, accuracy)
        if t == 1:
            best = server.model.values
    average = server.averaged_model.values
    server.begin(4)
    assert torch.equal(server.model.values, best if start_from == "best_test" else average)


def test_the_best_of_an_exploring_round_is_not_eligible(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server(rounds=24, freeze=TwoStage("best_test"), readjust=smr())
    wanted = None
    for t in range(12):  # exploration ends with the prune at the start of round 3
        (done,) = play_rounds(server, [t])
        server.note_accuracy(done.plan, 1.0 if t < 3 else 0.5 + t / 100 if t < 8 else 0.1)
        wanted = server.model if t == 7 else wanted
    assert wanted is not None
    server.begin(12)
    assert torch.equal(server.model.values, wanted.values)
    assert torch.equal(server.model.frozen, wanted.alive)


def test_without_an_evaluated_round_the_last_model_freezes(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server(freeze=TwoStage("best_test"))
    play_rounds(server, range(4))
    last = server.model.values
    server.begin(4)
    assert torch.equal(server.model.values, last)


def test_pruned_and_grown_are_what_changed(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server(rounds=16, readjust=smr(), freeze=NoFreezing())
    play_rounds(server, [0])
    for t in range(1, 5):
        before = server.model.alive
        plan = play_rounds(server, [t])[0].plan
        after = server.model.alive
        assert (plan.pruned, plan.grown) == (int((before & ~after).sum()), int((after & ~before).sum()))
    assert (plan.pruned, plan.grown) == (7, 0)


# ---- dispatch ---------------------------------------------------------------------------------------------------


def test_a_mask_is_sent_once_to_whoever_lacks_it(make_server: MakeServer, answer: Answer) -> None:
    server, have = make_server(rounds=40), set[int]()
    for t in range(20):
        now = server.begin(t)
        for task in now.tasks():
            assert (Tag.TRAINABLE_POSITIONS in tags(task.payload)) == (task.client not in have)
            have.add(task.client)
        for client in now.plan.cohort:
            now.absorb(answer(now, client))
        now.conclude()


def test_clients_that_lack_the_same_share_one_payload(make_server: MakeServer) -> None:
    server = make_server()
    now = server.begin(0)
    tasks = now.tasks()
    assert len({id(task.payload) for task in tasks}) == 1
    assert [task.client for task in tasks] == list(now.plan.cohort)


def test_frozen_weights_are_sent_once_to_each_client(make_server: MakeServer, answer: Answer) -> None:
    server, have = make_server(rounds=40), set[int]()
    for t in range(40):
        now = server.begin(t)
        if t == 20:
            have.clear()
        for task in now.tasks():
            assert (Tag.FROZEN_VALUES in tags(task.payload)) == (t >= 20 and task.client not in have)
            have.add(task.client)
        for client in now.plan.cohort:
            now.absorb(answer(now, client))
        now.conclude()
    assert len(have) == 6


def test_clients_that_keep_nothing_are_sent_everything_every_time(
    make_server: MakeServer, play_rounds: PlayRounds
) -> None:
    server = make_server(keep=False)
    play_rounds(server, range(6))
    for task in server.begin(6).tasks():
        assert {Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES} <= tags(task.payload)


def test_a_client_that_could_not_read_its_message_is_sent_everything_again(
    make_server: MakeServer, play_rounds: PlayRounds
) -> None:
    server = make_server(cohort=6)
    play_rounds(server, range(5))
    now = server.begin(5)
    now.tasks()
    now.absorb(Update(2, None, "could not read the server's message"))
    now.conclude()
    tasks = server.begin(6).tasks()
    everything = {Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES}
    assert [everything <= tags(task.payload) for task in tasks] == [task.client == 2 for task in tasks]


def test_a_client_whose_update_was_refused_still_holds_what_it_was_sent(
    make_server: MakeServer, answer: Answer
) -> None:
    server = make_server(cohort=6)
    now = server.begin(0)
    now.tasks()
    now.absorb(replace(answer(now, 0), payload=b"garbage"))
    now.conclude()
    assert not any(Tag.TRAINABLE_POSITIONS in tags(task.payload) for task in server.begin(1).tasks())


# ---- absorb -----------------------------------------------------------------------------------------------------


def nan_weights(update: Update) -> Update:
    """As many values as are due, of which none is a number: all bits of their planes are set."""
    count = len(unpack(update.payload or b"").section(Tag.TRAINABLE_VALUES).body) // 4
    return spoiled(update, Tag.TRAINABLE_VALUES, Section(1, b"\xff" * 4 * count))


BAD: dict[str, Callable[[Update], Update]] = {
    "garbage": lambda u: replace(u, payload=b"\x80\x04garbage"),
    "empty": lambda u: replace(u, payload=b""),
    "cut short": lambda u: replace(u, payload=(u.payload or b"")[:-1]),
    "not a number": nan_weights,
    "too short": lambda u: spoiled(u, Tag.PARAMETERS, Section(1, b"")),
    "another client's": lambda u: replace(u, client=(u.client + 1) % 6),
    "no answer": lambda u: replace(u, payload=None, problem="the battery is empty"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_update_is_left_out_and_named(make_server: MakeServer, answer: Answer, bad: str) -> None:
    with_it, without = make_server(cohort=6), make_server(cohort=6)
    one, two = with_it.begin(0), without.begin(0)
    for now in (one, two):
        now.tasks()
        for client in (0, 3, 4, 5):
            now.absorb(answer(now, client))
    wrong = BAD[bad](answer(one, 1))
    one.absorb(wrong)
    record = one.conclude()
    two.conclude()
    assert torch.equal(with_it.model.values, without.model.values)
    assert list(record.rejected) == [wrong.client]
    assert len(record.reports) == 4
    assert len(record.rejected[wrong.client]) > 5


def test_a_round_of_bad_updates_keeps_the_model(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server(optimizer=Momentum(), readjust=client_gradient())
    play_rounds(server, range(2))
    now = server.begin(2)
    before = server.model
    for client in now.plan.cohort:
        now.absorb(Update(client, b"garbage"))
    record = now.conclude()
    assert set(record.rejected) == set(now.plan.cohort)
    assert record.reports == []
    assert server.model.same_as(before)


def test_rejections_of_one_round_are_not_carried_into_the_next(make_server: MakeServer, answer: Answer) -> None:
    server = make_server()
    now = server.begin(0)
    now.absorb(Update(now.plan.cohort[0], None, "gone"))
    now.conclude()
    now = server.begin(1)
    now.absorb(answer(now, now.plan.cohort[0]))
    record = now.conclude()
    assert record.rejected == {}
    assert len(record.reports) == 1


# ---- conclude ---------------------------------------------------------------------------------------------------


def mean_of(updates: dict[int, Tensor]) -> Tensor:
    weights = {client: 10 * (client + 1) for client in updates}
    total = sum(weights.values())
    return sum((weights[k] * v.double() for k, v in updates.items()), torch.zeros(42, dtype=torch.float64)) / total


def answered(now: Round, answer: Answer) -> dict[int, Tensor]:
    """Has every client of the cohort answer random numbers; gives those, frozen weights and all."""
    sent = {}
    for client in now.plan.cohort:
        model = now.sent
        noise = torch.randn(42, generator=torch.Generator().manual_seed(100 * now.plan.t + client))
        at = torch.cat([model.trainable, torch.ones(10, dtype=torch.bool)])
        sent[client] = torch.where(at, noise, model.values)
        now.absorb(answer(now, client, values=sent[client]))
    return sent


def test_the_next_model_is_the_mean_by_sample_counts(make_server: MakeServer, answer: Answer) -> None:
    server = make_server()
    for t in range(8):
        now = server.begin(t)
        before = server.model
        expected = mean_of(answered(now, answer))
        now.conclude()
        assert torch.allclose(server.model.values.double(), expected, atol=1e-6)
        assert torch.equal(server.model.weights[before.frozen], before.weights[before.frozen])
        assert bool((server.model.weights[~server.model.alive] == 0).all())


def test_kept_statistics_stay_as_they_are(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server(aggregation=MaskedMean("keep_server"))
    first = server.model.values
    play_rounds(server, range(3))
    assert torch.equal(server.model.values[39:], first[39:])
    assert not torch.equal(server.model.values[32:39], first[32:39])


@pytest.mark.parametrize("stages", ["one", "two"])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_server_average_is_its_recursion_and_begins_anew_at_the_freeze(
    make_server: MakeServer, play_rounds: PlayRounds, stages: str, beta: float
) -> None:
    server = make_server(ema=beta, **({"freeze": NoFreezing()} if stages == "one" else {}))
    slow: Tensor | None = None
    for t in range(8):
        play_rounds(server, [t])
        values = server.model.values.double()
        restart = slow is None or (stages == "two" and t == 4)
        slow = values if restart else beta * slow + (1 - beta) * values  # type: ignore[operator]
        averaged = server.averaged_model
        assert torch.allclose(averaged.values.double(), slow, atol=1e-6)
        assert torch.equal(averaged.weights[server.model.frozen], server.model.weights[server.model.frozen])
        assert bool((averaged.weights[~averaged.alive] == 0).all())


def test_weights_that_are_held_for_a_while_are_averaged_like_all_others(layout: Any, make_model: Any) -> None:
    model, average = make_model(layout, alive=1.0), ServerAverage(0.9, warm_up=False)
    slow: Tensor | None = None
    for t in range(6):
        held = Positions(layout, bits=torch.arange(32) % 3 == t % 3)
        new = make_model(layout, seed=t, alive=1.0).values
        new[:32] = torch.where(held.bits, model.weights, new[:32])
        model = model.with_values(new).freezing(held)
        average.update(model)
        slow = new.double() if slow is None else 0.9 * slow + 0.1 * new.double()
        assert torch.allclose(average.model(model).values.double(), slow, atol=1e-6)


def test_a_server_average_that_warms_up_keeps_less_at_first(layout: Any, make_model: Any) -> None:
    """beta_n = min(beta, (1 + n) / (10 + n)) after n rounds: .1, .18, .25, ... up to .9 from the 81st on."""
    warm, cold = ServerAverage(0.9, warm_up=True), ServerAverage(0.9, warm_up=False)
    kept = []
    for _ in range(83):
        warm.update(make_model(layout))
        kept.append(warm.beta)
    assert kept[:3] == pytest.approx([2 / 11, 3 / 12, 4 / 13])
    assert kept[78] < 0.9 == kept[79] == kept[82]
    assert cold.beta == 0.9


def test_the_server_average_has_the_masks_of_the_model(make_server: MakeServer, play_rounds: PlayRounds) -> None:
    server = make_server(rounds=24, readjust=smr())
    for t in range(24):
        play_rounds(server, [t])
        averaged = server.averaged_model
        assert bool((averaged.weights[~server.model.alive] == 0).all())
        assert torch.equal(averaged.weights[server.model.frozen], server.model.weights[server.model.frozen])


def test_clients_masks_are_joined_and_pruned_back(make_server: MakeServer, answer: Answer) -> None:
    server = make_server(rounds=40, freeze=NoFreezing(), readjust=client_gradient())
    for t in range(20):
        now = server.begin(t)
        for client in now.plan.cohort:
            now.absorb(answer(now, client))
        record = now.conclude()
        assert server.model.layout.per_layer(server.model.alive) == [8, 6]
        assert bool((server.model.weights[~server.model.alive] == 0).all())
        assert record.mask_changed >= 0


def test_a_mask_that_the_clients_moved_is_sent_in_the_next_round_and_no_other(
    make_server: MakeServer, answer: Answer
) -> None:
    server = make_server(rounds=40, cohort=6, freeze=NoFreezing(), readjust=client_gradient(4, 1.0))
    sent, moved = [], []
    for t in range(16):
        now = server.begin(t)
        before = server.model.alive
        sent.append([Tag.TRAINABLE_POSITIONS in tags(task.payload) for task in now.tasks()])
        for client in now.plan.cohort:
            now.absorb(answer(now, client))
        now.conclude()
        moved.append(not torch.equal(before, server.model.alive))
    assert sent == [[new] * 6 for new in (True, *moved[:-1])]
    assert 1 <= sum(moved) <= 4


# ---- checkpoint -------------------------------------------------------------------------------------------------


RULES: dict[str, Callable[[], dict[str, Any]]] = {
    "pffdst": lambda: {"readjust": smr()},
    "pffdst from the best": lambda: {"readjust": smr(), "freeze": TwoStage("best_test")},
    "pffdst from the average": lambda: {"readjust": smr(), "freeze": TwoStage("ema"), "ema_warm_up": True},
    "feddst": lambda: {"readjust": client_gradient(), "freeze": NoFreezing()},
    "momentum": lambda: {"readjust": smr(), "optimizer": Momentum()},
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("stop", [0, 1, 5, 8, 9, 11])
def test_a_server_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    make_server: MakeServer, play_rounds: PlayRounds, tmp_path: Any, rules: str, stop: int
) -> None:
    def played(server: Server, rounds: range) -> Server:
        for t in rounds:
            (done,) = play_rounds(server, [t])
            server.note_accuracy(done.plan, 1 / (1 + t % 5))
        return server

    def fresh() -> Server:
        return make_server(rounds=16, **RULES[rules]())

    checkpoint.save(tmp_path, played(fresh(), range(stop)).state_dict())
    again = fresh()
    again.load_state_dict(checkpoint.load(tmp_path / "last.ckpt"))
    played(again, range(stop, 16))
    whole = played(fresh(), range(16))
    assert again.model.same_as(whole.model)
    assert again.averaged_model.same_as(whole.averaged_model)
    assert [again.holdings.lacks(k) for k in range(6)] == [whole.holdings.lacks(k) for k in range(6)]
