"""A study's file: which runs there are, and which of them stand beside each other on its page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import session
from pffdst.config.constructors import did_you_mean
from pffdst.core.errors import UserError

__all__ = ["CONFIGS", "STUDIES", "Job", "Row", "Section", "Study", "Tuning", "checked", "jobs_of", "load", "names"]

STUDIES = Path(__file__).resolve().parent
CONFIGS = STUDIES.parent / "configs"


@dataclass
class Row:
    """What a run is called on the page, and its overrides beside the study's `setting`.

    `tuned_as`: the row whose tries serve for this one too, which then has none of its own. `tuning`: overrides of this
    row's tries, after those of every row's.
    """

    label: str
    overrides: list[str]
    tuned_as: str = ""
    tuning: list[str] = field(default_factory=list)


@dataclass
class Section:
    """A table: `rows` by name, played for each of the `seeds`, held against the row `reference`.

    With a `budget` in measured bytes it is a leaderboard: rows are ranked by what they reach with so much. `levels` are
    accuracies, as shares, whose price in bytes it tells.
    """

    title: str
    about: str
    reference: str
    rows: list[str]
    seeds: list[int]
    budget: int = 0
    levels: list[float] = field(default_factory=list)


@dataclass
class Tuning:
    """What each row chooses for itself before it is played: one of the `tries`, overrides by name, the same for all.

    A try is the row with its `setting` and one `seed`; the setting holds a share of the training set back, on which the
    highest server average wins. The test set has no say.
    """

    tries: dict[str, list[str]]
    setting: list[str]
    seed: int


@dataclass
class Study:
    """The tables of a page; a row that several of them name is played once a seed.

    `order`: "sections" plays all seeds of a section before the next one, "seeds" the first seed of all sections before
    the second one. `engine` are overrides that say how runs are computed, where the command line says nothing else.
    `data` are the patterns of the data's files, whose digests go onto the page. `rehearsal` are overrides that make
    every run tiny, to see whether all of it runs. Rows that stand `apart` have a spread of their own, as those that do
    not learn: it does not join the pooled one. `conclusions` are the text beside the file, STUDY.md.
    """

    title: str
    about: str
    setting: list[str]
    rows: dict[str, Row]
    sections: list[Section]
    data: list[str]
    rehearsal: list[str]
    engine: list[str] = field(default_factory=list)
    order: str = "sections"
    apart: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    tuning: Tuning | None = None
    conclusions: str = ""


@final
@dataclass(frozen=True)
class Job:
    """One run: a row, or a row's try as `row.try`, with a seed, and its overrides without folders.

    `waits`: for the row's tries, of which its overrides still lack the best.
    """

    row: str
    seed: int
    overrides: tuple[str, ...]
    waits: bool = False

    @property
    def name(self) -> str:
        """Also its folder below the study's."""
        return f"{self.row}/{self.seed}"

    @property
    def of(self) -> str:
        """The study's row that it is of."""
        return self.row.partition(".")[0]


