"""What a user sees of one run: files, figures, W&B's record, messages."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Train = Callable[..., subprocess.CompletedProcess[str]]
TINY = ["rounds=12", "clients=8", "cohort=4", "readjust.schedule.interval=1", "eval_every=3", "checkpoint_every=4"]
PROMISED = {
    *("method", "seed", "rounds", "sparsity", "acc_global", "acc_client_mean", "ema_acc_global", "last5_acc_global"),
    *("best_acc_global", "best_acc_client_mean", "bytes_up", "bytes_down", "paper_bytes", "flops", "model_sha256"),
    *("wall_s", "peak_rss_mb"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train: Train) -> tuple[Path, str]:
    """A tiny run with every default, W&B included, and what it printed."""
    folder = tmp_path_factory.mktemp("run with spaces") / "a=b"
    done = train(*TINY, f"hydra.run.dir='{folder}'")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_what_is_promised(run: tuple[Path, str]) -> None:
    folder, _ = run
    for name in ("config.yaml", "metrics.csv", "model.safetensors", "model_ema.safetensors", "summary.json"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert set(json.loads((folder / "summary.json").read_text())) >= PROMISED
    assert "${" not in (folder / "config.yaml").read_text()


def test_there_is_a_row_per_round_and_accuracies_where_it_was_evaluated(run: tuple[Path, str]) -> None:
    rows = rows_of(run[0])
    assert [int(r["round"]) for r in rows] == list(range(1, 13))
    assert [int(r["round"]) for r in rows if r["test/acc_global"]] == [3, 6, 9, 12]


def test_the_summary_is_the_last_row(run: tuple[Path, str]) -> None:
    last, summary = rows_of(run[0])[-1], json.loads((run[0] / "summary.json").read_text())
    assert float(last["test/acc_global"]) == summary["acc_global"]
    assert int(last["cost/bytes_up"]) == summary["bytes_up"]
    assert int(last["cost/bytes_down"]) == summary["bytes_down"]
    assert int(last["model/alive"]) == summary["alive"] == round(0.2 * 13_584)


def test_the_final_table_names_method_accuracy_bytes_and_folder(run: tuple[Path, str]) -> None:
    folder, printed = run
    for words in (" on digits", "server average", "best round", "up ", "down ", "FLOP", f"files in {folder}"):
        assert words in printed, words


def test_wandb_offline_holds_what_the_csv_holds(run: tuple[Path, str], offline_run: ModuleType) -> None:
    history, rows = offline_run.read_offline_history(run[0]), rows_of(run[0])
    assert len(history) == len(rows)
    for logged, row in zip(history, rows, strict=True):
        for name in (n for n in row if n.startswith(("cost/", "test/", "round", "density/"))):
            assert (name in logged) == (row[name] != ""), name
            if row[name] != "":
                assert float(logged[name]) == float(row[name]), name


def test_all_problems_come_in_one_message_before_any_work(train: Train, tmp_path: Path) -> None:
    bad = ["sparsity=1.2", "cohort=50", "clients=20", "lr=-1", "modle=cnn", "freeze=three_stage", "rounds=abc"]
    refused = train(*bad, f"hydra.run.dir={tmp_path / 'never'}")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    for word in ("sparsity", "cohort", "lr", "modle", "three_stage", "rounds=abc"):
        assert word in refused.stderr, word
    assert not (tmp_path / "never").exists()


def test_it_works_from_any_folder(train: Train, tmp_path: Path) -> None:
    done = train("experiment=debug", "rounds=4", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_diverging_run_says_so_and_keeps_its_model(train: Train, tmp_path: Path) -> None:
    done = train("experiment=debug", "lr=1e30", "rounds=4", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "not finite" in done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rejected"] == 8
