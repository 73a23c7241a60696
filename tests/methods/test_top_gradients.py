"""FedTiny and FedMef: swaps at the server by the mean of what clients sent of their dead weights' gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pffdst.core.masks import largest_dead, smallest
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for
from pffdst.methods.readjust.fedmef import FedMef
from pffdst.methods.readjust.fedtiny import FedTiny
from pffdst.methods.readjust.swap import TopGradients
from pffdst.methods.rule import Chosen, Cohort
from pffdst.methods.schedule import Every
from pffdst.run import play_round

LAYOUT = Layout(
    (Entry("a", (10, 6), 0, "maskable"), Entry("b", (8, 5), 60, "maskable"), Entry("c", (4,), 100, "parameter"))
)
W = LAYOUT.maskable
STAGE = Stage(0, 0, 40, (30, 20))
EVERY = Every(interval=10, first=0, until=0.6)


def model_of(seed: int = 0, counts: tuple[int, int] = (30, 20), frozen: float = 0.0) -> GlobalModel:
    generator = generator_for(seed, "model")
    order = torch.rand(W, generator=generator)
    z = torch.zeros(W, dtype=torch.bool)
    z[torch.randperm(W, generator=generator)[: round(frozen * W)]] = True
    free = Positions(LAYOUT, bits=~z)
    alive = smallest(free, free.gather(order), counts).bits | z
    values = torch.randn(LAYOUT.total, generator=generator)
    return GlobalModel(LAYOUT, values, torch.ones_like(z), torch.zeros_like(z)).with_masks(alive, z)


def top(rule: TopGradients, model: GlobalModel, gradient: Tensor, t: int = 0) -> Chosen:
    at = largest_dead(gradient, model.alive_at, rule.moving(model, STAGE, t))
    return Chosen(at, gradient[at.index])


def adjusted(
    rule: TopGradients, sent: GlobalModel, mean: GlobalModel, answers: list[tuple[int, Chosen]], t: int = 0
) -> GlobalModel:
    for client, (samples, chosen) in enumerate(answers):
        rule.observe(client, sent, samples, {"gradient": chosen}, STAGE, t)
    total = sum(samples for samples, _ in answers)
    support = torch.full((len(mean.alive_at),), float(total), dtype=torch.float64)
    return rule.after_round(Cohort(mean, support, total, len(answers), sent), STAGE, t, 0)


def trained(model: GlobalModel, seed: int) -> GlobalModel:
    noise = torch.randn(len(model.trainable_at), generator=generator_for(seed, "train"))
    return model.with_trained(model.trained + noise, model.rest)


# ---- the share -----------------------------------------------------------------------------------------------------


def test_the_share_falls_as_half_a_cosine() -> None:
    """zeta(t) k = a / 2 (1 + cos(pi t / T_end)) k, T_end = 24 of 40 rounds."""
    rule, model = FedTiny(alpha=0.4, schedule=EVERY), model_of()
    for t in (0, 10, 20):
        share = 0.2 * (1 + math.cos(math.pi * t / 24))
        assert rule.moving(model, STAGE, t) == [round(share * 30), round(share * 20)]
    assert rule.moving(model, STAGE, 0) == [12, 8]
    assert [t for t in range(-2, 40) if rule.due(STAGE, t)] == [0, 10, 20]


def test_no_more_is_swapped_than_there_are_dead_weights() -> None:
    assert FedTiny(alpha=1.0, schedule=EVERY).moving(model_of(counts=(58, 40)), STAGE, 0) == [2, 0]


# ---- FedTiny -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frozen", [0.0, 0.2])
def test_the_top_of_the_signed_mean_grows_and_the_smallest_leave(seed: int, frozen: float) -> None:
    rule, sent = FedTiny(alpha=0.4, schedule=EVERY), model_of(seed, (24, 14), frozen)
    mean = trained(sent, seed)
    gradients = [torch.randn(W, generator=generator_for(seed, "g", k)) for k in range(3)]
    answers = [(n, top(rule, sent, g)) for n, g in zip((5, 20, 70), gradients, strict=True)]
    after = adjusted(rule, sent, mean, answers)
    total = torch.zeros(W, dtype=torch.float64)
    for n, chosen in answers:
        total[chosen.at.index] += n * chosen.values.double()
    for layer, n in zip(LAYOUT.layers, rule.moving(sent, STAGE, 0), strict=True):
        here = range(layer.span.start, layer.span.stop)
        dead = sorted((j for j in here if not sent.alive[j]), key=lambda j: (-abs(float(total[j])), j))
        old = sorted((j for j in here if sent.trainable[j]), key=lambda j: abs(float(mean.weights[j])))
        assert n > 0
        assert {j for j in here if after.trainable[j]} == set(old[n:]) | set(dead[:n])
        assert all(float(after.weights[j]) == 0.0 for j in dead[:n])
        assert all(after.weights[j] == mean.weights[j] for j in old[n:])
    assert torch.equal(after.frozen, sent.frozen)
    assert torch.equal(after.weights[sent.frozen], sent.weights[sent.frozen])


def test_by_hand_opposite_gradients_cancel() -> None:
    """Position 4: +9 and -9. Position 5: 1 of 30 samples of 40. The second wins, though the first is larger in each."""
    layout = Layout((Entry("a", (2, 4), 0, "maskable"),))
    alive = torch.tensor([True] * 4 + [False] * 4)
    values = torch.tensor([3.0, -0.1, 2.0, -4.0, 0, 0, 0, 0])
    sent = GlobalModel(layout, values, alive, torch.zeros(8, dtype=torch.bool))
    rule, stage = FedTiny(alpha=0.5, schedule=Every(interval=1)), Stage(0, 0, 40, (4,))
    assert rule.moving(sent, stage, 0) == [2]
    at = Positions(layout, index=torch.tensor([4, 5]))
    for client, (n, g) in enumerate([(10, [9.0, 0.0]), (10, [-9.0, 0.0]), (20, [0.0, 1.0])]):
        rule.observe(client, sent, n, {"gradient": Chosen(at, torch.tensor(g))}, stage, 0)
    one = rule.after_round(Cohort(sent, torch.full((4,), 40.0), 40, 3, sent), stage, 0, 0)
    # two are swapped: of the dead 4 and 5 were named; of the alive .1 and 2 are smallest
    assert one.alive_at.index.tolist() == [0, 3, 4, 5]
    assert one.weights.tolist() == [3.0, 0, 0, -4.0, 0, 0, 0, 0]
    narrow = FedTiny(alpha=0.25, schedule=Every(interval=1))
    for client, (n, g) in enumerate([(10, [9.0, 0.0]), (10, [-9.0, 0.0]), (20, [0.0, 1.0])]):
        narrow.observe(client, sent, n, {"gradient": Chosen(at, torch.tensor(g))}, stage, 0)
    two = narrow.after_round(Cohort(sent, torch.full((4,), 40.0), 40, 3, sent), stage, 0, 0)
    assert two.alive_at.index.tolist() == [0, 2, 3, 5]


def test_what_grows_is_never_what_was_just_pruned() -> None:
    rule, sent = FedTiny(alpha=1.0, schedule=EVERY), model_of()
    after = adjusted(rule, sent, sent, [(1, top(rule, sent, torch.ones(W)))])
    grown = after.alive & ~sent.alive
    left = sent.alive & ~after.alive
    assert int(grown.sum()) == int(left.sum()) == sum(rule.moving(sent, STAGE, 0))


def test_a_client_that_names_fewer_positions_than_due_does_no_harm() -> None:
    rule, sent = FedTiny(alpha=0.4, schedule=EVERY), model_of()
    dead = sent.alive_at.complement()
    one = Positions(LAYOUT, index=dead.index[:1])
    after = adjusted(rule, sent, sent, [(1, Chosen(one, torch.ones(1)))])
    assert int((after.alive & ~sent.alive).sum()) == 1
    assert len(after.alive_at) == len(sent.alive_at)


def test_blocks_are_adjusted_one_after_another_from_the_output_on() -> None:
    rule, model = FedTiny(alpha=0.4, schedule=EVERY, blocks=2), model_of()
    moving = [[n > 0 for n in rule.moving(model, STAGE, t)] for t in (0, 10, 20)]
    assert moving == [[False, True], [True, False], [False, True]]
    more = FedTiny(alpha=0.4, schedule=EVERY, blocks=5)
    assert [more.moving(model, STAGE, t) for t in (0, 10, 20)] == [rule.moving(model, STAGE, t) for t in (0, 10, 20)]


# ---- FedMef --------------------------------------------------------------------------------------------------------


def test_fedmef_prunes_what_was_marked_on_the_received_model_whatever_became_of_it() -> None:
    rule, sent = FedMef(alpha=0.4, schedule=EVERY), model_of()
    mean = trained(sent, 3)
    after = adjusted(rule, sent, mean, [(1, top(rule, sent, torch.ones(W)))])
    marked = smallest(sent.trainable_at, sent.trained, rule.moving(sent, STAGE, 0))
    assert Positions(LAYOUT, bits=sent.alive & ~after.alive) == marked
    assert marked != smallest(mean.trainable_at, mean.trained, rule.moving(sent, STAGE, 0))


def test_fedmef_marks_what_clients_decoded_where_a_codec_rounds() -> None:
    rule, exact = FedMef(alpha=0.4, schedule=EVERY), model_of()
    rounded = trained(exact, 5)
    cohort = Cohort(exact, torch.ones(50), 1, 1, exact, rounded)
    counts = rule.moving(exact, STAGE, 0)
    assert rule.pruned(cohort, counts) == smallest(rounded.trainable_at, rounded.trained, counts)


def marking(rule: FedMef, sent: GlobalModel, lr: float = 0.1, first_lr: float = 0.1) -> Any:
    """A turn on weights of the model, as FedMef sees it."""
    weights = [sent.weights[e.span].view(e.shape).clone().requires_grad_() for e in LAYOUT.layers]
    for w in weights:
        w.grad = torch.zeros_like(w)
    turn = SimpleNamespace(
        t=0, stage=STAGE, start=sent, weights=weights, scratch={}, lr=lr, first_lr=first_lr, steps=10, step=0, rates=[]
    )
    turn.set_lr = turn.rates.append
    rule.begin(turn)  # type: ignore[arg-type]
    return turn


def test_the_penalty_is_the_gradient_of_lambda_times_the_squared_norm_of_what_was_marked() -> None:
    rule, sent = FedMef(alpha=0.4, schedule=EVERY, lambda_=0.3), model_of()
    turn = marking(rule, sent)
    rule.shape_gradient_(turn)
    marked = smallest(sent.trainable_at, sent.trained, rule.moving(sent, STAGE, 0)).bits
    leaf = sent.weights.clone().requires_grad_()
    (0.3 * leaf[marked].norm() ** 2).backward()
    found = torch.cat([w.grad.reshape(-1) for w in turn.weights])
    assert torch.allclose(found, leaf.grad, atol=1e-6)  # type: ignore[arg-type]
    assert int((found != 0).sum()) == int(marked.sum())


def test_the_rate_is_raised_towards_the_first_by_what_is_left_to_squeeze() -> None:
    """By hand: max(lr_t, p_b (2 sigmoid(||w_low||) - 1) lr_0), p_b = (2B - 2b) / (2B - b), B = 10."""
    rule, sent = FedMef(alpha=0.4, schedule=EVERY), model_of()
    turn = marking(rule, sent, lr=0.001, first_lr=0.1)
    marked = smallest(sent.trainable_at, sent.trained, rule.moving(sent, STAGE, 0))
    norm = float(marked.gather(sent.weights).norm())
    for turn.step in (0, 5, 9):
        rule.before_step(turn)
    budget = 2 / (1 + math.exp(-norm)) - 1
    assert turn.rates == pytest.approx([budget * 0.1, budget * 0.1 * 10 / 15, budget * 0.1 * 2 / 11], rel=1e-5)
    constant = marking(rule, sent)
    rule.before_step(constant)
    assert constant.rates == []


# ---- whole runs ----------------------------------------------------------------------------------------------------


def played(experiment: Any) -> list[Any]:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        return [play_round(experiment, t) for t in range(experiment.first, experiment.rounds)]


@pytest.mark.parametrize("method", ["fedtiny", "fedmef"])
def test_masks_move_on_adjust_rounds_alone_and_keep_their_counts(
    make_experiment: Callable[..., Any], method: str
) -> None:
    experiment = make_experiment(f"method={method}", "rounds=6", "readjust.schedule.interval=2")
    W = experiment.setup.layout.maskable
    rounds = played(experiment)
    masks = [r.planned.alive_at for r in rounds]
    assert [a != b for a, b in itertools.pairwise(masks)] == [True, False, True, False, False]
    stage = rounds[0].plan.stage
    for now, after in itertools.pairwise(rounds):
        assert after.planned.alive_at.counts == stage.counts
        grown = after.planned.alive_at.without(now.planned.alive_at)
        assert bool((grown.gather(after.planned.weights) == 0).all())
    assert len(experiment.server.model.alive_at) == round(0.2 * W)


@pytest.mark.parametrize("method", ["fedtiny", "fedmef"])
def test_where_nothing_moves_it_is_a_random_mask(make_experiment: Callable[..., Any], method: str) -> None:
    off = ("readjust.alpha=0", *(("readjust.lambda_=0",) if method == "fedmef" else ()))
    moving = make_experiment(f"method={method}", "rounds=4", *off)
    still = make_experiment("method=random_mask", "rounds=4")
    played(moving), played(still)
    assert moving.server.model.same_as(still.server.model)


def test_clients_of_fedmef_without_a_penalty_are_those_of_fedtiny(make_experiment: Callable[..., Any]) -> None:
    """Constant lr, lambda = 0: what differs is what the server prunes. The first mean is the same but for that."""
    tiny = make_experiment("method=fedtiny", "rounds=2")
    mef = make_experiment("method=fedmef", "rounds=2", "readjust.lambda_=0")
    for e in (tiny, mef):
        with e.engine.open(e.setup), e.loggers as loggers:
            loggers.open(e.info, None)
            play_round(e, 0)
    one, other = tiny.server.model, mef.server.model
    both = one.alive & other.alive
    assert torch.equal(one.weights[both], other.weights[both])
    assert torch.equal(one.rest, other.rest)
    assert tiny.ledger.total["bytes_up"] == mef.ledger.total["bytes_up"]
