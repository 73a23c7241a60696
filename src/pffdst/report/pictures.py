"""The main figures as PNG files for papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from pffdst.metrics.names import PART_WORDS
from pffdst.report.exports import total_bytes
from pffdst.report.figures import accuracy_words, drawn_runs, mean_curve, spread_of
from pffdst.report.groups import Group
from pffdst.report.looks import HUES, PART_HUES, hues_of

__all__ = ["STYLE", "curve_label", "write_curves", "write_pictures"]

_DASHES = ("-", "--", ":", "-.")
_MARKS = "osD^v"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eceef1",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
}
_FAR = 4.0  # ratio of costs above which they are drawn on a logarithmic axis
# What a curve is drawn against: words, field of a point, unit.
_AXES: dict[str, tuple[str, str, str | None]] = {
    "rounds": ("round", "round", None),
    "bytes": ("bytes sent, both directions", "bytes", "B"),
    "paper_bytes": ("bytes by the papers' formula, both directions", "paper_bytes", "B"),
    "flops": ("training", "flops", "FLOP"),
    "time": ("time of a deployment", "seconds", "s"),
}


def write_pictures(groups: Sequence[Group], accuracy: str, folder: Path) -> list[Path]:
    """Accuracy against rounds, bytes and FLOPs, accuracy for bytes, bytes by part; returns the files."""
    curves = write_curves(groups, accuracy, {name: folder / f"accuracy_by_{name}.png" for name in _AXES})
    with mpl.rc_context(STYLE):
        return [
            *curves,
            _written(folder / "accuracy_for_bytes.png", partial(_points, groups=groups, accuracy=accuracy)),
            _written(folder / "bytes_by_part.png", partial(_parts, groups=groups)),
        ]


def write_curves(groups: Sequence[Group], accuracy: str, files: Mapping[str, Path], dpi: int = 300) -> list[Path]:
    """Accuracy against each of the given axes, from `_AXES`. The file's extension determines its format."""
    with mpl.rc_context(STYLE | {"savefig.dpi": dpi}):
        return [
            _written(path, partial(_curves, groups=groups, accuracy=accuracy, against=name))
            for name, path in files.items()
        ]


def _written(path: Path, draw: Callable[[Axes], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(5.2, 3.4))
    draw(figure.add_subplot())
    figure.savefig(path)
    return path


def _looks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One hue per method, as on the page; its variants differ in dash and marker."""
    hues = hues_of(str(run.config.get("method_name", "")) for group in groups for run in group.runs)
    seen: Counter[str] = Counter()
    looks = []
    for place, group in enumerate(groups):
        methods = {str(run.config.get("method_name", "")) for run in group.runs}
        method = methods.pop() if len(methods) == 1 else ""
        hue = hues.get(method, place) if method else place
        nth = seen[method] if method else 0
        seen[method] += 1
        looks.append({"color": HUES[hue % len(HUES)], "linestyle": _DASHES[nth % 4], "marker": _MARKS[nth % 5]})
    return looks


def _words(group: Group) -> str:
    return group.label.replace("$", r"\$")


def curve_label(group: Group, accuracy: str, *, is_drawn: bool) -> str:
    """A mean curve's label, which says why there is none: `fedavg (not drawn: its seeds share no range)`."""
    if is_drawn:
        return _words(group)
    why = "its seeds share no range" if drawn_runs(group, accuracy) else "no evaluations"
    return f"{_words(group)} (not drawn: {why})"


def _curves(ax: Axes, groups: Sequence[Group], accuracy: str, against: str) -> None:
    words, place, unit = _AXES[against]
    ends = []
    for group, look in zip(groups, _looks(groups), strict=True):
        points = mean_curve(group, accuracy, place)
        x = [float(getattr(point, place)) for point, _ in points]
        ends += x[-1:]
        y = [100 * spread.mean for _, spread in points]
        sd = [100 * spread.sd if spread.n > 1 else 0.0 for _, spread in points]
        label = curve_label(group, accuracy, is_drawn=bool(x))
        ax.plot(x, y, label=label, lw=1.5, ms=3.5, markevery=max(len(x) // 8, 1), **look)
        ax.fill_between(
            x,
            [a - b for a, b in zip(y, sd, strict=True)],
            [a + b for a, b in zip(y, sd, strict=True)],
            color=look["color"],
            alpha=0.13,
            lw=0,
        )
    # Next to one that spends several times as much, a curve would be a line at the edge. Rounds stay linear.
    far_apart = against != "rounds" and bool(ends) and max(ends) > _FAR * min(ends)
    _axis(ax, words, unit, log=against == "flops" or far_apart)
    ax.set_ylabel(f"accuracy (%)\n{accuracy_words(groups, accuracy)}")
    _legend(ax)


def _points(ax: Axes, groups: Sequence[Group], accuracy: str) -> None:
    for group, look in zip(groups, _looks(groups), strict=True):
        sizes, shares = (
            spread_of([total_bytes(run) for run in group.runs]),
            spread_of([run.final.get(accuracy) for run in group.runs]),
        )
        if sizes.n and shares.n:
            error = 100 * shares.sd if shares.n > 1 else None
            ax.errorbar(
                sizes.mean, 100 * shares.mean, yerr=error, label=_words(group), ms=7, **look | {"linestyle": "none"}
            )
    _axis(ax, "bytes sent, both directions", "B", log=True)
    ax.set_ylabel(f"accuracy (%)\n{accuracy_words(groups, accuracy)}")
    _legend(ax)


def _parts(ax: Axes, groups: Sequence[Group]) -> None:
    rows = [(group, way) for group in groups for way in ("up", "down")]
    left = [0.0] * len(rows)
    for part, words in PART_WORDS.items():
        sizes = [
            spread_of([run.final.get(f"bytes_{way}_{part}", 0.0) for run in group.runs]).mean for group, way in rows
        ]
        ax.barh(range(len(rows)), sizes, left=left, color=PART_HUES[part][0], label=words, height=0.7)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    ax.set_yticks(range(len(rows)), [f"{_words(group)}, {way}" for group, way in rows])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    _axis(ax, "bytes of the whole run", "B", log=False)
    _legend(ax)


def _axis(ax: Axes, words: str, unit: str | None, *, log: bool) -> None:
    ax.set_xlabel(words)
    if log:
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high > 300 * low else (1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    if unit is not None:
        ax.xaxis.set_major_formatter(EngFormatter(unit=unit))
        ax.tick_params(axis="x", labelsize=7.5)


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
