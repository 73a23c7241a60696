"""A part that is off leaves no trace; a part that is on does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

SHORT = ("rounds=3", "cohort=2", "local_epochs=2", "weight_decay=0.001")
DENSE = (*SHORT, "sparsity=0", "freeze=none")


@pytest.fixture(scope="module")
def final(make_experiment: Callable[..., Any], play: Callable[..., Any]) -> Callable[..., Tensor]:
    """The final values of a run; runs are kept."""
    kept: dict[tuple[str, ...], Tensor] = {}

    def values(*overrides: str) -> Tensor:
        if overrides not in kept:
            kept[overrides] = play(make_experiment(*overrides))[-1].concluded.values
        return kept[overrides]

    return values


@pytest.mark.parametrize(
    "overrides",
    [
        (*DENSE, "method=pffdst"),
        (*DENSE, "method=pffdst", "readjust=static"),
        (*DENSE, "method=feddst", "readjust.schedule.interval=1", "readjust.alpha=0.5"),
        (*DENSE, "method=random_mask"),
        (*DENSE, "method=random_mask", "allocation=erk_feddst"),
        (*DENSE, "method=random_mask", "allocation=uniform"),
        (*SHORT, "method=fedprox", "prox_mu=0"),
        (*SHORT, "method=fedavg", "sparsity=0.9"),
        (*SHORT, "method=fedavg", "clients_keep=false"),
        (*SHORT, "method=fedavg", "aggregation.statistics=keep_server"),  # a model without statistics
        (*SHORT, "method=fedavg", "server_ema=0"),
        (*SHORT, "method=fedavg", "sparse_init=true"),
    ],
)
def test_every_method_with_its_parts_off_is_fedavg_to_the_bit(final: Any, overrides: tuple[str, ...]) -> None:
    assert torch.equal(final(*overrides), final(*SHORT, "method=fedavg"))


def test_server_momentum_of_zero_is_fedavg(final: Any) -> None:
    momentum = final(*SHORT, "method=fedavgm", "server_optimizer.beta=0")
    assert torch.allclose(momentum, final(*SHORT, "method=fedavg"), rtol=1e-4, atol=1e-6)


def test_a_share_of_nothing_is_a_fixed_mask(final: Any) -> None:
    sparse = (*SHORT, "sparsity=0.8", "freeze=none")
    fixed = final(*sparse, "method=random_mask")
    assert torch.equal(final(*sparse, "readjust.ratio=0", "method=pffdst"), fixed)
    assert torch.equal(final(*sparse, "readjust.alpha=0", "readjust.schedule.interval=1", "method=feddst"), fixed)


@pytest.mark.parametrize(
    "overrides",
    [
        ("prox_mu=0.1",),
        ("method=fedavgm",),
        ("method=random_mask", "sparsity=0.5"),
        ("seed=1",),
        ("weight_decay=0.01",),
        ("momentum=0.8",),
        ("local_epochs=1",),
    ],
)
def test_a_part_that_is_on_moves_the_result(final: Any, overrides: tuple[str, ...]) -> None:
    given = {line.split("=")[0] for line in overrides}
    base = [line for line in (*SHORT, "method=fedavg") if line.split("=")[0] not in given]
    moved = (final(*base, *overrides) - final(*SHORT, "method=fedavg")).abs().max()
    assert float(moved) > 1e-5


def test_a_strong_proximal_term_holds_clients_at_the_global_model(
    make_experiment: Callable[..., Any], play: Callable[..., Any]
) -> None:
    """lr and mu so small and large that a step cannot overshoot: lr mu (1 + momentum) < 2."""
    distances = []
    for mu in (0.0, 5.0, 50.0):
        overrides = ("method=fedavg", "rounds=1", "local_epochs=5", "lr=0.01", "momentum=0", f"prox_mu={mu}")
        (r,) = play(make_experiment(*overrides))
        distances.append(float((r.concluded.values - r.planned.values).norm()))
    assert distances[0] > 1.5 * distances[1] > 3 * distances[2] > 0


def test_weight_decay_reaches_trainable_weights_but_never_frozen_or_dead_ones(
    make_experiment: Callable[..., Any], play: Callable[..., Any]
) -> None:
    """With a decay that shrinks everything it touches to a hundredth."""
    rounds = play(make_experiment("rounds=4", "local_epochs=1", "weight_decay=5", "momentum=0", "lr=0.1"))
    for r in rounds:
        assert bool((r.concluded.weights[~r.concluded.alive] == 0).all())
        frozen = r.planned.frozen
        assert torch.equal(r.concluded.weights[frozen], r.planned.weights[frozen])
    first, third = rounds[0], rounds[2]
    kept = first.planned.trainable
    before, after = (float(m.weights[kept].abs().mean()) for m in (first.planned, first.concluded))
    assert after < before / 10
    assert int(third.planned.frozen.sum()) > 0
    assert bool(third.planned.weights[third.planned.frozen].any())
