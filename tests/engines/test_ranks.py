"""Bytes between processes, and word of who is gone. Whole runs under torchrun are in tests/e2e/test_ranks.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pffdst.cli import train as entry
from pffdst.core.errors import UserError
from pffdst.engines.ranks import Ranks, join

ROOT = Path(__file__).resolve().parents[2]
# Each rank echoes what it is sent, with what was broadcast; `stay` then waits for whatever happens.
SCRIPT = """
import sys, time
from pffdst.engines.ranks import RankLostError, join
ranks = join()
sizes = (0, 1, 70_000, 5)
if ranks.rank > 0:
    for size in sizes:
        ranks.send(0, ranks.receive(0) + ranks.broadcast(None, size))
    print("at work", flush=True)
    time.sleep(60)
    raise SystemExit("a follower was not ended")
for size in sizes:
    for peer in ranks.links:
        ranks.send(peer, bytes([peer]) * size)
    ranks.broadcast(b"x" * size, size)
    for peer in ranks.links:
        assert ranks.receive(peer) == bytes([peer]) * size + b"x" * size
print("echoed", ranks.size, flush=True)
try:
    if "stay" in sys.argv:
        ranks.receive(1)
    ranks.close()
except RankLostError as lost:
    print(lost, flush=True)
    ranks.close()
    import os
    os._exit(1)
"""


def start(size: int, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "PFFDST_RANK_TIMEOUT": "2"}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return [
        subprocess.Popen(
            command,
            env=os.environ | path | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each, at most 20 s from now."""
    found = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
        found.append((process.returncode, out, err))
    return found


def test_bytes_arrive_as_they_were_sent_and_followers_end_with_rank_0() -> None:
    processes = start(3)
    (code, out, err), *others = end(processes)
    assert (code, out) == (0, "echoed 3\n"), err
    assert [code for code, _, _ in others] == [0, 0], others


@pytest.mark.parametrize(("how", "why"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "has been silent for 2 s")])
def test_a_follower_that_is_lost_stops_all_and_is_named(how: signal.Signals, why: str) -> None:
    processes = start(3, "stay")
    assert line(processes[0]) == "echoed 3\n"
    assert line(processes[2]) == "at work\n"
    processes[2].send_signal(how)
    began = time.monotonic()
    (code, out, err), (other, _, _) = end(processes[:2])
    assert time.monotonic() - began < 15
    processes[2].kill()
    end(processes[2:])
    assert code == 1, err
    assert out.startswith(f"rank 2 ({socket.gethostname()}, pid {processes[2].pid}) {why}: all ranks stop.")
    assert other == 0  # told to end, it does so without a word


@pytest.mark.parametrize(("how", "why"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "has been silent for 2 s")])
def test_followers_end_when_rank_0_is_lost_and_one_says_so(how: signal.Signals, why: str) -> None:
    processes = start(3, "stay")
    assert line(processes[0]) == "echoed 3\n"
    processes[0].send_signal(how)
    one, two = end(processes[1:])
    processes[0].kill()
    end(processes[:1])
    assert (one[0], two[0]) == (1, 1)
    assert one[2].startswith(f"rank 0, which owns the run, {why}: all ranks stop. Write resume=FOLDER")
    assert two[2] == ""


def test_a_process_alone_has_no_ranks() -> None:
    assert join({}) is None
    assert join({"RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize("given", ["soon", "0", "nan"])
def test_an_impossible_timeout_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=f"PFFDST_RANK_TIMEOUT={given}: expected seconds above 0"):
        join({"RANK": "0", "WORLD_SIZE": "2", "PFFDST_RANK_TIMEOUT": given})


def test_a_sweep_is_refused_under_torchrun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    entry._refuse_ranks("-m", "the sweep")
    monkeypatch.setattr(entry, "current", object)
    with pytest.raises(UserError, match="-m cannot be used with torchrun"):
        entry._refuse_ranks("-m", "the sweep")


def test_a_follower_ends_though_rank_0_has_stopped_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(header: int) -> None:
        raise RuntimeError("connection closed by peer")

    ended: list[int] = []
    monkeypatch.setattr("pffdst.engines.ranks.os._exit", ended.append)
    follower, link = Ranks.__new__(Ranks), SimpleNamespace(name="rank 0", signal=gone)
    follower.rank = 1
    told: Any = link, None
    follower._ended(*told)
    assert ended == [0]
