"""Top-k with error feedback: what is sent and what stays, the server's mean by hand, and the limit of FedAvg."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.experiment import Experiment
from pffdst.methods.aggregation import RunningMean
from pffdst.methods.rule import Answer, Cohort
from pffdst.methods.updates.topk_ef import TopK
from pffdst.run import play_round
from pffdst.wire.uplink import Report, Upload

STAGE = Stage(0, 0, 10, ())
LAYOUT = Layout((Entry("a", (3, 2), 0, "maskable"), Entry("b", (2,), 6, "parameter")))
ZERO = GlobalModel.of(Positions.all(LAYOUT), Positions.none(LAYOUT), torch.zeros(6), torch.zeros(2))


def sent(rule: TopK, start: GlobalModel, values: list[float], t: int = 0, memory: Any = None) -> Answer:
    trained = start.with_trained(torch.tensor(values), start.rest + 1)
    turn: Any = SimpleNamespace(t=t, start=start, memory=memory or {})
    return rule.answer(Answer(trained), rule.measure(turn), STAGE, t)


def test_two_turns_by_hand() -> None:
    """A third is sent, of all layers together; what stays joins the next change."""
    rule = TopK(left=2 / 3)
    one = sent(rule, ZERO, [0.5, -0.1, 0.4, 0.0, -0.9, 0.3])
    assert one.own_mask
    assert one.model.trainable_at.index.tolist() == [0, 4]
    assert one.model.trained.tolist() == pytest.approx([0.5, -0.9])
    assert one.memory["topk_residual"].tolist() == pytest.approx([0.0, -0.1, 0.4, 0.0, 0.0, 0.3])
    two = sent(rule, ZERO, [0.1, -0.1, 0.1, 0.0, 0.0, 0.3], 1, one.memory)
    assert two.model.trainable_at.index.tolist() == [2, 5]
    assert two.model.trained.tolist() == pytest.approx([0.5, 0.6])
    assert two.model.rest.tolist() == [1.0, 1.0]


def test_a_residual_fades_for_each_round_that_was_missed() -> None:
    rule = TopK(left=5 / 6, decay=0.5)
    memory = sent(rule, ZERO, [1.0, 0.8, 0.0, 0.0, 0.0, 0.0]).memory
    for t, expected in ((1, 0.8), (2, 0.4), (3, 0.2)):
        assert sent(rule, ZERO, [0.0] * 6, t, memory).model.trained.tolist() == pytest.approx([expected])


changes = st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6)


@settings(deadline=None)
@given(changes, changes, st.sampled_from([0.0, 0.5, 0.8]))
def test_nothing_of_a_change_is_lost(start: list[float], trained: list[float], left: float) -> None:
    """What was sent and what stays are the change; just k are sent, and none that stays is larger."""
    rule, model = TopK(left=left), ZERO.with_trained(torch.tensor(start), ZERO.rest)
    made = sent(rule, model, trained)
    change, residual = torch.tensor(trained) - torch.tensor(start), made.memory["topk_residual"]
    moved = made.model.trainable_at.spread(made.model.trained - model.trained[made.model.trainable_at.index])
    assert len(made.model.trainable_at) == max(1, round((1 - left) * 6))
    assert torch.allclose(moved + residual, change, atol=2e-6)
    out = made.model.trainable_at.complement().index
    assert float(change[out].abs().max() if len(out) else 0) <= float(change[made.model.trainable_at.index].abs().min())


def test_what_a_client_does_not_send_counts_as_unchanged() -> None:
    """Clients of 1 and 3 samples: w + 1/4 of what the first sent and 3/4 of the second's, never over holders alone."""
    ones = ZERO.with_trained(torch.ones(6), ZERO.rest)
    mean, rule = RunningMean(ones, TopK.absent), TopK(left=2 / 3)
    for samples, values in ((1, [5.0, 1.0, 1.0, 1.0, 1.0, 3.0]), (3, [5.0, 1.0, 3.0, 1.0, 1.0, 1.0])):
        made = sent(rule, ones, values).model
        mean.add(Upload(0, Report(samples, 0.0, 0.0), made.trainable_at, made.trained, made.rest, torch.empty(0)))
    cohort = mean.result()
    assert cohort is not None
    assert cohort.mean.held.tolist() == [5.0, 1.0, 2.5, 1.0, 1.0, 1.5]


def played(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            play_round(experiment, t)
    return experiment


def test_without_a_share_that_stays_it_is_fedavg(make_experiment: Callable[..., Experiment]) -> None:
    sparse = played(make_experiment("method=topk_ef", "sparsity=0", "rounds=1")).server.model
    dense = played(make_experiment("method=fedavg", "rounds=1")).server.model
    assert torch.allclose(sparse.values, dense.values, atol=1e-6)


def test_places_and_values_go_up_and_the_model_stays_dense(make_experiment: Callable[..., Experiment]) -> None:
    run = played(make_experiment("method=topk_ef", "sparsity=0.9", "rounds=3", "codec.level=0"))
    weights, total = run.setup.layout.maskable, run.ledger.total
    assert len(run.server.model.alive_at) == weights
    assert total["up/values"] == 3 * 3 * 4 * round(0.1 * weights)
    assert 0.45 * weights / 8 < total["up/mask"] / 9 < 0.55 * weights / 8  # a bit costs H(0.1) = 0.47


def test_both_ways_the_server_keeps_back_what_it_does_not_send_by_hand() -> None:
    """A third of the server's changes is taken too; what is not joins the next, after a checkpoint as well."""
    rule, again = (TopK(left=2 / 3, both_ways=True) for _ in range(2))
    one = stepped(rule, ZERO, [0.5, -0.1, 0.4, 0.0, -0.9, 0.3])
    assert one.trained.tolist() == pytest.approx([0.5, 0.0, 0.0, 0.0, -0.9, 0.0])
    again.load_state_dict(rule.state_dict(), LAYOUT)
    for own in (rule, again):  # changes .1, -.1, .1, 0, 0, .3 and what was kept: .1, -.2, .5, 0, 0, .6
        two = stepped(own, one, [0.6, -0.1, 0.1, 0.0, -0.9, 0.3])
        assert two.trained.tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0, -0.9, 0.6])
        assert two.rest.tolist() == [1.0, 1.0]


def stepped(rule: TopK, before: GlobalModel, mean: list[float]) -> GlobalModel:
    after = before.with_trained(torch.tensor(mean), ZERO.rest + 1)
    return rule.after_round(Cohort(after, torch.ones(6), 1, 1, before), STAGE, 0, 0)


def test_both_ways_clients_are_sent_what_changed_alone(make_experiment: Callable[..., Experiment]) -> None:
    """Three clients of five, each new to the model in one round: what those that were away missed is in the bill."""
    common = ("method=topk_ef", "sparsity=0.9", "rounds=4", "codec.level=0")
    one, both = (played(make_experiment(*common, f"updates.both_ways={on}")).ledger.total for on in ("false", "true"))
    assert both["up/values"] == one["up/values"]
    assert both["down/values"] < one["down/values"] / 2
    assert both["down/catch_up"] > 0


@pytest.mark.parametrize("wrong", ["freeze=two_stage", "readjust=client_gradient"])
def test_masks_that_move_are_refused(wrong: str, config_dir: Any) -> None:
    with pytest.raises(ConfigError, match="updates=topk_ef needs weights that stay"):
        check(compose(["method=topk_ef", "logger=csv", wrong], config_dir))


@pytest.mark.parametrize(("key", "value"), [("left", 1.0), ("decay", 1.5)])
def test_numbers_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"updates\.{key}.*{value}"):
        TopK(**{key: value})
