"""FedTiny's first stage: candidates both ends draw alike, statistics estimated anew, the least loss wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pffdst import testing
from pffdst.client.turn import Turn
from pffdst.core.errors import UserError
from pffdst.core.masks import draw
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.readjust import candidates
from pffdst.methods.readjust.candidates import Candidates
from pffdst.methods.readjust.fedtiny import FedTiny
from pffdst.methods.rule import Start
from pffdst.server.round import Round
from pffdst.testing.runs import SmallRun

MakeModel = Callable[..., GlobalModel]
STAGE = Stage(0, 0, 10, (8, 4))


def given(model: GlobalModel) -> Start:
    return Start(model, STAGE, 12 / 32, seed=7)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 6, 4)
    )


def test_candidates_have_one_sum_and_ratios_of_their_own(layout: Layout) -> None:
    moves = Candidates(10).moves(layout, 12, seed=7)
    assert {sum(m.counts) for m in moves} == {12}
    assert len({m.counts for m in moves}) > 3
    assert all(min(m.counts) >= 1 for m in moves)
    assert [m.counts for m in Candidates(10).moves(layout, 12, seed=8)] != [m.counts for m in moves]


def test_the_least_mean_loss_by_samples_wins(layout: Layout, make_model: MakeModel) -> None:
    choice = Candidates(3)
    choice.observe(10, {"losses": torch.tensor([1.0, 4.0, 0.0])}, -1)
    choice.observe(90, {"losses": torch.tensor([5.0, 4.5, 1e9])}, -1)
    # (10 + 450) / 100 = 4.6 and (40 + 405) / 100 = 4.45, not 3 and 4.25
    chosen = choice.chosen(given(make_model(layout)))
    assert chosen == choice.moves(layout, 12, 7)[1]


def test_statistics_are_means_by_samples(layout: Layout) -> None:
    choice = Candidates(2)
    for samples, value in ((1, 4.0), (3, 8.0)):
        choice.observe(samples, {f"statistics {i}": torch.full((3,), value + i) for i in range(2)}, -2)
    sent = choice.broadcast()
    assert torch.equal(sent["statistics 0"], torch.full((3,), 7.0, dtype=torch.float64))
    assert torch.equal(sent["statistics 1"], torch.full((3,), 8.0, dtype=torch.float64))


def test_nobody_answered(layout: Layout, make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="no client's losses"):
        Candidates(2).chosen(given(make_model(layout)))
    with pytest.raises(UserError, match="no client's statistics"):
        Candidates(2).broadcast()


def test_a_client_answers_what_torch_says_of_the_masked_network() -> None:
    """Statistics of the first batch alone, whatever the network's were; the loss with the means it was sent."""
    seen: dict[str, Any] = {}

    class Watched(Candidates):  # type: ignore[misc]
        def measure(self, turn: Any) -> dict[str, Any]:
            before = [t.clone() for t in (*turn.network.parameters(), *turn.network.buffers())]
            found = super().measure(turn)
            after = [*turn.network.parameters(), *turn.network.buffers()]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the network is as it was"
            seen[turn.t] = (found, turn.batch("candidates")[0], turn)
            return found

    rule = FedTiny(candidates=2)
    rule._choice = Watched(2)
    run = SmallRun(readjust=rule, network=network)
    run.play(until=0)
    found, images, turn = seen[-2]
    for i, move in enumerate(rule._choice.moves(turn.layout, sum(turn.stage.counts), turn.stage_seed)):
        bits = draw(Positions.none(turn.layout), move.counts, move.seed).bits
        weights = turn.start.weights * bits
        conv = weights[:54].view(6, 1, 3, 3)
        inputs = (images.float() / 255 - 0.5) / 0.3
        out = nn.functional.conv2d(inputs, conv)
        expected = torch.cat([out.mean((0, 2, 3)), out.transpose(0, 1).reshape(6, -1).var(1)])
        assert torch.allclose(found[f"statistics {i}"], expected, atol=1e-4)
    assert seen[-1][0]["losses"].shape == (2,)


