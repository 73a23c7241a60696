"""Choices of positions: exact counts among the candidates, ties by the stated order, uniform draws.

Two references stand beside the partial selection: an order so slow that it is obviously right, and full stable sorts
over dense masks, which chose before.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from pffdst.core.masks import Move, _greatest_of_many, draw, first, largest, largest_dead, smallest, splitmix64
from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed

LAYOUT = Layout((Entry("a", (4, 5), 0, "maskable"), Entry("b", (40,), 20, "maskable")))
W = LAYOUT.maskable
NOTHING = Positions.none(LAYOUT)
TIED = [-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.5]

Case = tuple[Tensor, Tensor, Positions, list[int]]


@st.composite
def cases(draw: st.DrawFn, values: list[float] = TIED) -> Case:
    """Scores and support with many ties (and -0), candidates, and counts that the candidates allow."""
    score = torch.tensor(draw(st.lists(st.sampled_from(values), min_size=W, max_size=W)))
    support = torch.tensor(draw(st.lists(st.integers(0, 2), min_size=W, max_size=W)), dtype=torch.float64)
    candidates = Positions(LAYOUT, bits=torch.tensor(draw(st.lists(st.booleans(), min_size=W, max_size=W))))
    counts = [draw(st.integers(0, room)) for room in candidates.counts]
    return score, support, candidates, counts


def expected(candidates: Positions, counts: list[int], order: list[tuple[float, ...]]) -> list[int]:
    """The first `counts[l]` candidates of each layer when sorted by `order`, the slow way."""
    chosen: list[int] = []
    for layer, count in zip(LAYOUT.layers, counts, strict=True):
        there = [j for j in range(layer.span.start, layer.span.stop) if j in candidates]
        chosen += sorted(sorted(there, key=lambda j: order[j])[:count])
    return chosen


@given(cases())
def test_smallest_takes_the_least_magnitudes_then_the_lower_index(case: Case) -> None:
    score, _, candidates, counts = case
    order = [(abs(float(s)), j) for j, s in enumerate(score)]
    chosen = smallest(candidates, candidates.gather(score), counts)
    assert chosen.index.tolist() == expected(candidates, counts, order)


@given(cases())
def test_largest_takes_the_greatest_magnitudes_then_the_lower_index(case: Case) -> None:
    score, _, candidates, counts = case
    order = [(-abs(float(s)), j) for j, s in enumerate(score)]
    chosen = largest(candidates, candidates.gather(score), counts)
    assert chosen.index.tolist() == expected(candidates, counts, order)


@given(cases())
def test_support_decides_among_exact_ties_alone(case: Case) -> None:
    score, support, candidates, counts = case
    order = [(-abs(float(s)), -float(n), j) for j, (s, n) in enumerate(zip(score, support, strict=True))]
    chosen = largest(candidates, candidates.gather(score), counts, candidates.gather(support))
    assert chosen.index.tolist() == expected(candidates, counts, order)


@given(cases())
def test_largest_dead_takes_the_greatest_gradients_outside_then_the_lower_index(case: Case) -> None:
    gradient, _, dead, counts = case
    order = [(-abs(float(g)), j) for j, g in enumerate(gradient)]
    before = gradient.clone()
    chosen = largest_dead(gradient, dead.complement(), counts)
    assert chosen.index.tolist() == expected(dead, counts, order)
    assert torch.equal(gradient, before), "the gradient is the caller's"


# ---- against the full sorts that chose before --------------------------------------------------------------------


def sorted_choice(candidates: Tensor, counts: list[int], magnitude: Tensor, support: Tensor, sign: int) -> Tensor:
    """Dense mask [W] of the first `counts[l]` candidates of each layer, by two full stable sorts."""
    chosen = torch.zeros_like(candidates)
    for entry, count in zip(LAYOUT.layers, counts, strict=True):
        at = candidates[entry.span].nonzero().flatten() + entry.offset
        at = at[support[at].argsort(stable=True, descending=True)]
        chosen[at[magnitude[at].argsort(stable=True, descending=sign < 0)[:count]]] = True
    return chosen


WITH_NAN = [*TIED, float("nan"), float("inf")]


@settings(max_examples=300)
@given(cases(WITH_NAN))
def test_partial_selection_chooses_what_full_stable_sorts_chose(case: Case) -> None:
    """With NaN as well, which counts as greater than any number."""
    score, support, among, counts = case
    magnitude, own, none = score.abs(), among.gather(score), torch.zeros(W)
    for found, former in (
        (smallest(among, own, counts), sorted_choice(among.bits, counts, magnitude, none, 1)),
        (largest(among, own, counts), sorted_choice(among.bits, counts, magnitude, none, -1)),
        (largest(among, own, counts, among.gather(support)), sorted_choice(among.bits, counts, magnitude, support, -1)),
        (largest_dead(score, among.complement(), counts), sorted_choice(among.bits, counts, magnitude, none, -1)),
    ):
        assert torch.equal(found.bits, former)


def drawn_among(candidates: Tensor, counts: list[int], seed: int) -> Tensor:
    """Dense mask [W] of `counts[l]` candidates of least key in each layer, by a full sort of their keys."""
    chosen = torch.zeros_like(candidates)
    for entry, count in zip(LAYOUT.layers, counts, strict=True):
        at = candidates[entry.span].nonzero().flatten() + entry.offset
        keys = splitmix64(seed, at.numpy())
        chosen[at[torch.from_numpy(np.argsort(keys, kind="stable")[:count])]] = True
    return chosen


@given(cases(), st.integers(0, 2**63 - 1))
def test_a_draw_chooses_what_a_full_sort_of_keys_chose(case: Case, seed: int) -> None:
    _, _, candidates, counts = case
    found = draw(candidates.complement(), counts, seed)
    assert torch.equal(found.bits, drawn_among(candidates.bits, counts, seed))


@settings(deadline=None)
@given(cases(), st.integers(0, 2**63 - 1), st.booleans(), st.integers(0, 2))
def test_a_move_is_what_it_was_over_dense_masks(case: Case, seed: int, afresh: bool, grow: int) -> None:
    values, _, trainable, counts = case
    free = trainable.complement()
    frozen = Positions(LAYOUT, bits=free.bits & (torch.arange(W) % 3 == 0))
    dropped = None if afresh else smallest(trainable, trainable.gather(values), counts)
    kept = torch.zeros(W, dtype=torch.bool) if dropped is None else trainable.bits & ~dropped.bits
    drawn = [grow * n // 4 for n in LAYOUT.per_layer(~(kept | frozen.bits))]
    former = kept | drawn_among(~(kept | frozen.bits), drawn, seed)

    alive = trainable.plus(frozen)
    model = GlobalModel(LAYOUT, torch.where(alive.bits, values, 0.0), alive.bits, frozen.bits)
    moved = Move(dropped, tuple(drawn), seed).on(model)
    assert torch.equal(moved.trainable, former)
    assert torch.equal(moved.frozen, frozen.bits)
    stayed = former & trainable.bits if dropped is None else former & kept
    assert torch.equal(moved.weights, torch.where(stayed | frozen.bits, model.weights, 0.0))


# ---- few of very many --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 50, 700, 20_000, 59_999, 60_000])
@pytest.mark.parametrize("distinct", [1, 2, 40, 5000, 10**9])
def test_a_sample_only_tells_where_to_look(count: int, distinct: int) -> None:
    """Few distinct values: the sampled edge is a tie of thousands, also across the sample's own places."""
    rng = np.random.default_rng(distinct + count)
    key = rng.integers(0, distinct, 60_000).astype(np.float32)
    key[rng.random(60_000) < 0.3] = -1.0
    found = _greatest_of_many(key, count)
    assert found.tolist() == sorted(np.argsort(-key, kind="stable")[:count].tolist())


