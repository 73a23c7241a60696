"""Every engine gives the same model: the fast ones are held to the slow, obviously right one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.core.errors import LostError
from pffdst.experiment import Experiment
from pffdst.run import play_round

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["logger=csv", "rounds=6", "clients=6", "cohort=3", "readjust.schedule.interval=1", "eval_every=6"]
EXACT = "engine.exact=true"


def played(folder: Path, overrides: list[str], prepare: Callable[[Experiment], None] | None = None) -> Experiment:
    """An experiment after all its rounds, nothing written down."""
    methods = [o for o in overrides if o.startswith(("method=", "readjust="))]
    small = [o for o in SMALL if not (methods and o.startswith("readjust."))]
    experiment = build(compose([*small, *overrides], CONFIGS), folder, "identity")
    with experiment.engine.open(experiment.setup):
        if prepare is not None:
            prepare(experiment)
        for t in range(experiment.rounds):
            now = experiment.server.begin(t)
            for update in experiment.engine.run(now.tasks()):
                assert update.problem is None
                now.absorb(update)
            assert now.conclude().rejected == {}
    return experiment


def same(a: Experiment, b: Experiment) -> bool:
    """Bit for bit: the model, its masks and the server average."""
    x, y = a.server, b.server
    assert x.average.state_dict()["rounds"] > 0
    return x.model.same_as(y.model) and x.averaged_model.same_as(y.averaged_model)


METHODS = ["pffdst", "feddst_prox", "fedavgm", "random_mask"]


@pytest.mark.parametrize("method", METHODS)
def test_fabric_in_exact_mode_is_bit_equal_to_the_trainer(tmp_path: Path, method: str) -> None:
    trainer = played(tmp_path, ["engine=trainer", f"method={method}"])
    assert same(trainer, played(tmp_path, [EXACT, f"method={method}"]))


@pytest.mark.parametrize("method", ["pffdst", "feddst"])
def test_engines_are_bit_equal_with_batch_normalisation(tmp_path: Path, method: str) -> None:
    resnet = ["model=resnet18", "model.width=4", "rounds=4", "batch_size=64", "cohort=2", "lr=0.01", f"method={method}"]
    trainer = played(tmp_path, ["engine=trainer", *resnet])
    assert same(trainer, played(tmp_path, [EXACT, *resnet]))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, workers: int) -> None:
    alone = played(tmp_path, ["engine.workers=0"])
    assert same(alone, played(tmp_path, [f"engine.workers={workers}"]))


def test_workers_that_start_afresh_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pffdst.engines import pool

    alone = played(tmp_path, ["engine.workers=0"])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)  # then a forked process has no backward pass
    assert pool.default_start_method() == "spawn"
    seen = []
    start = BaseProcess.start
    monkeypatch.setattr(
        BaseProcess, "start", lambda self: (seen.append(os.environ["CUDA_VISIBLE_DEVICES"]), start(self))[1]
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert same(alone, played(tmp_path, ["engine.workers=2"]))
    assert seen == ["", ""]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_updates_that_wait_for_their_turn_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pffdst.engines import pool

    monkeypatch.setattr(pool, "_AHEAD", 1)
    overrides = [*SMALL, "engine.workers=1", "clients=16", "cohort=16"]
    experiment = build(compose(overrides, CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        workers: Any = experiment.engine._pool  # type: ignore[attr-defined]
        give, given = workers._give, []
        monkeypatch.setattr(
            workers, "_give", lambda w, jobs, position: (given.append(position), give(w, jobs, position))
        )
        tasks = experiment.server.begin(0).tasks()
        for turn, update in enumerate(experiment.engine.run(tasks)):
            assert update.client == tasks[turn].client
            assert max(given) < turn + 1 + 4
    assert sorted(given) == list(range(16))
    assert given != sorted(given)  # largest first, all the same


def test_every_client_is_trained_again_in_every_round(tmp_path: Path) -> None:
    """A reused Trainer whose loops are not rewound silently trains nothing the second time."""
    experiment = build(compose([*SMALL, "engine=trainer"], CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        for t in range(3):
            now = experiment.server.begin(t)
            sent = now.sent
            for update in experiment.engine.run(now.tasks()):
                now.absorb(update)
            now.conclude()
            moved = (experiment.server.model.weights != sent.weights) & sent.trainable
            assert int(moved.sum()) > 0.9 * int(sent.trainable.sum())


def test_a_worker_that_dies_ends_the_run_with_what_to_do(tmp_path: Path) -> None:
    experiment = build(compose([*SMALL, "engine.workers=2"], CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        pool: Any = experiment.engine._pool  # type: ignore[attr-defined]
        pool._workers[0].process.kill()
        pool._workers[0].process.join()
        now = experiment.server.begin(0)
        with pytest.raises(LostError, match=r"exit code -9.*Use fewer engine\.workers"):
            list(experiment.engine.run(now.tasks()))


def test_a_worker_that_is_stopped_is_told_with_its_client_and_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFFDST_WORKER_TIMEOUT", "2")
    experiment = build(compose([*SMALL, "engine.workers=1"], CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        pool: Any = experiment.engine._pool  # type: ignore[attr-defined]
        os.kill(pool._workers[0].process.pid, signal.SIGSTOP)
        now = experiment.server.begin(0)
        with pytest.raises(LostError, match=r"at client \d+ in round 1, has been silent for 2 s"):
            list(experiment.engine.run(now.tasks()))


def test_no_more_workers_than_clients_of_a_round(tmp_path: Path) -> None:
    experiment = build(compose([*SMALL, "engine.workers=40"], CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        pool: Any = experiment.engine._pool  # type: ignore[attr-defined]
        assert len(pool._workers) == experiment.engine.cohort


@pytest.mark.parametrize(("beside", "workers"), [(1, 3), (20, 2)])
def test_without_a_gpu_the_batched_engine_starts_as_many_workers_as_fabric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: int, workers: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("pffdst.engines.fabric.available_cores", lambda: 40)
    started: list[int] = []
    monkeypatch.setattr("pffdst.engines.fabric.WorkerPool", lambda _setup, count, **_: started.append(count))
    experiment = build(compose([*SMALL, "engine=batched"], CONFIGS), tmp_path, "identity")
    experiment.engine.beside = beside
    with experiment.engine.open(experiment.setup):
        assert started == [workers]


def test_a_failure_in_a_worker_shows_its_own_traceback(tmp_path: Path) -> None:
    from dataclasses import replace

    from pffdst.engines.base import EngineError

    experiment = build(compose([*SMALL, "engine.workers=1"], CONFIGS), tmp_path, "identity")
    shares = experiment.setup.shares
    broken = replace(experiment.setup, shares=replace(shares, train_order=shares.train_order + 10**6))  # type: ignore[type-var]
    with experiment.engine.open(broken):
        now = experiment.server.begin(0)
        with pytest.raises(EngineError, match="Traceback"):
            list(experiment.engine.run(now.tasks()))


def test_no_process_is_left_when_the_engine_closes(tmp_path: Path) -> None:
    import multiprocessing

    experiment = build(compose([*SMALL, "engine.workers=2"], CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def test_a_client_that_cannot_read_its_message_is_left_out_and_told_everything_next_time(tmp_path: Path) -> None:
    from dataclasses import replace

    experiment = build(compose([*SMALL, "engine.workers=0", "cohort=6"], CONFIGS), tmp_path, "identity")
    server = experiment.server
    with experiment.engine.open(experiment.setup):
        now = server.begin(0)
        tasks = now.tasks()
        tasks[2] = replace(tasks[2], payload=tasks[2].payload[:-1])
        for update in experiment.engine.run(tasks):
            now.absorb(update)
        record = now.conclude()
        assert set(record.rejected) == {now.plan.cohort[2]}
        assert "could not read" in record.rejected[now.plan.cohort[2]]
        assert server.holdings.lacks(now.plan.cohort[2])[0]
        play_round_like(experiment, 1)


def play_round_like(experiment: Experiment, t: int) -> None:
    now = experiment.server.begin(t)
    for update in experiment.engine.run(now.tasks()):
        now.absorb(update)
    assert now.conclude().rejected == {}


def test_play_round_is_what_run_plays(tmp_path: Path) -> None:
    experiment = build(compose([*SMALL, "engine.workers=0", "rounds=4"], CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(4):
            play_round(experiment, t)
    other = played(tmp_path, ["engine.workers=0", "rounds=4"])
    assert same(experiment, other)


def test_an_update_comes_whole_from_a_slab_and_through_the_pipe_where_it_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pffdst.engines import pool
    from pffdst.engines.slab import Slab

    def updates(name: str, workers: int) -> list[bytes | None]:
        experiment = build(compose([*SMALL, f"engine.workers={workers}"], CONFIGS), tmp_path / name, "identity")
        with experiment.engine.open(experiment.setup):
            return [update.payload for update in experiment.engine.run(experiment.server.begin(0).tasks())]

    expected = updates("serial", 0)
    assert all(expected)
    shared: list[bytes] = []
    take = Slab.take
    monkeypatch.setattr(Slab, "take", lambda self, length: shared.append(take(self, length)) or shared[-1])
    assert updates("slab", 2) == expected
    assert sorted(shared) == sorted(expected)  # type: ignore[type-var]
    monkeypatch.setattr(pool, "_slab", lambda size: Slab(64))
    assert updates("small", 2) == expected
    monkeypatch.setattr(pool, "_slab", lambda size: None)
    assert updates("none", 2) == expected
    assert len(shared) == len(expected), "the last two came through the pipe"


def test_messages_of_one_round_are_read_once_however_clients_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pffdst.client import inbox

    read: list[bytes] = []
    decode = inbox.decode_downlink
    monkeypatch.setattr(inbox, "decode_downlink", lambda payload, *rest: read.append(payload) or decode(payload, *rest))
    line = ["logger=csv", "method=fedavg", "engine.workers=0", "rounds=3", "clients=40", "cohort=20"]
    experiment = build(compose(line, CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        for t in range(3):
            now, memories = experiment.server.begin(t), experiment.engine.memories
            tasks = now.tasks()
            different = {(id(task.payload), id(memories.of(task.client))) for task in tasks}
            switches = [memories.of(a.client) is not memories.of(b.client) for a, b in pairwise(tasks)]
            read.clear()
            for update in experiment.engine.run(tasks):
                now.absorb(update)
            now.conclude()
            assert len(read) == len(different)
    assert sum(switches) > len(different), "new clients and old ones took turns"


@pytest.mark.parametrize(("method", "most"), [("method=pffdst", 2), ("method=scaffold", 1)])
def test_a_worker_has_its_next_client_while_an_update_is_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, most: int
) -> None:
    """But where a client brings along what it kept: that may not fit into the pipe of a worker that is busy."""
    from pffdst.engines.pool import WorkerPool

    held: list[int] = []
    give = WorkerPool._give
    monkeypatch.setattr(
        WorkerPool, "_give", lambda pool, worker, *rest: give(pool, worker, *rest) or held.append(len(worker.jobs))
    )
    line = ["logger=csv", "engine.workers=1", "rounds=4", "clients=6", "cohort=6", method]
    experiment = build(compose(line, CONFIGS), tmp_path, "identity")
    with experiment.engine.open(experiment.setup):
        for t in range(2):
            now = experiment.server.begin(t)
            held.clear()
            for update in experiment.engine.run(now.tasks()):
                now.absorb(update)
            now.conclude()
            assert len(held) == 6
        pool: Any = experiment.engine._pool  # type: ignore[attr-defined]
        assert not pool._workers[0].jobs
    assert max(held) == most
