"""A study's page: docs/results/STUDY.md and its figures, from the record and the conclusions written beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from pffdst.core.errors import UserError
from pffdst.metrics.units import format_bytes, format_seconds
from pffdst.report.groups import Group
from pffdst.report.pictures import write_curves
from pffdst.runs.files import write_whole
from reproduce.figures import (
    JUDGED,
    LAST_5,
    Table,
    by_formula,
    cost_ratio,
    finals,
    gains,
    points,
    sent,
    share,
    tables_of,
    times,
)
from reproduce.record import Entry, Record
from reproduce.study import Job, Study, jobs_of

__all__ = ["Told", "text", "write"]

_PICTURES = {
    "bytes": "measured bytes",
    "paper_bytes": "the papers' formula",
    "flops": "training",
    "time": "the time of a deployment",
}
_MADE = {"git": "Commit", "machine": "Machine", "versions": "Versions", "engine": "Engine"}
_PLACE = re.compile(r"\{(\w+) ([\w ]+)\}")
_HOW_TO_READ = """\
Accuracies are percent, mean ± sample sd over n seeds. "Server average" is the running mean of the aggregated model
(decay 0.9) in the last round, on the pooled test set: the figure methods are judged by. "Last 5" is the mean of the
last five evaluations of the model itself. "Over clients" is the unweighted mean of the accuracies on the clients' own
shares of the test set, which the papers publish. Differences to the reference are paired, seed by seed.

"Bytes sent" are the lengths of all messages, both directions, as encoded; "of paper_bytes" divides them by the
papers' formula (4 bytes for every trainable weight and bias, per client and direction) with the first download of
frozen weights. "Deployed" is the time that the run would take its clients: all of a round at once, 1 Mbit/s up, 10
Mbit/s down and 10 GFLOP/s each, or as the run's own model of time says. "At equal accuracy" is how many times the
reference spends what the run does until both reach the lower of their two final server averages: above 1 the run is
cheaper. The last column takes the reference's own final accuracy, which a run may not reach."""


def write(study: Study, name: str, record: Record, path: Path) -> None:
    """Writes the page to `path` and its figures into the record's folder."""
    for number, table in enumerate(_filled(study, record)):
        write_curves(list(table.groups.values()), JUDGED, _files(record.folder, number), dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text(study, name, record).encode())


