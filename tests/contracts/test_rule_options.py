"""What every option of configs/readjust and configs/updates must keep over a whole stage, with and without freezing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.masks import Move, draw
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.method import Method
from pffdst.methods.readjust.static import Static
from pffdst.methods.rule import Answer, Rule
from pffdst.methods.updates.plain import Plain
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.downlink import Broadcast, Memory, decode_downlink
from pffdst.wire.uplink import Report, decode_uplink, encode_uplink

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OPTIONS = [path for group in ("readjust", "updates") for path in sorted((CONFIGS / group).glob("*.yaml"))]
LAYOUT = Layout(
    (Entry("a", (40, 6), 0, "maskable"), Entry("b", (16, 10), 240, "maskable"), Entry("c", (4,), 400, "parameter"))
)
W, CLIENTS, COUNTS = LAYOUT.maskable, 3, (90, 50)
CODECS = Codecs(Float32(), Float32())


@pytest.fixture(params=OPTIONS, ids=lambda path: f"{path.parent.name}={path.stem}")
def make_rule(request: pytest.FixtureRequest) -> Callable[[], Rule]:
    """Makes the option's rule, one that moves its mask in every second round."""

    def make() -> Rule:
        root = OmegaConf.create({"sparsity": 0.65, "own": OmegaConf.load(request.param)})
        rule: Any = instantiate(root.own)
        if hasattr(rule, "schedule"):
            rule = replace(rule, schedule=replace(rule.schedule, interval=2))
        assert isinstance(rule, Rule)
        return rule

    return make


def method_of(rule: Rule) -> Method:
    """The rule with one that does nothing beside it."""
    return Method(Static(), rule) if "updates" in type(rule).__module__ else Method(rule, Plain())


