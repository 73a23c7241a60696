"""The batched engine gives what the trainer engine gives: held to 1e-9 in double precision, on its CPU path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pffdst.build import build
from pffdst.client import callbacks
from pffdst.client.callbacks import BrokenMaskError
from pffdst.config.compose import compose
from pffdst.core.flat import FlatModule
from pffdst.engines.base import Engine, Job, numerics
from pffdst.engines.batched import BatchedEngine
from pffdst.engines.fabric import FabricEngine
from pffdst.engines.trainer import TrainerEngine
from pffdst.experiment import Experiment
from pffdst.methods.readjust.candidates import Candidates
from pffdst.server.round import Round, RoundRecord

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = [
    "logger=csv",
    "rounds=6",
    "clients=6",
    "cohort=4",
    "eval_every=6",
    "partition.alpha=0.3",
    "readjust.schedule.interval=1",
]
BATCHED = ["engine=batched", "engine.device=cpu"]
RESNET = ["model=resnet18", "model.width=4", "rounds=4", "batch_size=64", "cohort=3"]


@pytest.fixture
def double() -> Iterator[None]:
    """Networks, data and messages in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(folder: Path, *overrides: str) -> Experiment:
    names = {o.split("=")[0].split(".")[0] for o in overrides}
    small = [o for o in SMALL if not (o.startswith("readjust.") and names & {"method", "readjust"})]
    return build(compose([*small, *overrides], CONFIGS), folder, "identity")


def play(experiment: Experiment) -> list[RoundRecord]:
    records = []
    with experiment.engine.open(experiment.setup):
        for t in range(experiment.first, experiment.rounds):
            now = experiment.server.begin(t)
            for update in experiment.engine.run(now.tasks()):
                now.absorb(update)
            records.append(now.conclude())
    return records


def assert_same(a: Experiment, b: Experiment) -> None:
    x, y = a.server.model, b.server.model
    assert x.values.dtype == torch.float64
    assert torch.equal(x.alive, y.alive)
    assert torch.equal(x.frozen, y.frozen)
    torch.testing.assert_close(x.values, y.values, rtol=0, atol=1e-9)


CASES = {
    "pffdst": ["method=pffdst"],
    "pffdst in channels_last": ["method=pffdst", "engine.channels_last=true"],
    "feddst with FedProx": ["method=feddst_prox", "prox_mu=0.5"],
    "fedavgm": ["method=fedavgm"],
    "no momentum, no decay": ["momentum=0", "weight_decay=0"],
    "strong decay": ["weight_decay=0.1", "momentum=0.5"],
    "normalisation": [*RESNET, "method=pffdst"],
    "normalisation with client gradients": [*RESNET, "method=feddst"],
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_batched_equals_the_trainer_in_double_precision(tmp_path: Path, overrides: list[str]) -> None:
    # one memory format: where digits tie in a max-pool, another one's rounding sends the gradient another way
    layout = [] if any(o.startswith("engine") for o in overrides) else ["engine.channels_last=false"]
    settings = ["lr=0.01", *layout, *overrides]
    trainer, batched = made(tmp_path, "engine=trainer", *settings), made(tmp_path, *BATCHED, *settings)
    wanted, found = play(trainer), play(batched)
    sizes = {trainer.setup.samples(k) % trainer.setup.training.batch_size for k in range(6)}
    assert len(sizes) > 2, "last batches should differ in length"
    assert_same(trainer, batched)
    for a, b in zip(wanted, found, strict=True):
        for x, y in zip(a.reports, b.reports, strict=True):
            assert (x.samples, x.loss, x.accuracy) == pytest.approx((y.samples, y.loss, y.accuracy), rel=1e-5)


@pytest.mark.usefixtures("double")
def test_a_client_of_one_sample_more_than_its_batches_is_trained_alike(tmp_path: Path) -> None:
    """The sample that would be alone joins the batch before it, which is then one longer than any other."""
    smallest = min(made(tmp_path).setup.samples(k) for k in range(6))
    overrides = [f"batch_size={smallest - 1}", "cohort=6", "rounds=4", "lr=0.01", "engine.channels_last=false"]
    trainer, batched = made(tmp_path, "engine=trainer", *overrides), made(tmp_path, *BATCHED, *overrides)
    play(trainer)
    play(batched)
    assert_same(trainer, batched)


@pytest.mark.parametrize("overrides", [["codec=int8", "codec.client_feedback=true"], ["method=feddst"]], ids=str)
def test_in_the_trainers_memory_format_batched_is_bit_equal_to_it(tmp_path: Path, overrides: list[str]) -> None:
    trainer = made(tmp_path, "engine=trainer", *overrides)
    batched = made(tmp_path, *BATCHED, "engine.channels_last=false", *overrides)
    play(trainer)
    play(batched)
    assert torch.equal(trainer.server.model.values, batched.server.model.values)


def test_frozen_weights_keep_their_bits_and_dead_ones_are_zero(tmp_path: Path) -> None:
    experiment = made(tmp_path, *BATCHED, "momentum=0.9", "weight_decay=0.1")
    server = experiment.server
    with experiment.engine.open(experiment.setup):
        for t in range(experiment.rounds):
            now, frozen = server.begin(t), server.model.frozen
            before = server.model.weights[frozen].clone()
            for update in experiment.engine.run(now.tasks()):
                now.absorb(update)
            now.conclude()
            assert torch.equal(server.model.weights[frozen], before)
            assert bool((server.model.weights[~server.model.alive] == 0).all())
    assert int(server.model.frozen.sum()) > 0


def test_a_weight_that_moved_though_it_had_to_stay_is_an_error(tmp_path: Path) -> None:
    """Where gradients are not masked, the check after the last step finds it."""
    experiment = made(tmp_path, *BATCHED)
    with experiment.engine.open(experiment.setup), pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "mask_gradients_", lambda weights, masks: None)
        now = experiment.server.begin(0)
        with pytest.raises(BrokenMaskError, match="stay"):
            list(experiment.engine.run(now.tasks()))