def text(study: Study, name: str, record: Record) -> str:
    """The page in Markdown; it needs nothing but the record."""
    parts = [f"# {study.title}", study.about, _state(study, record), _conclusions(study, record)]
    parts += ["## How to read the tables", _HOW_TO_READ]
    for number, table in enumerate(_filled(study, record)):
        parts += _section(table, {key: file.name for key, file in _files(record.folder, number).items()}, name)
    if study.published:
        parts += ["## Published figures", *study.published]
    parts += ["## How to make this page again", *_origin(name, record), *_runs(study, record)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _filled(study: Study, record: Record) -> list[Table]:
    """The tables that have a row."""
    return [table for table in tables_of(study, record) if table.groups]


def _files(folder: Path, number: int) -> dict[str, Path]:
    return {against: folder / f"{number + 1}_accuracy_by_{against}.png" for against in _PICTURES}


def _section(table: Table, pictures: Mapping[str, str], name: str) -> list[str]:
    reference = table.groups.get(table.section.reference)
    against = f"Reference: {reference.label}." if reference else "The reference is not done yet."
    lines = [f"## {table.section.title}", f"{table.section.about} {against}", _markdown(table.accuracies())]
    lines.append(_markdown(table.costs()))
    if len(table.section.seeds) > 1:
        lines += ["Server average, seed by seed:", _markdown(table.seeds())]
    return [*lines, " ".join(f"![accuracy against {_PICTURES[k]}]({name}/{file})" for k, file in pictures.items())]


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *lines = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


# ---- what is done, and with what -----------------------------------------------------------------------------------


def _state(study: Study, record: Record) -> str:
    jobs = jobs_of(study)
    left = [job for job in jobs if not record.holds(job)]
    if not left:
        return f"All {len(jobs)} runs are done."
    return f"**{len(jobs) - len(left)} of {len(jobs)} runs are done.** Still to come: {_listed(left)}."


def _listed(jobs: Sequence[Job]) -> str:
    seeds: dict[str, list[int]] = {}
    for job in jobs:
        seeds.setdefault(job.row, []).append(job.seed)
    return "; ".join(f"{row} (seed {', '.join(map(str, own))})" for row, own in seeds.items())


def _origin(name: str, record: Record) -> list[str]:
    made = [{**one, "engine": _engine(e)} for e in record.entries.values() for one in e.provenance]
    lines = [
        "```sh\n"
        f"make reproduce STUDY={name} DATA=FOLDER    # the folder of the data files below; skips what is done\n"
        f"python -m reproduce {name} --write-only    # this page and its figures, from {name}/runs.json and"
        " evaluations.csv\n"
        f"python -m reproduce {name} --again --only ROW --seeds 0    # one run anew, to compare its model's digest\n"
        "```",
        *(_told(key, made) for key in _MADE),
    ]
    digests = {(file, digest): None for one in made for file, digest in one.get("data", {}).items()}
    files = ", ".join(f"`{file}` (sha256 {digest[:16]})" for file, digest in digests)
    return [*lines, f"Data: {files}." if files else ""]


def _engine(entry: Entry) -> str:
    shown = {key.removeprefix("engine."): v for key, v in entry.config.items() if key.split(".")[0] == "engine"}
    return _words({k: v for k, v in shown.items() if k != "workers"})


def _told(key: str, made: Sequence[Mapping[str, Any]]) -> str:
    found = Counter(_words(one.get(key, "unknown")) for one in made)
    several = len(found) > 1
    shown = "; ".join(f"{word} ({count} times)" if several else word for word, count in found.most_common())
    return f"{_MADE[key]}: {shown}." if shown else ""


def _words(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _runs(study: Study, record: Record) -> list[str]:
    head = ["run", "seed", "overrides", "server average", "bytes sent", "time", "model sha256"]
    entries = [record.entries[job.row, job.seed] for job in jobs_of(study) if record.holds(job)]
    if not entries:
        return []
    common = " ".join(study.setting)
    lines = [_run(study, entry) for entry in entries]
    about = (
        f"Every run is `python train.py {common}` with its own overrides. On the same machine and versions the model "
        "comes out to the bit; another processor rounds otherwise, which moves accuracies as another seed would:"
    )
    return [about, _markdown([head, *lines])]


def _run(study: Study, entry: Entry) -> list[str]:
    summary = entry.summary
    own = " ".join(word for word in entry.overrides if word not in study.setting)
    return [
        study.rows[entry.row].label,
        str(entry.seed),
        f"`{own}`",
        f"{100 * summary['ema_acc_global']:.2f}",
        format_bytes(summary["bytes_up"] + summary["bytes_down"]),
        format_seconds(summary["wall_s"]),
        f"`{summary['model_sha256'][:12]}`",
    ]


# ---- conclusions ---------------------------------------------------------------------------------------------------


@final
class Told:
    """Figures by name, for the text of the conclusions: `{average pffdst}`, `{gain pffdst feddst}`.

    average, last5: mean ± sd in percent of a row; gain, last5_gain: paired difference of two rows in points; cheaper,
    formula_cheaper: how many times the second row spends, in bytes or by the formula, what the first does until both
    reach the lower of their final accuracies; reach: the same at the second row's final accuracy; n: runs of a row.
    """

    def __init__(self, study: Study, record: Record) -> None:
        self._groups = {
            name: Group(row.label, {}, tuple(e.run for (own, _), e in sorted(record.entries.items()) if own == name))
            for name, row in study.rows.items()
        }
        self._known: dict[str, Callable[..., str]] = {
            "n": lambda row: str(len(row.runs)),
            "average": lambda row: share(finals(row, JUDGED)),
            "last5": lambda row: share(finals(row, LAST_5)),
            "gain": lambda row, other: points(gains(row, other, JUDGED)),
            "last5_gain": lambda row, other: points(gains(row, other, LAST_5)),
            "cheaper": lambda row, other: times(cost_ratio(row, other, sent, "lower")),
            "formula_cheaper": lambda row, other: times(cost_ratio(row, other, by_formula, "lower")),
            "reach": lambda row, other: times(cost_ratio(row, other, sent, "reference")),
        }

    def fill(self, text: str) -> str:
        """The text with every `{figure row row}` replaced. UserError for one that there is not."""
        return _PLACE.sub(self._figure, text)

    def _figure(self, found: re.Match[str]) -> str:
        figure, rows = found[1], found[2].split()
        try:
            shown = self._known[figure](*(self._groups[row] for row in rows))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{found[0]}: no such figure; there are {', '.join(self._known)} of {', '.join(self._groups)}"
            ) from error
        return shown or "(not played yet)"


def _conclusions(study: Study, record: Record) -> str:
    if not study.conclusions or not record.entries:
        return ""
    return "## What came out\n\n" + Told(study, record).fill(study.conclusions)
