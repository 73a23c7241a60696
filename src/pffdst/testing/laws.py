"""The laws of options that need no run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pffdst.core.flat import FlatModule, initialise
from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.core.seeding import generator_for, seeded_global_state
from pffdst.methods.aggregation import Aggregation
from pffdst.methods.allocation import Allocation
from pffdst.methods.faults import Fault, Faulty
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.local import LocalTraining
from pffdst.methods.local.augmentation import Augmentation
from pffdst.methods.local.lr_schedule import LearningRateSchedule
from pffdst.methods.local.objective import Objective
from pffdst.methods.local.optimizer import LocalOptimizer
from pffdst.methods.participation import Participation, Population
from pffdst.methods.server_optimizer import ServerOptimizer
from pffdst.methods.time import TimeModel
from pffdst.server.round import Round
from pffdst.testing.runs import SmallRun
from pffdst.wire.codecs import ValueCodec
from pffdst.wire.frame import Section, WireError
from pffdst.wire.uplink import Report, Upload

LAYOUT = Layout(
    (
        Entry("a.weight", (40, 30), 0, "maskable"),
        Entry("b.weight", (10, 40), 1200, "maskable"),
        Entry("c.weight", (4, 10), 1600, "maskable"),
        Entry("a.bias", (40,), 1640, "parameter"),
    )
)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator_for(seed, "laws"))


def check_allocation(allocation: Allocation) -> None:
    """Every layer has between 1 and all of its weights, and their sum is round((1 - s) W), or all (if dense)."""
    for density in (0.02, 0.1, 0.5, 0.95, 1.0):
        counts = allocation.counts(LAYOUT, density)
        sizes = [e.size for e in LAYOUT.layers]
        assert len(counts) == len(sizes), f"{len(counts)} counts for {len(sizes)} layers"
        assert all(1 <= k <= n for k, n in zip(counts, sizes, strict=True)), f"counts {counts} of layers {sizes}"
        assert sum(counts) in (round(density * sum(sizes)), sum(sizes)), f"{sum(counts)} weights at density {density}"
        assert counts == allocation.counts(LAYOUT, density), "two calls gave two allocations"


def check_freeze(schedule: FreezeSchedule) -> None:
    """Stages follow one another and fill the run; their counts fill the final model; only alive weights freeze."""
    counts, rounds = (600, 200, 30), 24
    stages = schedule.stages(rounds, counts)
    edges = [0, *(stage.stop for stage in stages)]
    assert [stage.start for stage in stages] == edges[:-1], "a stage does not start where the previous one ends"
    assert edges[-1] == rounds, f"the stages end after {edges[-1]} of {rounds} rounds"
    total = tuple(map(sum, zip(*(stage.counts for stage in stages), strict=True)))
    assert total == counts, f"over all stages {total} weights are trained, instead of {counts}"
    run = SmallRun(freeze=schedule, rounds=rounds)
    run.play(until=stages[1].start if len(stages) > 1 else 2)
    if len(stages) > 1:
        frozen = schedule.freezes(run.model, stages[1])
        assert bool(frozen.inside(run.model.alive_at).all()), "a dead weight freezes"
    run.play()
    assert run.model.sparsity >= 0.5 - 1e-3, (
        f"the run ends at sparsity {run.model.sparsity}, denser than the 0.5 requested"
    )


def check_codec(codec: ValueCodec) -> None:
    """What is decoded is what was sent, exactly or up to rounding whose mean is 0; damaged bytes raise WireError."""
    for count in (0, 1, 2, 7, 300, 5000):
        values, base = _draw(count), _draw(count, seed=1)
        for known in (None, base):
            section = codec.encode(values, seed=3, base=known)
            found = codec.decode(section, count, "values", base=known)
            assert found.shape == values.shape, f"{count} values came back with shape {tuple(found.shape)}"
            assert not codec.exact or torch.equal(found, values), "an exact codec changed a value"
            assert codec.encode(values, seed=3, base=known).body == section.body, "two calls gave two sections"
            for wrong in (count + 1, max(count - 1, 0)):
                _refuses(codec, section, wrong, count, known)
    if not codec.exact:
        _check_rounding(codec)


def _refuses(codec: ValueCodec, section: Section, wrong: int, right: int, known: Tensor | None) -> None:
    if wrong == right:
        return
    base = None if known is None else torch.zeros(wrong)
    try:
        found = codec.decode(section, wrong, "values", base=base)
    except WireError:
        return
    form = section.coding & 0x0F
    head = bytes(section.body[: codec.head_bytes(form)])
    alike = codec.planes(form, head, wrong) == codec.planes(form, head, right)  # several values may share a byte
    assert alike, f"{right} values were read as {tuple(found.shape)}"


def _check_rounding(codec: ValueCodec) -> None:
    values = _draw(512).double()
    found = torch.stack([codec.decode(codec.encode(values.float(), seed=s), 512, "values") for s in range(400)])
    error = found.double().mean(0) - values.float().double()
    for part in (error, error * values.sign()):  # bias in one direction, and towards 0
        bias = float(part.sum() / (found.double().var(0).sum() / 400).sqrt())
        assert abs(bias) < 6.0, f"rounding is not 0 on average: {bias:.1f} standard errors"


def check_lr_schedule(schedule: LearningRateSchedule) -> None:
    """Rates are finite, 0 or more, above 0 in the first round, and proportional to lr."""
    rates = [schedule.at(0.1, t, 50) for t in range(50)]
    assert all(math.isfinite(rate) and rate >= 0.0 for rate in rates), f"rates {rates}"
    assert rates[0] > 0.0, "the learning rate of the first round is 0"
    doubled = [schedule.at(0.2, t, 50) for t in range(50)]
    assert all(math.isclose(2 * a, b, abs_tol=1e-12) for a, b in zip(rates, doubled, strict=True)), "not proportional"


def check_optimizer(optimizer: LocalOptimizer) -> None:
    """Dead and frozen weights do not change in a run with weight decay, and the run repeats."""
    training, rounds = LocalTraining(2, 8, 0.01, 0.9, 0.1, 0.0, optimizer=optimizer), list[Round]()
    SmallRun(training=training, freeze=TwoStage(), rounds=4).play(look=rounds.append)
    wrong = [problem for done in rounds for problem in done.record.rejected.values()]
    assert wrong == [], f"an update is refused: {wrong[0]}"
    _repeats(lambda: SmallRun(training=training, freeze=TwoStage(), rounds=4))


def check_objective(objective: Objective) -> None:
    """The loss is a finite scalar with a gradient, and a run with it repeats."""
    outputs, labels = _draw(6, 4).requires_grad_(), torch.arange(6) % 4
    loss = objective.loss(outputs, labels)
    assert loss.dim() == 0, f"a loss of shape {tuple(loss.shape)}"
    assert bool(torch.isfinite(loss)), f"a loss of {float(loss)}"
    loss.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all()), "a gradient that is not finite"
    _repeats(lambda: SmallRun(training=LocalTraining(1, 8, 0.05, 0.9, 0.0, 0.0, objective=objective), rounds=3))


def check_augmentation(augmentation: Augmentation) -> None:
    """Returns uint8 images of the same shape; depends only on the global generator; originals are unchanged."""
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=generator_for(0, "laws"))
    kept, found = images.clone(), []
    for _ in range(2):
        with seeded_global_state(0, "laws"):
            found.append(augmentation(images))
    assert found[0].shape == images.shape, f"images of shape {tuple(found[0].shape)}"
    assert found[0].dtype == torch.uint8, f"images of {found[0].dtype}"
    assert torch.equal(found[0], found[1]), "the same draw gave two batches"
    assert torch.equal(images, kept), "the originals were changed"


def check_participation(participation: Participation) -> None:
    """Different clients in ascending order, the same for the same draw; no more than requested if `fixed`."""
    population = Population(50, lambda client: 10 + client)
    for t in range(20):
        cohorts = [participation.cohort(t, population, 7, generator_for(t, "laws")) for _ in range(2)]
        assert cohorts[0] == cohorts[1], "the same draw gave two cohorts"
        assert list(cohorts[0]) == sorted(set(cohorts[0])), f"cohort {cohorts[0]} is not ascending"
        assert not participation.fixed or len(cohorts[0]) <= 7, f"{len(cohorts[0])} clients for a cohort of 7"
        assert all(0 <= client < 50 for client in cohorts[0]), f"cohort {cohorts[0]} of 50 clients"


def check_time(model: TimeModel) -> None:
    """A client's device is always the same, and its speeds are above 0; or no client has one."""
    devices = [[model.device(client, 0) for client in range(20)] for _ in range(2)]
    assert devices[0] == devices[1], "a client has two different devices"
    known = [device for device in devices[0] if device is not None]
    assert len(known) in (0, 20), f"{20 - len(known)} of 20 clients have no device"
    assert all(math.isfinite(speed) and speed > 0 for device in known for speed in device), "a speed is not above 0"


