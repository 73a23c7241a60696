"""FLASH: its moves and budgets by hand, what travels and is billed before round 0, and the limit of a fixed mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.masks import Move, draw
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed
from pffdst.cost.flops import FlopCounter
from pffdst.experiment import Experiment
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.allocation import filled
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.local import LocalTraining
from pffdst.methods.readjust.flash import Flash, grown_counts, shared_out
from pffdst.methods.readjust.static import Static
from pffdst.methods.rule import Cohort
from pffdst.run import play_round
from pffdst.testing import SmallRun, check_rule
from pffdst.wire.uplink import Report, Upload

MakeExperiment = Callable[..., Experiment]
STAGE = Stage(0, 0, 10, (10, 6))


# ---- dividing ------------------------------------------------------------------------------------------------------


@given(
    layers=st.lists(st.tuples(st.floats(0, 1e6, allow_subnormal=False), st.integers(0, 1000)), min_size=1, max_size=8),
    share=st.floats(0, 1),
)
def test_what_is_divided_fits_and_is_all_of_it(layers: list[tuple[float, int]], share: float) -> None:
    wanted, room = [w for w, _ in layers], [r for _, r in layers]
    total = int(share * sum(room))
    counts = shared_out(wanted, room, total)
    assert sum(counts) == total
    assert all(0 <= n <= r for n, r in zip(counts, room, strict=True))
    shares = filled(wanted, room, total)
    assert all(abs(n - x) < 1 for n, x in zip(counts, shares, strict=True))
    ratios = {x / w for x, w, r in zip(shares, wanted, room, strict=True) if w > 0 and 0 < x < r * (1 - 1e-9)}
    assert not ratios or max(ratios) <= min(ratios) * (1 + 1e-6), "layers that are not full have equal parts"


def test_dividing_by_hand() -> None:
    """9 over 1 : 1 : 2. The first takes 1, all it can; of the 8 left 2 2/3 and 5 1/3, the larger remainder gets one."""
    assert filled([1.0, 1.0, 2.0], [1, 10, 10], 9) == [1.0, pytest.approx(8 / 3), pytest.approx(16 / 3)]
    assert shared_out([1.0, 1.0, 2.0], [1, 10, 10], 9) == (1, 3, 5)
    assert shared_out([0.0, 1.0], [5, 2], 4) == (2, 2), "what nobody wants goes where there is room"
    with pytest.raises(ValueError, match="at most 3 weights"):
        filled([1.0], [3], 4)


def test_a_move_leaves_a_hundredth_of_a_layers_room_where_it_can() -> None:
    large, small = torch.full((5,), 100.0), torch.full((5,), 0.01)
    assert grown_counts([large, small], [100, 1000], 200) == (99, 101)
    assert grown_counts([large, small], [100, 100], 200) == (100, 100)
    assert grown_counts([torch.tensor([float("nan")]), small], [100, 100], 50) == (0, 50)


# ---- a client's move -----------------------------------------------------------------------------------------------


LAYOUT = Layout(
    (
        Entry("conv", (2, 2, 2, 2), 0, "maskable"),
        Entry("fc", (4, 3), 16, "maskable"),
        Entry("bias", (4,), 28, "parameter"),
    )
)


@dataclass
class Turn:
    """A client in the middle of its steps."""

    start: GlobalModel
    t: int
    step: int
    steps: int = 8
    epochs: int = 4
    stage: Stage = STAGE
    layout: Layout = LAYOUT
    trained_on: list[Positions] = field(default_factory=list)

    @property
    def trainable(self) -> Positions:
        return self.trained_on[-1] if self.trained_on else self.start.trainable_at

    def train_on(self, trainable: Positions) -> None:
        self.trained_on.append(trainable)

    def values(self) -> Tensor:
        return self.start.weights

    def generator_seed(self, stream: str) -> int:
        return derive_seed(0, stream, self.t)


def conv_of_eight(frozen: int = 0) -> GlobalModel:
    """Weights 8, 7 .. 1 at the conv's first eight places, the rest of it dead; the linear layer is dense, all 1.5."""
    alive = torch.zeros(28, dtype=torch.bool)
    alive[:8], alive[16:] = True, True
    values = torch.cat([torch.arange(8.0, 0.0, -1.0), torch.zeros(8), torch.full((12,), 1.5), torch.zeros(4)])
    z = torch.zeros(28, dtype=torch.bool)
    z[:frozen] = True
    return GlobalModel(LAYOUT, values, alive, z)


