"""Choices of positions: exact counts among the candidates, ties by the stated order, uniform draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from pffdst.core.masks import keep_largest, largest, random_positions, smallest
from pffdst.core.model import Entry, Layout
from pffdst.core.seeding import derive_seed

LAYOUT = Layout((Entry("a", (4, 5), 0, "maskable"), Entry("b", (40,), 20, "maskable")))
W = LAYOUT.maskable


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Scores and support with many ties (and -0), candidates, and counts that the candidates allow."""
    score = torch.tensor(
        draw(st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.5]), min_size=W, max_size=W))
    )
    support = torch.tensor(draw(st.lists(st.integers(0, 2), min_size=W, max_size=W)), dtype=torch.float64)
    candidates = torch.tensor(draw(st.lists(st.booleans(), min_size=W, max_size=W)))
    counts = [draw(st.integers(0, room)) for room in LAYOUT.per_layer(candidates)]
    return score, support, candidates, counts


def expected(candidates: Tensor, counts: list[int], order: list[tuple[float, ...]]) -> set[int]:
    """The first `counts[l]` candidates of each layer when sorted by `order`, the slow way."""
    chosen: set[int] = set()
    for layer, count in zip(LAYOUT.layers, counts, strict=True):
        there = [j for j in range(layer.span.start, layer.span.stop) if candidates[j]]
        chosen |= set(sorted(there, key=lambda j: order[j])[:count])
    return chosen


def positions(mask: Tensor) -> set[int]:
    assert mask.dtype == torch.bool
    assert mask.shape == (W,)
    return set(mask.nonzero().flatten().tolist())


@given(cases())
def test_smallest_takes_the_least_magnitudes_then_the_lower_index(
    case: tuple[Tensor, Tensor, Tensor, list[int]],
) -> None:
    score, _, candidates, counts = case
    order = [(abs(float(s)), j) for j, s in enumerate(score)]
    assert positions(smallest(LAYOUT, score, candidates, counts)) == expected(candidates, counts, order)


@given(cases())
def test_largest_takes_the_greatest_magnitudes_then_the_lower_index(
    case: tuple[Tensor, Tensor, Tensor, list[int]],
) -> None:
    score, _, candidates, counts = case
    order = [(-abs(float(s)), j) for j, s in enumerate(score)]
    assert positions(largest(LAYOUT, score, candidates, counts)) == expected(candidates, counts, order)


@given(cases())
def test_support_decides_among_exact_ties_alone(case: tuple[Tensor, Tensor, Tensor, list[int]]) -> None:
    score, support, candidates, counts = case
    order = [(-abs(float(s)), -float(n), j) for j, (s, n) in enumerate(zip(score, support, strict=True))]
    chosen = keep_largest(LAYOUT, score, support, candidates, counts)
    assert positions(chosen) == expected(candidates, counts, order)


@given(cases(), st.integers(0, 99))
def test_random_positions_are_exact_counts_of_candidates(
    case: tuple[Tensor, Tensor, Tensor, list[int]], seed: int
) -> None:
    _, _, candidates, counts = case
    chosen = random_positions(LAYOUT, candidates, counts, derive_seed(seed, "grow"))
    assert LAYOUT.per_layer(chosen) == counts
    assert not bool((chosen & ~candidates).any())
    assert torch.equal(chosen, random_positions(LAYOUT, candidates, counts, derive_seed(seed, "grow")))


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
    hits = torch.zeros(W, dtype=torch.float64)
    for t in range(2000):
        hits += random_positions(LAYOUT, candidates, [0, count], derive_seed(0, "grow", t))
    assert float(hits[~candidates].sum()) == 0
    assert 1e-3 < inclusion_p_value(hits[candidates], 2000, count) < 1 - 1e-3


def test_neighbouring_candidates_are_drawn_together_as_often_as_distant_ones() -> None:
    candidates = torch.arange(W) >= 20
    pairs = torch.zeros(40, 40, dtype=torch.float64)
    for t in range(3000):
        drawn = random_positions(LAYOUT, candidates, [0, 8], derive_seed(1, "grow", t))[20:].double()
        pairs += torch.outer(drawn, drawn)
    together = 3000 * (8 * 7) / (40 * 39)
    near, far = pairs.diagonal(1).mean(), pairs.diagonal(20).mean()
    assert abs(float(near) - together) < 5 * (together / 39) ** 0.5
    assert abs(float(far) - together) < 5 * (together / 20) ** 0.5


@pytest.mark.parametrize("choose", [smallest, largest])
def test_too_few_candidates_are_an_error_that_names_the_layer(choose: object) -> None:
    candidates = torch.arange(W) < 22
    with pytest.raises(ValueError, match="at least 3 candidates in layer b, but got 2"):
        choose(LAYOUT, torch.zeros(W), candidates, [0, 3])  # type: ignore[operator]


@pytest.mark.parametrize("wrong", [[1], [1, 1, 1]])
def test_there_is_one_count_per_layer(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="zip"):
        smallest(LAYOUT, torch.zeros(W), torch.ones(W, dtype=torch.bool), wrong)
