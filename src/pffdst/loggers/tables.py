"""The figures of a finished run as a table.

A summary is a dict; a missing figure is shown as `-`. Accuracies are shares, costs are bytes and operations, `wall_s`
is in seconds, `peak_rss_mb` in megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from pffdst.core.words import counted
from pffdst.metrics.names import PART_WORDS
from pffdst.metrics.units import format_bytes, format_flops, format_percent, format_seconds

__all__ = ["final_table", "print_summary"]

Summary = Mapping[str, Any]
_ABSENT: Final = "-"


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Prints the final table and, on a separate line that is never wrapped, where the files are."""
    console = Console() if console is None else console
    _print_whole(final_table(summary), console)
    console.print(f"files in {summary.get('folder', _ABSENT)}", markup=False, highlight=False, soft_wrap=True)


def final_table(summary: Summary) -> Table:
    """One finished run: its accuracies on the pooled test set and as a mean over clients, then what it cost."""
    table = _table(_title(summary))
    pooled = f"pooled {summary.get('evaluated_on', 'test')} set"
    for heading in ("", pooled, "mean over clients"):
        table.add_column(heading, no_wrap=True)
    for row in (*_accuracies(summary), *_metrics(summary), ("", "", ""), *_costs(summary)):
        table.add_row(*row)
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        min_width=len(title),
    )


def _print_whole(table: Table, console: Console) -> None:
    """In a terminal too narrow for the table, lines are broken; no figure is cut off."""
    console.print()
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    if needed > console.width:
        console = Console(file=console.file, width=needed, force_terminal=console.is_terminal)
    console.print(table)


def _title(summary: Summary) -> str:
    shown = {key: _shown(summary, key) for key in _IDENTITY}
    shown["rounds"] = counted(shown["rounds"], "round")
    return "{method} on {dataset}, {model}: sparsity {sparsity}, {rounds}, seed {seed}".format_map(shown)


def _accuracies(summary: Summary) -> list[tuple[str, str, str]]:
    rows = (
        ("last round", "acc_global", "acc_client_mean"),
        ("mean of last 5", "last5_acc_global", "last5_acc_client_mean"),
        ("server average", "ema_acc_global", "ema_acc_client_mean"),
        ("best round", "best_acc_global", "best_acc_client_mean"),
    )
    return [
        (name, _format(summary, pooled, format_percent), _format(summary, mean, format_percent))
        for name, pooled, mean in rows
    ]


def _metrics(summary: Summary) -> list[tuple[str, str, str]]:
    """Further metrics of the last model; one with a value per class is too long for a table."""
    found = summary.get("metrics", {})
    return [(name, f"{value:.4f}", "") for name, value in found.items() if "/" not in name]


def _costs(summary: Summary) -> list[tuple[str, str, str]]:
    def show(key: str, form: Callable[[Any], str], words: str = "{}") -> str:
        return words.format(_format(summary, key, form))

    def both(part: str) -> tuple[str, str]:
        return show(f"bytes_up_{part}", format_bytes), show(f"bytes_down_{part}", format_bytes)

    gradients = (
        show("flops_input_gradient", format_flops, "inputs {}"),
        show("flops_weight_gradient", format_flops, "weights {}"),
    )
    return [
        *_zeros(summary),
        ("bytes sent", show("bytes_up", format_bytes, "up {}"), show("bytes_down", format_bytes, "down {}")),
        *((f"  {words}", *both(part)) for part, words in PART_WORDS.items()),
        ("paper's formula", show("paper_bytes", format_bytes), show("frozen_bytes", format_bytes, "plus {} frozen")),
        ("training", show("flops", format_flops), ""),
        ("  forward", show("flops_forward", format_flops), ""),
        ("  gradients", *gradients),
        ("time, memory", show("wall_s", format_seconds), show("peak_rss_mb", _megabytes)),
        *_times(summary),
        *_deployed(summary),
        *_private(summary),
        ("rejected updates", show("rejected", str), ""),
    ]


def _zeros(summary: Summary) -> list[tuple[str, str, str]]:
    """The sparsity reached, over the weights with a mask and over all parameters."""
    if not {"sparsity", "sparsity_overall", "maskable", "parameters"} <= summary.keys():
        return []
    words = "{:.2%} of {:,} {}"
    masked = words.format(summary["sparsity"], summary["maskable"], "with masks")
    return [("zeros", masked, words.format(summary["sparsity_overall"], summary["parameters"], "parameters"))]


def _deployed(summary: Summary) -> list[tuple[str, str, str]]:
    """How long the rounds would take by the run's model of time, and the clients that never answered or too late."""
    found = [(f"{name} clients", str(summary[name]), "") for name in ("lost", "late") if summary.get(name)]
    if "deployment_seconds" in summary:
        found.insert(0, ("deployment", format_seconds(summary["deployment_seconds"]), ""))
    return found


def _private(summary: Summary) -> list[tuple[str, str, str]]:
    """What a private run has spent."""
    if "privacy_epsilon" not in summary:
        return []
    return [("privacy", f"epsilon {summary['privacy_epsilon']:.4g}", f"at delta {summary['privacy_delta']:.4g}")]


def _times(summary: Summary) -> list[tuple[str, str, str]]:
    """Where a profiled run's time went, the longest part first."""
    parts = {words: float(summary[f"time_{part}"]) for part, words in _TIMES.items() if f"time_{part}" in summary}
    whole = sum(parts.values()) or 1.0
    longest_first = sorted(parts.items(), key=lambda item: -item[1])
    return [(f"  {words}", format_seconds(s), format_percent(s / whole)) for words, s in longest_first]


def _format(summary: Summary, key: str, form: Callable[[Any], str]) -> str:
    value = summary.get(key)
    return _ABSENT if value is None else form(value)


def _shown(summary: Summary, key: str) -> str:
    return _format(summary, key, _IDENTITY[key])


def _sparsity(value: float) -> str:
    return f"{value:.4g}"


def _megabytes(value: float) -> str:
    return format_bytes(value * 1e6)


_TIMES: Final = {
    "plan": "planning",
    "encode": "encoding",
    "clients": "clients",
    "aggregate": "averaging",
    "evaluate": "evaluating",
    "log": "logging",
    "checkpoint": "checkpoints",
}
_IDENTITY: Final[dict[str, Callable[[Any], str]]] = {
    "method": str,
    "dataset": str,
    "model": str,
    "sparsity": _sparsity,
    "rounds": str,
    "seed": str,
}
