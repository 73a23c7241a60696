"""Clients on machines of their own: the same model and bytes as simulated ones, and what their failures come to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

from flwr.app import ConfigRecord, Message, RecordDict

from pffdst.core.errors import UserError
from pffdst.deploy.records import FORMAT, NEVER, Answer, Task, answer_of, reply
from pffdst.deploy.survey import told_of
from pffdst.experiment import Experiment
from pffdst.run import play_round, run
from pffdst.runs import checkpoint
from pffdst.testing import ScriptedEngine
from tests.deploy.grid import Nodes

FLOWER = ("engine=flower", "engine.deadline=0.3", "engine.patience=0.2", "engine.gather=0", "engine.poll=0.01")
Make = Callable[..., Experiment]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("model_sha256", "bytes_up", "bytes_down"))


@pytest.mark.parametrize("overrides", [(), ("method=topk_ef",), ("codec=int8",)], ids=["pffdst", "topk_ef", "int8"])
def test_a_deployed_run_is_the_simulated_one_to_the_bit(nodes: Nodes, experiment: Make, overrides: tuple[str]) -> None:
    deployed = run(experiment("deployed", *FLOWER, *overrides))
    simulated = run(experiment("simulated", "engine.workers=0", *overrides))
    assert same(deployed, simulated)
    assert deployed["bytes_down"] == sum(size for *_, size in nodes.sent)
    assert deployed["rejected"] == 0


def test_faults_come_to_what_a_simulation_with_the_same_cohorts_gives(nodes: Nodes, experiment: Make) -> None:
    """Client 2 hangs in round 1, is away until it is heard of; client 0 is not connected in round 3."""

    def meddle(client: int, message: Message, answer: Answer, update: bytes | None) -> Message | None:
        return None if (client, answer.t) == (2, 1) else reply(message, answer, update)

    nodes.meddle = meddle
    own = experiment("deployed", *FLOWER)
    rejected = {}
    with own.engine.open(own.setup), own.loggers as loggers:
        loggers.open(own.info, None)
        for t in range(own.rounds):
            nodes.down = {0} if t == 3 else set()
            rejected[t] = play_round(own, t).record.rejected
        deployed = own.finish()
    assert {t: set(who) for t, who in rejected.items() if who} == {1: {2}, 2: {2}, 3: {0}}
    assert rejected[1][2] == "no answer within 0.3 s"
    assert "nothing is sent to it" in rejected[2][2]
    assert "is not connected" in rejected[3][0]
    assert (2, 2) not in [(client, t) for client, t, _ in nodes.sent]
    script = ScriptedEngine({2: [2], 3: [0]}, {1: [2]})
    assert same(deployed, run(replace(experiment("simulated"), engine=script)))


@pytest.mark.parametrize("slow", [1.0, 0.0], ids=["", "slow"])
@pytest.mark.parametrize("every", [1, 2])
def test_a_server_killed_in_any_round_goes_on_with_the_same_clients(
    nodes: Nodes, experiment: Make, every: int, slow: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients are a round ahead of the checkpoint; where they moved their masks, the round is played anew.

    After slow rounds the server also has a newer checkpoint in memory, which a kill takes with it.
    """
    monkeypatch.setattr("pffdst.experiment._SLOW", slow)
    whole = run(experiment("simulated", "engine.workers=0"))
    killed = experiment("deployed", *FLOWER, f"checkpoint_every={every}")
    with killed.engine.open(killed.setup), killed.loggers as loggers:
        loggers.open(killed.info, None)
        for t in range(3 + every):
            play_round(killed, t)
        tasks = killed.server.begin(3 + every).tasks()
        list(killed.engine.run(tasks))  # the clients have trained, and nobody noted it
    found = checkpoint.latest(killed.checkpoints)
    assert found is not None
    resumed = run(experiment("deployed", *FLOWER), found[0])
    assert same(resumed, whole)