def test_before_round_0_the_smallest_of_convolutions_go_and_as_many_come() -> None:
    """Rate .5 (1 - 2/8) = .375 of 8 weights: 3 go, the smallest, in the last places; 3 of the 11 free ones come."""
    turn: Any = Turn(conv_of_eight(), t=-1, step=2)
    Flash(rate=0.5).epoch_end(turn, 0)
    kept, moved = turn.trained_on
    assert kept.index.tolist() == [0, 1, 2, 3, 4, *range(16, 28)]
    assert moved.counts == (8, 12)
    assert bool(kept.inside(moved).all())


def test_in_a_round_all_layers_take_part() -> None:
    """At rate .25 2 of 8 and 3 of 12 go. Mean |w| 4.5 : 1.5, so 5 in parts of 3.75 and 1.25: 4 and 1."""
    turn: Any = Turn(conv_of_eight(), t=0, step=0)
    Flash(mask="moving").epoch_end(turn, 0)
    assert turn.trained_on[0].counts == (6, 9)
    assert turn.trained_on[1].counts == (10, 10)


def test_frozen_weights_neither_leave_nor_are_grown_upon() -> None:
    turn: Any = Turn(conv_of_eight(frozen=4), t=0, step=0)
    Flash(mask="moving", rate=1.0).epoch_end(turn, 0)
    assert len(turn.trained_on[-1]) == 16
    assert not bool(turn.trained_on[-1].inside(turn.start.frozen_at).any())


@pytest.mark.parametrize(("epochs", "mask", "moves"), [(1, "moving", 1), (3, "moving", 2), (3, "fixed", 0)])
def test_when_masks_move(epochs: int, mask: Any, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before round 0 at the ends of all epochs but the last, at a rate that falls to 0; of one epoch in the middle."""
    seen: list[tuple[int, float]] = []
    move = Flash._move

    def spy(rule: Flash, turn: Any) -> None:
        seen.append((turn.t, 1 - turn.step / turn.steps))
        move(rule, turn)

    monkeypatch.setattr(Flash, "_move", spy)
    training = LocalTraining(epochs, 3, 0.05, 0.9, 0.0, 0.0)
    SmallRun(readjust=Flash(mask=mask, init_epochs=10), training=training, rounds=2).play()
    before = [left for t, left in seen if t < 0]
    assert before == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    for t in (0, 1):  # three clients of 12 samples: 4 steps an epoch
        rest = [left for at, left in seen if at == t]
        assert rest == pytest.approx(3 * ([0.5] if epochs == 1 else [2 / 3, 1 / 3]) if moves else [])


# ---- the server ----------------------------------------------------------------------------------------------------


def upload(client: int, model: GlobalModel, at: list[int], values: list[float]) -> tuple[Upload, GlobalModel]:
    places = Positions(LAYOUT, index=torch.tensor(at))
    own = model.moved(places).with_held(torch.tensor(values), model.rest)
    return Upload(client, Report(10, 0.0, 0.0), places, own.held, model.rest, None), own


def test_the_next_mask_by_hand() -> None:
    """Clients hold 3 and 1 weights of the conv, 1 and 3 of the other: 2 each. The mean counts what is absent as 0.

    Conv: places 0 (4 + 4) / 2, 1: 3 / 2, 2: 5 / 2: 0 and 2 stay. Other: 16: (1 + 1) / 2, 17: -9 / 2, 18: 1 / 2.
    """
    model, rule, stage = conv_of_eight(), Flash(mask="moving"), Stage(0, 0, 10, (3, 1))
    model = model.moved(Positions(LAYOUT, index=torch.tensor([0, 1, 2, 16])))
    mean = MaskedMean().begin(model, rule.absent)
    for one, own in (
        upload(0, model, [0, 1, 2, 16], [4.0, 3.0, 5.0, 1.0]),
        upload(1, model, [0, 16, 17, 18], [4.0, 1.0, -9.0, 1.0]),
    ):
        mean.add(one)
        rule.observe(one.client, own, 10, {}, stage, 0)
    cohort = mean.result()
    assert cohort is not None
    after = rule.after_round(cohort, stage, 0, 0)
    assert after.alive_at.index.tolist() == [0, 2, 16, 17]
    assert after.held.tolist() == [4.0, 2.5, 1.0, -4.5]


def test_densities_count_alike_and_are_scaled_to_the_stage() -> None:
    """Means .4 and .8 of 16 and 12 weights are 6.4 and 9.6; for 14 in all 5.6 and 8.4. By samples: 2 and 12."""
    rule, model = Flash(), conv_of_eight()
    for client, (samples, found) in enumerate(((1, [0.7, 0.6]), (99, [0.1, 1.0]))):
        rule.observe(client, model, samples, {"densities": torch.tensor(found)}, STAGE, -1)
    dense = model.moved(Positions.all(LAYOUT))
    assert rule.start_counts(dense, replace(STAGE, counts=(8, 6))) == (6, 8)
    assert rule.start_counts(dense, replace(STAGE, counts=(14, 10))) == (12, 12), "at most all of a layer"


def test_the_first_mask_is_a_draw_of_the_stages_density_in_convolutions() -> None:
    move = Flash().before_round(conv_of_eight(), STAGE, -1, 5)
    assert move == Move(None, (round(16 * 16 / 28), 12), 5)
    assert Flash(dense_linear=False).before_round(conv_of_eight(), STAGE, -1, 5) == Move(None, (9, 7), 5)
    assert Flash().before_round(conv_of_eight(), STAGE, 3, 5) is None


# ---- whole runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["fixed", "moving"])
def test_the_laws_of_a_rule(mask: Any) -> None:
    check_rule(lambda: Flash(mask=mask, init_epochs=2))


def test_moving_more_seldom_than_there_are_rounds_is_a_fixed_mask() -> None:
    never, fixed = (
        SmallRun(readjust=Flash(mask=mask, every=every, init_epochs=2), rounds=5).play()
        for mask, every in (("moving", 6), ("fixed", 1))
    )
    often = SmallRun(readjust=Flash(mask="moving", every=5, init_epochs=2), rounds=5).play()
    assert never.digest() == fixed.digest() != often.digest()


def test_with_a_fixed_mask_the_rounds_are_those_of_a_random_mask_with_the_same_counts() -> None:
    flash = SmallRun(readjust=Flash(init_epochs=2), rounds=3).play(until=0)
    now = flash.server.begin(0)
    counts = flash.setup.method.readjust.start_counts(flash.model, flash.setup.stages[0])
    assert now.planned.trainable_at == draw(Positions.none(now.planned.layout), counts, derive_seed(0, "grow", 0))
    random = SmallRun(readjust=Static(), rounds=3)
    stages = (replace(random.setup.stages[0], counts=counts),)
    random.setup = replace(random.setup, stages=stages)
    random.server.rules = replace(random.server.rules, stages=stages)
    assert random.server.begin(0).planned.alive_at == now.planned.alive_at
    assert not torch.equal(random.model.held, now.planned.held), "its weights are initialised anew"


class Projected(nn.Module):
    """Its first projection never trains."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Parameter(torch.randn(64, 16) / 8, requires_grad=False)
        self.out = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(torch.relu(images.flatten(1) @ self.fixed))


def test_what_never_trains_is_not_made_anew() -> None:
    """Clients of round -1 hold it: they can read round 0's message although it is not sent again."""
    rounds: list[Any] = []
    run = SmallRun(readjust=Flash(init_epochs=1, init_share=1.0), network=Projected, rounds=1)
    initial = run.model.values
    run.play(look=rounds.append)
    assert [done.record.rejected for done in rounds] == [{}, {}]
    fixed = run.model.layout.span("constant")
    assert torch.equal(run.model.values[fixed], initial[fixed])
    assert fixed.stop - fixed.start == 64 * 16


def played(experiment: Experiment) -> list[dict[str, int]]:
    """Plays all rounds; each one's bill."""
    bills = []
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.first, experiment.rounds):
            play_round(experiment, t)
            bills.append(dict(experiment.ledger.round))
    return bills


