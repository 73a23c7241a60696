"""Clients that are lost, late or away: off equals absent, all lost is no round, what was sent is billed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.core.errors import UserError
from pffdst.methods.participation import Population, Proportional

SHORT = ("rounds=4", "local_epochs=1")
MOVING = (*SHORT, "readjust.schedule.interval=1")
LINKS = ("time=links", "time.link_spread=1.0", "time.up=0.05", "time.flops=0.01")


@pytest.fixture(scope="module")
def seen(make_experiment: Callable[..., Any], play: Callable[..., Any]) -> Callable[..., list[Any]]:
    """The rounds of a run; runs are kept."""
    kept: dict[tuple[str, ...], list[Any]] = {}

    def rounds(*overrides: str) -> list[Any]:
        if overrides not in kept:
            own = SHORT if any(o.startswith("method=") for o in overrides) else MOVING
            kept[overrides] = play(make_experiment(*own, *overrides))
        return kept[overrides]

    return rounds


def bills(rounds: list[Any], *without: str) -> list[Counter[str]]:
    return [Counter({k: v for k, v in r.bill.items() if k not in without}) for r in rounds]


def same(a: list[Any], b: list[Any]) -> bool:
    return a[-1].concluded.same_as(b[-1].concluded) and [r.plan.cohort for r in a] == [r.plan.cohort for r in b]


@pytest.mark.parametrize(
    "off",
    [
        ("participation.dropout_before=1e-12", "participation.dropout_after=1e-12"),  # drawn, and nobody is lost
        LINKS,
        (*LINKS, "participation.deadline=inf"),
        (*LINKS, "participation.deadline=1e9", "participation.extra=0"),
    ],
)
def test_off_equals_absent_to_the_bit(seen: Any, off: tuple[str, ...]) -> None:
    plain, other = seen(), seen(*off)
    assert same(plain, other)
    assert bills(plain) == bills(other, "deployment_seconds")


def test_a_deadline_that_never_comes_takes_the_time_of_none(seen: Any) -> None:
    lossy = (*LINKS, "participation.dropout_after=0.4")
    runs = [seen(*lossy, *own) for own in ((), ("participation.deadline=inf",))]
    assert any(r.record.lost for r in runs[0])
    times = [[r.bill["deployment_seconds"] for r in rounds] for rounds in runs]
    assert times[0] == times[1]
    assert min(times[0]) > 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["pffdst", "feddst", "fedavg", "prunefl", "scaffold"])
def test_where_all_are_lost_the_model_stays_and_the_run_goes_on(seen: Any, method: str, when: str) -> None:
    rounds = seen(f"method={method}", f"participation.dropout_{when}=1")
    assert len(rounds) >= 4
    for r in rounds:
        assert r.record.reports == [] == r.updates
        assert len(r.record.lost) == r.bill["lost"] == len(r.plan.cohort)
        assert r.bill["bytes_up"] == 0 < r.bill["bytes_down"]
        assert (r.bill["flops"] > 0) is (when == "after")
        assert torch.equal(r.concluded.values, r.planned.values) or r.t < 0


def test_a_mask_that_clients_choose_needs_one_of_them(seen: Any) -> None:
    with pytest.raises(UserError, match="no client's scores could be used"):
        seen("method=snip", "participation.dropout_after=1")


def test_who_is_lost_is_billed_what_it_was_sent_and_nothing_else(seen: Any) -> None:
    rounds = seen("participation.dropout_before=0.3", "participation.dropout_after=0.2", "method=fedavg")
    lost = [client for r in rounds for client in r.record.lost]
    assert 0 < len(lost) < sum(len(r.plan.cohort) for r in rounds)
    for r in rounds:
        assert {u.client for u in r.updates} == set(r.plan.cohort) - set(r.record.lost)
        assert r.bill["bytes_up"] == sum(len(u.payload) for u in r.updates)
        assert r.bill["bytes_down"] > sum(len(t.payload) for t in r.tasks) or not r.record.lost


def test_a_lost_client_is_sent_everything_the_next_time(make_experiment: Any) -> None:
    experiment = make_experiment(*MOVING, "cohort=5", "participation.dropout_before=0.5", "freeze=none")
    with experiment.engine.open(experiment.setup):
        from pffdst.exchange import exchange

        for t in range(4):
            now = experiment.server.begin(t)
            before = {c: experiment.server.holdings.lacks(c).held for c in now.plan.cohort}
            exchange(experiment, now)
            now.conclude()
            held = {c: experiment.server.holdings.lacks(c).held for c in now.plan.cohort}
            assert all(held[c] == 0 for c in now.record.lost)
            assert all(held[c] > 0 for c in now.plan.cohort if c not in now.record.lost)
            assert len(now.record.reports) + len(now.record.lost) == len(before)
            assert now.record.rejected == {}, "every message can be read"


def test_all_that_are_drawn_are_waited_for_where_their_number_is_a_draw(seen: Any) -> None:
    """K is their number on average; more than K are not late for that. With `extra` the first K are enough."""
    poisson, few = ("participation=poisson", "cohort=2"), ("participation.extra=2",)
    plain, timed, enough = seen(*poisson), seen(*poisson, *LINKS), seen(*poisson, *LINKS, *few)
    assert any(len(r.plan.cohort) > 2 for r in plain)
    assert same(plain, timed)
    assert all(r.record.late == [] for r in timed)
    assert all(len(r.record.reports) == min(2, len(r.plan.cohort)) for r in enough)


def test_asked_are_k_and_extra_and_taken_are_exactly_k(seen: Any) -> None:
    rounds = seen(*LINKS, "participation.extra=2")
    for r in rounds:
        assert (len(r.plan.cohort), len(r.record.reports), len(r.record.late)) == (5, 3, 2)
        assert r.bill["late"] == 2
        assert r.bill["bytes_up"] == sum(len(u.payload) for u in r.updates), "who is late sends all the same"


def test_a_deadline_leaves_the_slow_out(seen: Any) -> None:
    rounds = seen(*LINKS, "participation.deadline=0.8")
    assert 0 < sum(r.bill["late"] for r in rounds) < sum(len(r.plan.cohort) for r in rounds)
    assert all(r.bill["deployment_seconds"] <= 0.8 for r in rounds)


@pytest.mark.parametrize("method", ["topk_ef", "scaffold"])
def test_who_is_late_goes_on_from_what_it_kept_before(make_experiment: Any, play: Any, method: str) -> None:
    experiment = make_experiment("rounds=3", f"method={method}", *LINKS, "participation.deadline=1e-6")
    rounds = play(experiment)
    assert all(len(r.record.late) == len(r.plan.cohort) for r in rounds)
    assert not any(experiment.engine.memories.kept(client).anything for client in range(5))


def test_nobody_outside_its_windows_is_ever_asked(seen: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("client,from,to\n0,1,1\n1,1,3\n2,2,2\n4,3,3\n3,3,3\n0,3,3\n")
    rounds = seen(f"participation.trace={trace}", "participation.dropout_after=0.3")
    assert [r.plan.cohort for r in rounds[:2]] == [(0, 1), (1, 2)]
    assert len(rounds[2].plan.cohort) == 3
    assert set(rounds[2].plan.cohort) <= {0, 1, 3, 4}
    assert rounds[3].plan.cohort == (), "and a round in which nobody can be asked goes on"


def test_draws_are_in_proportion_to_the_clients_own_samples_whoever_is_lost(make_experiment: Any, play: Any) -> None:
    experiment = make_experiment(
        *SHORT, "method=fedavg", "participation=proportional", "participation.dropout_before=0.5"
    )
    rounds, population = play(experiment), Population(5, experiment.setup.samples)
    assert len({population.samples(client) for client in range(5)}) > 1
    assert [r.plan.cohort for r in rounds] == [Proportional().asked(r.t, population, 3, 0) for r in rounds]
    assert any(r.record.lost for r in rounds)


LOSSY = (*LINKS, "participation.extra=1", "participation.dropout_after=0.3", "participation.deadline=2")


def test_the_engines_agree_on_who_is_lost_and_late(seen: Any) -> None:
    exact, trainer = seen(*LOSSY), seen(*LOSSY, "engine=trainer")
    assert any(r.record.late for r in exact)
    assert any(r.record.lost for r in exact)
    assert same(exact, trainer)
    assert bills(exact) == bills(trainer)
    batched = seen(*LOSSY, "engine=batched", "engine.device=cpu")
    assert [r.record.lost for r in batched] == [r.record.lost for r in exact]
    assert torch.allclose(batched[0].concluded.values, exact[0].concluded.values, atol=1e-4)
