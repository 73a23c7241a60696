"""Whatever trains on a device trains as on the CPU, to the bit, and never mixes tensors of the two.

The device is the pretended one of pretended.py: it needs no accelerator, and refuses what CUDA refuses.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.core.positions import Positions
from pffdst.engines.batched import BatchedEngine
from pffdst.experiment import Experiment
from pffdst.metrics.evaluate import Evaluation
from pffdst.models.cnn import SmallCNN
from pffdst.observers import Observer
from pffdst.run import run
from pffdst.runs import checkpoint
from pffdst.server.round import Round
from tests.engines.pretended import DEVICE, on_the_device, pretended_device, steps_as_recorded, waiting_refused

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
SMALL = [
    "logger=csv",
    "rounds=4",
    "clients=4",
    "cohort=2",
    "local_epochs=2",
    "batch_size=16",
    "sparsity=0.5",
    "lr=0.05",
    "eval_every=4",
    "checkpoint_every=4",
]
BATCHED = ["engine=batched", "engine.device=cpu"]
FABRIC = ["engine=fabric", "engine.workers=0"]
RESNET = ["model=resnet18", "model.width=4", "rounds=3"]


# What a rule is told if its yaml holds this line: masks that move in every round that allows one, in few steps.
LIVELY = {
    "schedule:": ["readjust.schedule.interval=1", "readjust.schedule.until=1"],
    "  first: 50": ["readjust.schedule.first=1"],
    "alpha:": ["readjust.alpha=0.5"],
    "iterations:": ["readjust.iterations=5"],
    "init_epochs:": ["readjust.init_epochs=2"],
    "candidates: 10": ["readjust.candidates=3"],
    "initial:": ["readjust.initial=0.2"],
}


def lively(method: str, rule: str | None = None) -> list[str]:
    """A preset, with another readjustment if one is named."""
    preset = (CONFIGS / "method" / f"{method}.yaml").read_text().splitlines()
    rule = rule or next(line.split(":")[1].strip() for line in preset if "override /readjust" in line)
    written = (CONFIGS / "readjust" / f"{rule}.yaml").read_text()
    found = [o for line, overrides in LIVELY.items() if f"\n{line}" in written for o in overrides]
    return [f"method={method}", f"readjust={rule}", *found, *["sparse_init=true"] * (method == "pffdst_flash")]


# ---- one run on either -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Ended(Observer):
    """A run: its summary, the masks of its rounds, what its checkpoint holds and what its model scores."""

    masks: list[tuple[int, int]] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    recorded: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    scores: Evaluation | None = None

    def on_round(self, experiment: Experiment, done: Round) -> None:
        model = experiment.server.model
        self.masks.append((model.alive_at.digest, model.frozen_at.digest))
        self.models.append(bits(model.values))


def played(cfg: DictConfig, folder: Path, *, there: bool, recorded: bool = False) -> Ended:
    """The run on the CPU, or `there` on the device."""
    folder.mkdir()
    experiment, ended, steps = build(copy.deepcopy(cfg), folder, "identity"), Ended(), list[Any]()
    with contextlib.ExitStack() as stack:
        if there:
            stack.enter_context(pretended_device())
            experiment = on_the_device(experiment)
        if recorded:
            assert isinstance(experiment.engine, BatchedEngine)
            steps = stack.enter_context(steps_as_recorded(experiment.engine))
        experiment = replace(experiment, observers=(ended,))
        ended.summary = run(experiment)
        ended.recorded = len(steps)
        ended.scores = experiment.evaluate(experiment.server.model)
        ended.state = checkpoint.load(experiment.checkpoints / "last.ckpt")
    return ended


def configured(*overrides: str, network: str | None = None) -> DictConfig:
    """Of a run on few digits, with a network of the zoo if one is named."""
    engine = [] if any(o.startswith("engine=") for o in overrides) else BATCHED
    cfg = compose([*SMALL, *engine, *overrides], CONFIGS)
    with open_dict(cfg):
        cfg.dataset = {"_target_": "tests.every_network.FewDigits", "name": "few", "samples": 120}
        if network is not None:
            cfg.model = {"_target_": f"tests.zoo.{network}"}
    return cfg


def bits(part: Any) -> Any:
    """A part of a checkpoint as values that are equal if it is the same to the bit."""
    if isinstance(part, Tensor):
        assert type(part) is Tensor
        assert part.device.type == "cpu"
        return part.dtype, part.shape, part.contiguous().numpy().tobytes()
    if isinstance(part, dict):
        return {name: bits(value) for name, value in part.items()}
    return [bits(value) for value in part] if isinstance(part, list | tuple) else part


def assert_alike(there: Ended, here: Ended) -> None:
    assert there.masks == here.masks
    assert there.summary["rejected"] == here.summary["rejected"] == 0
    assert there.summary["model_sha256"] == here.summary["model_sha256"]
    for part in ("server", "engine", "ledger"):
        assert bits(there.state[part]) == bits(here.state[part])
    a, b = there.scores, here.scores
    assert a is not None
    assert b is not None
    assert a.acc_global == b.acc_global
    assert a.loss_global == pytest.approx(b.loss_global, rel=1e-5)  # other batches, so another rounding
    assert torch.equal(a.client_accuracies, b.client_accuracies)
    assert a.metrics == pytest.approx(b.metrics)


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_a_device_as_on_the_cpu(tmp_path: Path, method: str) -> None:
    """One engine, one run: the same masks in every round, one model and one checkpoint at the end, to the bit."""
    cfg = configured(*lively(method))
    here, there = played(cfg, tmp_path / "here", there=False), played(cfg, tmp_path / "there", there=True)
    assert_alike(there, here)
    assert "schedule" not in cfg.readjust or len(set(here.masks)) > 1, "no mask moved"
    assert len(set(here.models)) == len(here.models), "a round changed nothing"


VARIANTS = {
    "statistics, feddst": [*RESNET, *lively("feddst")],
    "statistics, fedtiny": [*RESNET, *lively("fedtiny")],
    "statistics, candidates": [*RESNET, *lively("fedtiny", "fedtiny_candidates")],
    "statistics, fedmef": [*RESNET, *lively("fedmef"), "lr_schedule=cosine"],
    "statistics, fedrts": [*RESNET, *lively("fedrts")],
    "statistics, fedsgc": [*RESNET, *lively("fedsgc")],
    "statistics, prunefl": [*RESNET, *lively("prunefl")],
    "statistics, snip": [*RESNET, *lively("snip"), "readjust.score_mode=train"],
    "candidates": lively("fedtiny", "fedtiny_candidates"),
    "sums over rounds": [*lively("prunefl"), "readjust.schedule.first=2", "readjust.accumulate=true"],
    "int4": [*lively("fedtiny"), "codec=int4", "codec.client_feedback=true"],
    "shuffled labels": [*lively("feddst"), "faults=shuffled_labels", "faults.share=0.5"],
    "adamw": [*lively("pffdst"), "optimizer=adamw", "lr=0.01", "weight_decay=0.1"],
    "crop_flip": [*lively("feddst"), "augmentation=crop_flip", "augmentation.padding=1"],
    "clipped, nesterov": [*lively("feddst_prox"), "clip_norm=0.5", "optimizer.nesterov=true"],
    "contiguous, measured": [*lively("pffdst"), "engine.channels_last=false", "metrics=[f1,per_class]"],
    "fabric": [*FABRIC, *lively("feddst")],
    "fabric, moving": [*FABRIC, *lively("flash_moving")],
    "fabric, statistics": [*FABRIC, *RESNET, *lively("fedtiny", "fedtiny_candidates")],
    "fabric, two stages": [*FABRIC, *lively("synflow"), "freeze=two_stage"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_so_does_every_other_way_to_train(tmp_path: Path, overrides: list[str]) -> None:
    """Normalisation, codecs, faults, optimizers, augmentations, random layers, and the engine that trains by one."""
    cfg = configured(*overrides)
    here, there = played(cfg, tmp_path / "here", there=False), played(cfg, tmp_path / "there", there=True)
    assert_alike(there, here)


@pytest.mark.parametrize("network", ["Drawn", "Tied"])
def test_so_do_networks_with_random_layers_and_with_shared_weights(tmp_path: Path, network: str) -> None:
    """Random layers draw as on the CPU here; a CUDA device draws for itself."""
    cfg = configured(*lively("feddst"), network=network)
    here, there = played(cfg, tmp_path / "here", there=False), played(cfg, tmp_path / "there", there=True)
    assert_alike(there, here)


RECORDED = {
    "sgd": lively("pffdst"),
    "adamw": [*lively("fedtiny"), "optimizer=adamw", "lr=0.01", "weight_decay=0.1"],
    "statistics": [*RESNET, *lively("feddst")],
    "crop_flip": [*lively("fedrts"), "augmentation=crop_flip", "augmentation.padding=1"],
}


@pytest.mark.parametrize("overrides", RECORDED.values(), ids=RECORDED)
def test_recorded_steps_stay_on_the_device(tmp_path: Path, overrides: list[str]) -> None:
    """No step waits for the device, so that all can be recorded, and replays train as they do on the CPU."""
    cfg = configured(*overrides)
    here = played(cfg, tmp_path / "here", there=False, recorded=True)
    there = played(cfg, tmp_path / "there", there=True, recorded=True)
    assert there.recorded == here.recorded > 0
    assert_alike(there, here)


def test_so_does_a_network_for_texts(tmp_path: Path) -> None:
    """Padded batches of tokens, embeddings and attention."""
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    from tests.text.conftest import SMALL as ENCODER
    from tests.text.conftest import reviews, write_table

    write_table(tmp_path / "train.csv", reviews(80, 0))
    write_table(tmp_path / "test.csv", reviews(20, 1))
    data = ["dataset=text", f"dataset.path={tmp_path}", "dataset.length=16", "dataset.vocabulary=200"]
    cfg = compose([*SMALL, *BATCHED, *data, *ENCODER, f"paths.cache={tmp_path / 'cache'}", *lively("feddst")], CONFIGS)
    here, there = played(cfg, tmp_path / "here", there=False), played(cfg, tmp_path / "there", there=True)
    assert_alike(there, here)


# ---- what the pretended device is ------------------------------------------------------------------------------------

Made = Callable[[Tensor, Tensor], Any]
REFUSED: dict[str, Made] = {
    "a sum": lambda cpu, there: there + cpu,
    "a sum, the other way": lambda cpu, there: cpu + there,
    "a number of the device": lambda cpu, there: cpu + there[0],
    "in place": lambda cpu, there: cpu[0].add_(there[0]),
    "of lists": lambda cpu, there: torch._foreach_mul_([there], [cpu]),
    "joined": lambda cpu, there: torch.cat([there, cpu]),
    "joined with nothing": lambda cpu, there: torch.cat([there, torch.empty(0)]),
    "stacked": lambda cpu, there: torch.stack([there[0], torch.tensor(1.0)]),
    "compared": lambda cpu, there: torch.equal(there, cpu),
    "a product": lambda cpu, there: torch.nn.functional.linear(there, torch.ones(3, 3)),
    "chosen": lambda cpu, there: there.index_select(0, torch.tensor([1])),
    "gathered": lambda cpu, there: there.gather(0, torch.tensor([1])),
    "scattered": lambda cpu, there: there.scatter(0, torch.tensor([1]), 1.0),
    "copied by index": lambda cpu, there: there.index_copy(0, torch.tensor([1]), there[:1]),
    "added by index": lambda cpu, there: there.index_add_(0, torch.tensor([1]), there[:1]),
    "masked": lambda cpu, there: there.masked_fill(torch.tensor([True, False, False]), 0.0),
    "an index of the device": lambda cpu, there: cpu[torch.arange(2, device=DEVICE)],
    "values put from the CPU": lambda cpu, there: there.index_put_((torch.tensor([0, 1]),), cpu[:2]),
    "numpy": lambda cpu, there: there.numpy(),
    "the CPU's generator": lambda cpu, there: there.normal_(generator=torch.Generator()),
    "the CPU's generator for a new one": lambda cpu, there: torch.rand(2, generator=torch.Generator(), device=DEVICE),
    "saved": lambda cpu, there: checkpoint.packed({"part": [there]}),
    "made for a step elsewhere": lambda cpu, there: torch.nn.functional.cross_entropy(there[None], torch.tensor([1])),
}
ALLOWED: dict[str, Made] = {
    "a number of the CPU": lambda cpu, there: there + torch.tensor(1.0),
    "copied to": lambda cpu, there: there.copy_(cpu),
    "copied from": lambda cpu, there: cpu.copy_(there),
    "copied as lists": lambda cpu, there: (torch._foreach_copy_([there], [cpu]), there)[1],
    "indexed": lambda cpu, there: there[torch.tensor([2, 0])],
    "indexed by a list": lambda cpu, there: there[[2, 0]],
    "masked": lambda cpu, there: there[torch.tensor([True, False, True])],
    "put by index": lambda cpu, there: there.index_put_((torch.tensor([0, 1]),), there.new_ones(2)),
    "moved": lambda cpu, there: cpu.to(there.device) + there.new_full((3,), 2.0),
    "made": lambda cpu, there: there + torch.tensor([1.0, 2.0, 3.0], device=there.device),
    "in another format": lambda cpu, there: there.to(torch.float64).view(3, 1).t().contiguous(),
    "by another tensor's data": lambda cpu, there: exchanged(there, there.new_ones(2, 3).t().contiguous()) + 1,
}
WAITING: dict[str, Made] = {
    "a number": lambda cpu, there: there[0].item(),
    "numbers": lambda cpu, there: there.tolist(),
    "a decision": lambda cpu, there: bool((there > 1).any()),
    "moved": lambda cpu, there: there.cpu(),
    "moved there": lambda cpu, there: cpu.to(DEVICE),
    "copied": lambda cpu, there: cpu.copy_(there),
    "where it is": lambda cpu, there: there.nonzero(),
    "masked": lambda cpu, there: there[there > 1],
}


def exchanged(tensor: Tensor, data: Tensor) -> Tensor:
    tensor.data = data
    return tensor


@pytest.mark.parametrize("operation", REFUSED.values(), ids=REFUSED)
def test_it_refuses_what_cuda_refuses(operation: Made) -> None:
    with pretended_device():
        there = torch.arange(3.0, device=DEVICE)
        with pytest.raises(RuntimeError, match=r"Expected|numpy"):
            operation(torch.ones(3), there)


@pytest.mark.parametrize("operation", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_does_it_does_with_the_bits_of_the_cpu(operation: Made) -> None:
    wanted = operation(torch.ones(3), torch.arange(3.0))
    with pretended_device():
        found = operation(torch.ones(3), torch.arange(3.0, device=DEVICE)).cpu()
    assert type(found) is Tensor
    assert found.stride() == wanted.stride()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("operation", WAITING.values(), ids=WAITING)
def test_it_refuses_to_wait_where_that_is_asked_for(operation: Made) -> None:
    with pretended_device():
        there = torch.arange(3.0, device=DEVICE)
        operation(torch.ones(3), there)
        with waiting_refused(), pytest.raises(RuntimeError, match="waits"):
            operation(torch.ones(3), there)


def test_a_method_that_mixes_devices_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round in which an index of the CPU chooses among weights of the device."""
    monkeypatch.setattr(Positions, "gather", lambda self, weights: weights.index_select(0, self.index))
    cfg = configured(*lively("feddst"))
    played(cfg, tmp_path / "here", there=False)
    with pytest.raises(RuntimeError, match="index_select"):
        played(cfg, tmp_path / "there", there=True)


def test_a_step_that_waits_for_the_device_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not recorded, and trains all the same."""
    monkeypatch.setattr(SmallCNN, "forward", lambda self, x: waiting_forward(self, x))
    assert played(configured(*lively("pffdst")), tmp_path / "there", there=True, recorded=True).recorded == 0


def waiting_forward(network: SmallCNN, x: Tensor, forward: Callable[..., Tensor] = SmallCNN.forward) -> Tensor:
    found = forward(network, x)
    return found * float(found.detach().isfinite().all())
