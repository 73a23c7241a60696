"""What a node does with a configuration that it cannot or must not follow: it builds nothing, and says why."""

from __future__ import annotations

import copy
import math
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

from flwr.app import ConfigRecord, Message, RecordDict

from pffdst import __version__
from pffdst.deploy import warm
from pffdst.deploy.node import Turns
from pffdst.deploy.records import FORMAT, NEVER, Answer, BadRecord, Task, answer_of, pack_setup, unpack_setup
from pffdst.deploy.states import States
from pffdst.experiment import Experiment
from tests.deploy.grid import Nodes

TASK = Task("0" * 16, 0, 0, NEVER, NEVER)
FLOAT = "pffdst.wire.codecs.floats.Float32"
Play = Callable[..., Answer]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, config_dir: Path) -> Mapping[str, Any]:
    """A legal brief on the samples of `files`."""
    from pffdst.build import build
    from pffdst.config.compose import compose
    from tests.deploy.conftest import OVERRIDES

    made: Experiment = build(compose([*OVERRIDES, "engine=fabric"], config_dir), tmp_path_factory.mktemp("run"), "test")
    return {**made.engine.brief, "channels_last": False}


@pytest.fixture
def play(tmp_path: Path, files: list[Path], described: Mapping[str, Any]) -> Play:
    """A node's answer to a task of a run whose brief was changed."""

    def played(change: Callable[[dict[str, Any]], Any], allow: str = "") -> Answer:
        told = copy.deepcopy(dict(described))
        change(told)
        places = {"state": str(tmp_path / "state"), "data": str(files[0])}
        answer, update = Turns().play(TASK, pack_setup(told), b"", **places, allow=allow)
        assert update is None
        return answer

    return played


def test_neither_the_package_nor_the_disk_is_touched(play: Play, tmp_path: Path) -> None:
    owned, copied = tmp_path / "owned", tmp_path / "copied"
    path = {"_target_": "pffdst.models.saved.Path", "_args_": [str(owned)]}
    create = f"${{oc.create:'{{_target_: shutil.copyfile, src: /etc/hostname, dst: {copied}}}'}}"
    for codec in ({"_target_": "pffdst.models.saved.Path.touch", "_args_": [path]}, create):
        answer = play(lambda told, codec=codec: told["config"].update(codec=codec))
        assert answer.unable
        assert answer.problem.startswith("setup: config.codec")
    assert not owned.exists()
    assert not copied.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"0" * 2**26, "at most 16,777,216 bytes"), (b"[" * 10**5, "cannot be read"), (b"{", "cannot be read")],
    ids=["bomb", "deep", "cut"],
)
def test_a_setup_without_bounds_is_not_read(text: bytes, said: str) -> None:
    with pytest.raises(BadRecord, match=said):
        unpack_setup(zstandard.compress(text))


# ---- what it cannot build --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.pop("version"), f"this node has pffdst {__version__}, the server an older version: install"),
        (lambda told: told.update(version="9.9"), "the server 9.9: install the same version on both"),
        (lambda told: told.update(config={"codec": {"_target_": "mine.Net"}}), "_target_ mine.Net cannot be imported"),
        (lambda told: told["config"]["codec"].update(_target_=f"{FLOAT}Newer"), "install on this node what the server"),
        (lambda told: told["config"]["codec"].update(newer=1), "unexpected keyword argument"),
        (lambda told: told["config"].pop("readjust"), "install on this node what the server has"),
        (lambda told: told["config"].update(codec="???"), "install on this node what the server has"),
        (lambda told: told["config"].update(rounds="many"), "setup: "),
        (lambda told: told.pop("data"), "the task failed on this node: KeyError: 'data'"),
    ],
    ids=["older", "newer", "package", "class", "key", "group", "missing", "type", "data"],
)
def test_a_node_answers_what_it_cannot_do(play: Play, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    answer = play(change, allow="mine.")
    assert answer.unable
    assert said in answer.problem
    assert answer.problem.isprintable()


def test_a_task_that_fails_is_answered_and_its_network_not_used_again(
    tmp_path: Path, files: list[Path], described: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = []

    def failing(task: Task, payload: bytes, states: Any, work: Any, fit: Any) -> Any:
        works.append(work)
        raise RuntimeError("out of luck\n")

    monkeypatch.setattr("pffdst.deploy.node.turn", failing)
    turns, places = Turns(), {"state": str(tmp_path / "state"), "data": str(files[0])}
    for _ in range(2):
        answer, _ = turns.play(TASK, pack_setup(described), b"", **places)
        assert answer.unable
        assert answer.problem == "the task failed on this node: RuntimeError: out of luck"
    assert works[0] is not works[1]


def test_a_worker_answers_and_lives_on(
    tmp_path: Path, files: list[Path], described: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's process gets its answer from the worker, not from a second try of its own."""
    started: list[subprocess.Popen[bytes]] = []
    start = warm._start
    monkeypatch.setattr(warm, "_start", lambda *given: started.append(start(*given)) or started[-1])
    setup = pack_setup({**described, "config": {**described["config"], "codec": {"_target_": FLOAT, "newer": 1}}})
    request = {"task": vars(TASK), "state": str(tmp_path), "data": str(files[0]), "allow": ""}
    try:
        for _ in range(2):
            found = warm.hand_over(request, setup, b"", 60)
            assert found is not None
            assert "unexpected keyword argument" in found[0].problem
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert len(started) == 1
    assert (tmp_path / f"worker-{__version__}.key").exists()


# ---- a node's settings -----------------------------------------------------------------------------------------------


def asked(settings: dict[str, Any], form: int = FORMAT) -> Message:
    """What a node with these settings sends back for a task."""
    from pffdst.deploy.client_app import train

    work = {"task": ConfigRecord({"format": form, **vars(TASK)})}
    work |= {name: ConfigRecord({"bytes": b""}) for name in ("payload", "setup")}
    context: Any = SimpleNamespace(node_config=settings, node_id=1)
    answered: Message = train(Message(RecordDict(work), 1, "train"), context)
    return answered


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("warm", "soon", "this node's warm='soon': expected seconds; write e.g. --node-config 'warm=600'"),
        ("warm", math.nan, "warm=nan: expected seconds"),
        ("warm", -1, "warm=-1: expected seconds"),
        ("warm", True, "warm=True: expected seconds"),
        ("allow", True, "allow=True: expected the names of packages; write e.g. --node-config 'allow="),
        ("data", 3, "no path for data"),
        ("state", True, "no path for state"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_the_answer(
    nodes: Nodes, tmp_path: Path, key: str, value: Any, said: str
) -> None:
    answer, _ = answer_of(asked({"state": str(tmp_path), "data": str(tmp_path), key: value}), most=10)
    assert answer.unable
    assert said in answer.problem


def test_a_task_of_another_format_is_answered_with_an_error(nodes: Nodes, tmp_path: Path) -> None:
    answered = asked({"state": str(tmp_path), "data": str(tmp_path)}, form=99)
    with pytest.raises(BadRecord, match=f"expected format {FORMAT}, but got 99; install the same version"):
        answer_of(answered, most=10)


def test_a_run_that_goes_on_keeps_its_states_however_many_began_since(tmp_path: Path) -> None:
    ours = tmp_path / ("a" * 16)
    (ours / "client-0").mkdir(parents=True)
    os.utime(ours, (1, 1))
    for other in range(8):
        (tmp_path / f"{other:016x}").mkdir()
    States(tmp_path, Task(ours.name, 0, 0, NEVER, NEVER)).write({}, {})
    assert (ours / "client-0" / "0.state").exists()
    assert len(list(tmp_path.iterdir())) == 8