def test_a_client_that_lost_its_memory_says_so_and_is_sent_everything(nodes: Nodes, experiment: Make) -> None:
    own, rejected, sizes = experiment("deployed", *FLOWER), {}, {}
    with own.engine.open(own.setup), own.loggers as loggers:
        loggers.open(own.info, None)
        for t in range(own.rounds):
            if t == 2:
                shutil.rmtree(nodes.state(1))
            rejected[t] = play_round(own, t).record.rejected
            sizes[t] = {client: size for client, at, size in nodes.sent if at == t}
            assert own.ledger.round["bytes_down"] == sum(sizes[t].values())
    assert {t: set(who) for t, who in rejected.items() if who} == {2: {1}}
    assert rejected[2][1].startswith("lost its state: it has no state of round 2")
    assert sizes[3][1] > sizes[3][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, a, u: reply(m, a, b"garbage"), "header: expected at least"),
        (lambda m, a, u: reply(m, a, u[:-1] + bytes([u[-1] ^ 1])), "checksum"),
        (lambda m, a, u: reply(m, replace(a, t=a.t - 1), u), "round: expected client 1 in 3, but got client 1 in 2"),
        (lambda m, a, u: reply(m, replace(a, run="0" * 16), u), "but the answer is for 0000000000000000"),
        (lambda m, a, u: reply(m, a, bytes(2**20)), "payload: expected at most"),
        (lambda m, a, u: reply(m, replace(a, problem="\x1b[2J"), None), " [2J"),
    ],
    ids=["garbage", "a bit", "stale round", "another run", "huge", "a terminal's codes"],
)
def test_a_bad_answer_is_left_out_and_named_and_the_run_goes_on(
    nodes: Nodes, experiment: Make, change: Callable[..., Message], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def meddle(client: int, message: Message, answer: Answer, update: bytes | None) -> Message:
        bad = (client, answer.t) == (1, 2)
        return change(message, answer, update) if bad else reply(message, answer, update)

    nodes.meddle = meddle
    with caplog.at_level("WARNING", "pffdst.run"):
        assert run(experiment("deployed", *FLOWER))["rejected"] >= 1
    lines = [r.getMessage() for r in caplog.records if "round 3: client 1 is left out" in r.getMessage()]
    assert len(lines) == 1
    assert said in lines[0]
    assert "\x1b" not in lines[0]


def test_too_few_clients_are_waited_for_and_then_named(nodes: Nodes, experiment: Make) -> None:
    nodes.down = {0, 1}
    with pytest.raises(UserError, match=r"round 1: 1 of 3 clients could be reached within 0.2 s, but .*min_clients=2"):
        run(experiment("few", *FLOWER, "engine.min_clients=2"))
    nodes.down, nodes.meddle = set(), lambda client, message, answer, update: None
    with pytest.raises(UserError, match="round 1: 0 of 3 clients gave a usable answer"):
        run(experiment("mute", *FLOWER))


def test_outside_of_flower_the_engine_says_where_it_works(experiment: Make) -> None:
    with pytest.raises(UserError, match="pffdst deploy run"):
        run(experiment("alone", *FLOWER))


def test_a_node_makes_nothing_that_it_does_not_allow(nodes: Nodes, experiment: Make, caplog: Any) -> None:
    own = experiment("deployed", *FLOWER)
    config = {**own.engine.brief["config"], "objective": {"_target_": "os.system", "command": "true"}}
    own.engine.brief = {**own.engine.brief, "config": config}
    with pytest.raises(UserError, match="0 of 3 clients gave a usable answer"):
        run(own)
    assert caplog.text.count("which this node does not allow") == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no path for "),
        ({"state": "s"}, "no path for data"),
        ({"state": "s", "data": "/gone"}, "/gone, do not"),
    ],
)
def test_a_node_that_is_not_set_up_says_so_in_its_answer(nodes: Nodes, settings: dict[str, str], said: str) -> None:
    """Its process does not fail, which Flower would report by the class of the error."""
    from pffdst.deploy.client_app import query, train

    context: Any = SimpleNamespace(node_config={**settings, "tell": "counts"}, node_id=1)
    task = ConfigRecord({"format": FORMAT, **vars(Task("0" * 16, 1, 0, NEVER, NEVER))})
    work = {"task": task, "payload": ConfigRecord({"bytes": b""}), "setup": ConfigRecord({"bytes": b""})}
    answer, payload = answer_of(train(Message(RecordDict(work), 1, "train"), context), most=10)
    survey = {"survey": ConfigRecord({"channels": 0, "resize": 0, "crop": False})}
    told = told_of(query(Message(RecordDict(survey), 1, "query"), context))
    assert payload is None
    for problem in (answer.problem, told.problem):
        assert said in problem
        assert "--node-config" in problem