def check_server_optimizer(make: Callable[[], ServerOptimizer]) -> None:
    """Dead and frozen weights stay; if the mean is the model, nothing moves at first; a resumed run ends the same."""
    alive = torch.arange(LAYOUT.maskable) % 3 == 0
    model = GlobalModel(LAYOUT, _draw(LAYOUT.total), torch.ones_like(alive), ~torch.ones_like(alive)).with_masks(
        alive, alive & (torch.arange(LAYOUT.maskable) % 2 == 0)
    )
    assert make().step(model, model).same_as(model), "a mean equal to the model changes the model"
    mean = model.with_trained(model.trained + 0.1, model.rest + 0.1)
    after = make().step(model, mean)
    assert not bool(after.weights[~alive].any()), "a dead weight is not 0"
    assert torch.equal(after.weights[model.frozen], model.weights[model.frozen]), "a frozen weight moved"
    _repeats(lambda: SmallRun(server_optimizer=make(), rounds=6))


def check_aggregation(aggregation: Aggregation) -> None:
    """Clients that change nothing leave the model unchanged, except for noise; a run repeats."""
    alive = torch.arange(LAYOUT.maskable) % 3 == 0
    model = GlobalModel(LAYOUT, _draw(LAYOUT.total), torch.ones_like(alive), ~torch.ones_like(alive)).with_masks(alive)
    if aggregation.discloses:  # otherwise the mean has noise added
        running = aggregation.begin(model, "left_out")
        for client, samples in enumerate((10, 110, 20)):
            report = Report(samples, 0.0, 0.0)
            running.add(Upload(client, report, model.trainable_at, model.trained, model.rest, model.rest[:0]))
        cohort = running.result()
        assert cohort is not None
        left = cohort.mean.values
        assert torch.allclose(left, model.values, atol=1e-6), "the mean of updates equal to the model differs"
    _repeats(lambda: SmallRun(aggregation=aggregation, rounds=4))