def test_it_keeps_the_laws_of_rules_and_its_mask_is_the_winner() -> None:
    testing.check_rule(lambda: FedTiny(candidates=3))
    rule, rounds = FedTiny(candidates=3), list[Round]()
    SmallRun(readjust=rule).play(until=1, look=rounds.append)
    planned, choice = rounds[-1].planned, rule._choice
    assert [done.plan.t for done in rounds] == [-2, -1, 0]
    assert choice._losses is not None
    moves = choice.moves(planned.layout, len(planned.alive_at), derive_seed(rounds[-1].server.rules.seed, "grow", 0))
    winner = moves[int(choice._losses.argmin())]
    assert planned.alive_at == draw(Positions.none(planned.layout), winner.counts, winner.seed)
    asked = [(rule.probes(STAGE, t), len(rule.forwards(planned.layout, STAGE, t, seed=0))) for t in (-2, -1, 0)]
    assert asked == [(0, 3), (0, 3), (1, 0)]


def test_a_loss_that_is_no_number_never_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose loss of one candidate is not finite still has a say on the others."""
    values = iter([float("nan"), 3.0, 2.0, float("inf"), 2.0, 1.0] * 10)
    monkeypatch.setattr(candidates, "_loss", lambda *_: torch.tensor(next(values)))
    rule, rounds = FedTiny(candidates=3), list[Round]()
    run = SmallRun(readjust=rule).play(until=0, look=rounds.append)
    assert [done.record.rejected for done in rounds] == [{}, {}]
    move = rule._choice.chosen(Start(run.model, run.setup.stages[0], 0.5, seed=7))
    assert move == rule._choice.moves(run.model.layout, sum(run.setup.stages[0].counts), 7)[2]


def test_without_candidates_nothing_is_asked_before_round_0() -> None:
    rule = FedTiny()
    assert rule.warm_up == 0
    assert rule.state_dict() == {}
    with pytest.raises(ValueError, match=r"candidates` to be 0 \(none\) or 2 to 64, but got 1"):
        FedTiny(candidates=1)


def test_a_second_stage_takes_the_room_that_the_candidate_has_left(make_model: MakeModel, layout: Layout) -> None:
    """A candidate may fill a layer; what is frozen of it leaves no room for the layer's own share."""
    full = torch.arange(layout.maskable) >= 20  # the second layer
    model, rule = make_model(layout).with_masks(full, full), FedTiny(candidates=2)
    assert rule.start_counts(model, Stage(1, 5, 10, (8, 4))) == (12, 0)
    assert rule.start_counts(make_model(layout), Stage(0, 0, 5, (8, 4))) == (8, 4)


@pytest.mark.parametrize("seed", range(4))
def test_candidates_and_two_stages_train_to_the_end(seed: int) -> None:
    SmallRun(readjust=FedTiny(candidates=2), freeze=TwoStage(), seed=seed).play()


def test_flops_are_those_of_the_masked_networks(make_experiment: Callable[..., Any], play: Callable[..., Any]) -> None:
    """Every forward pass before round 0 is that of a candidate, at its own layers' densities."""
    own = ["method=fedtiny", "readjust=fedtiny_candidates", "readjust.candidates=3", "readjust.schedule.first=1"]
    experiment = make_experiment(*own, "rounds=1", "sparsity=0.9")
    total, flops, passed = sum(experiment.setup.stages[0].counts), experiment.ledger._flops, dict[int, list[int]]()

    def seen(turn: Any, batch: Any, loss: Callable[..., Any] = Turn.loss) -> Any:
        alive = [int(weight.count_nonzero()) for weight in turn.weights]
        assert sum(alive) == total
        passed.setdefault(turn.t, []).append(len(batch[1]) * flops.forward(alive))
        return loss(turn, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Turn, "loss", seen)
        bills = {r.t: r.bill["flops"] for r in play(experiment)}
    assert {t: len(found) for t, found in passed.items()} == {-2: 3 * 3, -1: 3 * 3}
    assert {t: sum(found) for t, found in passed.items()} == {t: bills[t] for t in (-2, -1)}
