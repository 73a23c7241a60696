"""The trimmed mean and the median, over who holds a weight: a few clients of any values do not move them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pffdst.core.model import Buffer, GlobalModel, Layout
from pffdst.core.state import BufferMean
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.rule import Absent, Cohort
from pffdst.methods.trimmed_mean import TrimmedMean, cut, trimmed
from pffdst.wire.uplink import Report, Upload

MakeModel = Callable[..., GlobalModel]


def upload_of(model: GlobalModel, client: int, samples: int = 10) -> Upload:
    report = Report(samples, 0.0, 0.0)
    return Upload(client, report, model.trainable_at, model.trained, model.values[32:39], model.values[39:])


def cohort_of(rule: Any, server: GlobalModel, clients: Sequence[GlobalModel], absent: Absent = "left_out") -> Cohort:
    running = rule.begin(server, absent)
    for k, client in enumerate(clients):
        running.add(upload_of(client, k, 10 + 100 * k))
    found = running.result()
    assert found is not None
    return found  # type: ignore[no-any-return]


def with_mask(server: GlobalModel, other: GlobalModel) -> GlobalModel:
    """A client with a mask and values of its own; frozen weights are the server's."""
    moved = server.moved(server.frozen_at.plus(other.alive_at))
    return moved.with_trained(other.held[~other.alive_at.inside(server.frozen_at)], other.rest)


# ---- the formula ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trim", "count", "left"),
    [(0.0, 7, 7), (0.1, 10, 8), (0.1, 11, 7), (0.1, 3, 1), (0.1, 2, 2), (0.1, 1, 1), (0.5, 1, 1), (0.5, 2, 2),
     (0.5, 5, 1), (0.5, 6, 2), (0.3, 10, 4), (0.25, 4, 2), (0.07, 100, 86), (0.14, 50, 36)],
)  # fmt: skip
def test_as_many_are_left_as_there_should_be(trim: float, count: int, left: int) -> None:
    assert count - 2 * cut(trim, count) == left