def check_fault(fault: Fault) -> None:
    """The requested number of clients is faulty, the same ones for a seed; runs continue, stay finite and repeat."""
    groups = [Faulty.of(fault, 50, seed).clients for seed in (0, 0, 1)]
    assert groups[0] == groups[1], "the same seed gave two groups of clients"
    assert len(groups[0]) == max(1, round(fault.share * 50)), f"{len(groups[0])} of 50 clients for {fault.share}"
    model = SmallRun(fault=fault, rounds=4).play().model
    assert bool(torch.isfinite(model.values).all()), "the model is not finite"
    _repeats(lambda: SmallRun(fault=fault, rounds=4))


def check_model(make: Callable[[], nn.Module]) -> None:
    """Two constructions from a named draw are equal; the network can be read, written and trained; the run repeats."""
    first, second = (FlatModule(initialise(make, 0)).read() for _ in range(2))
    assert torch.equal(first, second), "two constructions from one draw give different networks"
    flat = FlatModule(initialise(make, 0))
    flat.write_(2 * first)
    assert torch.equal(flat.read(), 2 * first), "what is read is not what was written"
    _repeats(lambda: SmallRun(network=make, rounds=4))


def _repeats(make: Callable[[], SmallRun]) -> None:
    """Two runs end alike, and so does one resumed from a checkpoint; dead weights are 0."""
    whole = make()
    half = whole.rounds // 2
    state = whole.play(until=half).state()
    digest = whole.play().digest()
    model = whole.model
    assert not bool(model.weights[~model.alive].any()), "a dead weight is not 0"
    assert make().play().digest() == digest, "the same seed gave two different models"
    assert make().restore(state).play().digest() == digest, "a resumed run ends with a different model"
