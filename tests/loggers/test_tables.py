import io

import pytest
from rich.console import Console

from pffdst.cost.ledger import Ledger
from pffdst.loggers.tables import print_summary
from pffdst.metrics.names import PART_WORDS

SUMMARY = {
    "method": "pffdst",
    "dataset": "digits",
    "model": "SmallCNN",
    "seed": 0,
    "rounds": 100,
    "sparsity": 0.80003,
    "acc_global": 0.9111,
    "acc_client_mean": 0.9222,
    "ema_acc_global": 0.9333,
    "ema_acc_client_mean": 0.9444,
    "last5_acc_global": 0.9555,
    "best_acc_global": 0.9666,
    "best_acc_client_mean": 0.9777,
    "bytes_up": 1_110_000,
    "bytes_down": 2_220_000,
    "paper_bytes": 3_330_000,
    "frozen_bytes": 444_000,
    "flops": 5.55e12,
    "flops_forward": 1.11e12,
    "flops_input_gradient": 2.12e12,
    "flops_weight_gradient": 3.13e12,
    "bytes_up_values": 121_000,
    "bytes_down_catch_up": 131_000,
    "model_sha256": "ab" * 32,
    "wall_s": 66.6,
    "peak_rss_mb": 777.0,
    "folder": "logs/sweeps/[x]/12",
    "rejected": 3,
}


def shown(function, argument, width):
    stream = io.StringIO()
    function(argument, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 200])
def test_the_final_table_shows_every_figure_at_any_width(width):
    text = shown(print_summary, SUMMARY, width)
    for figure in ("91.11", "92.22", "93.33", "94.44", "95.55", "96.66", "97.77", "1.11 MB", "2.22 MB", "3.33 MB"):
        assert figure in text
    for figure in ("121 kB", "131 kB", "1.11 TFLOP", "inputs 2.12 TFLOP", "weights 3.13 TFLOP"):
        assert figure in text
    for figure in ("444 kB", "5.55 TFLOP", "1:07", "777 MB", "rejected updates       3", "files in logs/sweeps/[x]/12"):
        assert figure in text
    assert "pffdst on digits, SmallCNN: sparsity 0.8, 100 rounds, seed 0" in text


def test_a_figure_that_is_absent_or_none_is_a_dash_and_zero_is_zero():
    text = shown(print_summary, {"method": "pffdst", "rejected": 0, "ema_acc_global": None, "acc_global": 0.0}, 100)
    lines = {line[:18].strip(): line[18:].split() for line in text.splitlines()}
    assert lines["server average"] == ["-", "-"]
    assert lines["rejected updates"] == ["0"]
    assert lines["last round"] == ["0.00", "%", "-"]


def test_further_metrics_have_a_line_each_unless_there_is_one_per_class():
    text = shown(print_summary, SUMMARY | {"metrics": {"f1": 0.87654, "ema_f1": 0.5, "class_acc/0": 0.25}}, 100)
    lines = {line[:18].strip(): line[18:].split() for line in text.splitlines()}
    assert (lines["f1"], lines["ema_f1"]) == (["0.8765"], ["0.5000"])
    assert "class_acc" not in text


def test_every_part_of_a_message_has_a_line_so_that_the_parts_add_up():
    assert set(PART_WORDS) == set(Ledger.PARTS)
    summary = SUMMARY | {f"bytes_up_{part}": 1000 * (i + 2) for i, part in enumerate(Ledger.PARTS)}
    lines = [line.strip() for line in shown(print_summary, summary, 100).splitlines()]
    for i, part in enumerate(Ledger.PARTS):
        assert any(line.split(f"{i + 2}.00 kB")[0].strip() == PART_WORDS[part] for line in lines), part


def test_what_only_some_runs_have_is_shown_for_those():
    text = shown(print_summary, SUMMARY | {"lost": 0, "late": 0}, 100)
    assert not any(word in text for word in ("deployment", "privacy", "lost clients", "late clients"))
    more = {"deployment_seconds": 7265.0, "lost": 4, "late": 0, "privacy_epsilon": 3.21987, "privacy_delta": 1e-5}
    text = shown(print_summary, SUMMARY | more, 100)
    lines = {line[:18].strip(): line[18:].split() for line in text.splitlines()}
    assert (lines["deployment"], lines["lost clients"]) == (["2:01:05"], ["4"])
    assert lines["privacy"] == ["epsilon", "3.22", "at", "delta", "1e-05"]
    assert "late clients" not in text
