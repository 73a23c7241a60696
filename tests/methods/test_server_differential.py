"""SMR: when it moves weights, how many, which, and that the stage ends at its density."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.masks import Move, draw
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.methods.allocation import Erk
from pffdst.methods.freeze.none import NoFreezing
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.readjust.server_differential import ServerDifferential
from pffdst.methods.schedule import Every

LAYOUT = Layout(
    (Entry("a", (10, 6), 0, "maskable"), Entry("b", (4, 10), 60, "maskable"), Entry("c", (4,), 100, "parameter"))
)
W, SIZES = 100, (60, 40)
NOTHING = torch.zeros(W, dtype=torch.bool)


def smr(interval: int = 10, ratio: float = 0.5, until: float = 0.25) -> ServerDifferential:
    return ServerDifferential(ratio, Every(interval, first=0, until=until))


def begun(rule: ServerDifferential, stage: Stage, frozen: Tensor = NOTHING, seed: int = 0) -> GlobalModel:
    """A model as the stage begins with it: frozen weights, and the start's trainable ones, of random values."""
    values = torch.randn(LAYOUT.total, generator=generator_for(seed, "values"))
    dense = GlobalModel(LAYOUT, values, ~NOTHING, NOTHING)
    taken = Positions(LAYOUT, bits=frozen)
    counts = rule.start_counts(dense.with_masks(frozen, frozen), stage)
    return dense.moved(taken.plus(draw(taken, counts, derive_seed(seed, "start")))).freezing(taken)


def trained(model: GlobalModel, t: int) -> GlobalModel:
    """The model after a round: other trainable values, none of them 0."""
    new = torch.rand(LAYOUT.total, generator=generator_for(t, "train")) + 0.1
    at = torch.cat([model.trainable, torch.ones(LAYOUT.total - W, dtype=torch.bool)])
    return model.with_values(torch.where(at, new, model.values))


def server_moved(rule: ServerDifferential, model: GlobalModel, stage: Stage, t: int, seed: int) -> GlobalModel:
    """The model after the server's move, if it has one."""
    move = rule.before_round(model, stage, t, seed)
    assert move is None or isinstance(move, Move), "a model would cost a whole mask"
    return model if move is None else move.on(model)


def moves(
    rule: ServerDifferential, stage: Stage, frozen: Tensor = NOTHING, seed: int = 0
) -> Iterator[tuple[int, GlobalModel, GlobalModel]]:
    """Round, model before and model after the server's move, over a whole stage."""
    model = begun(rule, stage, frozen, seed)
    yield stage.start, model, model
    for t in range(stage.start + 1, stage.stop):
        before = trained(model, t)
        model = server_moved(rule, before, stage, t, derive_seed(seed, "grow", t))
        yield t, before, model


def frozen_mask(share: float) -> Tensor:
    return torch.rand(W, generator=generator_for(9, "frozen")) < share


# ---- when -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.integers(0, 50), st.integers(1, 20))
def test_rounds_of_readjustment_are_multiples_strictly_inside_the_first_quarter(
    length: int, start: int, interval: int
) -> None:
    """The stage's first round has a mask of its own: nobody asks what moves in it."""
    rule, stage = smr(interval), Stage(0, start, start + length, (30, 20))
    rounds = [t for t in range(start + 1, start + length) if rule.schedule.due(stage, t)]
    assert rounds == [
        t for t in range(start, start + length) if (t - start) % interval == 0 and 0 < 4 * (t - start) < length
    ]
    assert rule.exploration_end(stage) == start + math.ceil(length / 4)
    assert all(t < rule.exploration_end(stage) for t in rounds)


