"""A network that normalises over one value cannot be trained on one sample: who has no more is left out, as is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pffdst.config.check import ConfigError

LONE = ("model=resnet18", "model.width=4", "rounds=2", "local_epochs=1", "clients=700", "cohort=40", "partition=drawn")
LONE += ("partition.samples=1.5", "partition.spread=0.5", "partition.min_size=1", "partition.panel=5", "method=fedavg")


@pytest.mark.parametrize("engine", ["engine.exact=true", "engine=trainer", "engine=batched", "engine.workers=1"])
def test_clients_of_one_sample_are_left_out(
    make_experiment: Callable[..., Any], play: Callable[..., Any], caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    with caplog.at_level(logging.WARNING):
        experiment = make_experiment(*LONE, "batch_size=2", engine)
    lone = sum(experiment.setup.samples(client) == 1 for client in range(700))
    assert f"{lone} of 700 clients have one, which are left out of their rounds" in caplog.text
    for r in play(experiment):
        few = [client for client in r.plan.cohort if experiment.setup.samples(client) == 1]
        assert few
        assert list(r.record.rejected) == few
        assert len(r.record.reports) == 40 - len(few)
        assert not r.planned.same_as(r.concluded)


def test_batches_of_one_sample_are_refused_before_the_run(make_experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=1: this model cannot .* write batch_size=2 or more"):
        make_experiment("model=resnet18", "clients=100", "partition=iid", "batch_size=1")


def test_where_everybody_has_one_sample_nobody_is_left(make_experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="every client has one sample"):
        make_experiment(*LONE, "partition.samples=1", "partition.spread=0")


def test_a_network_without_such_layers_trains_on_one(
    make_experiment: Callable[..., Any], play: Callable[..., Any]
) -> None:
    own = [o for o in LONE if not o.startswith("model")]
    experiment = make_experiment(*own, "batch_size=1")
    assert experiment.setup.least == 1
    last = play(experiment)[-1]
    assert last.record.rejected == {}
    assert torch.isfinite(last.concluded.values).all()