@pytest.mark.parametrize("place", ["in the sample", "beside it"])
def test_a_sample_that_misleads_is_not_believed(place: str) -> None:
    """All that is great lies where the sample looks, or nowhere there."""
    key = np.zeros(64_000, np.float32)
    key[(0 if place == "in the sample" else 1) :: 64] = np.arange(1000, dtype=np.float32) + 1
    for count in (1, 10, 900, 1100):
        assert _greatest_of_many(key, count).tolist() == sorted(np.argsort(-key, kind="stable")[:count].tolist())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_growth_in_a_large_layer_is_that_of_a_full_sort(share: float) -> None:
    """200,000 weights with thousands of tied gradients, NaN among them."""
    layout = Layout((Entry("a", (100, 1), 0, "maskable"), Entry("b", (400, 500), 100, "maskable")))
    generator = torch.Generator().manual_seed(3)
    gradient = torch.randn(layout.maskable, generator=generator).mul(20).round()
    gradient[torch.rand(layout.maskable, generator=generator) < 1e-4] = float("nan")
    alive = torch.rand(layout.maskable, generator=generator) < share
    counts = [n // 3 for n in layout.per_layer(~alive)]
    found = largest_dead(gradient, Positions(layout, bits=alive), counts)
    chosen = []
    for entry, count in zip(layout.layers, counts, strict=True):
        at = (~alive[entry.span]).nonzero().flatten() + entry.offset
        chosen += sorted(at[gradient.abs()[at].argsort(stable=True, descending=True)[:count]].tolist())
    assert found.index.tolist() == chosen


def test_nan_comes_last_in_one_layer() -> None:
    key = np.array([2.0, np.nan, np.inf, 1.0, np.nan])
    assert [first(key, n).tolist() for n in range(6)] == [[], [3], [0, 3], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


# ---- draws -------------------------------------------------------------------------------------------------------


@given(cases(), st.integers(0, 99))
def test_random_positions_are_exact_counts_of_candidates(case: Case, seed: int) -> None:
    _, _, candidates, counts = case
    taken = candidates.complement()
    chosen = draw(taken, counts, derive_seed(seed, "grow"))
    assert list(chosen.counts) == counts
    assert not bool(chosen.inside(taken).any())
    assert chosen == draw(taken, counts, derive_seed(seed, "grow"))


def inclusion_p_value(hits: Tensor, draws: int, count: int) -> float:
    """Chi-square test that each of n candidates is among `count` drawn without replacement equally often."""
    n = hits.numel()
    share = count / n
    statistic = ((hits - draws * share) ** 2).sum() / (draws * share * (1 - share)) * (n - 1) / n
    return float(chi2.sf(float(statistic), n - 1))


@pytest.mark.parametrize("count", [1, 5, 23])
def test_every_candidate_is_drawn_equally_often(count: int) -> None:
    candidates = torch.zeros(W, dtype=torch.bool)
    candidates[torch.arange(20, 60)[torch.arange(40) % 8 < 5]] = True  # 25 of layer b
    taken, hits = Positions(LAYOUT, bits=~candidates), torch.zeros(W, dtype=torch.float64)
    for t in range(2000):
        hits += draw(taken, [0, count], derive_seed(0, "grow", t)).bits
    assert float(hits[~candidates].sum()) == 0
    assert 1e-3 < inclusion_p_value(hits[candidates], 2000, count) < 1 - 1e-3


def test_neighbouring_candidates_are_drawn_together_as_often_as_distant_ones() -> None:
    taken = Positions(LAYOUT, bits=torch.arange(W) < 20)
    pairs = torch.zeros(40, 40, dtype=torch.float64)
    for t in range(3000):
        drawn = draw(taken, [0, 8], derive_seed(1, "grow", t)).bits[20:].double()
        pairs += torch.outer(drawn, drawn)
    together = 3000 * (8 * 7) / (40 * 39)
    near, far = pairs.diagonal(1).mean(), pairs.diagonal(20).mean()
    assert abs(float(near) - together) < 5 * (together / 39) ** 0.5
    assert abs(float(far) - together) < 5 * (together / 20) ** 0.5


# ---- what is refused ---------------------------------------------------------------------------------------------

TWO_OF_B = Positions(LAYOUT, bits=torch.arange(W) < 22)
CHOICES = {
    "smallest": lambda counts: smallest(TWO_OF_B, torch.zeros(22), counts),
    "largest": lambda counts: largest(TWO_OF_B, torch.zeros(22), counts),
    "largest_dead": lambda counts: largest_dead(torch.zeros(W), TWO_OF_B.complement(), counts),
    "draw": lambda counts: draw(TWO_OF_B.complement(), counts, 0),
}


@pytest.mark.parametrize("choose", CHOICES)
def test_too_few_candidates_are_an_error_that_names_the_layer(choose: str) -> None:
    with pytest.raises(ValueError, match="at least 3 candidates in layer b, but got 2"):
        CHOICES[choose]([0, 3])


@pytest.mark.parametrize("choose", CHOICES)
@pytest.mark.parametrize("wrong", [[1], [1, 1, 1]])
def test_there_is_one_count_per_layer(choose: str, wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="zip"):
        CHOICES[choose](wrong)