@pytest.mark.parametrize("until", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("length", [2, 3, 12, 40])
@pytest.mark.parametrize("start", [0, 7])
def test_a_stage_ends_at_its_density_however_long_it_explores(until: float, length: int, start: int) -> None:
    """Its last round trains with the pruned mask at the latest."""
    stage = Stage(0, start, start + length, (30, 20))
    for rule in (smr(2, until=until), ServerDifferential(0.5, Every(1, rounds=round(until * 50)))):
        *_, (t, _, model) = moves(rule, stage)
        assert t == stage.stop - 1
        assert model.trainable_at.counts == stage.counts
        assert rule.exploration_end(stage) == min(rule.schedule.fixed_from(stage), stage.stop - 1)


CASES = [
    (40, 5, [5, 10]),
    (41, 5, [5, 10, 11]),
    (42, 10, [10, 11]),
    (100, 10, [10, 20, 25]),
    (20, 10, [5]),
    (2, 10, [1]),
]


@pytest.mark.parametrize(("length", "interval", "rounds"), CASES)
@pytest.mark.parametrize("start", [0, 7])
def test_the_mask_moves_on_these_rounds_and_no_other(length: int, interval: int, rounds: list[int], start: int) -> None:
    rule, stage = smr(interval), Stage(0, start, start + length, (30, 20))
    moved = [t - start for t, before, after in moves(rule, stage) if not torch.equal(before.alive, after.alive)]
    assert moved == rounds


# ---- how many ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(2, 30),
    interval=st.integers(1, 8),
    ratio=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]),
    share=st.sampled_from([0.0, 0.2, 0.4]),
    data=st.data(),
)
def test_counts_are_exact_in_every_round(
    length: int, interval: int, ratio: float, share: float, data: st.DataObject
) -> None:
    rule, frozen = smr(interval, ratio), frozen_mask(share)
    room = LAYOUT.per_layer(~frozen)
    counts = tuple(data.draw(st.integers(0, r)) for r in room)
    stage = Stage(0, 3, 3 + length, counts)
    n = [max(0, min(round(ratio * k), r - k, k - 1)) for k, r in zip(counts, room, strict=True)]
    for t, before, after in moves(rule, stage, frozen):
        still_exploring = t < stage.start + math.ceil(length / 4)
        wanted = [k + more if still_exploring else k for k, more in zip(counts, n, strict=True)]
        assert LAYOUT.per_layer(after.trainable) == wanted
        assert torch.equal(after.frozen, frozen)
        assert torch.equal(after.weights[frozen], before.weights[frozen])
        assert bool((after.weights[~after.alive] == 0).all())


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.99])
@pytest.mark.parametrize("stage", [0, 1])
def test_half_of_a_stages_density_is_a_quarter_of_the_final_one(sparsity: float, stage: int) -> None:
    layout = Layout((Entry("a", (400, 100), 0, "maskable"), Entry("b", (100, 100), 40_000, "maskable")))
    counts = Erk().counts(layout, 1 - sparsity)
    stages = TwoStage().stages(80, counts)
    frozen = Positions.none(layout)
    if stage == 1:
        frozen = draw(frozen, stages[0].counts, derive_seed(0, "start"))
    model = GlobalModel(layout, torch.zeros(layout.total), frozen.bits, frozen.bits)
    f = sum(ServerDifferential().differential(model, stages[stage])) / layout.maskable
    assert f == pytest.approx((1 - sparsity) / 4, abs=4 / layout.maskable)


def test_without_freezing_half_of_the_density_is_differential() -> None:
    stage = NoFreezing().stages(80, (30, 20))[0]
    model = GlobalModel(LAYOUT, torch.zeros(LAYOUT.total), NOTHING, NOTHING)
    assert ServerDifferential(ratio=0.5).differential(model, stage) == (15, 10)
    assert ServerDifferential(ratio=0.5).start_counts(model, stage) == (45, 30)


@pytest.mark.parametrize(
    ("counts", "n", "why"),
    [((60, 20), (0, 10), "no room"), ((55, 20), (5, 10), "room for 5"), ((1, 0), (0, 0), "one weight stays")],
)
def test_what_moves_is_capped(counts: tuple[int, ...], n: tuple[int, ...], why: str) -> None:
    model = GlobalModel(LAYOUT, torch.zeros(LAYOUT.total), NOTHING, NOTHING)
    assert ServerDifferential(ratio=0.5).differential(model, Stage(0, 0, 8, counts)) == n, why


def test_frozen_weights_are_no_room() -> None:
    frozen = torch.arange(W) < 25
    model = GlobalModel(LAYOUT, torch.zeros(LAYOUT.total), frozen, frozen)
    assert ServerDifferential(ratio=0.5).differential(model, Stage(1, 0, 8, (30, 20))) == (5, 10)
    assert ServerDifferential(ratio=1.0).differential(model, Stage(1, 0, 8, (8, 2))) == (7, 1)


# ---- which ------------------------------------------------------------------------------------------------------

STAGE = Stage(0, 0, 80, (16, 12))


