"""Recorded steps, with a pretended recording: replaying it calls the step again. CUDA itself is in `make gpu-check`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pffdst.client import module as client_module
from pffdst.client.loaded import Loaded
from pffdst.client.module import ClientModule
from pffdst.engines import slots
from pffdst.engines.batched import BatchedEngine
from pffdst.engines.slots import Slot, why_not_replayed
from pffdst.experiment import Experiment
from tests.engines.test_batched import BATCHED, double, made, play

__all__ = ["double"]

Step = Callable[[], None]
ADAMW = ["optimizer=adamw", "lr=0.01", "lr_schedule=cosine", "weight_decay=0.3"]


class Recording:
    """What a CUDA graph would be."""

    def __init__(self, step: Step) -> None:
        self.replay = step
        step()


def recording(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Experiment:
    """An experiment whose batched engine takes its steps for recordable, on the CPU."""
    found = made(folder, *BATCHED, *overrides)
    assert isinstance(found.engine, BatchedEngine)
    found.engine._settings = replace(found.engine._settings, record=True)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(Slot, "_record", lambda self, step: Recording(step))
    return found


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("overrides", [["method=pffdst"], ["method=feddst", *ADAMW]], ids=["sgd", "adamw"])
def test_recorded_steps_train_as_steps_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    plain = made(tmp_path / "plain", *BATCHED, *overrides)
    play(plain)
    recorded = recording(tmp_path / "recorded", monkeypatch, *overrides)
    replayed = []
    monkeypatch.setattr(Slot, "_record", lambda self, step: (replayed.append(step), Recording(step))[1])
    play(recorded)
    assert replayed
    torch.testing.assert_close(recorded.server.model.values, plain.server.model.values, rtol=0, atol=1e-9)


def test_a_recording_s_decay_follows_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = made(tmp_path, *ADAMW).setup
    module = ClientModule(
        setup.network, setup.training, setup.inputs, channels_last=False, in_place=True, layout=setup.layout
    )
    amounts: list[object] = []
    monkeypatch.setattr(client_module, "decay_", lambda parameters, masks, amount: amounts.append(amount))
    loaded = Loaded(module.flat, in_place=True)
    loaded.load_(made(tmp_path / "model", *ADAMW).server.model)
    module.begin(loaded, 0.01)
    optimizer = module.configure_optimizers()
    module.on_after_backward()
    module.set_lr(0.5)
    module.on_after_backward()
    assert [float(amount) for amount in amounts] == pytest.approx([0.003, 0.15])  # type: ignore[arg-type]
    assert all(isinstance(amount, torch.Tensor) for amount in amounts)  # a recording would repeat a number
    assert all(group["capturable"] for group in optimizer.param_groups)  # else Adam refuses to be recorded


def draw_in_python() -> None:
    random.random()


def draw_with_numpy() -> None:
    np.random.random()  # noqa: NPY002


def draw_on_the_cpu() -> None:
    torch.rand(1)


def wait() -> None:
    raise RuntimeError("called a synchronizing CUDA operation")


@pytest.mark.parametrize("step", [draw_in_python, draw_with_numpy, draw_on_the_cpu])
def test_a_step_that_draws_outside_the_device_is_not_replayed(step: Step) -> None:
    assert "draws random numbers" in why_not_replayed(step, several=True)


def test_a_step_that_only_computes_is_replayed() -> None:
    x = torch.ones(3)

    def step() -> None:
        x.mul_(2)

    assert why_not_replayed(step, several=True) == ""


def test_a_step_that_waits_for_the_device_is_not_replayed() -> None:
    calls = iter([lambda: None, wait])
    assert "called a synchronizing" in why_not_replayed(lambda: next(calls)(), several=True)


def test_draws_on_the_device_are_replayed_on_one_stream_or_by_a_torch_that_keeps_them_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = iter(range(100))
    monkeypatch.setattr(slots, "_device_state", lambda: bytes([next(states)]))
    for version, several, told in [("2.11.0", True, "one stream"), ("2.11.0", False, ""), ("2.15.0+cu132", True, "")]:
        monkeypatch.setattr(torch, "__version__", version)
        found = why_not_replayed(lambda: None, several=several)
        assert told in found
        assert bool(told) == bool(found)


def test_a_model_whose_steps_cannot_be_replayed_trains_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(slots, "why_not_replayed", lambda step, several: "it waits")
    plain, other = made(tmp_path / "plain", *BATCHED), recording(tmp_path / "other", monkeypatch)
    play(plain)
    play(other)
    torch.testing.assert_close(other.server.model.values, plain.server.model.values, rtol=1e-4, atol=1e-5)
    assert "it waits: steps are not recorded" in caplog.text


def test_a_client_s_dropout_does_not_depend_on_whether_its_slot_has_just_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[bytes]] = []
    real = Slot._prepare
    for prepares in (1, 3):
        states: list[bytes] = []

        def prepare(self: Slot, *args: object, times: int = prepares) -> None:
            for _ in range(times):
                torch.rand(5)
            real(self, *args)  # type: ignore[arg-type]

        def step(self: Slot, *args: object, seen: list[bytes] = states) -> None:
            seen.append(torch.get_rng_state().numpy().tobytes())

        with monkeypatch.context() as own:
            experiment = recording(tmp_path / str(prepares), own)
            own.setattr(Slot, "_prepare", prepare)
            own.setattr(Slot, "_step", step)
            play(experiment)
        drawn.append(states)
    assert drawn[0]
    assert drawn[0] == drawn[1]
