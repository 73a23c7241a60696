"""Where a round's time goes: the parts are logged when asked for and add up to the round."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.core.messages import Timings
from pffdst.loggers.csv import read_metrics
from pffdst.measure.stopwatch import TRACE_FILE, Stopwatch
from pffdst.metrics.names import ROUND_SECONDS, time_of
from pffdst.run import run
from pffdst.runs import checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = [
    "logger=csv",
    "clients=5",
    "cohort=3",
    "rounds=4",
    "readjust.schedule.interval=1",
    "eval_every=2",
    "engine.workers=0",
]


def rows_of(folder: Path, *overrides: str) -> list[dict[str, float | int | str]]:
    run(build(compose([*SMALL, *overrides], CONFIGS), folder, "identity"))
    return read_metrics(folder / "metrics.csv")


def test_the_parts_of_a_round_fill_it(tmp_path: Path) -> None:
    for row in rows_of(tmp_path, "profile=true"):
        parts = [float(row[time_of(name)]) for name in ("plan", "encode", "clients", "aggregate")]
        assert min(parts) > 0
        assert 0.8 * float(row[ROUND_SECONDS]) < sum(parts) <= float(row[ROUND_SECONDS])


def test_the_clients_parts_fill_the_wait_for_them_in_one_process(tmp_path: Path) -> None:
    for row in rows_of(tmp_path, "profile=true"):
        clients = sum(float(row[time_of(name)]) for name in Stopwatch.CLIENTS)
        assert 0.8 * float(row[time_of("clients")]) < clients <= float(row[time_of("clients")])


def test_evaluation_counts_where_there_is_one_and_writing_counts_for_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = checkpoint.save_packed
    monkeypatch.setattr(checkpoint, "save_packed", lambda *given: (time.sleep(0.5), saves(*given)))
    rows = rows_of(tmp_path, "profile=true", "checkpoint_every=2")
    assert [float(row[time_of("evaluate")]) > 0 for row in rows] == [False, True, False, True]
    assert [float(row[time_of("log")]) > 0 for row in rows] == [False, True, True, True]
    assert [float(row[time_of("checkpoint")]) >= 0.5 for row in rows] == [False, False, True, False]


def test_a_run_that_is_not_profiled_logs_no_times(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    assert not [name for name in rows[0] if name.startswith("time/")]
    assert not [name for name in json.loads((tmp_path / "summary.json").read_text()) if name.startswith("time_")]


def test_a_trace_holds_the_operations_of_the_second_and_third_round(tmp_path: Path) -> None:
    rows_of(tmp_path, "profile=trace")
    events = json.loads(gzip.decompress((tmp_path / TRACE_FILE).read_bytes()))["traceEvents"]
    steps = {e["name"] for e in events if str(e.get("name")).startswith("ProfilerStep")}
    assert len(steps) == 2
    assert any("conv" in str(e.get("name")) for e in events)


def test_time_inside_a_part_is_its_own_and_waiting_is_told_from_using() -> None:
    watch = Stopwatch()

    def slow() -> object:
        for _ in range(3):
            time.sleep(0.02)
            yield None

    for _ in watch.over("clients", iter(slow())):  # type: ignore[call-overload]
        with watch.part("aggregate"):
            time.sleep(0.01)
    watch.client(Timings(1.0, 2.0, 3.0))
    found = watch.lap()
    assert found["clients"] >= 0.06
    assert found["aggregate"] >= 0.03
    assert (found["client_decode"], found["client_train"], found["client_encode"]) == (1.0, 2.0, 3.0)
    assert sum(watch.lap().values()) == 0
    assert watch.total["client_train"] == 2.0


@pytest.mark.parametrize("wrong", ["yes", "2", "null"])
def test_what_profile_may_be_is_told_before_any_work(wrong: str) -> None:
    from pffdst.config.ranges import range_problems

    lines = range_problems(compose([f"profile={wrong}"], CONFIGS))
    assert any("true, false or trace" in line for line in lines)
