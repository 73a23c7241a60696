"""The benchmarks run and write what they found; how fast the code is, is no matter of a test."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.warm import WarmPython

ROOT = Path(__file__).resolve().parents[2]
ResultOf = Callable[..., dict[str, Any]]


@pytest.fixture
def result_of(warm: WarmPython, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`result_of(name, *options)`: what a quick run of the benchmark writes."""

    def played(name: str, *options: str, written: str | None = None) -> dict[str, Any]:
        run = warm(f"benchmarks/{name}.py", "--quick", "--results", str(tmp_path), *options)
        assert run.returncode == 0, run.stdout + run.stderr
        result: dict[str, Any] = json.loads((tmp_path / f"{written or name}.json").read_text())
        assert {"machine", "versions", "command", "date", "git"} <= set(result)
        return result

    return played


def test_client_training_measures_every_engine(result_of: ResultOf) -> None:
    ratios = result_of("client_training")["ratios"]
    assert {"fabric, default", "fabric, exact", "trainer"} < set(ratios)
    assert all(row["median"] > 0 and len(row["ratios"]) == 1 for row in ratios.values())


def test_every_engine_plays_whole_rounds_of_both_networks(result_of: ResultOf) -> None:
    rows = result_of("engines")["rows"]
    assert {row["network"] for row in rows} == {"LeNet", "ResNet-18"}
    assert {row["engine"] for row in rows} >= {"fabric", "trainer"}
    assert all(row["of_bare"] > 0 and row["host_mb"] > 100 for row in rows)


def test_the_servers_work_is_set_against_a_round(result_of: ResultOf) -> None:
    result = result_of("server")
    assert all(result[part]["ratio"] > 0 for part in ("evaluation", "decoding", "averaging"))


def test_the_benchmark_of_an_accelerator_can_be_rehearsed_without_one(result_of: ResultOf) -> None:
    result = result_of("gpu", "--device", "cpu", written="gpu_rehearsal")
    assert {row["precision"] for row in result["steps"]} == {"fp32", "tf32", "bf16"}
    assert len(result["rounds"]) > 5
    assert all(row["of_floor"] > 0 for row in (*result["steps"], *result["rounds"]))
    assert result["profile"]["host"]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc/PID/smaps_rollup")
def test_memory_sees_all_processes_of_a_run(result_of: ResultOf) -> None:
    for run in result_of("memory")["runs"].values():
        assert len(run["processes"]) >= 1
        assert 100 < run["peak_mb"] <= run["peak_rss_sum_mb"]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc/PID/smaps_rollup")
def test_population_measures_many_clients(result_of: ResultOf) -> None:
    result = result_of("population")
    assert [row["clients"] for row in result["rows"]] == [100_000]
    assert all(row["round_s"] > 0 and row["peak_mb"] > 100 for row in result["rows"])


def test_the_wire_benchmark_fills_its_tables(result_of: ResultOf) -> None:
    result = result_of("wire")
    for row in (*result["masks"].values(), *result["changes"].values()):
        assert row["bytes"] >= row["bound"] > 0
    assert {row["what"] for row in result["readjustments"]} >= {"begin", "prune"}
    assert all(0 < row["share"] < 1 for row in result["share"].values())


def test_codecs_are_compared_with_the_exact_one(result_of: ResultOf) -> None:
    result = result_of("codecs")
    sent = {row["codec"]: row["of_paper_bytes"] for row in result["rows"]}
    assert 0 < sent["int4"] < 0.3 * sent["fp32"]
    assert set(result["points_over_fp32"]) == {"int4"}


def test_the_pages_server_is_measured_under_a_crowd(result_of: ResultOf) -> None:
    result = result_of("page_server")
    assert result["server"]["readers"] == 10
    assert result["page"]["peak_mb"] > 30


def test_damaged_messages_crash_no_decoder(result_of: ResultOf) -> None:
    result = result_of("wire_fuzz")
    assert sum(result["ends"].values()) == result["inputs"] == 300
    assert len(result["ends"]) > 5
    assert result["most_bytes_for_one"] < 20e6


def test_the_report_reads_damaged_runs_and_stays_small(result_of: ResultOf) -> None:
    result = result_of("report")
    assert result["statuses"]["done"] >= 4
    assert {"failed", "skipped", "empty", "stopped"} <= set(result["statuses"])
    assert result["page_bytes"] < 6e6


def test_the_committed_figures_are_those_of_the_readme() -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    training = json.loads((ROOT / "benchmarks/results/client_training.json").read_text())["ratios"]
    memory = json.loads((ROOT / "benchmarks/results/memory.json").read_text())["runs"]
    for row in training.values():
        assert f"{row['median']:.2f}" in text
    for run in memory.values():
        assert f"{run['peak_mb']:,.0f} MB" in text
    population = json.loads((ROOT / "benchmarks/results/population.json").read_text())
    assert population["memory_ratio"] <= population["target"]
    for row in population["rows"]:
        figures = f"{row['round_s']:.2f} | {row['peak_mb']:,.0f} MB | {row['checkpoint_mb']:.1f} MB"
        assert f"| {row['clients']:,} | {row['cohort']:,} | {figures} |" in text


