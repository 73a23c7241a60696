"""Who lies is one named draw, and what a lie is made of is what its class says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.config.identity import fingerprint
from pffdst.core.model import GlobalModel, Layout
from pffdst.methods.faults import Fault, Faulty, Filled, Scaled, ShuffledLabels, Stale, Truncated, WrongSamples, base_of

MakeModel = Callable[..., GlobalModel]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(("share", "clients", "liars"), [(0.1, 20, 2), (0.1, 3, 1), (0.001, 50, 1), (1.0, 7, 7)])
def test_so_many_clients_lie_drawn_by_the_seed(share: float, clients: int, liars: int) -> None:
    drawn = [Faulty.of(Scaled(share=share), clients, seed).clients for seed in range(300)]
    assert all(len(one) == liars and one <= set(range(clients)) for one in drawn)
    assert drawn[7] == Faulty.of(Filled(share=share), clients, 7).clients, "it is the run's draw, not the fault's"
    often = torch.tensor([[c in one for c in range(clients)] for one in drawn]).float().mean(0)
    assert torch.allclose(often, torch.tensor(liars / clients), atol=0.09)


def lied(fault: Fault, trained: GlobalModel, start: GlobalModel, memory: Any = None) -> GlobalModel:
    return Faulty(fault, frozenset({3}), 0).lie(3, 4, start, memory or {}).model(trained)


def test_what_trains_is_changed_and_nothing_else(layout: Layout, make_model: MakeModel) -> None:
    """Under a mask of the client's own; frozen weights and statistics are as they were."""
    start, other = make_model(layout, alive=0.7, frozen=0.3), make_model(layout, 1)
    own = start.moved(start.frozen_at.plus(other.alive_at.without(start.frozen_at)))
    trained = own.with_trained(torch.randn(len(own.trainable_at)), other.rest)
    base = base_of(start, trained)
    expected: list[tuple[Fault, Any, Any]] = [
        (Filled(1e30), torch.full_like(base, 1e30), torch.full((7,), 1e30)),
        (Scaled(-2.0), base - 2 * (trained.trained - base), start.rest[:7] - 2 * (trained.rest[:7] - start.rest[:7])),
        (Stale("sent"), base, start.rest[:7]),
    ]
    for fault, weights, parameters in expected:
        sent = lied(fault, trained, start)
        assert sent.alive_at == trained.alive_at
        assert torch.allclose(sent.trained, weights)
        assert torch.allclose(sent.rest[:7], parameters)
        assert torch.equal(sent.weights[sent.frozen], start.weights[start.frozen])
        assert isinstance(fault, Stale) or torch.equal(sent.rest[7:], trained.rest[7:])


def test_honest_clients_are_not_touched(layout: Layout, make_model: MakeModel) -> None:
    model, faulty = make_model(layout), Faulty(Filled(), frozenset({3}), 0)
    lie = faulty.lie(2, 4, model, {})
    assert lie.model(model) is model
    payload = b"bytes"
    assert lie.message(payload) is payload
    assert (lie.samples(5), lie.kept(model, payload)) == (5, {})
    assert not faulty.relabels(2)


def test_labels_are_the_same_classes_in_another_order_for_the_whole_run() -> None:
    faulty, labels = Faulty(ShuffledLabels(), frozenset({3, 4}), 0), torch.arange(40) % 10
    first, again, other = (faulty.labels(client, labels) for client in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, labels)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, labels.sort().values)


def test_a_message_keeps_its_beginning_and_at_least_a_byte(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    for kept, length in ((0.5, 50), (0.001, 1), (0.999, 99)):
        lie = Faulty(Truncated(kept), frozenset({3}), 0).lie(3, 1, model, {})
        assert lie.message(bytes(range(100))) == bytes(range(length))


def test_what_no_message_can_hold_is_refused() -> None:
    for count in (-1, 2**32):
        with pytest.raises(ValueError, match="the range a message can hold"):
            WrongSamples(count)
    with pytest.raises(ValueError, match=r"faults\.kept"):
        Truncated(1.0)
    with pytest.raises(ValueError, match=r"faults\.what"):
        Stale("yesterday")  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"faults\.share=.*write e\.g\. faults\.share=0\.1"):
        check(compose(["faults=scaled", f"faults.share={share}"], CONFIGS))


def test_a_run_without_faults_is_the_run_it_was_before_there_were_any() -> None:
    cfg = compose([], CONFIGS)
    before = compose(["~faults"], CONFIGS)
    assert "faults" not in before or before.faults is None
    assert fingerprint(cfg) == fingerprint(before)
    assert fingerprint(cfg) != fingerprint(compose(["faults=scaled"], CONFIGS))
