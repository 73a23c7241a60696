"""Every option of configs/faults: the same in every engine, named in the log, counted, and the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from pffdst.wire.frame import Tag

MakeExperiment = Callable[..., Any]
Play = Callable[..., list[Any]]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FAULTS = [path.stem for path in sorted((CONFIGS / "faults").glob("*.yaml")) if OmegaConf.load(path)]
KINDS = [*FAULTS, "stale faults.what=update", "stale faults.what=message", "wrong_samples faults.count=0",
         "not_finite faults.value=inf", "huge faults.value=3e38", "truncated faults.kept=0.001"]  # fmt: skip
REFUSED = {
    "not_finite": "not finite", "huge": "is beyond aggregation.max_value=1e+15", "truncated": "header",
    "stale faults.what=message": "expected client", "wrong_samples faults.count=0": "at least 1 sample",
}  # fmt: skip
RUN = ("rounds=5", "faults.share=0.4", "sparsity=0.5", "method=pffdst", "readjust.schedule.interval=1")


@pytest.fixture(scope="module")
def honest(make_experiment: MakeExperiment, play: Play) -> list[Any]:
    return play(make_experiment(*RUN[:1], *RUN[2:]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_ends_in_the_log_and_the_counts_and_the_run_goes_on(
    make_experiment: MakeExperiment, play: Play, honest: list[Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_experiment(*RUN, f"faults={kind.split()[0]}", *kind.split()[1:])
    liars = experiment.setup.faulty.clients
    with caplog.at_level(logging.WARNING):
        rounds = play(experiment)
    said = [record.getMessage() for record in caplog.records if record.name == "pffdst.run"]
    assert len(liars) == 2
    sent = accepted = 0
    for r in rounds:
        number = r.t + 1
        assert not {*r.record.rejected} - liars, "an honest client was left out"
        for client in liars & {*r.plan.cohort}:
            [line] = [line for line in said if line.startswith(f"round {number}: client {client} ")]
            left_out = client in r.record.rejected
            assert ("is left out: " if left_out else "is accepted with its fault: ") in line
            sent, accepted = sent + 1, accepted + (not left_out)
    summary = experiment.finish()
    assert sent > 0
    assert (summary["faults_sent"], summary["faults_accepted"]) == (sent, accepted)
    assert summary["rejected"] == sent - accepted
    assert bool(torch.isfinite(experiment.server.model.values).all())
    at_first = {update.client: update.payload for update in honest[0].updates}
    for update in rounds[0].updates:
        if update.client not in liars:
            assert update.payload == at_first[update.client], "an honest client has another update"


@pytest.mark.parametrize(("kind", "why"), REFUSED.items())
def test_what_the_server_can_tell_is_refused_with_its_reason(
    make_experiment: MakeExperiment, play: Play, kind: str, why: str
) -> None:
    more = ("faults.kept=0.001",) if kind == "truncated" else ()
    rounds = play(make_experiment(*RUN, f"faults={kind.split()[0]}", *kind.split()[1:], *more))
    reasons = [reason for r in rounds for reason in r.record.rejected.values()]
    assert reasons
    assert all(why in reason for reason in reasons), reasons


ENGINES = ("engine=trainer", "engine=batched engine.device=cpu engine.channels_last=false", "engine.workers=2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_the_same_in_every_engine(make_experiment: MakeExperiment, play: Play, kind: str) -> None:
    """Bytes of the messages where engines compute alike, the model to rounding elsewhere."""
    chosen = (*RUN, f"faults={kind.split()[0]}", *kind.split()[1:], "rounds=4")
    oracle = play(make_experiment(*chosen))
    for engine in ENGINES:
        others = play(make_experiment(*chosen, *engine.split()))
        for a, b in zip(oracle, others, strict=True):
            assert a.record.rejected == b.record.rejected
            if engine == "engine=trainer":
                assert [u.payload for u in a.updates] == [u.payload for u in b.updates]
        last, other = oracle[-1].concluded, others[-1].concluded
        assert torch.allclose(last.values, other.values, atol=2e-4, rtol=1e-4), engine


def test_all_clients_without_samples_leave_the_model_as_it_is(make_experiment: MakeExperiment, play: Play) -> None:
    """Nothing is divided by 0."""
    experiment = make_experiment(
        "rounds=3", "method=fedavg", "faults=wrong_samples", "faults.count=0", "faults.share=1"
    )
    rounds = play(experiment)
    assert rounds[-1].concluded.same_as(rounds[0].planned)
    assert experiment.progress.rejected == 9


@pytest.mark.parametrize(
    ("kind", "advised"),
    [("not_finite", True), ("huge", True), ("truncated", False), ("wrong_samples faults.count=0", False)],
)
def test_a_lower_rate_is_advised_where_values_are_out_of_range_and_nowhere_else(
    make_experiment: MakeExperiment, play: Play, kind: str, advised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    words = kind.split()
    with caplog.at_level(logging.WARNING):
        play(make_experiment("rounds=1", "method=random_mask", "faults.share=1", f"faults={words[0]}", *words[1:]))
    [line] = [line for line in caplog.messages if "no update was usable" in line]
    assert ("a lower lr may help" in line) == advised


def test_without_faults_nothing_is_said_of_them(make_experiment: MakeExperiment, play: Play) -> None:
    experiment = make_experiment("rounds=2", "method=fedavg")
    play(experiment)
    assert not [name for name in (*experiment.progress.row, *experiment.finish()) if "fault" in name or "defen" in name]


def test_a_stale_update_is_the_first_turns_change_on_what_is_sent_now(
    make_experiment: MakeExperiment, play: Play
) -> None:
    rounds = play(
        make_experiment("rounds=6", "method=fedavg", "faults=stale", "faults.what=update", "faults.share=0.2")
    )
    experiment_liar = next(iter(_liars(rounds)))
    mine = [(r, u) for r in rounds for u in r.updates if u.client == experiment_liar]
    assert len(mine) > 2
    changes = [_values(r, u) - r.sent.trained for r, u in mine]
    assert all(torch.allclose(changes[0], change, atol=1e-6) for change in changes[1:])


def _liars(rounds: list[Any]) -> set[int]:
    return {u.client for r in rounds for u in r.updates if any(key.startswith("fault:") for key in u.kept.memory)}


def _values(r: Any, update: Any) -> torch.Tensor:
    from pffdst.wire.codecs.floats import Float32
    from pffdst.wire.frame import unpack

    section = unpack(update.payload).section(Tag.TRAINABLE_VALUES)
    return Float32().decode(section, len(r.sent.trained), "X", base=r.sent.trained)


def test_a_client_that_is_lost_has_sent_no_fault(make_experiment: MakeExperiment, play: Play) -> None:
    experiment = make_experiment(*RUN, "faults=scaled", "participation.dropout_before=0.5")
    liars = experiment.setup.faulty.clients
    rounds = play(experiment)
    asked = sum(len(liars & {*r.plan.cohort}) for r in rounds)
    lost = sum(len(liars & {*r.record.lost}) for r in rounds)
    summary = experiment.finish()
    assert 0 < lost < asked
    assert (summary["faults_sent"], summary["faults_accepted"]) == (asked - lost, asked - lost)
