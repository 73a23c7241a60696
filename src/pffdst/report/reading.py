"""One run, read from its folder: what is there is read, what is damaged is reported, and nothing raises."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

from pffdst.core.places import places_of
from pffdst.core.words import dotted, one_line
from pffdst.metrics import names
from pffdst.metrics.names import Row
from pffdst.report.clients import clients_of
from pffdst.report.rows import Rows, plausible, read_columns
from pffdst.runs import files
from pffdst.runs.jobs import in_use

__all__ = ["EVALUATED_ON", "FINALS", "Run", "Scalar", "Status", "encodable", "numbers", "read_run"]

EVALUATED_ON = "evaluated on"
Status = Literal["done", "running", "stopped", "failed", "skipped", "damaged", "empty"]
Scalar = str | int | float | bool | None

_COSTS = ("bytes_up", "bytes_down", "paper_bytes", "frozen_bytes", "flops", "lost", "late", "deployment_seconds")
_ACCURACIES = [name.removeprefix("test/") for name in names.ACCURACIES]
# The summary's figures that the last rows of metrics.csv also hold.
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
        told = {key: v for key in self.summary if (v := plausible(key, self.summary[key])) is not None}
        return {**({} if self.status == "done" and told else self._latest()), **told}

    def _latest(self) -> dict[str, float]:
        found = {key: _last(self.rows, name) for key, name in FINALS.items()}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def has_figures(self) -> bool:
        """Whether there is an accuracy and a cost to compare, and settings to name them by."""
        return bool(self.config) and any(key in self.final for key in _ACCURACIES) and "bytes_up" in self.final

    @property
    def rounds(self) -> int:
        """Rounds done."""
        return int(_last(self.rows, names.ROUND) or self.final.get("rounds", 0))

    @property
    def seed(self) -> Scalar:
        """Of every draw; None where it is not known."""
        return self.config.get("seed")


def read_run(folder: Path, name: str) -> Run:
    """Whatever a folder says about its run. Damage is reported in the remarks; nothing raises."""
    found = _Reader(folder)
    skipped, state = found.mapping(files.SKIPPED, needed=False), found.mapping(files.RUN, needed=False)
    if skipped and not state:
        return Run(name, folder, "skipped", (_line(f"the result is in {skipped.get('folder', 'another folder')}"),))
    summary, rows = found.mapping(files.SUMMARY), found.rows()
    config, clients = _with_place(found.config(), summary), found.clients()
    status, why = _status(folder, state, summary, rows, config)
    return Run(
        id=name,
        folder=folder,
        status=status,
        remarks=(*why, *found.remarks(_absent_at(status, rows)), *_odd(summary)),
        fingerprint=_line(str(summary.get("fingerprint") or state.get("fingerprint") or "")),
        config=config,
        choices=_choices(folder),
        summary=summary,
        rows=rows,
        clients=clients,
    )


def _absent_at(status: Status, rows: Sequence[Row]) -> frozenset[str]:
    """The files that a run of this status may lack: a running one has yet to write some of them."""
    if status in ("empty", "failed"):
        return frozenset({files.SUMMARY, files.METRICS, files.CONFIG})
    if status in ("running", "stopped"):
        return frozenset({files.SUMMARY} if rows else {files.SUMMARY, files.METRICS})
    return frozenset()


def _odd(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of figures with impossible values."""
    odd = [k for k in [*FINALS, "wall_s", "rounds"] if summary.get(k) is not None and plausible(k, summary[k]) is None]
    return (f"{files.SUMMARY}: impossible values of {', '.join(odd)}; left out",) if odd else ()


def numbers(rows: Sequence[Row], name: str) -> list[float | None]:
    """A column as finite numbers, None where a row has none."""
    return rows.column(name) if isinstance(rows, Rows) else [plausible(name, row.get(name)) for row in rows]


def _last(rows: Sequence[Row], name: str) -> float | None:
    if isinstance(rows, Rows):
        return rows.last(name)
    return next((v for row in reversed(rows) if (v := plausible(name, row.get(name))) is not None), None)


# ---- status ----------------------------------------------------------------------------------------------------------


def _status(
    folder: Path,
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    config: Mapping[str, Scalar],
) -> tuple[Status, tuple[str, ...]]:
    said = state.get("status")
    done, planned = int(_last(rows, names.ROUND) or 0), config.get("rounds", "?")
    if said == "failed":
        return "failed", (_line(str(state.get("error", "no reason was recorded"))),)
    if said == "running":
        if in_use(folder):
            return "running", (f"round {done} of {planned}",)
        return "stopped", (f"after round {done} of {planned}; to resume: {shlex.quote(f'resume={encodable(folder)}')}",)
    if (summary or said == "done") and not config:
        return "damaged", ("its settings are not known",)
    if summary or (said == "done" and rows and done == planned):
        return "done", ()
    if said == "done" or state or rows:
        return "damaged", (f"{done} of {planned} rounds can be read",)
    return "empty", ("no run has been written here yet",)


