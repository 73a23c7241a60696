"""Everything off is gradient descent; everything on is the same descent under masks, written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

FULL = ("clients=3", "cohort=3", "batch_size=100000", "server_ema=0", "lr=0.5")
OFF = (*FULL, "freeze=none", "sparsity=0", "prox_mu=0", "local_epochs=1", "rounds=4")


def everyone(experiment: Any) -> list[int]:
    return list(range(experiment.setup.clients))


@pytest.mark.parametrize("readjust", ["static", "server_differential", "client_gradient"])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.0, 0.05), (0.9, 0.05)])
def test_all_clients_one_full_batch_each_is_gradient_descent(
    make_experiment: Callable[..., Any], play: Callable[..., Any], gradient_of: Callable[..., Any],
    readjust: str, momentum: float, decay: float,
) -> None:  # fmt: skip
    """Also with momentum: it starts at 0 in every round, and a round is one step."""
    experiment = make_experiment(*OFF, f"readjust={readjust}", f"momentum={momentum}", f"weight_decay={decay}")
    gradient, w = gradient_of(experiment), experiment.server.model.values
    first = w
    for r in play(experiment):
        w = w - 0.5 * (gradient(w, everyone(experiment)) + decay * w)
        assert torch.allclose(r.concluded.values, w, rtol=1e-5, atol=2e-6)
    assert float((w - first).abs().max()) > 0.01
    assert torch.equal(experiment.server.averaged_model.values, experiment.server.model.values)


def local_training(
    w0: Tensor, gradient: Callable[[Tensor], Tensor], trainable: Tensor, decay: float, mu: float, steps: int
) -> Tensor:
    """SGD with momentum .9 on the full batch; only `trainable` [N] coordinates ever move."""
    w, v = w0.clone(), torch.zeros_like(w0)
    for _ in range(steps):
        g = gradient(w) + decay * w + mu * (w - w0)
        v = 0.9 * v + g
        w = torch.where(trainable, w - 0.5 * v, w)
    return w


@pytest.mark.parametrize(("decay", "mu"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.5), (0.05, 0.5)])
def test_a_round_under_masks_is_the_formulas_by_hand(
    make_experiment: Callable[..., Any], play: Callable[..., Any], gradient_of: Callable[..., Any],
    decay: float, mu: float,
) -> None:  # fmt: skip
    """Two stages, E = 3: decay and proximal term reach trainable weights and biases, never frozen or dead ones."""
    experiment = make_experiment(
        *FULL, "rounds=6", "local_epochs=3", "momentum=0.9", f"weight_decay={decay}", f"prox_mu={mu}",
        "readjust.schedule.interval=1",
    )  # fmt: skip
    gradient, setup = gradient_of(experiment), experiment.setup
    samples = torch.tensor([setup.samples(k) for k in everyone(experiment)], dtype=torch.float64)
    for r in play(experiment):
        w0 = r.planned.values
        moves = torch.cat([r.planned.trainable, torch.ones(w0.numel() - r.planned.alive.numel(), dtype=torch.bool)])
        ends = torch.stack(
            [local_training(w0, lambda w, k=k: gradient(w, [k]), moves, decay, mu, 3) for k in everyone(experiment)]
        )
        mean = (samples[:, None] * ends.double()).sum(0) / samples.sum()
        assert torch.allclose(r.concluded.values.double(), mean, rtol=1e-4, atol=1e-5)
        assert torch.equal(r.concluded.values[~moves], w0[~moves])
