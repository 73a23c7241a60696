"""One run as its folder tells it: what is there is read, what is damaged is named, nothing raises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import yaml

from pffdst.loggers.csv import read_metrics
from pffdst.metrics import names
from pffdst.metrics.clients import CLIENTS_FILE
from pffdst.metrics.names import Row
from pffdst.report.folders import CONFIG, METRICS
from pffdst.runs import jobs as sweeps

__all__ = ["FINALS", "Run", "Scalar", "Status", "numbers", "read_run"]

Status = Literal["done", "running", "stopped", "failed", "skipped", "damaged", "empty"]
Scalar = str | int | float | bool | None

_COSTS = ("bytes_up", "bytes_down", "paper_bytes", "frozen_bytes", "flops")
_ACCURACIES = [name.removeprefix("test/") for name in names.ACCURACIES]
# Of the summary's figures, those that the last rows of metrics.csv tell as well.
FINALS = {
    **{key: f"test/{key}" for key in _ACCURACIES},
    **{f"last5_{key}": f"last5/{key}" for key in _ACCURACIES},
    **{f"best_{key}": f"best/{key}" for key in _ACCURACIES},
    **{key: f"cost/{key}" for key in _COSTS},
    "sparsity": names.SPARSITY,
    "alive": names.ALIVE,
    "frozen": names.FROZEN,
}


@final
@dataclass(frozen=True)
class Run:
    """A run's folder. `config` has dotted keys, a class under its group's name; `final` the figures of the end so far.

    Accuracies are shares, costs bytes and operations. `remarks` say what is damaged, missing or went wrong; `twin`
    names the run of the same configuration that is counted instead. `choices` are the options' own names.
    """

    id: str
    folder: Path
    status: Status
    remarks: tuple[str, ...] = ()
    fingerprint: str = ""
    config: Mapping[str, Scalar] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    clients: Mapping[str, Any] = field(default_factory=dict)
    twin: str = ""

    @cached_property
    def final(self) -> dict[str, float]:
        """The summary's numbers; for a run that has none, the last known values of its rows."""
        told = {key: value for key in self.summary if (value := _finite(self.summary[key])) is not None}
        return {**({} if self.status == "done" and told else self._latest()), **told}

    def _latest(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for row in self.rows:
            found |= {key: v for key, name in FINALS.items() if (v := _finite(row.get(name))) is not None}
        return found

    @property
    def has_figures(self) -> bool:
        """Whether there is an accuracy and a cost to compare, and settings to name them by."""
        return bool(self.config) and any(key in self.final for key in _ACCURACIES) and "bytes_up" in self.final

    @property
    def rounds(self) -> int:
        """Rounds done."""
        return int(self.rows[-1][names.ROUND]) if self.rows else int(self.final.get("rounds", 0))

    @property
    def seed(self) -> Scalar:
        """Of every draw; None where it is not known."""
        return self.config.get("seed")


def read_run(folder: Path, name: str) -> Run:
    """What a folder says of its run, however little."""
    skipped, _ = _json(folder / sweeps.SKIPPED)
    state, trouble = _json(folder / sweeps.RUN)
    if skipped and not state:
        return Run(name, folder, "skipped", (f"the result is in {skipped.get('folder', 'another folder')}",))
    summary, no_summary = _json(folder / sweeps.SUMMARY)
    rows, no_rows = _rows(folder / METRICS)
    config, no_config = _config(folder / CONFIG)
    clients, no_clients = _json(folder / CLIENTS_FILE)
    status, why = _status(folder, state, summary, rows, config)
    missing = no_summary + no_rows + no_config if status not in ("empty", "failed") else ()
    if status in ("running", "stopped"):
        missing = no_config + (no_rows if rows else ())  # its summary, and maybe its first row, is yet to be written
    gone = tuple(line for line in trouble + no_clients if not line.endswith(_ABSENT))
    return Run(
        id=name,
        folder=folder,
        status=status,
        remarks=why + missing + gone,
        fingerprint=str(summary.get("fingerprint") or state.get("fingerprint") or ""),
        config=config,
        choices=_choices(folder),
        summary=summary,
        rows=rows,
        clients=clients,
    )


def numbers(rows: Sequence[Row], name: str) -> list[float | None]:
    """A column as finite numbers, None where a row has none."""
    return [_finite(row.get(name)) for row in rows]


# ---- status ----------------------------------------------------------------------------------------------------------


def _status(
    folder: Path,
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    config: Mapping[str, Scalar],
) -> tuple[Status, tuple[str, ...]]:
    said = state.get("status")
    done, planned = len(rows) and int(rows[-1][names.ROUND]), config.get("rounds", "?")
    if said == "failed":
        return "failed", (_line(str(state.get("error", "no reason was written down"))),)
    if said == "running":
        if sweeps.in_use(folder):
            return "running", (f"round {done} of {planned}",)
        return "stopped", (f"after round {done} of {planned}; resume={folder} goes on with it",)
    if (summary or said == "done") and not config:
        return "damaged", ("which settings it had is not known",)
    if summary or (said == "done" and rows and done == planned):
        return "done", ()
    if said == "done" or state or rows:
        return "damaged", (f"{done} of {planned} rounds can be read",)
    return "empty", ("no run was written here yet",)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


# ---- files -----------------------------------------------------------------------------------------------------------

_ABSENT = "is missing"


def _absent(path: Path) -> str:
    return f"{path.name} {_ABSENT}"


def _json(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A json object and what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, (_absent(path),)
    except (OSError, ValueError) as error:
        return {}, (f"{path.name} cannot be read: {_line(str(error))}",)
    if not isinstance(found, dict):
        return {}, (f"{path.name} holds no json object",)
    return found, ()


def _rows(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The rows that are whole, rounds ascending, and what was left out."""
    try:
        found = read_metrics(path)
        lines = path.read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return [], (_absent(path),)
    except (OSError, ValueError) as error:
        return [], (f"{path.name} cannot be read: {_line(str(error))}",)
    rows = _ascending([names.as_test(row) for row in found if isinstance(row.get(names.ROUND), int)])
    if not rows:
        return [], (f"{path.name} has no row",)
    lost = lines - len(rows)
    return rows, (f"{lost} of {lines} rows of {path.name} are damaged and left out",) if lost > 0 else ()


def _ascending(rows: Sequence[Row]) -> list[Row]:
    """Without the rows whose round is not after the one before."""
    kept: list[Row] = []
    for row in rows:
        if not kept or int(row[names.ROUND]) > int(kept[-1][names.ROUND]):
            kept.append(row)
    return kept


def _config(path: Path) -> tuple[dict[str, Scalar], tuple[str, ...]]:
    """The resolved configuration under dotted keys; `freeze._target_` is told as `freeze` by its class's name."""
    found, trouble = _yaml(path)
    return dict(_flat(found)), trouble


def _yaml(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        return {}, (_absent(path),)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return {}, (f"{path.name} cannot be read: {_line(str(error))}",)
    return (found, ()) if isinstance(found, dict) else ({}, (f"{path.name} holds no configuration",))


def _flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Scalar]]:
    flat: list[tuple[str, Scalar]] = []
    for key, value in node.items():
        if key == "_target_":
            flat.append((prefix.removesuffix("."), str(value).rpartition(".")[2]))
        elif isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", _scalar(value)))
    return flat


def _scalar(value: Any) -> Scalar:
    """A whole float is told as an integer, so that 1 and 1.0 are one value."""
    if isinstance(value, float):
        return str(value) if not math.isfinite(value) else int(value) if value.is_integer() else value
    if value is None or isinstance(value, str | int):
        return value
    return json.dumps(value, default=str)


def _choices(folder: Path) -> dict[str, str]:
    """The options that Hydra chose, by group: `freeze: two_stage`."""
    found, _ = _yaml(folder / ".hydra" / "hydra.yaml")
    node: Any = found
    for key in ("hydra", "runtime", "choices"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return {str(k): str(v) for k, v in node.items() if v is not None} if isinstance(node, Mapping) else {}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
