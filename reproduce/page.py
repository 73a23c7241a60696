"""A study's page: docs/results/STUDY.md and its figures, from the record and the conclusions written beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pffdst.metrics.units import format_bytes, format_seconds
from pffdst.report.pictures import write_curves
from pffdst.runs.files import write_whole
from reproduce.board import board, by_seed, left_out, write_front
from reproduce.figures import JUDGED, LAST_5, Rows, Table, finals, tables_of
from reproduce.intervals import LEVEL, Noise, alike, honest, seeds_to_tell
from reproduce.record import Entry, Record
from reproduce.study import Job, Study, names
from reproduce.told import Told
from reproduce.tuning import choices, jobs

__all__ = ["text", "write"]

_PICTURES = {
    "bytes": "measured bytes",
    "paper_bytes": "the papers' formula",
    "flops": "training",
    "time": "the time of a deployment",
}
_MOST_LISTED = 30
_MADE = {"git": "Commit", "machine": "Machine", "versions": "Versions", "engine": "Engine"}
_HOW_TO_READ = """\
Accuracies are percent, means over n seeds. "Server average" is the running mean of the aggregated model (decay 0.9) on
the pooled test set: the figure methods are judged by. "Last 5" is the mean of the last five evaluations of the model
itself. "Over clients" is the unweighted mean of the accuracies on the clients' own shares of the test set, which the
papers publish.

Differences to the reference are in points, paired seed by seed, and taken where both runs have spent the same: of each
pair the one that spent more in all is read where the other one ends, on a straight line between its evaluations. "Bytes
sent" are measured: the lengths of all messages, both directions, as encoded. "paper_bytes" are the papers' formula (4
bytes for every trainable weight and bias, per client and direction) with the first download of frozen weights;
"training" is the clients' floating-point operations. "Deployed" is the time that the run would take its clients: all of
a round at once, 1 Mbit/s up, 10 Mbit/s down and 10 GFLOP/s each, or as the run's own model of time says. "At the ends"
takes both as they ended, whatever they spent, and so do last-5 differences. Where one of the two is read before four
fifths of its own end there is no ±: curves are steep there, and the spread below is that of ends.

"At equal accuracy" is how many times the reference spends what the run does until both reach the lower of their two
final server averages: above 1 the run is cheaper. "To the reference's final accuracy" asks for that one, which a run
may not reach. Ratios are geometric means over the seeds, with their lowest and highest."""
_RANKS = """\
Rows are read where they have spent the budget, on a straight line between evaluations; who spends less in all, at the
end. "At 95 %" are the ranks that a row may have among the rows of one spread: two of them count as different where
Tukey's test over all of them says so, and all these ranks hold together in 95 of 100 such tables. Rows judged by their
own spread have none: three seeds leave nearly every rank open. Where a row lacks seeds, order and ranks allow for how
easy those are that it has. Bytes to an accuracy are those of the first evaluation that has it."""


def write(study: Study, name: str, record: Record, path: Path) -> None:
    """Writes the page to `path` and its figures into the record's folder."""
    for number, table in enumerate(_filled(study, record)):
        files = _files(table, record.folder, number)
        if table.section.budget:
            write_front(table, files["front"])
        else:
            write_curves(list(table.groups.values()), JUDGED, files, dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text(study, name, record).encode())


