"""What clients keep: held once, as it arrived, through a checkpoint as well."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.engines.memories import ClientMemories
from pffdst.runs import checkpoint
from pffdst.wire.downlink import Broadcast, Memory

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("method", ["pffdst", "fedavg"])
def test_memories_survive_a_checkpoint(tmp_path: Path, method: str) -> None:
    """fedavg's positions are an empty section: a body of no bytes must come back as one."""
    small = ["logger=csv", "engine.workers=0", "clients=6", "cohort=3", "rounds=8", f"method={method}"]
    experiment = build(compose(small, CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        now = experiment.server.begin(0)
        for update in experiment.engine.run(now.tasks()):
            now.absorb(update)
        now.conclude()
        kept = experiment.engine.memories
        checkpoint.save(tmp_path, {"engine": experiment.engine.state_dict()})
        again = ClientMemories(6, experiment.setup.layout, experiment.setup.codecs)
        again.load_state_dict(checkpoint.load(tmp_path / "last.ckpt")["engine"])
        assert [again.of(k) for k in range(6)] == [kept.of(k) for k in range(6)]
        assert [kept.of(k) != Memory() for k in range(6)] == [k in now.plan.cohort for k in range(6)]


def test_clients_that_keep_the_same_share_one_object(tmp_path: Path) -> None:
    experiment = build(compose(["logger=csv", "clients=6", "cohort=3"], CONFIGS), tmp_path, "identity")
    experiment.server.begin(0)
    payload = Broadcast(experiment.server.model, 0, experiment.setup.codecs).payload()
    memories = ClientMemories(1000, experiment.setup.layout, experiment.setup.codecs)
    for client in range(1000):
        memories.receive(client, payload)
    assert len({id(memories.of(client)) for client in range(1000)}) == 1


def test_a_memory_nobody_keeps_is_dropped(tmp_path: Path) -> None:
    experiment = build(compose(["logger=csv", "clients=6", "cohort=3"], CONFIGS), tmp_path, "identity")
    server = experiment.server
    server.begin(0)
    memories = ClientMemories(2, experiment.setup.layout, experiment.setup.codecs)
    for t in range(40):
        torch.manual_seed(t)
        model = server.model.with_masks(torch.rand(server.model.alive.numel()) < 0.1)
        memories.receive(t % 2, Broadcast(model, t, experiment.setup.codecs).payload())
    assert len(memories.state_dict()["table"]) <= 8
    assert memories.of(0).trainable is not None


def test_a_memory_somebody_keeps_stays_after_a_checkpoint(tmp_path: Path) -> None:
    experiment = build(compose(["logger=csv", "clients=6", "cohort=3"], CONFIGS), tmp_path, "identity")
    server, layout, codecs = experiment.server, experiment.setup.layout, experiment.setup.codecs
    server.begin(0)
    memories = ClientMemories(100, layout, codecs)
    memories.receive(7, Broadcast(server.model, 0, codecs).payload())
    again = ClientMemories(100, layout, codecs)
    again.load_state_dict(memories.state_dict())
    model = server.model.with_masks(torch.arange(server.model.alive.numel()) % 7 == 0)
    again.receive(8, Broadcast(model, 1, codecs).payload())
    assert again.of(7) == memories.of(7) != again.of(8)