def test_the_smallest_trainable_weights_are_pruned_and_others_keep_their_values() -> None:
    rule = smr(10)
    before = trained(begun(rule, STAGE, frozen_mask(0.2)), 1)
    after = server_moved(rule, before, STAGE, 10, derive_seed(0, "grow", 10))
    for layer, n in zip(LAYOUT.layers, rule.differential(before, STAGE), strict=True):
        there = before.trainable[layer.span].nonzero().flatten() + layer.offset
        by_size = there[before.weights[there].abs().argsort()]
        assert bool((after.weights[by_size[:n]] == 0).all())
        assert torch.equal(after.weights[by_size[n:]], before.weights[by_size[n:]])


def test_what_grows_is_zero_and_was_dead_or_just_pruned() -> None:
    rule = smr(10)
    before = trained(begun(rule, STAGE, frozen_mask(0.2)), 1)
    after = server_moved(rule, before, STAGE, 10, derive_seed(0, "grow", 10))
    grown = after.alive & ~before.alive
    assert int(grown.sum()) > 0
    assert bool((after.weights[grown] == 0).all())
    regrown = after.alive & before.alive & (after.weights == 0)
    assert int(grown.sum() + regrown.sum()) == sum(rule.differential(before, STAGE))


def test_the_final_prune_grows_nothing() -> None:
    rule = smr(10)
    before = trained(begun(rule, STAGE), 1)
    after = server_moved(rule, before, STAGE, 20, derive_seed(0, "grow", 20))
    assert not bool((after.alive & ~before.alive).any())
    assert LAYOUT.per_layer(after.alive) == list(STAGE.counts)


def test_growth_is_uniform_over_the_dead_and_the_just_pruned() -> None:
    rule = smr(10)
    before = trained(begun(rule, STAGE, frozen_mask(0.2)), 1)
    hits, draws = torch.zeros(W, dtype=torch.float64), 3000
    for seed in range(draws):
        after = server_moved(rule, before, STAGE, 10, derive_seed(seed, "grow", 10))
        hits += (after.alive & (after.weights == 0)).double()
    for layer, n in zip(LAYOUT.layers, rule.differential(before, STAGE), strict=True):
        there = before.trainable[layer.span].nonzero().flatten() + layer.offset
        pruned = there[before.weights[there].abs().argsort()[:n]]
        candidates = torch.cat([(~before.alive[layer.span]).nonzero().flatten() + layer.offset, pruned])
        m, share = candidates.numel(), n / candidates.numel()
        at = hits[candidates]
        statistic = float(((at - draws * share) ** 2).sum() / (draws * share * (1 - share)) * (m - 1) / m)
        assert float(hits[layer.span].sum()) == draws * n == float(at.sum())
        assert 1e-3 < chi2.sf(statistic, m - 1) < 1 - 1e-3


def test_the_same_draw_gives_the_same_mask_and_leaves_the_model_alone() -> None:
    rule = smr(10)
    before = trained(begun(rule, STAGE), 1)
    kept = before.values.clone(), before.alive.clone()
    one, two = (server_moved(rule, before, STAGE, 10, derive_seed(3, "grow", 10)) for _ in range(2))
    assert torch.equal(one.alive, two.alive)
    assert torch.equal(before.values, kept[0])
    assert torch.equal(before.alive, kept[1])


# ---- what is refused --------------------------------------------------------------------------------------------


def test_a_stage_without_a_round_for_the_final_prune_is_refused() -> None:
    assert ServerDifferential().problems(Facts(stage_lengths=(2, 2))) == []
    refused = ServerDifferential().problems(Facts(stage_lengths=(1, 2)))[0]
    assert "the stages have 1, 2: raise rounds to at least 4" in refused
    assert "raise rounds to at least 5" in ServerDifferential().problems(Facts(stage_lengths=(1, 3)))[0]


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_ratio_out_of_range_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=f"readjust.ratio.*{value}"):
        ServerDifferential(ratio=value)


@given(st.lists(st.integers(2, 120), min_size=1, max_size=2), st.integers(1, 20))
def test_a_stage_in_which_nothing_is_readjusted_is_remarked_upon(lengths: list[int], interval: int) -> None:
    rule = smr(interval)
    stages = [Stage(0, 0, length, (30, 20)) for length in lengths]
    still = [s for s in stages if not any(rule.schedule.due(s, t) for t in range(1, s.length))]
    remarks = rule.remarks(lengths)
    assert bool(remarks) == bool(still)
    assert all("readjust.schedule.interval" in line for line in remarks)
    assert not still or f"a stage of {min(s.length for s in still)} rounds" in remarks[0]
