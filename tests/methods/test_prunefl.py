"""PruneFL: who stays by magnitude, who joins by squared gradients, and how many there are in the end."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.seeding import generator_for
from pffdst.methods.readjust.prunefl import PruneFl
from pffdst.methods.rule import Answer, Cohort
from pffdst.methods.schedule import Every
from pffdst.run import play_round

LAYOUT = Layout(
    (Entry("a", (4, 5), 0, "maskable"), Entry("b", (3, 4), 20, "maskable"), Entry("c", (2,), 32, "parameter"))
)
W = LAYOUT.maskable
STAGE = Stage(0, 0, 100, (8, 5))
NOW = Every(interval=1, first=0, until=1.0)


def model_of(seed: int = 0, alive: float = 0.4) -> GlobalModel:
    generator = generator_for(seed, "model")
    m = torch.rand(W, generator=generator) < alive
    values = torch.randn(LAYOUT.total, generator=generator)
    return GlobalModel(LAYOUT, values, torch.ones_like(m), torch.zeros_like(m)).with_masks(m)


def after(rule: PruneFl, model: GlobalModel, squares: Tensor, rest: float = 0.0, t: int = 0) -> GlobalModel:
    rule.observe(0, model, 7, {"squares": squares, "rest_squares": torch.tensor([rest])}, STAGE, t)
    cohort = Cohort(model, torch.ones(len(model.alive_at)), 7, 1, model)
    return rule.after_round(cohort, STAGE, t, 0)


def the_slow_way(rule: PruneFl, model: GlobalModel, squares: Tensor, rest: float) -> set[int]:
    """The algorithm as it is written: one weight after another."""
    stay = set()
    for layer in LAYOUT.layers:
        own = [j for j in range(layer.span.start, layer.span.stop) if model.alive[j]]
        k = len(own) - round(rule.decrement * len(own))
        stay |= set(sorted(own, key=lambda j: -abs(float(model.weights[j])))[:k])
    value, inside = squares.double().tolist(), set(stay)
    total, time = rest + sum(value[j] for j in stay), rule.fixed_time * W + len(stay)
    for j in sorted((j for j in range(W) if j not in stay), key=lambda j: (-value[j], j)):
        if len(inside) >= int(rule.max_density * W) or value[j] <= total / time:
            break
        inside.add(j)
        total, time = total + value[j], time + 1
    return inside


def test_the_largest_density_is_the_number_as_written() -> None:
    """In floating point 0.29 of 100 is a little less than 29."""
    layout = Layout((Entry("a", (10, 10), 0, "maskable"),))
    model = GlobalModel(layout, torch.ones(100), torch.arange(100) < 20, torch.zeros(100, dtype=torch.bool))
    rule = PruneFl(schedule=NOW, decrement=0.0, max_density=0.29)
    assert len(after(rule, model, torch.ones(100)).alive_at) == 29


@settings(deadline=None)
@given(
    seed=st.integers(0, 500),
    fixed=st.sampled_from([0.01, 0.3, 0.7, 3.0]),
    dec=st.sampled_from([0.0, 0.3, 1.0]),
    most=st.sampled_from([0.5, 0.8, 1.0]),
)
def test_it_is_the_algorithm_one_weight_after_another(seed: int, fixed: float, dec: float, most: float) -> None:
    rule = PruneFl(schedule=NOW, fixed_time=fixed, decrement=dec, max_density=most)
    model, squares = model_of(seed), torch.rand(W, generator=generator_for(seed, "g")) ** 4
    moved = after(rule, model, squares, rest=0.05)
    assert set(moved.alive_at.index.tolist()) == the_slow_way(rule, model, squares, 0.05)
    kept = moved.alive & model.alive
    assert torch.equal(moved.weights[kept], model.weights[kept])
    assert bool((moved.weights[moved.alive & ~model.alive] == 0).all())


def test_by_hand() -> None:
    """W = 4, c = .5 W = 2. Alive 0 and 1 stay (dec = 0); sum g^2 = 1 + 1 + 2 of the rest = 4, time 2 + 2 = 4.

    Position 3: 5 > 4 / 4, joins: sum 9, time 5. Position 2: 1.5 < 9 / 5, stays out. With 8 in the rest the first bar is
    10 / 4: 3 joins, 2 does not; with 30 nobody does.
    """
    layout = Layout((Entry("a", (2, 2), 0, "maskable"),))
    alive = torch.tensor([True, True, False, False])
    model = GlobalModel(layout, torch.tensor([1.0, -2.0, 0.0, 0.0]), alive, ~torch.ones_like(alive))
    squares, stage = torch.tensor([1.0, 1.0, 1.5, 5.0]), Stage(0, 0, 100, (2,))
    for rest, expected in ((2.0, [0, 1, 3]), (8.0, [0, 1, 3]), (30.0, [0, 1])):
        rule = PruneFl(schedule=NOW, fixed_time=0.5, decrement=0.0)
        rule.observe(0, model, 3, {"squares": squares, "rest_squares": torch.tensor([rest])}, stage, 0)
        moved = rule.after_round(Cohort(model, torch.ones(2), 3, 1, model), stage, 0, 0)
        assert moved.alive_at.index.tolist() == expected, rest


def test_what_may_leave_halves_every_so_many_rounds() -> None:
    """Of 10 trainable weights round(.4 k) need not stay at first: 4; 2 after `halved_in` rounds, 1 after twice that."""
    layout = Layout((Entry("a", (4, 4), 0, "maskable"),))
    alive = torch.arange(16) < 10
    model = GlobalModel(layout, torch.arange(16.0) * alive, alive, ~torch.ones_like(alive))
    rule = PruneFl(decrement=0.4, halved_in=1000)
    assert [rule.staying(model, t).index.tolist() for t in (0, 1000, 2000)] == [
        [4, 5, 6, 7, 8, 9],
        [2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
    ]


def test_a_larger_fixed_time_never_gives_a_smaller_model() -> None:
    model, squares = model_of(), torch.rand(W, generator=generator_for(1, "g")) ** 4
    sizes = [len(after(PruneFl(schedule=NOW, fixed_time=c), model, squares).alive_at) for c in (0.01, 0.1, 0.7, 5.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_exact_swaps_the_smallest_for_the_largest_mean_squares() -> None:
    rule, model = PruneFl(exact=True, alpha=0.4, schedule=NOW), model_of()
    squares = torch.rand(W, generator=generator_for(2, "g"))
    moved = after(rule, model, squares)
    assert moved.alive_at.counts == model.alive_at.counts
    for layer, k in zip(LAYOUT.layers, model.alive_at.counts, strict=True):
        here, n = range(layer.span.start, layer.span.stop), round(0.4 * k)
        old = sorted((j for j in here if model.alive[j]), key=lambda j: abs(float(model.weights[j])))
        dead = sorted((j for j in here if not model.alive[j]), key=lambda j: -float(squares[j]))
        assert {j for j in here if moved.alive[j]} == set(old[n:]) | set(dead[:n])


# ---- the client ----------------------------------------------------------------------------------------------------


def turn_of(model: GlobalModel, t: int, memory: dict[str, Tensor], seed: int) -> Any:
    """Three steps whose gradients are random; what a rule sees of them."""
    draw = generator_for(seed, "turn")
    weights = [torch.zeros(e.shape) for e in LAYOUT.layers]
    bias = torch.zeros(2)
    turn = SimpleNamespace(
        t=t, stage=STAGE, weights=weights, parameters=[*weights, bias], scratch={}, memory=memory, steps=3, start=model
    )
    return turn, [[torch.randn(p.shape, generator=draw) for p in turn.parameters] for _ in range(3)]


def measured(rule: PruneFl, turn: Any, steps: list[list[Tensor]]) -> dict[str, Tensor]:
    rule.begin(turn)
    for gradients in steps:
        for parameter, g in zip(turn.parameters, gradients, strict=True):
            parameter.grad = g
        rule.after_backward(turn)
    return rule.measure(turn)


def test_the_mean_over_steps_of_every_weights_square_and_of_all_others_together() -> None:
    rule, model = PruneFl(schedule=NOW), model_of()
    turn, steps = turn_of(model, 0, {}, 1)
    signals = rule.answer(Answer(model), measured(rule, turn, steps), STAGE, 0).signals
    expected = sum(torch.cat([g.reshape(-1) for g in s[:2]]) ** 2 for s in steps) / 3
    assert torch.allclose(signals["squares"], expected)
    assert float(signals["rest_squares"]) == pytest.approx(sum(float((s[2] ** 2).sum()) for s in steps) / 3)
    assert signals["rest_squares"].shape == (1,)


def test_accumulated_sums_wait_at_the_client_until_they_are_asked_for() -> None:
    rule, model = PruneFl(schedule=Every(interval=10, first=10, until=1.0), accumulate=True), model_of()
    turn, early = turn_of(model, 3, {}, 1)
    answer = rule.answer(Answer(model), measured(rule, turn, early), STAGE, 3)
    assert answer.signals == {}
    others = {"scaffold.own": torch.ones(3)}
    assert measured(rule, turn_of(model, 3, others, 1)[0], early).keys() == {"squares", "rest", "steps"}
    turn, late = turn_of(model, 10, {**answer.memory, **others}, 2)
    asked = rule.answer(Answer(model), measured(rule, turn, late), STAGE, 10)
    expected = sum(torch.cat([g.reshape(-1) for g in s[:2]]) ** 2 for s in (*early, *late)) / 6
    assert torch.allclose(asked.signals["squares"], expected)
    assert asked.memory == {}  # and begin anew
    plain = PruneFl(schedule=rule.schedule)
    turn, steps = turn_of(model, 3, {}, 1)
    assert measured(plain, turn, steps) == {}


# ---- whole runs ----------------------------------------------------------------------------------------------------


def played(experiment: Any) -> list[Any]:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        return [play_round(experiment, t) for t in range(experiment.first, experiment.rounds)]


RUN = ("rounds=4", "readjust.schedule.interval=2", "readjust.schedule.first=1")


def test_squares_of_all_weights_are_sent_and_computed_when_they_are_due(make_experiment: Callable[..., Any]) -> None:
    experiment = make_experiment("method=prunefl", *RUN)
    bills = []
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(4):
            done = play_round(experiment, t)
            bills.append((dict(experiment.ledger.round), len(done.planned.alive_at)))
    maskable = experiment.setup.layout.maskable
    signals = [bill.get("up/signals", 0) for bill, _ in bills]
    assert signals[0] == signals[2] == 0
    assert 0.5 * 4 * maskable * 3 < signals[1] < 4 * maskable * 3  # three clients; what never fires is 0, and is packed
    assert signals[3] > 0
    # same cohort size, but the gradients of all weights: the weight part is that of a dense model
    assert bills[1][0]["flops_weight_gradient"] > 3 * bills[0][0]["flops_weight_gradient"]


def test_clipping_hides_nothing_from_the_squares(make_experiment: Callable[..., Any]) -> None:
    """Clipping masks gradients first; what is measured is the loss's gradient before it."""
    experiment = make_experiment("method=prunefl", "clip_norm=0.001", "rounds=2", "readjust.schedule.first=0")
    rule, seen = experiment.setup.method.readjust, []
    real = rule.after_round

    def watch(cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        seen.append((rule._squares.clone(), cohort.mean.alive_at))
        return real(cohort, stage, t, seed)

    rule.after_round = watch  # type: ignore[method-assign]
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        play_round(experiment, 0)
    squares, alive = seen[0]
    dead = alive.complement()
    assert float(dead.gather(squares).mean()) > 0.1 * float(alive.gather(squares).mean()) > 0


@pytest.mark.parametrize(
    "options", [("readjust.exact=true", "readjust.alpha=0"), ("readjust.decrement=0", "readjust.max_density=0.2")]
)
def test_where_nothing_may_move_it_is_a_random_mask(
    make_experiment: Callable[..., Any], options: tuple[str, str]
) -> None:
    moving = make_experiment("method=prunefl", *RUN, *options)
    still = make_experiment("method=random_mask", "rounds=4")
    played(moving), played(still)
    assert moving.server.model.same_as(still.server.model)


def test_two_stages_need_a_density_that_stays() -> None:
    assert PruneFl().problems(Facts(stage_lengths=(10,))) == []
    assert PruneFl(exact=True).problems(Facts(stage_lengths=(5, 5))) == []
    assert "readjust.exact=true" in PruneFl().problems(Facts(stage_lengths=(5, 5)))[0]
    assert "sparsity is where it starts" in PruneFl().remarks([10])[0]


@pytest.mark.parametrize(
    ("key", "value"), [("decrement", 1.2), ("fixed_time", 0.0), ("max_density", -0.1), ("alpha", 2)]
)
def test_what_cannot_be_is_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"readjust\.{key}"):
        PruneFl(**{key: value})  # type: ignore[arg-type]
