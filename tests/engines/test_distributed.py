"""Clients over ranks give what one process gives. Here ranks are threads; tests/e2e/test_ranks.py has processes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pffdst.build import build
from pffdst.build import follow as follow_in_build
from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.core.messages import Kept, Residual, Update
from pffdst.core.model import Entry, Layout
from pffdst.core.positions import Positions
from pffdst.engines.base import EngineError
from pffdst.engines.distributed import Distributed, divide, follow
from pffdst.engines.packets import dumps, loads, pack_memory, pack_update, unpack_memory, unpack_update
from pffdst.experiment import Experiment
from pffdst.wire.downlink import Memory
from pffdst.wire.frame import Section

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["logger=csv", "rounds=6", "clients=9", "cohort=5", "eval_every=6", "engine.workers=0", "local_epochs=1"]


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 8))
def test_work_is_divided_evenly(work: list[int], ranks: int) -> None:
    owners = divide(work, ranks)
    assert len(owners) == len(work)
    totals = [sum(w for w, owner in zip(work, owners, strict=True) if owner == rank) for rank in range(ranks)]
    assert max(totals) - min(totals) <= max(work, default=0)
    assert totals[0] == min(totals) or max(totals) - totals[0] <= max(work)


def test_a_job_that_is_left_over_is_not_rank_0s() -> None:
    assert 0 not in divide([5, 5], 3)
    assert divide([9, 1, 1], 1) == [0, 0, 0]


class Threads:
    """Stands for `Ranks`: the followers are threads of this process, of which one runs while the others wait."""

    beside = 1

    def __init__(self, size: int) -> None:
        self.size = size
        self.to: dict[int, queue.Queue[bytes]] = {peer: queue.Queue() for peer in range(1, size)}
        self.back: dict[int, queue.Queue[bytes]] = {peer: queue.Queue() for peer in range(1, size)}
        self.casts: dict[int, queue.Queue[bytes]] = {peer: queue.Queue() for peer in range(1, size)}
        self.links = {peer: SimpleNamespace(name=f"rank {peer}") for peer in range(1, size)}
        self.broadcasts: list[int] = []
        self.turn = threading.Lock()
        self.turn.acquire()

    def wait(self, line: queue.Queue[bytes]) -> bytes:
        self.turn.release()
        try:
            return line.get()
        finally:
            self.turn.acquire()

    def receive(self, peer: int) -> bytes:
        return self.wait(self.back[peer])

    def waiting(self, peer: int) -> bool:
        return not self.back[peer].empty()

    def send(self, peer: int, message: bytes) -> None:
        self.to[peer].put(bytes(message))

    def broadcast(self, message: bytes, size: int) -> bytes:
        assert len(message) == size
        self.broadcasts.append(size)
        for line in self.casts.values():
            line.put(bytes(message))
        return b""

    def follower(self, rank: int) -> Any:
        return SimpleNamespace(
            beside=1,
            receive=lambda peer: self.wait(self.to[rank]),
            send=lambda peer, message: self.back[rank].put(bytes(message)),
            broadcast=lambda message, size: self.wait(self.casts[rank]),
        )


def in_turn(turn: threading.Lock, work: Callable[..., Any], *given: Any) -> None:
    turn.acquire()
    work(*given)


def distributed(folder: Path, overrides: list[str], size: int, spoil: Callable[[Any], Any] | None = None) -> Experiment:
    """An experiment whose engine has `size` ranks; `spoil` changes what the followers know."""
    make = lambda: build(compose([*SMALL, *overrides], CONFIGS), folder, "identity")  # noqa: E731
    experiment, ranks = make(), Threads(size)
    for rank in range(1, size):
        other = make()
        setup = other.setup if spoil is None else spoil(other.setup)
        given: Any = ranks.follower(rank), lambda text, made=(other.engine, setup): made
        threading.Thread(target=in_turn, args=(ranks.turn, follow, *given), daemon=True).start()
    return replace(experiment, engine=Distributed(experiment.engine, ranks))  # type: ignore[arg-type]


def play(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup):
        for t in range(experiment.rounds):
            now = experiment.server.begin(t)
            for update in experiment.engine.run(now.tasks()):
                now.absorb(update)
            assert now.conclude().rejected == {}
    return experiment


CASES = [
    ["method=pffdst", "readjust.schedule.interval=1"],
    ["method=feddst", "readjust.schedule.interval=2"],
    ["method=pffdst", "readjust.schedule.interval=1", "codec=int8", "codec.client_feedback=true"],
    ["method=fedavg", "partition=drawn", "clients=100000"],
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(c))
def test_ranks_give_what_one_process_gives(tmp_path: Path, case: list[str]) -> None:
    alone = play(build(compose([*SMALL, *case], CONFIGS), tmp_path, "identity"))
    shared = play(distributed(tmp_path, case, 3))
    assert torch.equal(alone.server.model.values, shared.server.model.values)
    assert torch.equal(alone.server.model.alive, shared.server.model.alive)
    mine, theirs = (dumps(e.engine.memories.state_dict()["index"]) for e in (alone, shared))
    assert mine == theirs


def test_more_ranks_than_clients(tmp_path: Path) -> None:
    case = ["method=pffdst", "readjust.schedule.interval=1", "cohort=2"]
    alone = play(build(compose([*SMALL, *case], CONFIGS), tmp_path, "identity"))
    assert torch.equal(alone.server.model.values, play(distributed(tmp_path, case, 5)).server.model.values)


def test_a_payload_that_several_ranks_need_is_sent_once(tmp_path: Path) -> None:
    experiment = distributed(tmp_path, ["method=fedavg", "cohort=9"], 4)
    ranks: Any = experiment.engine._ranks  # type: ignore[attr-defined]
    sent: list[int] = []
    send = ranks.send
    ranks.send = lambda peer, message: (sent.append(len(message)), send(peer, message))
    with experiment.engine.open(experiment.setup):
        tasks = experiment.server.begin(0).tasks()
        list(experiment.engine.run(tasks))
    payload = len(tasks[0].payload)
    assert len(ranks.broadcasts) == 1
    assert payload < ranks.broadcasts[0] < payload + 4000
    assert max(sent) < 4000 < payload


def test_other_data_on_another_machine_are_refused(tmp_path: Path) -> None:
    def spoil(setup: Any) -> Any:
        images = setup.data
        return replace(setup, data=replace(images, labels=images.labels.flip(0), files=None, mapping=None))

    experiment = distributed(tmp_path, [], 2, spoil)
    with pytest.raises(UserError, match="rank 1 has other training data"), experiment.engine.open(experiment.setup):
        pass


def test_a_failure_of_another_rank_shows_its_traceback(tmp_path: Path) -> None:
    def spoil(setup: Any) -> Any:
        return replace(setup, shares=replace(setup.shares, train_order=setup.shares.train_order + 10**6))

    experiment = distributed(tmp_path, [], 2, spoil)
    with experiment.engine.open(experiment.setup):
        tasks = experiment.server.begin(0).tasks()
        with pytest.raises(EngineError, match=r"(?s)rank 1 failed.*Traceback"):
            list(experiment.engine.run(tasks))


def test_a_rank_that_cannot_start_says_so_once_and_waits_for_its_end() -> None:
    class EndedByRank0(Exception):
        """Stands for the end of the process."""

    def receive(peer: int) -> bytes:
        if sent:
            raise EndedByRank0
        return b"the configuration"

    def send(peer: int, message: bytes) -> None:
        assert len(sent) < 3, "it goes on sending"
        sent.append(loads(message))

    def make(text: str) -> Any:
        raise UserError(f"no file for {text}")

    sent: list[Any] = []
    with pytest.raises(EndedByRank0):
        follow(SimpleNamespace(receive=receive, send=send), make)  # type: ignore[arg-type]
    assert sent == [("no file for the configuration", "")]


LAYOUT = Layout((Entry("a", (3, 3), 0, "maskable"),))
FOUR, NONE = Positions(LAYOUT, index=torch.tensor([0, 1, 4, 8])), Positions.none(LAYOUT)


@pytest.mark.parametrize(
    "update",
    [
        Update(3, b"", None),
        Update(4, None, "could not read"),
        Update(5, b"abc", kept=Kept(Residual(FOUR, torch.tensor([0.5, -1.0, 0.0, 2.0])))),
        Update(6, b"abc", kept=Kept(None, {"c": torch.arange(5.0), "n": torch.tensor(3)})),
    ],
)
def test_updates_and_what_clients_keep_travel_as_plain_values(update: Update) -> None:
    again = unpack_update(loads(dumps(pack_update(update))), LAYOUT)
    assert (again.client, again.payload, again.problem) == (update.client, update.payload, update.problem)
    residual, found = update.kept.residual, again.kept.residual
    assert (residual is None) == (found is None)
    if residual is not None and found is not None:
        assert found.at == residual.at
        assert torch.equal(found.values, residual.values)
    assert set(again.kept.memory) == set(update.kept.memory)
    assert all(torch.equal(value, again.kept.memory[name]) for name, value in update.kept.memory.items())


@pytest.mark.parametrize(
    "memory",
    [Memory(), Memory(NONE), Memory(FOUR, NONE, Section(3, b"")), Memory(FOUR)],
    ids=["nothing", "none", "frozen", "mask"],
)
def test_memories_travel_as_plain_values(memory: Memory) -> None:
    assert unpack_memory(loads(dumps(pack_memory(memory))), LAYOUT) == memory


def test_every_rank_holds_out_the_same_validation_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held, whole = (compose([*SMALL, f"validation_share={share}"], CONFIGS) for share in (0.2, 0))
    made: list[Any] = []
    text = OmegaConf.to_yaml(held, resolve=True)
    monkeypatch.setattr("pffdst.build.logging.disable", lambda: None)
    monkeypatch.setattr("pffdst.build.follow_with", lambda _ranks, make: made.append(make(text)))
    follow_in_build(SimpleNamespace())  # type: ignore[arg-type]
    [(engine, setup)] = made
    assert engine.cohort == 5, "it starts no more workers than a round has clients"
    mine, all_of_it = (build(cfg, tmp_path, "test").setup.data for cfg in (held, whole))
    assert setup.data.digest == mine.open().digest != all_of_it.open().digest