def test_clients_that_start_from_other_models_do_not_share_one(tmp_path: Path) -> None:
    """Two messages of one round that differ: each client trains from its own."""
    experiment = made(tmp_path, *BATCHED, "clients_keep=false")
    server, engine = experiment.server, experiment.engine
    with engine.open(experiment.setup):
        now = server.begin(0)
        tasks = now.tasks()
        alone = [u.payload for u in engine.run(tasks)]
        server.model = server.model.with_values(server.model.values * 2)
        doubled = Round(server, now.plan, server.model, server.model.alive_at).tasks()
        mixed = [tasks[0], doubled[1], tasks[2], doubled[3]]
        found = [u.payload for u in engine.run(mixed)]
    assert [a == b for a, b in zip(alone, found, strict=True)] == [True, False, True, False]


def test_an_unreadable_message_leaves_the_others_in_their_order(tmp_path: Path) -> None:
    from dataclasses import replace

    experiment = made(tmp_path, *BATCHED)
    with experiment.engine.open(experiment.setup):
        now = experiment.server.begin(0)
        tasks = now.tasks()
        tasks[1] = replace(tasks[1], payload=b"")
        updates = list(experiment.engine.run(tasks))
    assert tuple(u.client for u in updates) == now.plan.cohort
    assert [u.payload is None for u in updates] == [False, True, False, False]
    assert "could not read" in str(updates[1].problem)


def test_a_second_run_repeats_the_first(tmp_path: Path) -> None:
    first, second = made(tmp_path, *BATCHED), made(tmp_path, *BATCHED)
    play(first)
    play(second)
    assert torch.equal(first.server.model.values, second.server.model.values)


