"""SynFlow: a mask from magnitudes alone, cut by cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pffdst.core.flat import FlatModule
from pffdst.core.inputs import ImageInputs
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.readjust.synflow import SynFlow
from pffdst.methods.rule import Start
from pffdst.run import play_round


class Chain(nn.Module):
    """Two linear layers of 2 x 2 with weights known to the reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
            self.b.weight.copy_(torch.tensor([[-1.0, 5.0], [2.0, 0.5]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flatten(1)))  # type: ignore[no-any-return]


def start_of(network: nn.Module, counts: tuple[int, ...], shape: tuple[int, ...], frozen: Any = None) -> Start:
    flat = FlatModule(network)
    alive = torch.ones(flat.layout.maskable, dtype=torch.bool)
    model = GlobalModel(flat.layout, flat.read(), alive, torch.zeros_like(alive) if frozen is None else frozen)
    inputs = ImageInputs(shape, (0.0,), (1.0,))  # type: ignore[arg-type]
    return Start(model, Stage(0, 0, 10, counts), sum(counts) / flat.layout.maskable, 0, network, inputs)


def test_by_hand_in_one_cut() -> None:
    """R = sum |B| |A| 1. Scores: A_ij times the sum of column i of |B|; B_ij times the sum of row j of |A|.

    |A| = 1 2 / 3 4, row sums 3 and 7; |B| = 1 5 / 2 .5, column sums 3 and 5.5.
    Scores: A 3, 6, 16.5, 22; B 3, 35, 6, 3.5.
    """
    kept = SynFlow(iterations=1).start(start_of(Chain(), (2, 2), (2, 1, 1)))
    # 35, 22, 16.5, and of the two of 6 the lower index
    assert kept.index.tolist() == [1, 2, 3, 5]


def test_scores_are_made_anew_after_every_cut() -> None:
    """With many cuts a weight whose path died goes too: no layer is left without a way through."""
    once = SynFlow(iterations=1).start(start_of(Chain(), (1, 1), (2, 1, 1)))
    often = SynFlow(iterations=50).start(start_of(Chain(), (1, 1), (2, 1, 1)))
    assert once.index.tolist() == [3, 5]
    assert often.index.tolist() == [3, 5]
    # one weight of each layer, on one path: A_22 into B_12
    with torch.no_grad():
        crossed = Chain()
        crossed.a.weight.copy_(torch.tensor([[9.0, 8.0], [1.0, 1.0]]))
        crossed.b.weight.copy_(torch.tensor([[1.0, 7.0], [1.0, 6.0]]))
    kept = SynFlow(iterations=50).start(start_of(crossed, (2, 1), (2, 1, 1)))
    rows_of_a, columns_of_b = (
        {j // 2 for j in kept.index.tolist() if j < 4},
        {(j - 4) % 2 for j in kept.index.tolist() if j >= 4},
    )
    assert rows_of_a == columns_of_b


@pytest.mark.parametrize("iterations", [1, 7, 100])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_count_is_exact_and_the_signs_do_not_matter(iterations: int, share: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10)
    )
    k = round(share * (72 + 1280))
    rule = SynFlow(iterations=iterations)
    first = rule.start(start_of(_copy(network), (k - 1, 1), (1, 4, 4)))
    assert len(first) == k
    flipped = _copy(network)
    with torch.no_grad():
        for p in flipped.parameters():
            p.mul_(torch.where(torch.rand_like(p) < 0.5, -1.0, 1.0))
    assert rule.start(start_of(flipped, (k - 1, 1), (1, 4, 4))) == first


def test_a_very_sparse_deep_network_keeps_a_path_through_every_layer() -> None:
    """Where one cut by the same scores leaves a layer empty: the reason for the many cuts."""
    torch.manual_seed(1)
    widths = [64, 64, 4, 64, 64, 10]
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    network = nn.Sequential(nn.Flatten(), *(m for layer in layers for m in (layer, nn.ReLU())))
    kept = SynFlow(iterations=100).start(start_of(network, (40, 0, 0, 0, 0), (64, 1, 1)))
    assert min(kept.counts) >= 1


def test_a_later_stage_leaves_the_frozen_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 4))
    first = SynFlow().start(start_of(_copy(network), (10, 5), (8, 1, 1)))
    second = SynFlow().start(start_of(_copy(network), (10, 5), (8, 1, 1), frozen=first.bits))
    assert len(second) == 15
    assert not bool((first.bits & second.bits).any())


def test_nothing_to_cut_is_a_dense_model() -> None:
    kept = SynFlow(iterations=3).start(start_of(Chain(), (4, 4), (2, 1, 1)))
    assert kept == Positions.all(kept.layout)


def test_a_run_trains_the_signed_initial_weights_and_no_score_travels(make_experiment: Callable[..., Any]) -> None:
    experiment = make_experiment("method=synflow", "rounds=2", "sparsity=0.9")
    initial = experiment.server.model
    first = experiment.server.begin(0)
    W = experiment.setup.layout.maskable
    assert experiment.first == 0
    assert len(first.planned.alive_at) == round(0.1 * W)
    assert torch.equal(first.planned.held, initial.alive_at.carry(initial.held, first.planned.alive_at))
    assert bool((first.planned.held < 0).any())


@pytest.mark.parametrize("keep", [True, False])
def test_the_mask_is_not_sent_to_those_who_can_make_it(make_experiment: Callable[..., Any], keep: bool) -> None:
    """A client that keeps nothing is sent it all the same; both sides then agree on what it is."""
    experiment = make_experiment("method=synflow", "rounds=2", "local_epochs=1", f"clients_keep={str(keep).lower()}")
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        done = [play_round(experiment, t) for t in range(2)]
    assert [len(d.record.reports) for d in done] == [3, 3]
    sent = experiment.ledger.total["down/mask"] + experiment.ledger.total["down/catch_up"]
    assert sent == 0 if keep else sent > 0


def test_a_client_that_made_another_mask_says_so_and_is_sent_the_servers(make_experiment: Callable[..., Any]) -> None:
    """As on a machine whose sums come out differently: the checksum of what it holds does not fit."""
    experiment = make_experiment("method=synflow", "rounds=3", "local_epochs=1", "cohort=5")
    other = Positions(experiment.setup.layout, index=experiment.setup.known.index[1:])
    with experiment.engine.open(replace(experiment.setup, known=other)), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        first, second = play_round(experiment, 0), play_round(experiment, 1)
    assert len(first.record.rejected) == 5
    assert "does not hold the trainable positions" in first.record.rejected[0]
    assert len(second.record.reports) == 5


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"readjust\.iterations"):
        SynFlow(iterations=0)


def _copy(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network)


class Normalised(nn.Module):
    """Two linear layers of positive weights with a normalisation between them, whose running mean is -9 and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False)
        self.b = nn.Linear(2, 1, bias=False)
        self.a.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        self.b.weight.data.copy_(torch.tensor([[1.0, 1.0]]))
        self.norm.running_mean = torch.tensor([-9.0, 0.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.b(self.norm(self.a(x.flatten(1)))))


def test_running_statistics_count_by_their_magnitudes() -> None:
    """|A| 1 = 3, 7; less |-9| the first is -6: scores of B 6 and 7, of A 1 2 3 4. With its sign it were 12."""
    assert SynFlow(iterations=1).start(start_of(Normalised(), (0, 1), (2, 1, 1))).index.tolist() == [5]
