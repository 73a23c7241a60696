"""The mean of a round is the formula, coordinate by coordinate, whatever a missing weight counts for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.core.model import GlobalModel, Layout
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.rule import Absent, Cohort
from pffdst.wire.uplink import Report, Upload

MakeModel = Callable[..., GlobalModel]


def upload_of(model: GlobalModel, client: int, samples: int, statistics: bool = True) -> Upload:
    return Upload(
        client, Report(samples, 0.0, 0.0), model.trainable_at, model.trained, model.values[32:39],
        model.values[39:] if statistics else None,
    )  # fmt: skip


def mean_of(
    server: GlobalModel,
    *uploads: Upload,
    absent: Absent = "left_out",
    rule: MaskedMean = MaskedMean(),  # noqa: B008
) -> Cohort:
    running = rule.begin(server, absent)
    for upload in uploads:
        running.add(upload)
    cohort = running.result()
    assert cohort is not None
    return cohort


def the_slow_way(
    server: GlobalModel, clients: Sequence[GlobalModel], samples: Sequence[int], absent: Absent = "left_out"
) -> list[float]:
    """sum_k n_k m_kj w_kj / sum_k n_k m_kj in exact fractions; the server's value where nobody holds j.

    A client that lacks j takes part with 0, or with what it was sent, where `absent` says so.
    """
    mean = []
    for j in range(server.layout.total):
        own, held = Fraction(float(server.values[j])), list[tuple[int, Fraction]]()
        for n, client in zip(samples, clients, strict=True):
            if j >= server.layout.maskable or bool(client.trainable[j]):
                held.append((n, Fraction(float(client.values[j]))))
            elif absent != "left_out":
                held.append((n, Fraction(0) if absent == "zero" else own))
        weight = sum(n for n, _ in held)
        mean.append(float(sum(n * w for n, w in held) / weight) if weight else float(own))
    return mean


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    samples=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    frozen=st.sampled_from([0.0, 0.3]),
    absent=st.sampled_from(["left_out", "zero", "unchanged"]),
    alike=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_the_mean_is_the_formula(
    layout: Layout, make_model: MakeModel, seed: int, samples: list[int], share: float, frozen: float,
    absent: Absent, alike: list[bool],
) -> None:  # fmt: skip
    """Over masks of the clients' own and the server's very object, in any order; what is frozen stays."""
    server = make_model(layout, seed, frozen=frozen)
    clients = [client_of(server, make_model(layout, seed + 1 + k, share), alike[k]) for k in range(len(samples))]
    uploads = [upload_of(c, k, n) for k, (c, n) in enumerate(zip(clients, samples, strict=True))]
    cohort = mean_of(server, *uploads, absent=absent)
    expected = torch.tensor(the_slow_way(server, clients, samples, absent))
    expected[:32][server.frozen] = server.weights[server.frozen]
    alive = server.alive | torch.stack([c.trainable for c in clients]).any(0)
    assert torch.equal(cohort.mean.alive, alive)
    assert torch.equal(cohort.mean.frozen, server.frozen)
    assert torch.allclose(cohort.mean.values, expected, rtol=2e-7, atol=1e-9)
    assert (cohort.samples, cohort.clients, cohort.before) == (sum(samples), len(samples), server)


def client_of(server: GlobalModel, values: GlobalModel, alike: bool) -> GlobalModel:
    """A client with a mask of its own, or the server's very one; frozen weights are the server's."""
    if not alike:
        return server.moved(server.frozen_at.plus(values.alive_at)).with_trained(
            values.held[~values.alive_at.inside(server.frozen_at)], values.rest
        )
    return server.with_trained(torch.arange(float(len(server.trainable_at))) + values.values[33], values.rest)


def test_support_counts_samples_of_those_that_hold_a_weight(layout: Layout, make_model: MakeModel) -> None:
    server, one, two = (make_model(layout, seed) for seed in range(3))
    cohort = mean_of(server, upload_of(one, 0, 30), upload_of(two, 1, 7))
    expected = 30.0 * one.trainable.double() + 7.0 * two.trainable.double()
    assert torch.equal(cohort.mean.alive_at.spread(cohort.support), expected)


def test_where_nobody_holds_a_weight_the_server_keeps_its_bits(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    client = make_model(layout, seed=1, alive=0.5)
    mean = mean_of(server, upload_of(client, 0, 3)).mean
    assert torch.equal(mean.weights[~client.trainable], server.weights[~client.trainable])


def test_without_an_update_there_is_no_mean(layout: Layout, make_model: MakeModel) -> None:
    assert MaskedMean().begin(make_model(layout), "left_out").result() is None


def test_updates_without_values_leave_the_model_as_it_was_sent(layout: Layout, make_model: MakeModel) -> None:
    """A round that only asked for signals."""
    server = make_model(layout, frozen=0.3)
    silent = Upload(2, Report(9, 0.0, 0.0), server.trainable_at, None, None, None)
    cohort = mean_of(server, silent)
    assert cohort.mean.same_as(server)
    assert (cohort.samples, cohort.clients) == (9, 1)
    assert not bool(cohort.support.any())


def test_samples_weigh_and_not_clients(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    ones, zeros = (server.with_values(torch.full((42,), v)) for v in (1.0, 0.0))
    uploads = (upload_of(ones, 0, 300), upload_of(zeros, 1, 100))
    assert torch.equal(mean_of(server, *uploads).mean.values, torch.full((42,), 0.75))
    by_clients = mean_of(server, *uploads, rule=MaskedMean(weights="clients"))
    assert torch.equal(by_clients.mean.values, torch.full((42,), 0.5))
    assert by_clients.samples == 400


def test_statistics_that_were_not_sent_stay_the_servers(layout: Layout, make_model: MakeModel) -> None:
    server, client = make_model(layout, alive=1.0), make_model(layout, seed=1, alive=1.0)
    mean = mean_of(server, upload_of(client, 0, 5, statistics=False)).mean.values
    assert torch.equal(mean[39:], server.values[39:])
    assert torch.equal(mean[:39], client.values[:39])


def test_a_thousand_updates_lose_no_digit(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    client = server.with_values(torch.full((42,), 0.1))
    mean = mean_of(server, *(upload_of(client, k, 10_001) for k in range(1000))).mean
    assert torch.equal(mean.values, client.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_has_the_models_precision(layout: Layout, make_model: MakeModel, dtype: torch.dtype) -> None:
    server = make_model(layout, alive=1.0, dtype=dtype)
    mean = mean_of(server, upload_of(server, 0, 3)).mean.values
    assert mean.dtype == dtype
    assert torch.allclose(mean, server.values, rtol=1e-15 if dtype == torch.float64 else 0, atol=0)


@pytest.mark.parametrize(("key", "known"), [("statistics", "average, keep_server"), ("weights", "samples, clients")])
def test_a_choice_has_its_names(key: str, known: str) -> None:
    choice: dict[str, Any] = {key: "median"}
    with pytest.raises(ValueError, match=f"aggregation.{key}.*{known}, but got 'median'"):
        MaskedMean(**choice)