@dataclass
class Turn:
    """As much of a client's turn as a rule needs that has no hand in single steps."""

    client: int
    t: int
    stage: Stage
    start: GlobalModel
    trained: GlobalModel
    received: Any
    memory: Any
    rounds: int = 19
    samples: int = 20
    steps: int = 5
    step: int = 5
    lr: float = 0.1
    layout: Layout = LAYOUT
    scratch: dict[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> Positions:
        return self.start.trainable_at

    def values(self) -> Tensor:
        return self.trained.weights

    def gradient(self, stream: str = "probe") -> Tensor:
        return torch.randn(W, generator=generator_for(2, stream, self.t, self.client))

    def generator_seed(self, stream: str) -> int:
        return derive_seed(2, stream, self.t, self.client)


IN_TRAINING = ("begin", "before_step", "shape_gradient_", "epoch_end")


def skip_if_in_training(rule: Rule) -> None:
    """A rule with a hand in training needs a client that trains: whole runs have one."""
    if any(getattr(type(rule), hook) is not getattr(Rule, hook) for hook in IN_TRAINING):
        pytest.skip("it has a hand in training: test_method_runs.py plays the methods it is part of")


class House:
    """A server and its clients, with random numbers for training and bytes between them."""

    def __init__(self, rule: Rule, stage: Stage, frozen_share: float) -> None:
        self.rule, self.method, self.stage = rule, method_of(rule), stage
        self.memories: dict[int, Any] = {}
        generator = generator_for(0, "begin")
        frozen = Positions(LAYOUT, bits=torch.rand(W, generator=generator) < frozen_share)
        values, everything = torch.randn(LAYOUT.total, generator=generator), Positions.all(LAYOUT)
        dense = GlobalModel(LAYOUT, values, everything.bits, Positions.none(LAYOUT).bits)
        self.started = self.method.readjust.start_counts(dense.moved(frozen).freezing(frozen), stage)
        drawn = draw(frozen, self.started, derive_seed(0, "draw"))
        self.model = dense.moved(frozen.plus(drawn)).freezing(frozen)

    def play(self, t: int) -> None:
        """Round t."""
        method, stage = self.method, self.stage
        if t > stage.start:
            for rule in method:
                change = rule.before_round(self.model, stage, t, derive_seed(0, "grow", t))
                if change is not None:
                    self.model = change.on(self.model) if isinstance(change, Move) else change
        signals = {k: v for rule in method for k, v in rule.broadcast(self.model, stage, t).items()}
        declared, form = method.down(stage, t), method.uplink(CODECS, stage, t, statistics=True)
        frozen = CODECS.values.encode(self.model.frozen_at.gather(self.model.weights))
        broadcast = Broadcast(
            self.model,
            t,
            CODECS,
            frozen_values=frozen if len(self.model.frozen_at) else None,
            declared=declared,
            signals=signals,
        )
        mean = MaskedMean().begin(self.model, method.absent)
        for client in range(CLIENTS):
            received = decode_downlink(broadcast.payload(), Memory(), LAYOUT, CODECS, declared)
            upload = decode_uplink(self.answer(client, t, received, form), self.model, client, t, form)
            mean.add(upload)
            assert upload.weights is not None
            assert upload.parameters is not None
            own = self.model.moved(self.model.frozen_at.plus(upload.at)).with_trained(upload.weights, self.model.rest)
            for rule in method:
                rule.observe(client, own, upload.report.samples, upload.signals, stage, t)
        cohort = mean.result()
        assert cohort is not None
        for rule in method:
            cohort = replace(cohort, mean=rule.after_round(cohort, stage, t, derive_seed(0, "after", t)))
        self.model = cohort.mean

    def answer(self, client: int, t: int, received: Any, form: Any) -> bytes:
        start, stage = received.model, self.stage
        change = 0.1 * torch.randn(len(start.trainable_at), generator=generator_for(1, "client", t, client))
        trained = start.with_trained(start.trained + change, start.rest)
        turn = Turn(client, t, stage, start, trained, received.signals, self.memories.get(client, {}))
        made = Answer(trained)
        for rule in self.method:
            rule.begin(turn)  # type: ignore[arg-type]
        for rule in self.method:
            made = rule.answer(made, rule.measure(turn), stage, t)  # type: ignore[arg-type]
        assert made.own_mask == (form.own_masks is not None)
        assert set(made.signals) == {signal.name for signal in form.signals}
        self.memories[client] = made.memory
        payload, _ = encode_uplink(made.model, start, client, t, Report(20, 0.5, 0.5), form, signals=made.signals)
        return payload


@pytest.mark.parametrize("frozen", [0.0, 0.25])
@pytest.mark.parametrize("start", [0, 20])
def test_the_laws_of_a_stage(make_rule: Callable[[], Rule], frozen: float, start: int) -> None:
    skip_if_in_training(make_rule())
    if frozen and make_rule().problems(Facts(stage_lengths=(19, 19))):
        pytest.skip("it does not go with freezing, and says so")
    if type(make_rule()).__module__.endswith(".apf"):
        pytest.skip("it freezes weights of a dense model for a while: its laws are its own")
    stage = Stage(int(start > 0), start, start + 19, COUNTS)
    house, fixed = House(make_rule(), stage, frozen), None
    first, end = house.model, house.method.readjust.exploration_end(stage)
    for t in range(stage.start, stage.stop):
        house.play(t)
        model = house.model
        assert bool((model.weights[~model.alive] == 0).all())
        assert torch.equal(model.frozen, first.frozen)
        assert torch.equal(model.weights[first.frozen], first.weights[first.frozen])
        assert all(n >= k for n, k in zip(model.trainable_at.counts, stage.counts, strict=True))
        if t >= end:
            assert model.trainable_at.counts == stage.counts
            assert fixed is None or torch.equal(model.alive, fixed)
            fixed = model.alive
    assert fixed is not None, "exploration must end within the stage"


@pytest.mark.parametrize("frozen", [0.0, 0.6])
def test_a_stage_begins_with_at_least_its_weights_and_within_the_room(
    make_rule: Callable[[], Rule], frozen: float
) -> None:
    house = House(make_rule(), Stage(0, 0, 19, COUNTS), frozen)
    room = house.model.frozen_at.complement().counts
    assert all(n <= r for n, r in zip(house.started, room, strict=True))
    assert sum(house.started) >= sum(COUNTS)
    if house.rule.warm_up == 0:  # one that warms up may divide them over the layers in its own way
        assert all(k <= n for k, n in zip(COUNTS, house.started, strict=True))


@pytest.mark.parametrize("stop", [1, 2, 3, 7])
def test_a_rule_goes_on_from_its_state_as_if_it_had_not_stopped(make_rule: Callable[[], Rule], stop: int) -> None:
    """What it keeps is in `state_dict`, and nowhere else."""
    skip_if_in_training(make_rule())
    stage = Stage(0, 0, 19, COUNTS)
    whole, half, again = (House(make_rule(), stage, 0.25) for _ in range(3))
    for t in range(12):
        whole.play(t)
        (half if t < stop else again).play(t)
        if t == stop - 1:
            again.model, again.memories = half.model, half.memories
            again.rule.load_state_dict(half.rule.state_dict(), LAYOUT)
    assert again.model.same_as(whole.model)


def test_a_rule_reaches_other_processes_as_it_is(make_rule: Callable[[], Rule]) -> None:
    rule = make_rule()
    again = pickle.loads(pickle.dumps(rule))
    assert type(again) is type(rule)
    assert {k: repr(v) for k, v in vars(again).items()} == {k: repr(v) for k, v in vars(rule).items()}


def test_stages_of_the_usual_length_are_welcome(make_rule: Callable[[], Rule]) -> None:
    assert make_rule().problems(Facts(stage_lengths=(120,))) == []
    assert all("write" in problem for problem in make_rule().problems(Facts(stage_lengths=(60, 60)))), (
        "what to write instead"
    )