def test_before_round_0_a_seed_goes_down_and_a_number_a_layer_comes_up(make_experiment: MakeExperiment) -> None:
    run = make_experiment("method=flash", "rounds=2", "readjust.init_share=0.4", "readjust.init_epochs=3")
    first, second, _ = played(run)
    layers, density = run.setup.layout.layers, sum(run.setup.stages[0].counts) / run.setup.layout.maskable
    assert 0 < first["down/mask"] < 2 * 40, "two masks, each a seed and a count a layer"
    assert 0 < second["down/mask"] < 3 * 40
    assert first["up/signals"] == 2 * 4 * len(layers)
    assert not any(first.get(f"up/{part}") for part in ("mask", "values", "dense"))
    alive = [round(density * e.size) if e.kernel else e.size for e in layers]
    cohort = run.server._asked(-1)
    flops = FlopCounter.of(run.network.module, run.setup.layout, (1, 8, 8)).training(alive, alive)
    assert len(cohort) == 2
    assert first["flops"] == 3 * sum(run.setup.samples(k) for k in cohort) * flops


def test_initial_weights_at_a_sparse_scale_stay_so_when_they_are_made_anew(make_experiment: MakeExperiment) -> None:
    plain, scaled = (
        make_experiment("method=flash", "rounds=1", "readjust.init_epochs=1", f"sparse_init={wanted}")
        for wanted in ("false", "true")
    )
    for run in (plain, scaled):
        run.setup.method.readjust.observe(
            0, run.server.model, 1, {"densities": torch.full((len(run.setup.layout.layers),), 0.25)}, STAGE, -1
        )
    a, b = (run.server.begin(0).planned for run in (plain, scaled))
    for layer, k in zip(a.layout.layers, a.alive_at.counts, strict=True):
        ratio = b.weights[layer.span].norm() / a.weights[layer.span].norm()
        assert ratio == pytest.approx((layer.size / k) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("other", "exact"),
    [("engine=trainer", True), ("engine=batched engine.device=cpu engine.channels_last=false", False)],
)
def test_every_engine_trains_it_alike(make_experiment: MakeExperiment, other: str, exact: bool) -> None:
    small = ("method=flash_moving", "rounds=2", "readjust.init_epochs=3", "readjust.init_share=0.5")
    one, two = make_experiment(*small), make_experiment(*small, *other.split())
    played(one)
    played(two)
    assert one.ledger.total["flops"] == two.ledger.total["flops"]
    if exact:
        assert one.server.model.same_as(two.server.model)
    else:
        assert one.server.model.alive_at.counts == two.server.model.alive_at.counts
        assert torch.allclose(one.server.model.values, two.server.model.values, atol=1e-4)