def test_bf16_trains_and_is_another_arithmetic(tmp_path: Path) -> None:
    exact, half = made(tmp_path, *BATCHED), made(tmp_path, *BATCHED, "engine.precision=bf16")
    play(exact)
    losses = [r.loss for record in play(half) for r in record.reports]
    assert losses[-1] < losses[0]
    assert not torch.equal(exact.server.model.values, half.server.model.values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_clients_train_as_with_the_default_engine(tmp_path: Path) -> None:
    batched, fabric = made(tmp_path, "engine=batched"), made(tmp_path, "engine=fabric")
    play(batched)
    play(fabric)
    assert torch.equal(batched.server.model.values, fabric.server.model.values)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"device": "gpu"}, "engine.device"),
        ({"streams": 0}, "engine.streams"),
        ({"precision": "fp8"}, "engine.precision"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BatchedEngine(**setting)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_what_needs_a_device_says_so_before_any_work() -> None:
    assert "engine.device=auto" in BatchedEngine(device="cuda").problems()[0]
    assert "engine.precision=fp32" in BatchedEngine(precision="bf16").problems()[0]
    assert BatchedEngine().problems() == []


def test_the_memory_format_of_the_loaded_model_is_the_networks(tmp_path: Path) -> None:
    experiment = made(tmp_path, *BATCHED)
    engine = experiment.engine
    assert isinstance(engine, BatchedEngine)
    with engine.open(experiment.setup):
        flat: FlatModule = engine._slots[0].flat
        for tensor, own in zip(engine._loaded.tensors, flat.tensors, strict=True):
            assert tensor.stride() == own.stride()


def test_timings_tell_what_a_client_took(tmp_path: Path) -> None:
    experiment = made(tmp_path, *BATCHED)
    with experiment.engine.open(experiment.setup):
        now = experiment.server.begin(0)
        for update in experiment.engine.run(now.tasks()):
            assert min(update.timings.train, update.timings.encode) > 0


def test_jobs_are_what_every_engine_takes(tmp_path: Path) -> None:
    experiment = made(tmp_path, *BATCHED)
    with experiment.engine.open(experiment.setup):
        now = experiment.server.begin(0)
        task = now.tasks()[0]
        (update,) = experiment.engine.train([Job(task, experiment.engine.memories.of(task.client))])
    assert update.payload is not None


def test_a_rule_that_changes_weights_between_two_passes_sees_them_in_bf16(tmp_path: Path) -> None:
    losses: dict[str, list[Tensor]] = {"fp32": [], "bf16": []}
    measure = Candidates.measure
    for precision, seen in losses.items():

        def noted(self: Candidates, turn: Any, seen: list[Tensor] = seen) -> dict[str, Any]:
            found = measure(self, turn)
            seen.extend(value for name, value in found.items() if name == "losses")
            return found

        own = [f"engine.precision={precision}", "method=fedtiny", "readjust=fedtiny_candidates", "rounds=2"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Candidates, "measure", noted)
            play(made(tmp_path / precision, *BATCHED, *own, "readjust.candidates=3"))
    assert len(set(losses["bf16"][0].tolist())) == 3
    torch.testing.assert_close(losses["bf16"][0], losses["fp32"][0], rtol=0.1, atol=0.1)


def test_cuda_s_options_are_set_for_all_kinds_of_layers_and_restored() -> None:
    backends = torch.backends

    def options() -> list[object]:
        flags = [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.deterministic]
        return [*flags, backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()]

    before = options()
    with numerics("fp32", deterministic=True):
        assert options() == [False, False, True, False, True]
        with backends.cudnn.flags(enabled=True):  # as a model may: it reads the flag that speaks for all kinds
            pass
    assert options() == before
    with numerics("tf32", deterministic=False):
        assert options() == [True, True, False, False, False]
    assert options() == before


def test_another_program_s_own_precisions_are_left_as_they_were() -> None:
    kinds = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = torch.backends.cudnn.allow_tf32
    try:
        kinds[0].fp32_precision, kinds[1].fp32_precision = "tf32", "ieee"
        with numerics("fp32", deterministic=False):
            assert not torch.backends.cudnn.allow_tf32
        assert [kind.fp32_precision for kind in kinds] == ["tf32", "ieee"]
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("engine", [FabricEngine(workers=0), TrainerEngine(), BatchedEngine(device="cpu")])
def test_every_engine_computes_on_cuda_as_it_says(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with engine.computing():
        assert torch.are_deterministic_algorithms_enabled() == before  # the CPU's are exact as they are
    monkeypatch.setattr(engine, "device", "cuda")
    with engine.computing():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() == before
