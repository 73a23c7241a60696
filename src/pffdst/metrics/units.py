"""Quantities in readable units; the logged numbers themselves stay plain."""

from __future__ import annotations

__all__ = ["format_bytes", "format_figure", "format_flops", "format_percent", "format_seconds"]

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")
_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")


def format_bytes(count: float) -> str:
    """Bytes in decimal units: 1,234,567 is `1.23 MB`."""
    return _scaled(count, _BYTES)


def format_figure(name: str, value: float) -> str:
    """A figure in the unit that its name in `metrics.names` implies: `cost/bytes` in bytes, accuracies in percent."""
    kind, _, rest = name.partition("/")
    if "bytes" in rest:
        return format_bytes(value)
    if "flops" in rest:
        return format_flops(value)
    if "acc" in rest:
        return format_percent(value)
    return format_seconds(value) if rest.endswith("seconds") and kind in ("round", "cost") else f"{value:.4g}"


def format_flops(count: float) -> str:
    """Floating-point operations in decimal units: 1.2e15 is `1.20 PFLOP`."""
    return _scaled(count, _FLOPS)


def format_percent(share: float) -> str:
    """A share in [0, 1] as percent with two decimals: 0.91234 is `91.23 %`."""
    return f"{100 * share:.2f} %"


def format_seconds(seconds: float) -> str:
    """A duration: `4.2 s`, `42 s` below a minute, then `m:ss`, then `h:mm:ss`."""
    if seconds < 59.5:
        return f"{seconds:.{1 if seconds < 9.95 else 0}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _scaled(count: float, units: tuple[str, ...]) -> str:
    """Three significant digits and the largest unit that leaves at least 1 before the point."""
    value, power = float(count), 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    if power == 0:
        return f"{value:.0f} {units[0]}"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {units[power]}"