# ---- parameter freezing on FLASH -----------------------------------------------------------------------------------


def test_a_second_stage_is_divided_by_the_same_densities_in_the_room_that_is_left() -> None:
    """Of 16 and 12 weights 10 and 6 are frozen. Of 10 .3 and .9 want 4.8 : 10.8: 6 is all the room, 4 stay."""
    rule, frozen = Flash(), Positions(LAYOUT, index=torch.tensor([*range(10), *range(16, 22)]))
    rule.observe(0, conv_of_eight(), 1, {"densities": torch.tensor([0.3, 0.9])}, STAGE, -1)
    model = conv_of_eight().moved(frozen).freezing(frozen)
    assert rule.start_counts(model, Stage(1, 5, 10, (5, 5))) == (4, 6)


def test_frozen_weights_are_in_no_budget() -> None:
    """Both clients train 3 weights of the conv and 1 of the other, of which 6 more are frozen: 3 and 1 stay."""
    rule, frozen = Flash(mask="moving"), Positions(LAYOUT, index=torch.arange(16, 22))
    start = conv_of_eight().moved(frozen).freezing(frozen)
    model, own = (start.moved(frozen.plus(Positions(LAYOUT, index=torch.tensor(at)))) for at in (
        [0, 1, 2, 3, 22, 23], [0, 1, 2, 22],
    ))  # fmt: skip
    for client in (0, 1):
        rule.observe(client, own, 10, {}, STAGE, 0)
    cohort = Cohort(model, torch.ones(len(model.alive_at)), 20, 2, start)
    after = rule.after_round(cohort, Stage(1, 0, 10, (3, 1)), 0, 0)
    assert after.trainable_at.counts == (3, 1)
    assert after.frozen_at == frozen


def test_stage_1_of_freezing_is_flash_with_half_of_the_weights() -> None:
    """To the bit, as long as it has the same rounds; in stage 2 the weights of stage 1 stay, and all are there."""
    both = SmallRun(readjust=Flash(init_epochs=2), freeze=TwoStage(), rounds=6)
    half = SmallRun(readjust=Flash(init_epochs=2), rounds=6)
    stages = (replace(half.setup.stages[0], counts=both.setup.stages[0].counts),)
    half.setup = replace(half.setup, stages=stages)
    half._work = type(half._work)(half.setup, channels_last=False)
    half.server.rules = replace(half.server.rules, stages=stages)
    assert both.play(until=3).model.same_as(half.play(until=3).model)
    first = both.model
    both.play()
    assert both.model.frozen_at == first.alive_at
    assert torch.equal(both.model.weights[first.alive], first.weights[first.alive])
    assert len(both.model.alive_at) == sum(sum(stage.counts) for stage in both.setup.stages)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mask": "random"}, "fixed or moving"),
        ({"init_share": 0.0}, "init_share"),
        ({"rate": 1.5}, "rate"),
        ({"init_epochs": 0}, "init_epochs"),
        ({"every": 0}, "every"),
    ],
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Flash(**wrong)


def test_a_second_rule_of_own_masks_is_refused(config_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"readjust\.mask=moving"):
        check(compose(["method=flash_moving", "logger=csv", "updates=topk_ef"], config_dir))


def test_a_mask_that_never_moves_is_remarked_upon() -> None:
    assert "never move" in Flash(mask="moving", every=9).remarks([4, 8])[0]
    assert Flash(mask="moving", every=8).remarks([4, 8]) == Flash(every=9).remarks([4]) == []