def _line(text: str) -> str:
    return one_line(text, 300)


# ---- files -----------------------------------------------------------------------------------------------------------

_KEYS, _TEXT = 2000, 500  # a configuration's maximum number of keys, and the maximum length of a value


class _Reader:
    """Reads a folder's files one by one and keeps what is wrong with each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wrong: list[tuple[str, str, bool]] = []  # file, what is wrong, whether it is missing

    def remarks(self, may_lack: frozenset[str]) -> tuple[str, ...]:
        """What is wrong with the files, in the order they were read."""
        return tuple(words for file, words, missing in self._wrong if not (missing and file in may_lack))

    def mapping(self, file: str, *, needed: bool = True) -> dict[str, Any]:
        """A JSON object; empty if there is none."""
        found = self._read(file, files.read_json, needed=needed)
        return found if isinstance(found, dict) else self._not(file, found, "is not a JSON object")

    def config(self) -> dict[str, Scalar]:
        """The resolved configuration with dotted keys; `freeze._target_` becomes `freeze`, with the class's name."""
        found = self._read(files.CONFIG, files.read_yaml)
        whole = found if isinstance(found, dict) else self._not(files.CONFIG, found, "is not a configuration")
        dataset = whole.get("dataset")
        if isinstance(dataset, dict):  # paths on a machine do not distinguish runs
            whole = whole | {"dataset": {key: v for key, v in dataset.items() if key not in places_of(dataset)}}
        flat = _flat(whole)
        return dict(flat) if len(flat) <= _KEYS else self._not(files.CONFIG, flat, f"has more than {_KEYS} keys")

    def rows(self) -> Rows:
        """The rows of metrics.csv."""
        found = self._read(files.METRICS, read_columns)
        rows, lost = found if found is not None else (Rows(), 0)
        if found is not None and not rows:
            self._not(files.METRICS, rows, "has no rows")
        elif lost:
            self._not(
                files.METRICS, rows, f"{lost} of {lost + len(rows)} rows of {files.METRICS} are damaged and left out"
            )
        return rows

    def clients(self) -> dict[str, Any]:
        """The parts of clients.json that have the expected form."""
        told = self.mapping(files.CLIENTS, needed=False)
        found = clients_of(told)
        if not told.keys() & {"train", "accuracy"} <= found.keys() or (told and not found):
            self._not(files.CLIENTS, told, "has an unexpected form; what does not fit is left out")
        return found

    def _read(self, file: str, how: Callable[[Path], Any], *, needed: bool = True) -> Any:
        try:
            return how(self._folder / file)
        except files.FileProblem as error:
            if needed or not error.is_missing:
                self._wrong.append((file, _line(str(error)), error.is_missing))
            return None

    def _not(self, file: str, found: object, words: str) -> dict[str, Any]:
        if found is not None:
            self._wrong.append((file, words if file in words else f"{file} {words}", False))
        return {}


def encodable(name: object) -> str:
    """A name that can be written as UTF-8: bytes of a file name that are not UTF-8 are written as `\\udcff`."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _with_place(config: dict[str, Scalar], summary: Mapping[str, Any]) -> dict[str, Scalar]:
    """Adds which samples the accuracies were measured on, test or validation, so the two never share a mean."""
    if not config:
        return config
    share = config.get("validation_share")
    told = "validation" if isinstance(share, int | float) and share > 0 else "test"
    said = summary.get("evaluated_on")
    return config | {EVALUATED_ON: said if said in ("test", "validation") else told}


def _flat(node: Mapping[str, Any]) -> list[tuple[str, Scalar]]:
    flat: list[tuple[str, Scalar]] = []
    for key, value in dotted(node).items():
        path, _, last = key.rpartition(".")
        if last == "_target_":
            flat.append((path, str(value).rpartition(".")[2][:_TEXT]))
        elif value != {}:
            flat.append((key[:_TEXT], _scalar(value)))
    return flat


def _scalar(value: Any) -> Scalar:
    """Turns a whole float into an integer, so that 1 and 1.0 are one value, and an absurdly large number into text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 1e15:
        return f"{value:g}"
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | int):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _choices(folder: Path) -> dict[str, str]:
    """The options that Hydra chose, by group: `freeze: two_stage`."""
    try:
        node = files.read_yaml(folder / files.HYDRA_SETTINGS)
    except files.FileProblem:
        return {}
    for key in ("hydra", "runtime", "choices"):
        node = node.get(key) if isinstance(node, Mapping) else None
    found = node if isinstance(node, Mapping) and len(node) <= _KEYS else {}
    return {k: str(v)[:_TEXT] for k, v in found.items() if v is not None}