def text(study: Study, name: str, record: Record) -> str:
    """The page in Markdown; it needs nothing but the record."""
    parts = [f"# {study.title}", study.about, _state(study, record), _conclusions(study, record)]
    parts += ["## How to read the tables", _HOW_TO_READ, "## How sure it is", _how_sure(study, record)]
    for number, table in enumerate(_filled(study, record)):
        files = {key: file.name for key, file in _files(table, record.folder, number).items()}
        parts += (_leaderboard if table.section.budget else _section)(table, files, name)
    parts += _choice(study, record)
    if study.published:
        parts += ["## Published figures", *study.published]
    parts += ["## How to make this page again", *_origin(name, record), *_runs(study, record)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _filled(study: Study, record: Record) -> list[Table]:
    """The tables that have a row beside the reference's."""
    return [table for table in tables_of(study, record) if len(table.groups) >= min(2, len(table.section.rows))]


def _files(table: Table, folder: Path, number: int) -> dict[str, Path]:
    if table.section.budget:
        return {"front": folder / f"{number + 1}_accuracy_by_bytes.png"}
    return {against: folder / f"{number + 1}_accuracy_by_{against}.png" for against in _PICTURES}


def _section(table: Table, pictures: Mapping[str, str], name: str) -> list[str]:
    reference = table.groups.get(table.section.reference)
    against = f"Reference: {reference.label}." if reference else "The reference is not done yet."
    lines = [f"## {table.section.title}", f"{table.section.about} {against}", _markdown(table.accuracies())]
    lines.append(_markdown(table.costs()))
    if len(table.section.seeds) > 1:
        lines += ["Server average, seed by seed:", _markdown(table.seeds())]
    return [*lines, " ".join(f"![accuracy against {_PICTURES[k]}]({name}/{file})" for k, file in pictures.items())]


def _leaderboard(table: Table, pictures: Mapping[str, str], name: str) -> list[str]:
    section = table.section
    reference = table.groups.get(section.reference)
    against = f"Reference: {reference.label}." if reference else "The reference is not done yet."
    lines = [f"## {section.title}", f"{section.about} {against}", _RANKS + _told_apart(table), _markdown(board(table))]
    if late := left_out(table):
        lines.append(f"With runs that are first evaluated after the budget, which are left out: {', '.join(late)}.")
    if len(section.seeds) > 1:
        lines += ["Server average at the budget, seed by seed:", _markdown(by_seed(table))]
    return [*lines, f"![accuracy against measured bytes, the best line dotted]({name}/{pictures['front']})"]


def _told_apart(table: Table) -> str:
    """From what difference on two rows with all seeds count as different."""
    together, n = table.groups.keys() - table.rows.apart, len(table.section.seeds)
    bound = honest(len(together), table.rows.noise[JUDGED], n)
    return f" With {n} seeds each, rows {100 * bound:.2f} points apart count as different." if bound < 1 else ""


def _choice(study: Study, record: Record) -> list[str]:
    lines = choices(study, record)
    if study.tuning is None or not lines:
        return []
    words = "; ".join(f"{name}: `{' '.join(own)}`" for name, own in study.tuning.tries.items())
    about = (
        f"Each row has the same {len(study.tuning.tries)} tries ({words}), played with `"
        f"{' '.join(study.tuning.setting)} seed={study.tuning.seed}`. The highest server average on the samples that "
        "were held back wins; the test set has no say. "
    )
    if others := [name for name, row in study.rows.items() if row.tuned_as]:
        one = "1 row has none of its own and takes"
        told = one if len(others) == 1 else f"{len(others)} rows have none of their own and take"
        about += f"{told} the choice of another row, by the study's file. "
    for more in dict.fromkeys(" ".join(row.tuning) for row in study.rows.values() if row.tuning):
        labels = [row.label for row in study.rows.values() if " ".join(row.tuning) == more]
        about += f"The tries of {', '.join(labels)} have `{more}`. "
    about += "Validation accuracy in percent:"
    return ["## What each row chose", about, _markdown(lines)]


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *lines = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


# ---- how sure ------------------------------------------------------------------------------------------------------


def _how_sure(study: Study, record: Record) -> str:
    """What chance does to a difference, and what it would take to see a point."""
    rows = Rows.of(study, record)
    noise = rows.noise[JUDGED]
    if not noise.freedom:
        return (
            "No two rows have two seeds in common, so nothing here tells what chance does: differences come without an "
            "interval, and a single seed decides nothing between methods that are a few points apart."
        )
    together = {name: finals(group, JUDGED) for name, group in rows.groups.items() if name not in rows.apart}
    several = [name for name, own in together.items() if len(own) > 1]
    apart = dict.fromkeys(study.rows[name].label for name in study.apart if name in rows.groups)
    needed = seeds_to_tell(0.01, noise)
    return " ".join(
        [
            "± is half of a 95 % interval, from a spread pooled over the rows: what is left of the server averages of "
            f"{len(several)} rows with several seeds, once each row's and each seed's mean is taken off, gives the "
            f"difference of two rows in one seed a standard deviation of {100 * noise.sd:.2f} points "
            f"({noise.freedom} degrees of freedom); of last 5, {100 * rows.noise[LAST_5].sd:.2f}.",
            f"Student's t makes of it {_halves(noise)}.",
            f"To tell a true difference of one point from none (paired t-test, 5 %, power 0.8) takes {needed} seeds of "
            "both rows."
            if needed
            else "",
            _alike(study, together),
            f"Left out of the pool, and judged by their own spread: {'; '.join(apart)}." if apart else "",
            "Rows were compared many at a time and intervals are not widened for it: of twenty differences that are "
            "none one is expected to look like one.",
        ]
    )


def _alike(study: Study, values: Mapping[str, Mapping[int, float]]) -> str:
    """Whether the rows of the pool have one spread, and if not, which differ."""
    p, shares = alike(values)
    if math.isnan(p):
        return ""
    if p > 1 - LEVEL:
        return f"That all these rows have one spread is not contradicted (Bartlett's statistic, p = {p:.2g})."
    most = sorted(shares, key=lambda name: -shares[name])[:2]
    shown = " and ".join(f"{study.rows[name].label} {100 * shares[name]:.0f} %" for name in most)
    return (
        f"That all these rows have one spread is contradicted (Bartlett's statistic, p = {p:.2g}): of the squares of "
        f"what is left {shown}. Differences of these rows are less sure than their ± says, those of others surer."
    )


def _halves(noise: Noise) -> str:
    return ", ".join(f"± {100 * noise.half(n):.2f} points for n = {n}" for n in (1, 3, 10))


# ---- what is done, and with what -----------------------------------------------------------------------------------


def _state(study: Study, record: Record) -> str:
    every = jobs(study, record)
    left = [job for job in every if not record.holds(job)]
    if not left:
        return f"All {len(every)} runs are done."
    return f"**{len(every) - len(left)} of {len(every)} runs are done.** Still to come: {_listed(left)}."


def _listed(left: Sequence[Job]) -> str:
    seeds: dict[str, list[int]] = {}
    for job in left:
        seeds.setdefault(job.row, []).append(job.seed)
    shown = [f"{row} (seed {', '.join(map(str, own))})" for row, own in seeds.items()]
    more = len(shown) - _MOST_LISTED
    return "; ".join(shown if more <= 0 else [*shown[:_MOST_LISTED], f"and {more} rows and tries more, by `--list`"])


def _origin(name: str, record: Record) -> list[str]:
    made = [{**one, "engine": _engine(e)} for e in record.entries.values() for one in e.provenance]
    called = name if name in names() else f"{name}.yaml"
    lines = [
        "```sh\n"
        f"make reproduce STUDY={called} DATA=FOLDER    # the folder of the data files below; skips what is done\n"
        f"python -m reproduce {called} --write-only    # this page and its figures, from {name}/runs.json and"
        " evaluations.csv\n"
        f"python -m reproduce {called} --again --only ROW --seeds 0    # one run anew, to compare its model's digest\n"
        "```",
        *(_told(key, made) for key in _MADE),
        *dict.fromkeys(f"**{one['note']}**" for one in made if "note" in one),
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
    held = [record.entries[job.row, job.seed] for job in jobs(study, record) if record.holds(job)]
    entries = [entry for entry in held if entry.row in study.rows]
    if not entries:
        return []
    common = " ".join(study.setting)
    lines = [_run(study, entry) for entry in entries]
    about = (
        f"Every run is `python train.py {common}` with its own overrides. On the same machine and versions the model "
        "comes out to the bit; another processor rounds otherwise, which moves accuracies as another seed would:"
    )
    return [about, _older(entries), _markdown([head, *lines])]


def _older(entries: Sequence[Entry]) -> str:
    """The rows that were made before a default changed, and the words that give it again."""
    counted = Counter(word for entry in entries for word in entry.older)
    if not counted:
        return ""
    shown = ", ".join(f"`{word}` ({count} of {len(entries)} runs)" for word, count in counted.items())
    return (
        f"**Made with an older default:** {shown}. These runs are older than the default of today; their commands name "
        "what was in force then, after the seed."
    )


def _run(study: Study, entry: Entry) -> list[str]:
    summary = entry.summary
    own = " ".join([*(word for word in entry.overrides if word not in study.setting), *entry.older])
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


def _conclusions(study: Study, record: Record) -> str:
    if not study.conclusions or not record.entries:
        return ""
    return "## What came out\n\n" + Told(study, record).fill(study.conclusions)