def slow(values: Tensor, trim: float) -> list[float]:
    """Coordinate by coordinate."""
    found = []
    for column in values.T.tolist():
        held = sorted(v for v in column if v == v)
        k = cut(trim, len(held))
        kept = held[k : len(held) - k]
        found.append(sum(kept) / len(kept) if kept else 0.0)
    return found


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 9), trim=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    absent=st.floats(0, 0.8), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_the_formula(rows: int, columns: int, trim: float, absent: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    values[torch.rand(rows, columns, generator=draw) < absent] = torch.nan
    means, counts = trimmed(values, trim)
    assert torch.allclose(means, torch.tensor(slow(values, trim), dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert torch.equal(counts, (~values.isnan()).sum(0))


def test_by_hand_with_masks_of_the_clients_own(layout: Layout, make_model: MakeModel) -> None:
    """Weight 0 is held by all five, weight 1 by the last two, weight 2 by none: it keeps the server's bits."""
    server = make_model(layout, alive=1.0)
    masks = [[True, k >= 3, False] + [True] * 29 for k in range(5)]
    clients = []
    for k, mask in enumerate(masks):
        values = torch.full((42,), float(k))
        values[0] = [1.0, 2.0, 3.0, 4.0, 1e30][k]
        clients.append(server.with_masks(torch.tensor(mask)).with_values(values * torch.tensor(mask + [True] * 10)))
    mean = cohort_of(TrimmedMean(trim=0.2), server, clients)
    assert mean.mean.weights[:3].tolist() == [3.0, 3.5, float(server.weights[2])]
    assert mean.mean.values[3:].tolist() == [2.0] * 39
    assert mean.support[:4].tolist() == [5.0, 2.0, 0.0, 5.0]
    assert cohort_of(TrimmedMean(trim=0.5), server, clients).mean.weights[:2].tolist() == [3.0, 3.5]


@pytest.mark.parametrize("absent", ["left_out", "zero", "unchanged"])
@pytest.mark.parametrize("frozen", [0.0, 0.3])
def test_without_trimming_it_is_the_unweighted_mean(
    layout: Layout, make_model: MakeModel, absent: Absent, frozen: float
) -> None:
    """Whatever an absent weight counts for, and with the support that goes with it."""
    server = make_model(layout, frozen=frozen)
    clients = [with_mask(server, make_model(layout, 1 + k, 0.5)) for k in range(5)]
    ours = cohort_of(TrimmedMean(trim=0.0), server, clients, absent)
    mean = cohort_of(MaskedMean(weights="clients"), server, clients, absent)
    assert ours.mean.alive_at == mean.mean.alive_at
    assert torch.allclose(ours.mean.values, mean.mean.values, rtol=1e-6, atol=1e-7)
    assert torch.equal(ours.support, mean.support)
    assert (ours.samples, ours.clients) == (mean.samples, mean.clients)
    assert torch.equal(ours.mean.weights[server.frozen], server.weights[server.frozen])


def test_the_median_of_one_client_is_that_client(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    client = make_model(layout, 3, alive=1.0)
    assert torch.equal(cohort_of(TrimmedMean(trim=0.5), server, [client]).mean.values, client.values)


@settings(deadline=None, max_examples=40)
@given(bad=st.sampled_from([1e15, -1e15, 3.4e38, 0.0, -1e-30]), seed=st.integers(0, 10**6), honest=st.integers(2, 8))
@pytest.mark.parametrize("trim", [0.1, 0.5])
def test_one_client_cannot_lead_out_of_the_range_of_the_others(
    layout: Layout, make_model: MakeModel, bad: float, seed: int, honest: int, trim: float
) -> None:
    server = make_model(layout, seed, alive=1.0)
    good = [make_model(layout, seed + 1 + k, alive=1.0) for k in range(honest)]
    liar = server.with_values(torch.full((42,), bad))
    mean = cohort_of(TrimmedMean(trim=trim), server, [liar, *good]).mean.values
    all_good = torch.stack([g.values for g in good])
    assert bool((mean >= all_good.amin(0)).all())
    assert bool((mean <= all_good.amax(0)).all())


def test_without_an_update_there_is_no_mean(layout: Layout, make_model: MakeModel) -> None:
    assert TrimmedMean().begin(make_model(layout), "left_out").result() is None


def test_updates_without_values_leave_the_model_as_it_was_sent(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout)
    running = TrimmedMean().begin(server, "left_out")
    running.add(Upload(2, Report(9, 0.0, 0.0), server.trainable_at, None, None, None))
    found = running.result()
    assert found is not None
    assert found.mean.same_as(server)


# ---- buffers ----------------------------------------------------------------------------------------------------


def test_buffers_go_by_the_middle_of_their_changes() -> None:
    """An integer, a boolean and a complex one; who changed nothing counts with what it was sent."""
    buffers = (Buffer("n", (2,), "int64"), Buffer("b", (2,), "bool"), Buffer("c", (1,), "complex64"))
    layout = Layout((), buffers)
    sent = (torch.tensor([10, 20]), torch.tensor([True, False]), torch.tensor([1 + 1j]))
    mean = TrimmedMean(trim=0.5).buffers(GlobalModel(layout, torch.empty(0), *_nothing()), sent)
    far = torch.tensor([2**62, -(2**62)]), torch.tensor([False, True]), torch.tensor([1e30 - 1e30j])
    near = torch.tensor([12, 20]), None, torch.tensor([3 + 1j])
    for changed in (far, near, (None, None, None)):
        mean.add(changed, 1)
    integers, booleans, complexes = mean.result()
    assert integers.tolist() == [12, 20]
    assert booleans.tolist() == [True, False]
    assert complexes.tolist() == [3 + 1j]
    assert mean.result()[0].dtype == torch.int64


def _nothing() -> tuple[Tensor, Tensor]:
    return torch.empty(0, dtype=torch.bool), torch.empty(0, dtype=torch.bool)


def test_buffers_that_nobody_changed_are_the_very_same(layout: Layout) -> None:
    own = Layout((), (Buffer("n", (), "int64"),))
    sent = (torch.tensor(3),)
    mean = BufferMean(own, sent, middle=lambda changes: trimmed(changes, 0.1)[0])
    mean.add((None,), 1)
    assert mean.result()[0] is sent[0]


@pytest.mark.parametrize("trim", [-0.1, 0.6, float("nan")])
def test_a_trim_that_is_none_is_refused(trim: float) -> None:
    with pytest.raises(ValueError, match=r"aggregation\.trim"):
        TrimmedMean(trim=trim)


@pytest.mark.parametrize("absent", ["unchanged", "zero"])
def test_what_few_send_is_trimmed_where_the_others_count(layout: Layout, make_model: MakeModel, absent: Absent) -> None:
    """One of ten sends a change, as clients of topk_ef do: nothing of it is left, and the rule says so."""
    sent = make_model(layout, alive=0.6)
    rule, running = TrimmedMean(trim=0.1), TrimmedMean(trim=0.1).begin(sent, absent)
    nobody = sent.trainable_at.without(sent.trainable_at)
    parameters, _, _ = layout.parts_of(sent.rest)
    for k in range(10):
        at = sent.trainable_at if k == 0 else nobody
        weights = sent.trained + 1 if k == 0 else torch.empty(0)
        running.add(Upload(k, Report(10, 0.1, 0.1), at, weights, parameters, None))
    found = running.result()
    assert found is not None
    expected = sent.trained if absent == "unchanged" else torch.zeros_like(sent.trained)
    assert torch.equal(found.mean.trained, expected)
    [line] = rule.remarks(absent)
    assert "it may learn little" in line
    assert rule.remarks("left_out") == TrimmedMean(trim=0.0).remarks(absent) == []


@pytest.mark.parametrize(("method", "counts"), [("topk_ef", True), ("flash_moving", True), ("flash", False)])
def test_a_run_says_so_if_clients_have_masks_of_their_own(
    make_experiment: Callable[..., Any], caplog: pytest.LogCaptureFixture, method: str, counts: bool
) -> None:
    make_experiment(f"method={method}", "aggregation=median")
    assert ("it may learn little" in caplog.text) == counts
    caplog.clear()
    make_experiment(f"method={method}")
    assert "it may learn little" not in caplog.text