def test_the_race_beside_the_peers_is_told_as_it_was_played() -> None:
    result = json.loads((ROOT / "benchmarks/results/peers.json").read_text())
    few, tiny = (result[name] for name in ("20 of 400 clients", "100 of 4,000 clients of 8 samples"))
    assert len(few) == len(tiny) == 3, "repetitions"
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "benchmarks/README.md").read_text()
    versions = " ".join(f"{name} {release['torch']}" for name, release in result["peers"].items())
    assert versions == "blazefl 2.15.0 pfl 2.15.0 flwr 2.15.0"
    for name in few[0]:
        told = []
        for rows in (few, tiny):
            wall, ratio, cpu, peak = (
                f"{median(one[name][key] for one in rows):.2f}" for key in ("wall_s", "wall_ratio", "cpu_s", "peak_gb")
            )
            assert f"| {wall} | {ratio} | {cpu} | {peak} GB |" in page, name
            told.append((wall, peak))
        if name not in ("ours, before", "pfl, one process"):
            assert f"| {told[0][0]} | {told[1][0]} | {max(told[0][1], told[1][1])} GB |" in readme, name


def test_the_sizes_of_saved_models_are_told(warm: WarmPython) -> None:
    done = warm("benchmarks/model_sizes.py", "--network", "cnn")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| cnn |") == 4
    assert "| cnn | 0.8 | 2,685 | 83.0 kB | 14.0 kB | 55.8 kB |" in done.stdout


def test_methods_are_set_side_by_side(result_of: ResultOf) -> None:
    rows = result_of("methods", "--methods", "pffdst", "snip")["rows"]
    assert [row["method"] for row in rows] == ["pffdst", "snip"]
    assert all(sum(row["parts_mb"].values()) == pytest.approx(row["up_mb"] + row["down_mb"], abs=0.01) for row in rows)
    assert rows[1]["parts_mb"]["signals"] > 0 == rows[0]["parts_mb"]["signals"]


def test_the_time_of_a_tiny_client_is_divided(result_of: ResultOf) -> None:
    result = result_of("tiny_client")
    assert {"steps", "update coded", "update decoded", "update summed"} <= set(result["client_ms"])
    assert all(row["all"] > 0 for row in result["message_ms"].values())


def test_faults_are_played_with_and_without_a_defence(result_of: ResultOf) -> None:
    rows = result_of("robustness")["rows"].values()
    assert {row["fault"] for row in rows} >= {"none", "not_finite", "scaled"}
    assert all(0 <= row["figures"]["acc_global"] <= 1 for row in rows)


def test_a_long_run_is_compared_with_its_beginning(result_of: ResultOf) -> None:
    figures = result_of("long_run")["figures"]
    assert set(figures) == {"mb", "own_mb", "files", "threads", "checkpoint_kb", "round_s"}
    assert all(row["first"] > 0 and row["last"] > 0 for row in figures.values())


def test_the_committed_long_run_stayed_as_it_began() -> None:
    """Memory grows early and then stays, which the page tells."""
    result = json.loads((ROOT / "benchmarks/results/long_run.json").read_text())
    figures, text = result["figures"], (ROOT / "benchmarks/README.md").read_text()
    assert result["rounds"] >= 1000
    assert all(figures[name]["ratio"] < 1.01 for name in ("files", "threads", "checkpoint_kb", "round_s"))
    assert figures["mb"]["ratio"] < 1.05
    for name in ("mb", "own_mb"):
        assert f"{figures[name]['first']:.0f} and {figures[name]['last']:.0f} MB" in text


def test_lost_clients_are_counted(result_of: ResultOf) -> None:
    rows = result_of("dropout")["rows"]
    assert [row["rate"] for row in rows] == [0.0, 0.1, 0.3]
    assert rows[0]["runs"][0]["lost"] == 0


TABLES = [
    path for name in ("robustness", "dropout") for path in sorted((ROOT / "benchmarks/results").glob(f"{name}*.json"))
]


@pytest.mark.parametrize("result", TABLES, ids=lambda path: path.stem)
def test_a_pages_table_is_that_of_the_committed_runs(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is written by `--render`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    name, _, on = result.stem.partition("_")
    script = importlib.import_module(name)
    shown = script.table(json.loads(result.read_text())["rows"])
    assert f"<!-- {name}.py --on {on or 'digits'} -->\n{shown}<!-- end -->\n" in script.PAGE.read_text()