def names() -> list[str]:
    """The studies there are."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load(name: str) -> Study:
    """The study `name`, or that of a file. UserError where there is none, or its file says what cannot be."""
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"{name}: there is no such study; {_instead(name, names())}, or name a YAML file")
    try:
        found: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    assert isinstance(found, Study)
    words = path.with_suffix(".md")
    if words.exists():
        found.conclusions = words.read_text(encoding="utf-8").strip()
    for problem in _problems(found):
        raise UserError(f"{path}: {problem}")
    return found


def _instead(word: str, known: Sequence[str]) -> str:
    """What to write in its place."""
    return f"{did_you_mean(word, known)} there are {', '.join(known)}".lstrip()


_NAME = re.compile(r"\w+", re.ASCII)


def _problems(study: Study) -> Iterator[str]:
    """What the file says that cannot be, in words."""
    if study.order not in ("sections", "seeds"):
        yield f"order: {study.order}: expected sections or seeds"
    tries = study.tuning.tries if study.tuning else {}
    for name in (*study.rows, *tries):
        if not _NAME.fullmatch(name):
            yield f"{name}: expected letters, digits and _ alone in the name of a row or a try, as in lr_03"
    if strange := [row for row in study.apart if row not in study.rows]:
        yield f"apart: {', '.join(strange)}: expected keys of `rows`"
    for name, row in study.rows.items():
        if row.tuned_as and (row.tuned_as not in study.rows or study.rows[row.tuned_as].tuned_as or not study.tuning):
            yield f"{name}: tuned_as: {row.tuned_as}: expected a row that has tries of its own"
        if row.tuning and (row.tuned_as or not study.tuning):
            yield f"{name}: tuning: expected a row that has tries of its own"
    if study.tuning and (len(tries) < 2 or not any(_holds_back(word) for word in study.tuning.setting)):
        yield "tuning: expected two or more `tries`, and a setting with a share to choose by, as validation_share=0.1"
    for section in study.sections:
        unknown = [row for row in [*section.rows, section.reference] if row not in study.rows]
        if unknown:
            yield f"section {section.title!r} names {', '.join(unknown)}, which is no key of `rows`"
        elif section.reference not in section.rows:
            yield f"section {section.title!r}: expected `reference` to be one of its rows"


def _holds_back(word: str) -> bool:
    key, _, value = word.partition("=")
    return key == "validation_share" and value not in ("", "0", "0.0")


def jobs_of(
    study: Study, rows: Sequence[str] = (), seeds: Sequence[int] = (), picked: Mapping[str, str] | None = None
) -> list[Job]:
    """Every run once, in the study's order, in which what tells most comes first; a row's tries before the row.

    Only those of the given `rows` and `seeds`, where some are given, and the tries that they wait for; `picked` is the
    best try by row, as far as it is known. UserError for a row or a seed that there is not.
    """
    unknown = [row for row in rows if row not in study.rows]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no such row; {_instead(unknown[0], list(study.rows))}")
    wanted = dict.fromkeys((row, seed) for _, row, seed in _wanted(study))
    known = {seed for _, seed in wanted}
    if strange := [str(seed) for seed in seeds if seed not in known]:
        raise UserError(f"seed {', '.join(strange)}: not in the study; there are {', '.join(map(str, sorted(known)))}")
    found: dict[Job, None] = {}
    for row, seed in wanted:
        if (not rows or row in rows) and (not seeds or seed in seeds):
            found |= dict.fromkeys([*_tries(study, row), _job(study, row, seed, (picked or {}).get(row))])
    return list(found)


def _tries(study: Study, row: str) -> list[Job]:
    if study.tuning is None:
        return []
    row = study.rows[row].tuned_as or row
    own = study.rows[row]
    common, seed = (*study.setting, *own.overrides, *study.tuning.setting, *own.tuning), study.tuning.seed
    return [Job(f"{row}.{name}", seed, (*common, *words, f"seed={seed}")) for name, words in study.tuning.tries.items()]


def _job(study: Study, row: str, seed: int, best: str | None) -> Job:
    chosen = study.tuning.tries[best] if study.tuning and best is not None else ()
    overrides = (*study.setting, *study.rows[row].overrides, *chosen, f"seed={seed}")
    return Job(row, seed, overrides, waits=study.tuning is not None and best is None)


def _wanted(study: Study) -> list[tuple[int, str, int]]:
    """(place, row, seed) in the order of playing; of equal places the section that stands first."""
    found = [
        (nth if study.order == "seeds" else 0, row, seed)
        for section in study.sections
        for nth, seed in enumerate(section.seeds)
        for row in section.rows
    ]
    return sorted(found, key=lambda one: one[0])


def checked(jobs: Sequence[Job], extra: Sequence[str] = ()) -> None:
    """UserError for the first row whose overrides train.py would refuse, before anything is played."""
    first = {job.of: job for job in reversed(jobs)}
    with session(CONFIGS) as opened:
        for row, job in first.items():
            try:
                check(opened.compose([*job.overrides, *extra]).cfg)
            except (ConfigError, HydraException) as error:
                raise UserError(f"row {row}: {error}") from error
