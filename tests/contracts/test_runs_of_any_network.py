"""Whole runs of networks as people write them: one digest, whoever trains; every_network.py plays them all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from pffdst.build import build, content
from pffdst.config.check import ConfigError
from pffdst.core.errors import UserError
from pffdst.launch import check_content
from pffdst.runs import checkpoint
from pffdst.wire.frame import Tag, unpack
from tests.every_network import WAYS, check_file, configuration, digest, opened, play, played, resumed
from tests.zoo import LeftOut, Tied

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")


@cache
def alone(name: str) -> str:
    with TemporaryDirectory() as folder:
        return played(name, WAYS["workers=0"], Path(folder))


@pytest.mark.parametrize(
    ("name", "way"),
    [("Rebound", "workers=2"), ("Generators", "workers=3"), ("ScriptedCounter", "workers=2"), ("Drawn", "workers=2")],
)
def test_the_number_of_workers_changes_nothing(tmp_path: Path, name: str, way: str) -> None:
    assert played(name, WAYS[way], tmp_path) == alone(name)


@pytest.mark.parametrize("name", ["Rebound", "Remembering"])
def test_a_run_that_is_taken_up_ends_as_one_that_never_stopped(tmp_path: Path, name: str) -> None:
    assert resumed(name, WAYS["workers=0"], tmp_path) == alone(name)


@pytest.mark.parametrize("name", ["Histogram", "WholeNumber"])
def test_engines_give_one_model(tmp_path: Path, name: str) -> None:
    exact = played(name, WAYS["exact"], tmp_path)
    assert played(name, WAYS["trainer"], tmp_path) == exact
    assert played(name, WAYS["batched"], tmp_path) == exact


def test_layers_that_get_their_first_gradient_later_than_others_train_alike(tmp_path: Path) -> None:
    assert played("LayerDrop", WAYS["trainer"], tmp_path) == played("LayerDrop", WAYS["exact"], tmp_path)


def test_a_network_that_writes_to_its_weights_goes_without_freezing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"writes to body\.weight, but frozen weights .* or write freeze=none"):
        build(configuration("Clamped", ["freeze=two_stage"]), tmp_path, "identity")
    assert configuration("Clamped", []).freeze._target_.endswith("NoFreezing")


class Following(Tied):
    """A layer that follows another, whose parameters do not train."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc.weight.lerp_(torch.zeros(()), 0.1)
        return super().forward(x)

    def make(self, channels: int, size: int, classes: int) -> None:
        super().make(channels, size, classes)
        self.fc.requires_grad_(False)


def test_a_parameter_that_does_not_train_and_is_written_to_is_refused(tmp_path: Path) -> None:
    cfg = configuration("Tied", [])
    cfg.model._target_ = f"{__name__}.Following"
    with pytest.raises(ConfigError, match=r"parameters that do not train \(fc\.weight\), .* register_buffer"):
        build(cfg, tmp_path, "identity")


def test_weights_that_have_no_masks_may_be_written_to_beside_frozen_ones(tmp_path: Path) -> None:
    name = "MaxNorm"
    assert len(build(configuration(name, []), tmp_path, "identity").setup.stages) == 2
    assert played(name, WAYS["workers=2"], tmp_path) == alone(name)


def leaving_out(channels: int, size: int, classes: int) -> torch.nn.Module:
    """What a configuration may name in place of a class."""
    return LeftOut(channels, size, classes)


def test_a_function_that_gives_the_module_may_be_the_target(tmp_path: Path) -> None:
    digests = []
    for target in (f"{__name__}.leaving_out", "tests.zoo.LeftOut"):
        cfg = configuration("LeftOut", WAYS["workers=0"])
        cfg.model._target_ = target
        experiment = build(cfg, tmp_path, "identity")
        with experiment.engine.open(experiment.setup):
            check_file(play(experiment, 2), tmp_path)
        digests.append(digest(experiment))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["Drawn", "NotPersistent", "Double"])
def test_the_file_of_a_model_is_the_model(tmp_path: Path, name: str) -> None:
    """Drawn orders, buffers that are no part of a state dict, tied weights, doubles."""
    with opened(name, WAYS["exact"], tmp_path) as experiment:
        play(experiment, 2)
        torch.manual_seed(1)
        check_file(experiment, tmp_path)


def test_what_no_client_changes_is_sent_to_each_once(tmp_path: Path) -> None:
    for name, size in (("Permuted", 64 * 8), ("FixedFeatures", 4 * 60)):
        with opened(name, WAYS["workers=0"], tmp_path) as experiment:
            met: set[int] = set()
            for t in range(4):
                now = experiment.server.begin(t)
                tasks = now.tasks()
                for task in tasks:
                    sections = unpack(task.payload).sections
                    assert (Tag.STATE in sections) == (task.client not in met), (name, t)
                    assert Tag.STATE not in sections or len(sections[Tag.STATE].body) < size + 30
                met |= set(now.plan.cohort)
                for update in experiment.engine.run(tasks):
                    assert update.payload is not None
                    assert Tag.STATE not in unpack(update.payload).sections
                    now.absorb(update)
                now.conclude()


def test_what_clients_change_is_joined_and_goes_to_all(tmp_path: Path) -> None:
    with opened("Rebound", WAYS["workers=0"], tmp_path) as experiment:
        setup = experiment.setup
        play(experiment, 1)
        cohort = experiment.server.begin(0).plan.cohort
        steps, samples = ([f(k) for k in cohort] for f in (lambda k: setup.steps(k, 0), setup.samples))
        mean = sum(s * n for s, n in zip(steps, samples, strict=True)) / sum(samples)
        assert experiment.server.state.buffers[0] == torch.tensor(mean).round()
        for task in experiment.server.begin(1).tasks():
            assert Tag.STATE in unpack(task.payload).sections


def test_a_run_does_not_go_on_with_other_data_or_another_model(tmp_path: Path) -> None:
    with opened("Permuted", WAYS["workers=0"], tmp_path) as experiment:
        play(experiment, 1).save()
    state = checkpoint.load(tmp_path / "checkpoints" / "last.ckpt")
    check_content(experiment, state)
    cfg = configuration("Permuted", WAYS["workers=0"])
    cfg.dataset.samples = 150
    with pytest.raises(UserError, match=r"training set: was 160 images of 1x8x8, content .*, now 150 images"):
        check_content(replace(experiment, content=content(cfg)), state)
    other = content(configuration("Counting", WAYS["workers=0"]))
    with pytest.raises(UserError, match=r"perm: was int64 \[64\], now absent"):
        check_content(replace(experiment, content=other), state)
